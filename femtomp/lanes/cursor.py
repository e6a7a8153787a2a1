"""Cursors: how far each sink has come in a lane, with its counters, in `E.cur`.

In and out: `Position` and `Counters` values. Owner: the engine alone writes; anybody
reads. Two slots a sink, written in turn by one `pwrite` each, so that one of them is
whole whatever dies; position and counters move together or not at all.

::

    file   64 bytes: 8s magic | u32 version | 12s E | u32 crc        then slots of 256
    slot   u64 generation | 16s sink | u32 segment | u32 zero | u64 offset | u64 side
           | u64 sequence | u64 counters[6] | ... | u32 crc at 252
    slots 2i and 2i+1 belong to the i-th sink that ever had a cursor here
"""

from __future__ import annotations

import errno
import os
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from femtomp.errors import CodecError
from femtomp.lanes.segment import FORMAT_VERSION, FRAMES_AT, SIDE, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC: Final = b"FMTPCUR\0"
_HEADER: Final = struct.Struct("<8sI12sI")
_HEADER_BYTES: Final = 64
_SLOT: Final = struct.Struct("<Q16sIIQQQ6Q")
_SLOT_BYTES: Final = 256
_CRC_AT: Final = 252
# More cursors than any server has sinks; a bound for readers of a damaged file.
MAX_SINKS: Final = 64
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Position(NamedTuple):
    """The next unread byte of a lane: in which segment, where, and in the side file.

    `sequence` is the one that the next frame of the segments has: what a reader finds
    instead tells how many were lost.
    """

    segment: int = 0
    offset: int = FRAMES_AT
    side: int = FRAMES_AT
    sequence: int = 0

    def behind(self, number: int, offset: int, sequence: int) -> Position:
        """Return the position moved behind an offset of a segment or the side file."""
        if number == SIDE:
            return self._replace(side=offset)
        return self._replace(segment=number, offset=offset, sequence=sequence)


class Counters(NamedTuple):
    """What became of the records of a lane, for one sink.

    `committed = delivered + filtered + refused + evicted + corrupt + quarantined +
    pending` holds for every lane and sink, exactly; pending is what lies behind the
    position.
    """

    delivered: int = 0
    filtered: int = 0
    refused: int = 0
    evicted: int = 0
    corrupt: int = 0
    quarantined: int = 0

    def minus(self, other: Counters) -> Counters:
        """Return the difference, counter by counter."""
        return Counters(*(a - b for a, b in zip(self, other, strict=True)))

    def plus(self, other: Counters) -> Counters:
        """Return the sum, counter by counter."""
        return Counters(*(a + b for a, b in zip(self, other, strict=True)))


class Cursor(NamedTuple):
    """A position and the counters up to it."""

    position: Position = Position()
    counters: Counters = Counters()


def sink_key(name: str) -> bytes:
    """Return the 16 bytes that stand for a sink's name in a slot."""
    return blake2b(name.encode(), digest_size=16).digest()


class CursorFile:
    """The cursors of one lane, opened by the engine for writing.

    Not safe under threads for one sink; different sinks may commit at the same time.

    Parameters
    ----------
    directory : int
        Descriptor of `lanes/`; not owned.
    epoch : str
        The lane.
    sinks : tuple of str
        Names of the sinks that will commit.
    suffix : str
        "cur", or "pull" for the master's own.
    may_wait : bool
        Where there is no room for a new file, begin it at the first commit for which
        there is. Until then commits fail.

    Raises
    ------
    OSError
        If the file can be neither opened nor made.
    """

    def __init__(
        self,
        directory: int,
        epoch: str,
        sinks: tuple[str, ...],
        suffix: str = "cur",
        *,
        may_wait: bool = False,
    ) -> None:
        self._descriptor = -1
        self._directory = directory
        self._epoch = epoch
        self._suffix = suffix
        self.is_begun = False
        """Whether there is a file."""
        try:
            content = self._begin(len(sinks))
        except OSError as exc:
            if not may_wait or exc.errno not in _NO_ROOM:
                raise
            content = b""
        found = {key: (pair, gen, cursor) for key, pair, gen, cursor in _slots(content)}
        free = max((pair for pair, _, _ in found.values()), default=-1) + 1
        self._slots: dict[str, tuple[int, int]] = {}
        self.cursors: dict[str, Cursor | None] = {}
        for name in sinks:
            pair, generation, cursor = found.get(sink_key(name), (free, 0, None))
            free += cursor is None
            self._slots[name] = (pair, generation)
            self.cursors[name] = cursor

    def commit(self, sink: str, cursor: Cursor) -> None:
        """Write the sink's other slot. One system call; after it the cursor is safe.

        Raises
        ------
        OSError
            If it cannot be written; the slot before it still holds.
        """
        if not self.is_begun:
            self._begin(len(self._slots))
            # What the others came to meanwhile: they may have nothing more to commit.
            for other, known in self.cursors.items():
                if known is not None and other != sink:
                    self._write(other, known)
        self._write(sink, cursor)

    def _begin(self, sinks: int) -> bytes:
        """Open the file, or make it; return what it holds."""
        if self._descriptor < 0:
            self._descriptor = _open_own(
                self._directory, f"{self._epoch}.{self._suffix}"
            )
        content = _content(self._descriptor)
        if not _is_ours(content, self._epoch):
            content = _new_header(self._epoch)
            os.ftruncate(self._descriptor, 0)
            # The slots' room now: a commit must not fail because the disk filled up.
            room = bytes(2 * _SLOT_BYTES * sinks)
            _pwrite(self._descriptor, content + room, 0)
        self.is_begun = True
        return content

    def _write(self, sink: str, cursor: Cursor) -> None:
        pair, generation = self._slots[sink]
        generation += 1
        slot = _pack_slot(generation, sink_key(sink), cursor)
        at = _HEADER_BYTES + (2 * pair + generation % 2) * _SLOT_BYTES
        _pwrite(self._descriptor, slot, at)
        self._slots[sink] = (pair, generation)
        self.cursors[sink] = cursor

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def read_cursors(
    directory: int, epoch: str, suffix: str = "cur"
) -> dict[bytes, Cursor]:
    """Return the cursors of a lane by `sink_key`, from the file alone.

    A missing or foreign file gives none; a damaged slot gives way to its twin.
    """
    try:
        descriptor = open_regular(
            directory, f"{epoch}.{suffix}", owners=(os.geteuid(),)
        )
    except (FileNotFoundError, CodecError):
        return {}
    try:
        content = _content(descriptor)
    finally:
        os.close(descriptor)
    if not _is_ours(content, epoch):
        return {}
    return {key: cursor for key, _, _, cursor in _slots(content)}


def _open_own(directory: int, name: str) -> int:
    """Open or make a file that belongs to this process's user alone.

    What else has that name is put aside: a worker that may write here must not keep the
    engine from starting, nor have it write into a file of somebody's.
    """
    flags = os.O_RDWR | os.O_CREAT
    try:
        return open_regular(directory, name, flags, owners=(os.geteuid(),))
    except CodecError:
        aside = f".{name}.{os.urandom(4).hex()}.refused"
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    return open_regular(directory, name, flags | os.O_EXCL, owners=(os.geteuid(),))


def _pwrite(descriptor: int, content: bytes, at: int) -> None:
    # A disk that fills up, or a limit on file sizes, lets a part through.
    if os.pwrite(descriptor, content, at) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, _HEADER_BYTES + 2 * MAX_SINKS * _SLOT_BYTES, 0)


def _new_header(epoch: str) -> bytes:
    fields = (_MAGIC, FORMAT_VERSION, bytes.fromhex(epoch))
    crc = crc32(_HEADER.pack(*fields, 0))
    return _HEADER.pack(*fields, crc).ljust(_HEADER_BYTES, b"\0")


def _is_ours(content: bytes, epoch: str) -> bool:
    return content[:_HEADER_BYTES] == _new_header(epoch)


def _pack_slot(generation: int, key: bytes, cursor: Cursor) -> bytes:
    position, counters = cursor
    body = _SLOT.pack(
        generation, key, position.segment, 0, position.offset, position.side,
        position.sequence, *counters,
    ).ljust(_CRC_AT, b"\0")  # fmt: skip
    return body + crc32(body).to_bytes(4, "little")


def _slots(content: bytes) -> Iterator[tuple[bytes, int, int, Cursor]]:
    """Yield (sink key, pair, generation, cursor): the newer whole slot of each pair."""
    pairs = (len(content) - _HEADER_BYTES + 2 * _SLOT_BYTES - 1) // (2 * _SLOT_BYTES)
    for pair in range(min(pairs, MAX_SINKS)):
        best: tuple[bytes, int, int, Cursor] | None = None
        for twin in (0, 1):
            at = _HEADER_BYTES + (2 * pair + twin) * _SLOT_BYTES
            slot = content[at : at + _SLOT_BYTES]
            if len(slot) < _SLOT_BYTES:
                continue
            if crc32(slot[:_CRC_AT]) != int.from_bytes(slot[_CRC_AT:], "little"):
                continue
            gen, key, segment, _, *place, _, _, _, _, _, _ = _SLOT.unpack_from(slot)
            if best is None or gen > best[2]:
                counters = Counters(*_SLOT.unpack_from(slot)[-6:])
                best = (key, pair, gen, Cursor(Position(segment, *place), counters))
        if best is not None and best[2] > 0:
            yield best
