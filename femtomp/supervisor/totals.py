"""What reaped lanes amounted to, so that statistics go on after their files are gone.

In: a drained lane. Out: sums in `lanes/ffffffffffffffffffffffff.cur`, which has the
format of any cursor file. A slot's position holds the name of the lane added last instead
of a place: an engine that died between adding a lane and unlinking it does not add it
again, because lanes are reaped one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import (
    Counters,
    Cursor,
    CursorFile,
    Position,
    read_cursors,
    sink_key,
)

if TYPE_CHECKING:
    from femtomp.supervisor.members import Member

EPOCH: Final = "f" * 24
# Slots that are no sink's: these names cannot be given to one.
_DROPPED: Final = "\0dropped"
_STARTED: Final = "\0started"


class Totals:
    """The engine's end: adds lanes."""

    def __init__(self, directory: int, sinks: tuple[str, ...]) -> None:
        self._file = CursorFile(directory, EPOCH, (*sinks, _DROPPED, _STARTED))

    def add(self, epoch: str, member: Member) -> None:
        """Add a drained lane, once."""
        words = member.lane.read_own()[1]
        drops = words[seg.DROPPED : seg.DROPPED + len(seg.DROP_REASONS)]
        sums = {
            name: (cursor or Cursor()).counters
            for name, cursor in member.cursors.cursors.items()
        }
        sums[_DROPPED] = Counters(*drops)
        sums[_STARTED] = Counters(delivered=seg.started(words))
        mark = _mark(epoch)
        for name, counters in sums.items():
            position, before = self._file.cursors[name] or Cursor()
            if position != mark:
                self._file.commit(name, Cursor(mark, before.plus(counters)))


def read_totals(
    directory: int, sinks: tuple[str, ...]
) -> tuple[dict[str, Counters], int, dict[str, int]]:
    """Return (counters by sink, calls begun, drops by reason) of all reaped lanes."""
    found = read_cursors(directory, EPOCH)
    nothing = Cursor()
    dropped = found.get(sink_key(_DROPPED), nothing).counters
    return (
        {name: found.get(sink_key(name), nothing).counters for name in sinks},
        found.get(sink_key(_STARTED), nothing).counters.delivered,
        dict(zip(seg.DROP_REASONS, dropped, strict=False)),
    )


def _mark(epoch: str) -> Position:
    number = int(epoch, 16)
    return Position(number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF, number >> 64)
