"""What reaped lanes amounted to, so that statistics go on after their files are gone.

In: a drained lane. Out: sums in `ffffffffffffffffffffffff.cur` beside the cursors, of
whose format it is. A slot's position holds the name of the lane added last
instead of a place. Lanes are reaped one at a time, and what an engine died over is
finished before anything else: so none is added twice, or to some of the sums only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import (
    Counters,
    Cursor,
    CursorFile,
    Position,
    read_cursors,
    sink_key,
)
from femtomp.lanes.scan import TOTALS, scan
from femtomp.supervisor.members import open_member
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.members import Member

EPOCH: Final = TOTALS
# Slots that are no sink's: these names cannot be given to one.
_DROPPED: Final = "\0dropped"
_BY_LEVEL: Final = "\0dropped by level"
_LEFT_OUT: Final = "\0left out"
_STARTED: Final = "\0started"


class Totals:
    """The engine's end: adds lanes."""

    def __init__(self, spool: Spool, sinks: tuple[str, ...]) -> None:
        self._file = CursorFile(
            spool.cursors,
            EPOCH,
            (*sinks, _DROPPED, _BY_LEVEL, _LEFT_OUT, _STARTED),
            may_wait=True,
        )
        marks = {c.position for c in self._file.cursors.values() if c is not None}
        for epoch in map(_epoch, marks):
            for directory in spool.directories:
                self._finish(spool, directory, epoch, sinks)

    def _finish(
        self, spool: Spool, directory: int, epoch: str, sinks: tuple[str, ...]
    ) -> None:
        """Add and unlink the lane that an engine died over, if one did."""
        try:
            member = open_member(spool, directory, epoch, sinks, {})
        except FileNotFoundError:
            return  # nothing was left to do
        except (OSError, CodecError) as exc:
            note("totals", f"lane {epoch} cannot be counted to its end: {exc}")
            return
        try:
            self.add(epoch, member)
            scan(directory, {epoch: member.lane}, lambda _: None)
            member.unlink(spool.cursors)
        except (OSError, CodecError) as exc:
            note("totals", f"lane {epoch} cannot be deleted: {exc}")

    def add(self, epoch: str, member: Member) -> None:
        """Add a drained lane, once."""
        if not member.lane.exists():
            return  # another engine did, and had unlinked all of it
        words = member.lane.read_own()[1]
        sums = {
            name: (cursor or Cursor()).counters
            for name, cursor in member.cursors.cursors.items()
        }
        sums[_DROPPED] = Counters(*seg.drops(words).values())
        sums[_BY_LEVEL] = Counters(*seg.drops_by_level(words).values())
        sums[_LEFT_OUT] = Counters(*seg.left_out(words).values())
        sums[_STARTED] = Counters(delivered=seg.started(words))
        mark = _mark(epoch)
        for name, counters in sums.items():
            position, before = self._file.cursors[name] or Cursor()
            if position != mark:
                self._file.commit(name, Cursor(mark, before.plus(counters)))


class ReadTotals(NamedTuple):
    """The sums as one reading found them, with the lane added last to each."""

    cursors: dict[bytes, Cursor]

    def sink(self, name: str) -> Counters:
        """Return the sums of a sink."""
        return self.cursors.get(sink_key(name), Cursor()).counters

    def started(self) -> int:
        """Return how many calls were begun."""
        return self.sink(_STARTED).delivered

    def dropped(self) -> dict[str, int]:
        """Return the drops by reason."""
        return dict(zip(seg.DROP_REASONS, self.sink(_DROPPED), strict=False))

    def dropped_by_level(self) -> dict[str, int]:
        """Return the drops by level."""
        return dict(zip(seg.DROP_LEVELS, self.sink(_BY_LEVEL), strict=True))

    def left_out(self) -> dict[str, int]:
        """Return what was left out on purpose, by way."""
        return dict(zip(seg.LEFT_OUT_WAYS, self.sink(_LEFT_OUT), strict=False))

    def has(self, epoch: str) -> bool:
        """Tell whether a lane was added, wholly, though its files are still there."""
        # STARTED is the last slot to be written.
        cursor = self.cursors.get(sink_key(_STARTED), Cursor())
        return cursor.position == _mark(epoch)

    def is_whole(self, sinks: tuple[str, ...]) -> bool:
        """Tell whether no lane was half added when the file was read.

        Sinks that the server has no more stay where they were when it still had them.
        """
        keys = [sink_key(name) for name in (*sinks, _DROPPED, _STARTED)]
        return len({self.cursors[k].position for k in keys if k in self.cursors}) <= 1


def read_totals(directory: int) -> ReadTotals:
    """Read the sums of all reaped lanes."""
    return ReadTotals(read_cursors(directory, EPOCH))


def join(directory: int, sinks: Iterable[str]) -> None:
    """Have sinks that were away look as if they had been there when the last was added.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    file = CursorFile(directory, EPOCH, (*sinks, _STARTED))
    try:
        last = file.cursors[_STARTED]
        for name in sinks:
            cursor = file.cursors[name]
            if last is not None and cursor is not None:
                file.commit(name, cursor._replace(position=last.position))
    finally:
        file.close()


def _epoch(mark: Position) -> str:
    return f"{mark.segment | mark.offset << 32 | mark.side << 64:024x}"


def _mark(epoch: str) -> Position:
    number = int(epoch, 16)
    return Position(number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF, number >> 64)
