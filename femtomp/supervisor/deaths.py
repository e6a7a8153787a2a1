"""Workers that a signal ended, as far as the kernel tells somebody not their parent.

In: the engine's members. Out: `worker_died` for each whose process was killed. Owner of
a pidfd for each living worker. How a process ended is read from its zombie, else from
the pidfd (Linux 6.15 and later); where neither says it, nothing is told. SIGTERM,
SIGINT and SIGHUP are how pools end their workers, and no news. A worker that is killed
before the engine has found its lane, some milliseconds, is not known of.

https://www.man7.org/linux/man-pages/man2/pidfd_open.2.html, include/uapi/linux/pidfd.h
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from typing import TYPE_CHECKING, Final

from femtomp.lanes.liveness import is_alive
from femtomp.native import pidfd_open

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Identity
    from femtomp.supervisor.members import Member
    from femtomp.supervisor.news import News

# A descriptor each: more workers than that are not watched.
MAX_WATCHED: Final = 256
# The engine comes by every 2 ms where it is busy.
INTERVAL_S: Final = 0.05
_ORDINARY: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
# struct pidfd_info, first version: mask, cgroupid, eleven ids, exit_code.
_INFO: Final = struct.Struct("=QQ11Ii")
_INFO_EXIT: Final = 1 << 3
_GET_INFO: Final = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11


class Deaths:
    """Watch the members' processes; by the engine's main thread alone.

    Parameters
    ----------
    news : News
    """

    def __init__(self, news: News) -> None:
        self._news = news
        self._watched: dict[int, tuple[str, Identity]] = {}
        self._known: set[str] = set()
        self._poll = select.poll()
        self._look_at, self._count = 0.0, 0

    def look(self, members: Mapping[str, Member], *, at_last: bool = False) -> None:
        """Watch who is new, tell of who was killed since the last look."""
        now = time.monotonic()
        if now < self._look_at and len(members) == self._count and not at_last:
            return
        self._look_at, self._count = now + INTERVAL_S, len(members)
        for epoch in members.keys() - self._known:
            self._known.add(epoch)
            self._watch(epoch, members[epoch].identity)
        self._known &= members.keys() | {epoch for epoch, _ in self._watched.values()}
        for descriptor, _ in self._poll.poll(0):
            self._ended(descriptor)

    def _watch(self, epoch: str, identity: Identity) -> None:
        # One that goes on in another lane ends once.
        who = (identity.pid, identity.start_ticks)
        watched = [(each.pid, each.start_ticks) for _, each in self._watched.values()]
        if len(watched) >= MAX_WATCHED or who in watched:
            return
        try:
            descriptor = pidfd_open(identity.pid)
        except OSError:
            return
        if not is_alive(identity):  # asked last: the pidfd is of that very process
            os.close(descriptor)
            return
        self._watched[descriptor] = epoch, identity
        self._poll.register(descriptor, select.POLLIN)

    def _ended(self, descriptor: int) -> None:
        _, identity = self._watched.pop(descriptor)
        self._poll.unregister(descriptor)
        status = _status(descriptor, identity.pid)
        os.close(descriptor)
        if status is None or not os.WIFSIGNALED(status):
            return
        number = os.WTERMSIG(status)
        if number not in _ORDINARY:
            self._news.worker_died(identity, _name(number))


def _status(descriptor: int, pid: int) -> int | None:
    """Return a process's wait status; None if nobody says."""
    info = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(descriptor, _GET_INFO, info)
    except OSError:
        pass  # an older kernel
    else:
        mask, *_, status = _INFO.unpack(info)
        if mask & _INFO_EXIT:
            return int(status)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # Field 52; a process that is no zombie has got this pid since.
    return int(fields[49]) if fields[0] == b"Z" and len(fields) > 49 else None  # noqa: PLR2004


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
