"""The poller: where lanes begin, grow and end.

In: the spool's directory. Out: the table of members kept true, pumps woken when there
is something to read, segments and lanes unlinked when every sink has passed them. One
for the whole engine, in its main thread: sixty-four lanes cost 5 % of a core at 2 ms
and 0.5 % at 50 ms, so the interval backs off when nothing happens.

What must never happen: a lane reaped although a record came after the last look at it.
The order is: lock seen free, *then* directory and sizes read again, *then* drained for
every sink, totals and cursors written, files unlinked, `.own` last. A free lock whose
process still lives was lost (a daemoniser closed all descriptors): that lane is
drained, but not deleted until the process is gone.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from femtomp.errors import CodecError
from femtomp.lanes.cursor import Cursor, read_cursors, sink_key
from femtomp.lanes.liveness import is_alive, start_ticks
from femtomp.lanes.queue import PULL
from femtomp.lanes.scan import scan_all
from femtomp.lanes.segment import CLOSED, discard, segment_name
from femtomp.lanes.space import NO_LIMITS
from femtomp.lanes.spool import PULLER
from femtomp.supervisor.leavings import sweep
from femtomp.supervisor.members import open_member
from femtomp.supervisor.notes import note
from femtomp.supervisor.room import Room
from femtomp.supervisor.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from femtomp.lanes.cursor import Position
    from femtomp.lanes.space import Space
    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.members import Member

_T = TypeVar("_T")

# At 4,000 records a second 5 ms instead of 2 make the engine's 18 % of a core 10.
BUSY_S: Final = 0.005
IDLE_S: Final = 0.05
# A directory's modification time has the grain of a kernel tick: a change within it
# after our look would go unseen, so a young one is looked at again.
_MTIME_GRAIN_NS: Final = 20_000_000
_RESCAN_S: Final = 1.0
# Files of a lane that are open at a time: `.own`, `.side`, `.cur`, and segments, of
# which sinks that are not equally far read different ones, and two pidfds of its owner.
# The rest is for the sinks.
_FILES_A_LANE: Final = 8
_OTHER_FILES: Final = 128
# Stands for an error number: more lanes than this process means to have open.
_CAPACITY: Final = -1
_MORE_FILES: Final = "raise the limit of open files (LimitNOFILE=, ulimit -n)"
_ADVICE: Final = {
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: "raise fs.file-max: the whole machine has no file left to open",
    errno.ENOSPC: "make room on the spool's file system; df -h and df -i show it",
    errno.EDQUOT: "make room on the spool's file system, or raise the disk quota",
}
# Damaged lanes that are said by name, each for itself.
_MOST_NAMED: Final = 16
# Liveness is asked of lanes that were quiet for so long.
QUIET_S: Final = 1.0


class Poller:
    """Keep the members' table.

    Parameters
    ----------
    spool : Spool
    base : mapping
        Resource attributes of the server.
    wake : callable
        Wakes all pumps.
    limits : Space
        What the spool may take.
    stalled : callable
        Names the sinks whose destination takes nothing now.
    needs_cursors : bool
        Leave a lane alone for whose cursors there is no room. An engine goes on: its
        workers' records are told now, or perhaps never.
    """

    def __init__(
        self,
        spool: Spool,
        base: Mapping[str, Any],
        wake: Callable[[], None],
        limits: Space = NO_LIMITS,
        stalled: Callable[[], Container[str]] = frozenset,
        *,
        needs_cursors: bool = False,
    ) -> None:
        self.members: Final[dict[str, Member]] = {}
        self.interval_s = BUSY_S
        self._spool = spool
        self._base = base
        self._wake = wake
        self._needs_cursors = needs_cursors
        self._bad: set[str] = set()
        # Lanes of which it was said that a file is left alone.
        self._said: set[str] = set()
        self._capacity: Final = _capacity()
        # Lanes that were found and could not be opened yet, by why.
        self._waiting: Counter[int] = Counter()
        # They and the bad ones, with their files.
        self._others: dict[str, tuple[int, list[str]]] = {}
        self._seen_mtime: list[int] = []
        self._rescan_at = 0.0
        self._tend_at = 0.0
        self._totals = Totals(spool, spool.sinks)
        # Who pulls from the queue holds segments back only while there is room.
        self._room = Room(
            spool, limits, self.members, self._others,
            lambda m: self._free_segments(m, None), stalled,
        )  # fmt: skip

    def publish_limits(self) -> None:
        """Say how much room there is, and that this engine makes it."""
        self.scan()
        try:
            self._room.measure()
        except OSError as exc:
            # On a full disk there is room only once what is there was delivered.
            note("space", f"the spool's limits cannot be written: {exc}")

    def poll(self) -> None:
        """Look once at everything; never blocks."""
        now = time.monotonic()
        # Lanes take room by files: as long as there are no new ones, none is taken.
        has_changed = self._scan_if_changed(now)
        grew = self._look(now)
        if grew:
            self._wake()
        self.interval_s = BUSY_S if grew else min(IDLE_S, self.interval_s * 1.5)
        if is_due := now >= self._tend_at:
            self._tend_at = now + QUIET_S / 2
            self._tend(now)
        if has_changed or is_due or self._room.is_asked():
            self._room.keep()

    def _look(self, now: float) -> bool:
        grew = False
        for member in self.members.values():
            if member.lane.refresh():
                member.quiet_since = now
                grew = True
        return grew

    def _scan_if_changed(self, now: float) -> bool:
        changed = [os.fstat(d).st_mtime_ns for d in self._spool.directories]
        if changed == self._seen_mtime and now < self._rescan_at:
            return False
        young = time.time_ns() - max(changed) < _MTIME_GRAIN_NS
        self._seen_mtime = [] if young else changed
        self._rescan_at = now + _RESCAN_S
        self.scan()
        return True

    def scan(self) -> None:
        """Read the directory: new lanes, new segments."""
        lanes = {epoch: member.lane for epoch, member in self.members.items()}
        self._waiting.clear()
        self._spool.mend_lanes()
        others = scan_all(self._spool, lanes, self._found)
        self._others.clear()
        self._others.update(others)
        self._bad &= others.keys()
        if waiting := self._waiting.pop(_CAPACITY, 0):
            self._waiting[errno.EMFILE] += waiting
            note(
                "descriptors",
                f"{waiting} lanes wait until others have ended: at most "
                f"{self._capacity} can be open; {_ADVICE[errno.EMFILE]}",
            )
        elif self._waiting:
            note("lanes", f"{self.why_waiting()}; they are tried again")

    def _found(self, directory: int, epoch: str) -> Any:
        if epoch in self._bad:
            return None
        # Root's own wait for nobody else's.
        is_of_root = directory == self._spool.lanes_of_root
        if len(self.members) >= self._capacity and not is_of_root:
            self._waiting[_CAPACITY] += 1
            return None
        try:
            member = open_member(
                self._spool,
                directory,
                epoch,
                self._spool.sinks,
                self._base,
                needs_cursors=self._needs_cursors,
            )
        except CodecError as exc:
            self._bad.add(epoch)
            # Who plants lanes by the thousand fills no log.
            key = f"lane:{epoch}" if len(self._bad) <= _MOST_NAMED else "lane"
            note(key, f"lane {epoch} is damaged and left alone: {exc}")
            return None
        except OSError as exc:
            self._waiting[exc.errno or 0] += 1
            return None
        if not member.cursors.is_begun:
            note(
                "cursors",
                f"lane {epoch} is read without a cursor, for which {self._spool.path} "
                "has no room: what was delivered comes twice if this process dies",
            )
        member.quiet_since = time.monotonic()
        self.members[epoch] = member
        return member.lane

    # -- ends ------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        members = self.members.values()
        self._ask_if_alive(m for m in members if now - m.quiet_since >= QUIET_S)
        puller = self._puller()
        for epoch, member in list(self.members.items()):
            try:
                pull = self._pull_position(epoch) if puller else None
                if (
                    member.lane.final
                    and member.is_drained()
                    and (pull is None or not member.lane.is_behind(pull))
                ):
                    self._reap(epoch, member)
                else:
                    self._free_segments(member, pull)
            except (OSError, CodecError) as exc:
                note(f"tend:{epoch}", f"lane {epoch} cannot be looked after: {exc}")
            if member.lane.refused and epoch not in self._said:
                self._said.add(epoch)
                note(f"lane:{epoch}", f"a file is left alone: {member.lane.refused}")
        self._said &= self.members.keys()
        for directory in self._spool.directories:
            sweep(directory)

    def _ask_if_alive(self, members: Iterable[Member]) -> None:
        """Look whose owners are gone, and read the ends of these for the last time."""
        gone = [m for m in members if not m.lane.final and _is_orphaned(m)]
        dead = {m.lane.epoch for m in gone if _has_ended(m)}
        # One that lost its lock, and goes on without, was found before.
        gone = [m for m in gone if m.lane.epoch in dead or not m.lane.ended]
        if not gone:
            return
        # Only now, and once for all: a directory of thousands is read in 10 ms.
        self.scan()
        for member in gone:
            member.lane.refresh()
            member.lane.ended = True
            member.lane.final = member.lane.epoch in dead
        self._wake()

    def _puller(self) -> bool:
        """Tell whether `Server.queue.get` was ever called, by a process that lives."""
        puller = self._spool.control()[PULLER]
        return bool(puller and start_ticks(puller))

    def _pull_position(self, epoch: str) -> Position:
        """Return how far `Server.queue.get` has come."""
        cursors = read_cursors(self._spool.cursors, epoch, PULL)
        position = cursors.get(sink_key(PULL), Cursor()).position
        return self.members[epoch].lane.normalised(position)

    def _free_segments(self, member: Member, pull: Position | None) -> None:
        """Unlink the segments that every sink's written cursor has passed."""
        positions = [(c or Cursor()).position for c in member.cursors.cursors.values()]
        if pull is not None:
            positions.append(pull)
        reached = min(position.segment for position in positions)
        for number in member.lane.segments:
            if number < reached:
                discard(member.lane.directory, segment_name(member.lane.epoch, number))
                member.lane.segments = member.lane.segments[1:]
        member.lane.close(below=reached)

    def _reap(self, epoch: str, member: Member) -> None:
        self._totals.add(epoch, member)
        del self.members[epoch]
        try:
            member.unlink(self._spool.cursors)
        except OSError:
            # It was added to the totals: it must not be found, and added, again.
            self._bad.add(epoch)
            raise

    def retire(self) -> None:
        """Tell every lane's writer, which looks after each append, to go elsewhere."""
        self.scan()
        for member in self.members.values():
            _alone(member, member.lane.retire)

    def readmit(self) -> None:
        """Take back what an engine before this one told the writers when it stopped."""
        self.scan()
        for member in self.members.values():
            _alone(member, member.lane.readmit)

    def look_again(self) -> bool:
        """Read every end once more: True if a lane grew since the last look."""
        self._ask_if_alive(self.members.values())
        self.scan()
        grew = False
        for member in self.members.values():
            grew |= member.lane.refresh()
            member.lane.ended = True
        if grew:
            self._wake()
        return grew

    def has_living(self) -> bool:
        """Tell whether any lane still has an owner, by asking now."""
        self._ask_if_alive(self.members.values())
        return bool(self._waiting) or not all(
            member.lane.final for member in self.members.values()
        )

    def why_waiting(self) -> str:
        """Say how many lanes cannot be opened now, why, and what helps; "" for none."""
        return "; ".join(
            f"{count} of the lanes cannot be opened now: {os.strerror(code)}"
            + (f" ({_ADVICE[code]})" if code in _ADVICE else "")
            for code, count in self._waiting.items()
        )

    def damaged(self) -> tuple[str, ...]:
        """Return the lanes that are left alone because they cannot be read."""
        return tuple(self._bad)

    def is_drained(self) -> bool:
        """Tell whether every sink has passed the end of every lane."""
        return not self._waiting and all(
            member.is_drained() for member in self.members.values()
        )


def _is_orphaned(member: Member) -> bool:
    return bool(_alone(member, member.lane.is_orphaned))


def _has_ended(member: Member) -> bool:
    """Tell whether nothing can come any more from who has let go of a lane."""
    return not is_alive(member.identity) or bool(member.lane.word(CLOSED))


def _alone(member: Member, work: Callable[[], _T]) -> _T | None:
    """Do something with one lane; what fails of it is that lane's alone."""
    try:
        return work()
    except (OSError, CodecError) as exc:
        text = f"lane {member.lane.epoch} cannot be looked after: {exc}"
        note(f"tend:{member.lane.epoch}", text)
        return None


def _capacity() -> int:
    """Return how many lanes can be open within the limit of descriptors."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, (limit - _OTHER_FILES) // _FILES_A_LANE)
