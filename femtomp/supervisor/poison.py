"""Poison marks: what each sink had in hand when an engine died, and what it means.

A record, or a fault of a library that it meets, may kill the engine each time it is
tried. So an engine that follows a dead one says in `marks`, before it decodes and
before it writes, what it is about to touch; its own successor draws the conclusion:

1. a death without a mark: the next engine marks chunk by chunk;
2. a death over a chunk: the chunk is suspect, and is gone through record by record;
3. a death over one record of a suspect chunk: that record is guilty, and stepped over.

In: the spool, how the former engine ended. Out: a `Mark` a sink. Owner: the engine. The
file lies beside `lanes/`, out of the workers' reach.

::

    file   64 bytes: 8s magic | u32 version | u32 crc         then slots of 128
    slot   u64 engine start | 16s sink | u32 stage | u32 alone | u32 kills | u32 zero
           | place in hand | suspect place | zeros | u32 crc at 124
    place  12s E | u32 file | u64 offset | u64 offset behind it

A slot is one `pwrite` within a page, which SIGKILL cannot tear; one that is not whole
is no mark. What must never happen: an innocent record taken for guilty. So a SIGKILL
over a write is nobody's fault (an operator's, while a destination hangs), one over
decoding (the system's, out of memory) must come three times over the very same record,
and no record is found guilty while more than one mark stands.
"""

from __future__ import annotations

import os
import signal
import struct
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from femtomp.lanes.cursor import sink_key
from femtomp.lanes.segment import FORMAT_VERSION, SIDE
from femtomp.lanes.spool import ENGINE_ENDED, ENGINE_STARTS
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from femtomp.lanes.cursor import Position
    from femtomp.lanes.spool import Spool

# Deaths by SIGKILL over the decoding of one record alone before it is taken for guilty.
MAX_KILLS: Final = 3

_MAGIC: Final = b"FMTPMRK\0"
_HEADER: Final = struct.Struct("<8sII")
_HEADER_BYTES: Final = 64
_SLOT: Final = struct.Struct("<Q16sIIII12sIQQ12sIQQ")
_SLOT_BYTES: Final = 128
_CRC_AT: Final = 124
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
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
        self._descriptor = -1
        self._descriptor = os.open("marks", _FLAGS, 0o600, dir_fd=spool.descriptor)
        content = os.pread(self._descriptor, _HEADER_BYTES + 64 * _SLOT_BYTES, 0)
        if content[:_HEADER_BYTES] != _header():
            content = _header()
            # The slots' room now: a mark must not fail because the disk filled up.
            room = bytes(_SLOT_BYTES * len(sinks))
            os.pwrite(self._descriptor, content + room, 0)
        found = {key: (index, mark) for index, key, mark in _slots(content)}
        free = max((index for index, _ in found.values()), default=-1) + 1
        self._slots: dict[str, int] = {}
        self.marks: dict[str, Mark] = {}
        for name in sinks:
            index, mark = found.get(sink_key(name), (free, Mark()))
            free += index == free
            self._slots[name], self.marks[name] = index, mark
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
        at = _HEADER_BYTES + self._slots[sink] * _SLOT_BYTES
        try:
            os.pwrite(self._descriptor, _pack(sink_key(sink), mark), at)
        except OSError as exc:
            # Records come first: without a mark a poison is found later, or never.
            note("marks", f"a poison mark cannot be written: {exc}")

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _header() -> bytes:
    crc = crc32(_HEADER.pack(_MAGIC, FORMAT_VERSION, 0))
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, crc).ljust(_HEADER_BYTES, b"\0")


def _pack(key: bytes, mark: Mark) -> bytes:
    place, suspect = mark.place, mark.suspect
    body = _SLOT.pack(
        mark.start, key, mark.stage, mark.alone, mark.kills, 0,
        bytes.fromhex(place.epoch), *place[1:],
        bytes.fromhex(suspect.epoch), *suspect[1:],
    ).ljust(_CRC_AT, b"\0")  # fmt: skip
    return body + crc32(body).to_bytes(4, "little")


def _slots(content: bytes) -> Iterator[tuple[int, bytes, Mark]]:
    """Yield (index, sink key, mark) of the whole slots."""
    for index in range((len(content) - _HEADER_BYTES) // _SLOT_BYTES):
        at = _HEADER_BYTES + index * _SLOT_BYTES
        slot = content[at : at + _SLOT_BYTES]
        if crc32(slot[:_CRC_AT]) != int.from_bytes(slot[_CRC_AT:], "little"):
            continue
        start, key, stage, alone, kills, _, *places = _SLOT.unpack_from(slot)
        if start:
            place = Place(places[0].hex(), *places[1:4])
            suspect = Place(places[4].hex(), *places[5:8])
            mark = Mark(start, Stage(stage), bool(alone), kills, place, suspect)
            yield index, key, mark
