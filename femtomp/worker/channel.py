"""A process's way into one spool: its lane, opened when needed.

In: payloads. Out: frames in the lane; where there is none to be had, a line on stderr
and a count. One channel per spool and process. It opens the lane at the first record,
again in a forked child, again when the lane was lost, and at most every five seconds
when it cannot. What must never happen: an exception in a log call, or a silent loss.
"""

from __future__ import annotations

import errno
import os
from enum import Enum
from logging import ERROR

# The functions, not the module: a test that replaces `time.time` means the code under
# test, and what it puts there may be no clock.
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from femtomp import nowait
from femtomp.codec import identity as identity_codec
from femtomp.codec.visible import visible
from femtomp.codec.wire import level_of
from femtomp.errors import CodecError

# Both, now: an import in a forked child waits for ever if a thread of its parent was in
# the middle of the same import.
from femtomp.lanes import appending, guarded, mapped  # noqa: F401
from femtomp.lanes.segment import RETIRED, close_known
from femtomp.lanes.signals import undisturbed
from femtomp.lanes.space import Overflow, count_unkept, read_space
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.lanes.thrown import thrown_in
from femtomp.lanes.writer import LaneLostError, LaneWriter, open_writer, owned
from femtomp.native import RLock
from femtomp.record import DEFAULT_LIMITS, Limits
from femtomp.worker import context, fork
from femtomp.worker.identity import read_identity
from femtomp.worker.levels import Levels
from femtomp.worker.once import Taken

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a spool that could not be used is left alone.
RETRY_S: Final = 5.0
# How often the lane's files are looked after: what is deleted meanwhile is lost.
CHECK_S: Final = 1.0
# Calls that open a lane inside calls that open one: more come from no sane program.
_MAX_DEPTH: Final = 8


_STOPPED: Final = "the server was stopped"


def _no_lane(_: bytes) -> bool:
    raise LaneLostError


class Sent(Enum):
    """What became of a payload."""

    KEPT = 1
    DROPPED = 2  # by the lane, which counted it
    NOWHERE = 3  # there is no lane: the caller should say the record elsewhere


class Channel(Taken):
    """The lane of this process in one spool.

    Parameters
    ----------
    path : str
        The spool's directory.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.pid = os.getpid()
        self.dropped = 0
        self.last = self.seen = None
        self._spool: Spool | None = None
        self._lane: LaneWriter | None = None
        # The lane's own, for the hot path: to be called while a record's `created` lies
        # between these two, which keeps the clock from being asked once more a call.
        self.append: Callable[[bytes], bool] = _no_lane
        # Of the server, for whoever makes the payloads; see `known_limits`.
        self.limits = DEFAULT_LIMITS
        self._knows_limits = False
        self.fresh_from = self.fresh_until = 0.0
        # The master's: sees to its supervisor, at most once in CHECK_S, never raises.
        self.tend: Callable[[], None] | None = None
        self.levels: Final = Levels()
        self._inherited: list[tuple[int, int, int]] = []
        self._inherited_lane: LaneWriter | None = None
        # Kept as long as their spool: a thread may be inside an append.
        self._lost: list[tuple[LaneWriter, Spool]] = []
        self._opening = RLock()
        self._depth = 0
        # No lane could be opened because a quota or the file system is full.
        self._is_full = False
        self._retry_at = 0.0
        self._warned = False
        # Why there may be no spool any more, as far as it is known.
        self._end = "the server was stopped, or somebody has deleted its spool"

    def send(self, payload: bytes, *, again: bool = False) -> Sent:
        """Append a payload to the lane, and open one if need be.

        Handlers call `append` themselves meanwhile; this does what is due besides. If
        that has said that the lane is lost it is `again`, and a retired lane has the
        record already: it must not be there twice, the next server may read it.
        """
        lane = self._lane
        if lane is not None and not (again and lane.words[RETIRED]):
            now = time()
            due = not self.fresh_from <= now < self.fresh_until
            try:
                if due:
                    lane.check()
                    self._heed_levels()
                    self.fresh_from, self.fresh_until = now - CHECK_S, now + CHECK_S
                kept = lane.append(payload)
            except LaneLostError:
                pass
            else:
                if due and self.tend is not None:
                    self.tend()
                return Sent.KEPT if kept else Sent.DROPPED
        return self._send_anew(payload, lane)

    def known_limits(self) -> Limits:
        """Return the server's limits, and look for them if that was not done yet.

        The first record is made before there is a lane. Forked children know what
        their parent knew.
        """
        if not self._knows_limits:
            try:
                spool = Spool(self.path)
            except OSError as exc:
                if thrown_in(exc):
                    raise
            else:
                self.limits = _limits_of(spool)
                self.levels.know(spool.manifest)
                spool.close()
            # Where there is no server `send` says it, and asks again.
            self._knows_limits = True
        return self.limits

    def _send_anew(self, payload: bytes, lost: LaneWriter | None) -> Sent:
        """Append to another lane: the last one was lost, or there is none yet."""
        lane = self._open_lane(lost, important=level_of(payload) >= ERROR)
        if lane is not None:
            try:
                kept = lane.append(payload)
            except LaneLostError:
                self._lose_lane()
            else:
                if self.tend is not None:
                    self.tend()
                return Sent.KEPT if kept else Sent.DROPPED
        self.dropped += 1
        if self._is_full:
            count_unkept(self.path, level_of(payload))
        return Sent.NOWHERE

    def leave_out(self, way: str) -> None:
        """Count in the lane a record that a filter left out; opens one if need be."""
        lane = self._lane or self._open_lane(None, important=False)
        if lane is not None:
            lane.leave_out(way)

    def is_full(self) -> bool:
        """Tell whether the last record that needed room was dropped for want of it."""
        return self._is_full or (self._lane is not None and self._lane.is_full)

    def blocks(self) -> bool:
        """Tell whether the server wants callers to wait for room."""
        spool = self._spool
        if spool is None:
            return False
        return read_space(spool.own_lanes).overflow == Overflow.BLOCK

    def _heed_levels(self) -> None:
        spool = self._spool
        if spool is not None:
            self.levels.heed(spool.descriptor)

    def _lose_lane(self) -> None:
        if self._lane is not None and self._spool is not None:
            self._lost.append((self._lane, self._spool))
        self._lane = None
        self.append = _no_lane
        self.fresh_until = 0.0

    def _open_lane(
        self, lost: LaneWriter | None, *, important: bool
    ) -> LaneWriter | None:
        """Open a new lane, unless that failed a moment ago.

        A thread that waited finds the one that another has opened. A call inside this
        one (a finaliser's) opens a lane of its own: its record is not to wait.
        """
        with self._opening:
            if self._lane is not None and self._lane is not lost:
                return self._lane
            self._lose_lane()
            if lost is not None and lost.words[RETIRED]:
                self._end = _STOPPED
            if monotonic() < self._retry_at or self._depth == _MAX_DEPTH:
                return None
            self._depth += 1
            try:
                return undisturbed(self._open, important)
            except Exception as exc:
                if thrown_in(exc):
                    raise
                # At the end of the caller's stack nothing is wrong with the spool.
                if not isinstance(exc, RecursionError):
                    number = getattr(exc, "errno", None)
                    self._is_full = number in (errno.EDQUOT, errno.ENOSPC)
                    gone = number == errno.ENOENT and not os.access(self.path, os.F_OK)
                    self._give_up(self._end if gone else _said(exc, number))
            finally:
                self._depth -= 1
            return None

    def _open(self, important: bool) -> LaneWriter | None:  # noqa: FBT001
        self._close_inherited()
        spool = Spool(self.path)
        try:
            lane = self._open_in(spool, important=important)
        except BaseException:
            spool.close()
            raise
        if lane is None:
            spool.close()
            self._give_up(_STOPPED)
            return None
        self._spool, self._lane, self.append = spool, lane, lane.append
        self.limits = _limits_of(spool)
        self.levels.know(spool.manifest)
        self._knows_limits = True
        self._is_full = False
        self._heed_levels()
        now = time()
        self.fresh_from, self.fresh_until = now - CHECK_S, now + CHECK_S
        self._warned = False
        return lane

    def _open_in(self, spool: Spool, *, important: bool) -> LaneWriter | None:
        if spool.control()[STATE] >= State.STOPPING:
            return None
        is_master = spool.manifest["master"]["pid"] == self.pid
        who = identity_codec.to_bytes(
            read_identity("master" if is_master else "worker")
        )
        kind = spool.manifest.get("writer", "write")
        if spool.has_other_workers and 0 in os.getresuid():
            # What its workers can truncate, or may inherit, root does not map. So
            # neither does who has put root's rights aside for a while.
            kind = "guarded"
        lane = open_writer(kind, spool.own_lanes, who, important=important)
        # Asked again: a server that stopped before this has looked for lanes.
        if spool.control()[STATE] >= State.STOPPING:
            lane.close()
            return None
        return lane

    def _give_up(self, problem: str) -> None:
        """Leave the spool alone for a while, and say so once."""
        self._retry_at = monotonic() + RETRY_S
        if not self._warned:
            self._warned = True
            say(
                f"cannot log to {self.path} as uid {os.geteuid()}: {problem}; "
                f"records go to stderr until it can be used (tried every {RETRY_S:g} s)"
            )

    def try_again(self) -> None:
        """Look at the spool at once, though it could not be used a moment ago."""
        self._retry_at = 0.0

    def note_end(self) -> None:
        """Know that the server was stopped: this process has done it."""
        self._end = _STOPPED

    def _close_inherited(self) -> None:
        """Close the parent's descriptors, unless the user has put others there."""
        lane, self._inherited_lane = self._inherited_lane, None
        if lane is not None:
            lane.forget()
        while self._inherited:
            close_known(self._inherited.pop())

    def renew(self) -> None:
        """Go on in another lane, as somebody else: see `femtomp.identify`."""
        with self._opening:
            self._lose_lane()

    def close(self) -> None:
        """Close the lane and the spool."""
        lane, spool = self._lane, self._spool
        self._spool = None
        self._lose_lane()
        if lane is not None and spool is not None:
            lane.close()
            spool.close()

    def let_go(self) -> None:
        """Keep nothing of a spool that is gone: its server was stopped.

        What another thread is writing to at this moment is released after that.
        """
        with self._opening:
            if os.path.exists(self.path):  # noqa: PTH110 - pathlib is not loaded
                return
            self._lose_lane()
            self._spool = None
            lost, self._lost = self._lost, []
            for lane, spool in lost:
                lane.let_go(spool.close)

    def forget(self) -> None:
        """Begin anew in a forked child: no lane, no lock, the parent's counts gone."""
        self.pid = os.getpid()
        self.dropped = 0
        self.tend = None
        self.levels.forget_turn()
        if self._lane is not None and self._spool is not None:
            self._inherited_lane = self._lane
            self._inherited = [*self._lane.descriptors(), *self._spool.descriptors()]
            if not self._lane.keeps_in_children:
                self._close_inherited()
        self._spool = None
        self._lose_lane()
        self._opening = RLock()
        self._lost = []
        self._depth = 0
        self._is_full = False
        self._retry_at = 0.0
        self._warned = False


def _said(exc: Exception, number: int | None) -> str:
    """Say why no lane could be opened."""
    if number in (errno.EACCES, errno.EPERM):
        return f"{exc} (start_server(worker_uid={os.geteuid()}) lets it)"
    is_known = isinstance(exc, (OSError, CodecError, KeyError))
    return str(exc) if is_known else f"{type(exc).__name__}: {exc}"


def _limits_of(spool: Spool) -> Limits:
    options = spool.manifest.get("limits")
    return Limits.of(options) if isinstance(options, dict) else DEFAULT_LIMITS


_channels: Final[dict[str, Channel]] = {}


def channel(path: str) -> Channel:
    """Return this process's channel into a spool; the same one each time."""
    found = _channels.get(path)
    if found is None:
        if not _channels:
            fork.on_fork(_reset_all)
        found = _channels.setdefault(path, Channel(path))
    return found


def watch(path: str, tend: Callable[[], None] | None) -> None:
    """Have the master's log calls see to its supervisor; `None` ends that."""
    way = channel(path)
    way.tend = tend
    if tend is not None:
        way.try_again()
    else:
        way.note_end()
        way.let_go()


def renew() -> None:
    """Have every channel open another lane at its next record.

    The old ones stay open for life: another thread may be in the middle of one.
    """
    for each in list(_channels.values()):
        each.renew()


def heed(path: str, directory: int) -> None:
    """Have this process take the levels of a spool at once, without a record."""
    channel(path).levels.heed(directory)


def close_channel(path: str) -> None:
    """Let go of a spool for good: for tests, which use many."""
    closed = _channels.pop(path, None)
    if closed is not None:
        closed.close()


def _reset_all() -> None:
    owned.clear()
    context.reset_after_fork()
    for each in list(_channels.values()):
        each.forget()


def say(text: str) -> None:
    """Write one line to descriptor 2, past whatever `sys.stderr` was replaced by."""
    line = f"femtomp: {visible(text)}\n"
    nowait.stderr.say(line.encode("utf-8", "backslashreplace"))
