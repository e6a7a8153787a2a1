"""Poison marks: what each sink had in hand when an engine died, and what it means.

A record, or a fault of a library that it meets, may kill the engine each time it is
tried. So an engine that follows a dead one says in `marks`, before it decodes and
before it writes, what it is about to touch; its own successor draws the conclusion:

1. a death without a mark: the next engine marks chunk by chunk;
2. a death over a chunk: the chunk is suspect, and is gone through record by record;
3. a death over one record of a suspect chunk: that record is guilty, and stepped over.

In: the spool, how the former engine ended. Out: a `Mark` a sink. Owner: the engine. In
its slot of `marks` (see `slots`) each sink says::

    u64 engine start | u32 stage | u32 alone | u32 kills | u32 zero
    | place in hand | suspect place
    place  12s E | u32 file | u64 offset | u64 offset behind it

What must never happen: an innocent record taken for guilty. So a SIGKILL over a write
is nobody's fault (an operator's, while a destination hangs), one over decoding (the
system's, out of memory) must come three times over the very same record, and no record
is found guilty while more than one mark stands.
"""

from __future__ import annotations

import os
import signal
import struct
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.lanes.segment import SIDE
from femtomp.lanes.spool import ENGINE_ENDED, ENGINE_STARTS
from femtomp.supervisor.notes import note
from femtomp.supervisor.slots import Slots

if TYPE_CHECKING:
    from femtomp.lanes.cursor import Position
    from femtomp.lanes.spool import Spool

# Deaths by SIGKILL over the decoding of one record alone before it is taken for guilty.
MAX_KILLS: Final = 3

_MAGIC: Final = b"FMTPMRK\0"
_MARK: Final = struct.Struct("<QIIII12sIQQ12sIQQ")
_SLOT_BYTES: Final = 128
# What a process does to itself. Other signals come from outside.
_FAULTS: Final = (
    signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE,
    signal.SIGSYS, signal.SIGTRAP,
)  # fmt: skip


class Stage(IntEnum):
    """What is being done to the place in hand."""

    NOTHING = 0
    DECODING = 1
    WRITING = 2
    GUILTY = 3


class Ended(Enum):
    """How the former engine ended, as far as records may be to blame."""

    CRASHED = "crashed"  # a fault's signal, or an exit that was not meant
    KILLED = "killed"  # a signal from outside
    UNKNOWN = "unknown"


class Place(NamedTuple):
    """Frames of one file of a lane: a segment's number or SIDE, from and to."""

    epoch: str = "0" * 24
    number: int = 0
    offset: int = 0
    after: int = 0

    def holds(self, other: Place) -> bool:
        """Tell whether another place begins within this one."""
        return self[:2] == other[:2] and self.offset <= other.offset < self.after

    def is_passed(self, position: Position) -> bool:
        """Tell whether a position of this lane is behind this place."""
        if self.number == SIDE:
            return position.side >= self.after
        return (position.segment, position.offset) >= (self.number, self.after)


NOWHERE: Final = Place()


class Mark(NamedTuple):
    """What one sink says of itself.

    Attributes
    ----------
    start : int
        Which engine said it, counted from 1.
    stage : Stage
    alone : bool
        The place in hand is one record of the suspect place, and no other mark stands.
    kills : int
        Engines that were killed over decoding this very place, alone.
    place : Place
        What is in hand, or was last.
    suspect : Place
        What is to be gone through record by record; NOWHERE if nothing is.
    """

    start: int = 0
    stage: Stage = Stage.NOTHING
    alone: bool = False
    kills: int = 0
    place: Place = NOWHERE
    suspect: Place = NOWHERE

    @property
    def stands(self) -> bool:
        """Whether something was in hand."""
        return self.stage in (Stage.DECODING, Stage.WRITING)


def how_it_ended(status: int) -> Ended:
    """Judge the word ENGINE_ENDED of the control page.

    Examples
    --------
    >>> how_it_ended(0), how_it_ended(9 + 1), how_it_ended(11 + 1)
    (<Ended.UNKNOWN: 'unknown'>, <Ended.KILLED: 'killed'>, <Ended.CRASHED: 'crashed'>)
    """
    if status == 0:
        return Ended.UNKNOWN
    code = os.waitstatus_to_exitcode(status - 1)
    return Ended.CRASHED if code >= 0 or -code in _FAULTS else Ended.KILLED


def judge(mark: Mark, ended: Ended, *, single: bool) -> Mark:
    """Return what an engine must go by, given what its predecessor had in hand.

    Parameters
    ----------
    mark : Mark
    ended : Ended
    single : bool
        No other sink's mark stands.
    """
    if not mark.stands:
        return mark
    rests = mark._replace(stage=Stage.NOTHING, alone=False, kills=0)
    if ended is Ended.CRASHED:
        if not mark.alone:
            return rests._replace(suspect=mark.place)
        return mark._replace(stage=Stage.GUILTY) if single else rests
    if ended is Ended.KILLED and mark.stage is Stage.DECODING:
        if not mark.alone:
            return rests._replace(suspect=mark.place)
        kills = mark.kills + single
        if kills >= MAX_KILLS:
            return mark._replace(stage=Stage.GUILTY)
        return rests._replace(kills=kills)
    return rests


class Marks:
    """The file of the marks, judged once when it is opened.

    Different sinks may write at the same time.

    Parameters
    ----------
    spool : Spool
    sinks : tuple of str

    Raises
    ------
    OSError
        If the file can be neither opened nor made.
    """

    def __init__(self, spool: Spool, sinks: tuple[str, ...]) -> None:
        control = spool.control()
        self._start: Final = control[ENGINE_STARTS]
        self._slots: Final = Slots(
            spool.descriptor, "marks", _MAGIC, _SLOT_BYTES, sinks
        )
        found = self._slots.found
        self.marks: Final[dict[str, Mark]] = {
            name: _unpack(found[name]) if name in found else Mark() for name in sinks
        }
        self._judge(how_it_ended(control[ENGINE_ENDED]))

    def _judge(self, ended: Ended) -> None:
        standing = sum(mark.stands for mark in self.marks.values())
        for name, mark in self.marks.items():
            # One that died before it could judge left an older one's marks.
            known = ended if mark.start == self._start - 1 else Ended.UNKNOWN
            self.write(name, judge(mark, known, single=standing == 1))

    def write(self, sink: str, mark: Mark) -> None:
        """Write a sink's mark: one system call; after it the mark survives SIGKILL."""
        mark = mark._replace(start=self._start)
        self.marks[sink] = mark
        try:
            self._slots.write(sink, _pack(mark))
        except OSError as exc:
            # Records come first: without a mark a poison is found later, or never.
            note("marks", f"a poison mark cannot be written: {exc}")

    def close(self) -> None:
        """Close the file."""
        self._slots.close()


def _pack(mark: Mark) -> bytes:
    place, suspect = mark.place, mark.suspect
    return _MARK.pack(
        mark.start, mark.stage, mark.alone, mark.kills, 0,
        bytes.fromhex(place.epoch), *place[1:],
        bytes.fromhex(suspect.epoch), *suspect[1:],
    )  # fmt: skip


def _unpack(content: bytes) -> Mark:
    start, stage, alone, kills, _, *places = _MARK.unpack_from(content)
    place = Place(places[0].hex(), *places[1:4])
    suspect = Place(places[4].hex(), *places[5:8])
    return Mark(start, Stage(stage), bool(alone), kills, place, suspect)
