"""Whom an entry is about, for journald: its worker, where the supervisor may say so.

journald takes `_PID` and all other trusted fields (`_COMM`, `_EXE`, `_SYSTEMD_UNIT`,
...) from the process that the kernel names as a datagram's sender. Of root it takes the
pid of another one besides, in the field OBJECT_PID, and adds what it knows of that
(`OBJECT_COMM`, ...); and root may have the kernel name another one as the sender. In: a
record's resource. Out: its worker as the `Sender` that is meant, or None: then the
entry has its own fields for the worker (`WORKER_PID`), as all have, and no others.

What must never happen: that a process which got a dead worker's pid is named. A worker
is named only while a pidfd says that it lives, and if it was there before its record.

systemd.journal-fields(7); unix(7) for SCM_CREDENTIALS
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from femtomp.native import pidfd_open, pidfd_send_signal

if TYPE_CHECKING:
    from femtomp.record import Resource

Ancillary: TypeAlias = tuple[int, int, bytes]

# A descriptor each; workers beyond are not named. Those that have ended are known, too.
MAX_SENDERS: Final = 256
MAX_KNOWN: Final = 1024
_SEEN: Final = "process.executable.path"
_CREDENTIALS: Final = struct.Struct("iII")
# A process's start is known to a tick of 10 ms, and clocks are slewed.
_SLACK_S: Final = 0.05
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Senders:
    """The workers that can be named, looked for once a worker, and once a batch.

    Parameters
    ----------
    impersonate : bool
        Have the kernel name them as senders, and not only journald know their pids.
    """

    def __init__(self, *, impersonate: bool = False) -> None:
        self._may_name = os.geteuid() == 0
        self._impersonate = impersonate
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
        """Return a record's worker if it can be named.

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
            sender = self._find(resource, timestamp_ns / 1e9)
            self._open += sender is not None
        found = resource, sender
        self._known[id(resource)] = found
        return found

    def _find(self, resource: Resource, logged_at: float) -> Sender | None:
        pid = resource.get("process.pid")
        # The engine has seen the worker itself alive, in its own pid namespace: then
        # this is in the resource, and not because the user's own attributes say it of
        # all.
        if type(pid) is not int or _SEEN not in resource or _SEEN in resource.brief:
            return None
        try:
            pidfd = pidfd_open(pid)
        except OSError:
            return None
        try:
            if _began_at(pid) <= logged_at + _SLACK_S:
                return Sender(pid, pidfd, impersonate=self._impersonate)
        except OSError:
            pass  # it has ended by now
        os.close(pidfd)
        return None

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
        For `socket.sendmsg`; empty if the supervisor stays the sender.
    field : bytes
        For the entry; empty if not.
    """

    __slots__ = (
        "_impersonate",
        "_pid",
        "_pidfd",
        "_user",
        "ancillary",
        "batch",
        "field",
    )

    def __init__(self, pid: int, pidfd: int, *, impersonate: bool) -> None:
        self._pid = pid
        self._pidfd = pidfd
        self._impersonate = impersonate
        self.batch = 0
        self.ancillary: tuple[Ancillary, ...] = ()
        self.field = b"" if impersonate else b"OBJECT_PID=%d\n" % pid
        self._user = 0
        self._name()

    def _name(self) -> None:
        if not self._impersonate or self._user:
            return
        # It may be another user by now.
        self._user, group = _ids(self._pid)
        credentials = _CREDENTIALS.pack(self._pid, self._user, group)
        self.ancillary = ((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),)

    def lives(self) -> bool:
        """Tell whether the process is there, be it as a zombie."""
        try:
            self._name()
            # Asked last: what was read is of that very process.
            pidfd_send_signal(self._pidfd, 0)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._pidfd)


def _began_at(pid: int) -> float:
    """Return when a process was started, in seconds since the epoch."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # Field 22, proc_pid_stat(5): ticks since the boot. psutil adds them to the
        # boot's time, which is known to a second only.
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS_PER_S
    return time.time() - age_s


def _ids(pid: int) -> tuple[int, int]:
    """Return the effective user and group of a process."""
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = file.read().splitlines()
    user, group = (
        next(int(line.split()[2]) for line in lines if line.startswith(key))
        for key in (b"Uid:", b"Gid:")
    )
    return user, group
