"""Who an entry is from: the worker itself, where the supervisor may say so.

journald takes `_PID` and all other trusted fields (`_COMM`, `_EXE`, `_SYSTEMD_UNIT`,
...) from the process that the kernel names as a datagram's sender. A process with
CAP_SYS_ADMIN may name another one, as long as that lives. In: a record's resource. Out:
the ancillary data that names its worker, or None: then the supervisor is the sender,
and the entry has fields of its own for the worker (`WORKER_PID`).

What must never happen: that a process which got a dead worker's pid is named. A worker
is named only while a pidfd says that it lives, and if it was there before its record.

https://www.man7.org/linux/man-pages/man7/unix.7.html (SCM_CREDENTIALS)
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import psutil

if TYPE_CHECKING:
    from femtomp.record import Resource

Ancillary: TypeAlias = tuple[int, int, bytes]

# A descriptor each; workers beyond are not named. Those that have ended are known, too.
MAX_SENDERS: Final = 256
MAX_KNOWN: Final = 1024
_SEEN: Final = "process.executable.path"
_CREDENTIALS: Final = struct.Struct("iII")
# A process's start time is known to a tick of 10 ms, the boot's to a second.
_SLACK_S: Final = 1.5


class Senders:
    """The workers that can be named, looked for once a worker, and once a batch."""

    def __init__(self) -> None:
        self._may_name = os.geteuid() == 0
        self._known: dict[int, tuple[Resource, Sender | None]] = {}
        self._open = 0
        self._batch = 0

    def begin_batch(self) -> None:
        """Look again, from now on, whether each worker lives."""
        self._batch += 1

    @property
    def may_name(self) -> bool:
        """Whether any worker can be named here."""
        return self._may_name

    def of(self, resource: Resource, timestamp_ns: int) -> Sender | None:
        """Return what names a record's worker as the sender.

        Parameters
        ----------
        resource : Resource
        timestamp_ns : int
            When the record was logged.
        """
        if not self._may_name:
            return None
        known = self._known.get(id(resource))
        if known is None:
            known = self._look(resource, timestamp_ns)
        sender = known[1]
        if sender is None:
            return None
        if sender.batch != self._batch:
            sender.batch = self._batch
            if not sender.lives():
                self._forget(sender)
                return None
        return sender

    def refused(self, sender: Sender, exc: OSError) -> None:
        """Note that the kernel did not let one name this worker, or any."""
        if exc.errno == errno.EPERM:
            self.close()
            self._may_name = False
            return
        self._forget(sender)

    def _look(
        self, resource: Resource, timestamp_ns: int
    ) -> tuple[Resource, Sender | None]:
        if len(self._known) >= MAX_KNOWN:
            self.close()
        sender = None
        if self._open >= MAX_SENDERS:
            self._forget_the_dead()
        if self._open < MAX_SENDERS:
            sender = _find(resource, timestamp_ns / 1e9)
            self._open += sender is not None
        found = resource, sender
        self._known[id(resource)] = found
        return found

    def _forget(self, sender: Sender) -> None:
        sender.close()
        self._open -= 1
        for key, (resource, known) in list(self._known.items()):
            if known is sender:
                self._known[key] = resource, None

    def _forget_the_dead(self) -> None:
        # One that logs no more is met in no batch: a pool that recycles its workers
        # would soon have no place for new ones.
        for _, sender in list(self._known.values()):
            if sender is not None and not sender.lives():
                self._forget(sender)

    def close(self) -> None:
        """Close every descriptor."""
        for _, sender in self._known.values():
            if sender is not None:
                sender.close()
        self._known.clear()
        self._open = 0


class Sender:
    """One worker that can be named.

    Attributes
    ----------
    ancillary : tuple
        For `socket.sendmsg`.
    """

    __slots__ = ("_pid", "_pidfd", "_user", "ancillary", "batch")

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pid = pid
        self._pidfd = pidfd
        self.ancillary: tuple[Ancillary]
        self.batch = 0
        self._name()

    def _name(self) -> None:
        self._user, group = _ids(self._pid)
        credentials = _CREDENTIALS.pack(self._pid, self._user, group)
        self.ancillary = ((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),)

    def lives(self) -> bool:
        """Tell whether the process is there, be it as a zombie."""
        try:
            if self._user == 0:  # it may have become another user since
                self._name()
            # Asked last: what was read is of that very process.
            signal.pidfd_send_signal(self._pidfd, 0)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._pidfd)


def _find(resource: Resource, logged_at: float) -> Sender | None:
    pid = resource.get("process.pid")
    # The engine has seen the worker itself alive, in its own pid namespace: then this
    # is in the resource, and not because the user's own attributes say it of all.
    if type(pid) is not int or _SEEN not in resource or _SEEN in resource.brief:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        process = psutil.Process(pid)
        if process.create_time() <= logged_at + _SLACK_S:
            return Sender(pid, pidfd)
    except (psutil.Error, OSError):
        pass  # it has ended by now
    os.close(pidfd)
    return None


def _ids(pid: int) -> tuple[int, int]:
    """Return the effective user and group of a process."""
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = file.read().splitlines()
    user, group = (
        next(int(line.split()[2]) for line in lines if line.startswith(key))
        for key in (b"Uid:", b"Gid:")
    )
    return user, group
