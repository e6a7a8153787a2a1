"""Frames: how a payload lies in a lane, so that it is wholly there or not there.

In: payload bytes, a sequence number, the lane's seed. Out: the frame's bytes, and back
again, with every number checked as if an enemy had written it. Pure: no I/O, no clock.

::

    u32 length | u32 crc32 | u64 sequence | payload (length bytes) | zeros to 8

Little-endian. The CRC covers the lane's epoch (as the seed), sequence, length and
payload, so that a frame of another lane, or of another place, never validates. A frame
starts at a multiple of 8 from the start of its file: after damage the reader tries the
next such place.
"""

from __future__ import annotations

import re
import struct
from enum import Enum
from typing import Final, NamedTuple
from zlib import crc32

from femtomp.record import MAX_PAYLOAD_BYTES

HEADER: Final = struct.Struct("<IIQ")
HEADER_BYTES: Final = HEADER.size
COVERED: Final = struct.Struct("<QI")
ALIGNMENT: Final = 8
# A payload's limit and room for what an encoder adds around it.
MAX_FRAME_PAYLOAD_BYTES: Final = MAX_PAYLOAD_BYTES + 4096
_PADDING: Final = tuple(bytes(-n % ALIGNMENT) for n in range(ALIGNMENT))

_pack = HEADER.pack
_unpack_from = HEADER.unpack_from
_cover = COVERED.pack
_not_zero = re.compile(rb"[^\0]").search


class Tail(Enum):
    """Why `split` stopped."""

    END = "end"  # exactly at the end of the bytes
    INCOMPLETE = "incomplete"  # a frame that runs over the end
    GAP = "gap"  # a whole frame of another sequence than the one that comes next
    BAD = "bad"  # bytes that are no frame


class Frame(NamedTuple):
    """Where one payload lies in the bytes given, and the offset behind its padding."""

    start: int
    end: int
    sequence: int
    next: int


def seed(epoch: bytes) -> int:
    """Return the CRC's starting value for a lane.

    Parameters
    ----------
    epoch : bytes, length 12
        The lane's random name.
    """
    return crc32(epoch)


def encode(payload: bytes, sequence: int, lane_seed: int) -> bytes:
    """Return the whole frame, padding included.

    Examples
    --------
    >>> frame = encode(b"hello", 7, seed(bytes(12)))
    >>> len(frame), split(frame, 0, seed(bytes(12)))[0][0].sequence
    (24, 7)
    """
    length = len(payload)
    crc = crc32(payload, crc32(_cover(sequence, length), lane_seed))
    return _pack(length, crc, sequence) + payload + _PADDING[length & 7]


def split(
    chunk: bytes, offset: int, lane_seed: int, expected: int | None = None
) -> tuple[list[Frame], int, Tail]:
    """Find the frames that lie one behind the other from `offset` on.

    Parameters
    ----------
    chunk : bytes
        Bytes of one file; offset 0 must be a multiple of 8 in that file.
    offset : int
        Where to begin.
    lane_seed : int
        See `seed`.
    expected : int, optional
        The sequence of the first; each other has one more. None: whichever they have.

    Returns
    -------
    frames : list of Frame
        Those that validate, in order.
    offset : int
        Behind the last of them.
    tail : Tail
        What lies there.
    """
    frames: list[Frame] = []
    add = frames.append
    size = len(chunk)
    view = memoryview(chunk)
    new, unpack_from, cover, crc_of = tuple.__new__, _unpack_from, _cover, crc32
    while True:
        start = offset + HEADER_BYTES
        if start > size:
            return frames, offset, Tail.END if offset == size else Tail.INCOMPLETE
        length, crc, sequence = unpack_from(chunk, offset)
        if not 0 < length <= MAX_FRAME_PAYLOAD_BYTES:
            return frames, offset, Tail.BAD
        end = start + length
        behind = (end + 7) & -8
        if behind > size:
            return frames, offset, Tail.INCOMPLETE
        if crc_of(view[start:end], crc_of(cover(sequence, length), lane_seed)) != crc:
            return frames, offset, Tail.BAD
        if expected is not None:
            if sequence != expected:
                return frames, offset, Tail.GAP
            expected += 1
        add(new(Frame, (start, end, sequence, behind)))
        offset = behind


def resync(chunk: bytes, offset: int, lane_seed: int) -> int | None:
    """Return the next place after `offset` where a frame validates, if there is one."""
    size = len(chunk)
    view = memoryview(chunk)
    place = offset
    while (place := place + ALIGNMENT) < size - HEADER_BYTES:
        length, crc, sequence = _unpack_from(chunk, place)
        if not length:
            # A file with holes is zeros for the most part: stepped over in one go.
            found = _not_zero(chunk, place)
            if found is None:
                return None
            place = max(place, found.start() // ALIGNMENT * ALIGNMENT - ALIGNMENT)
            continue
        end = place + HEADER_BYTES + length
        if 0 < length <= MAX_FRAME_PAYLOAD_BYTES and end <= size:
            covered = crc32(_cover(sequence, length), lane_seed)
            if crc32(view[place + HEADER_BYTES : end], covered) == crc:
                return place
    return None
