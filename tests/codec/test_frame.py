"""Frames: wholly there or not there, whatever happens to the bytes."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.codec import frame
from femtomp.codec.frame import Tail

EPOCH = bytes(range(12))
SEED = frame.seed(EPOCH)
OTHER_SEED = frame.seed(bytes(12))
PAYLOADS = [b"a", b"bb" * 4, b"ccc" * 5, b"\0" * 8, b"e" * 33]
HEADER_BYTES = 16


def chunk_of(payloads: list[bytes], first: int = 0) -> bytes:
    """Give the frames of payloads with sequences from `first` on."""
    return b"".join(frame.encode(p, first + n, SEED) for n, p in enumerate(payloads))


def loaded(data: bytes, frames: list[frame.Frame]) -> list[tuple[int, bytes]]:
    return [(f.sequence, data[f.start : f.end]) for f in frames]


def walk(data: bytes, lane_seed: int = SEED) -> list[tuple[int, bytes]]:
    """Read all there is to read, stepping over damage as a reader does."""
    found, offset = [], 0
    while True:
        frames, offset, tail = frame.split(data, offset, lane_seed)
        found += loaded(data, frames)
        if tail is Tail.END:
            return found
        place = frame.resync(data, offset, lane_seed)
        if place is None:
            return found
        offset = place


CHUNK = chunk_of(PAYLOADS)
WHOLE = list(enumerate(PAYLOADS))
STARTS = [sum(len(frame.encode(p, 0, SEED)) for p in PAYLOADS[:n]) for n in range(6)]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 255, 65_536])
@pytest.mark.parametrize("sequence", [0, 1, (1 << 64) - 1])
def test_frame_has_the_documented_bytes(length: int, sequence: int) -> None:
    """A frame is length, CRC over epoch, sequence, length and payload, then padding."""
    payload = bytes(length)
    crc = zlib.crc32(EPOCH)
    crc = zlib.crc32(struct.pack("<QI", sequence, length), crc)
    crc = zlib.crc32(payload, crc)
    expected = struct.pack("<IIQ", length, crc, sequence) + payload
    expected += bytes(-length % 8)
    assert frame.encode(payload, sequence, SEED) == expected
    assert len(expected) % 8 == 0


@pytest.mark.parametrize(
    ("data", "offset", "tail"),
    [
        (b"", 0, Tail.END),
        (CHUNK, len(CHUNK), Tail.END),
        (b"\x01", 0, Tail.INCOMPLETE),
        (bytes(15), 0, Tail.INCOMPLETE),
        (bytes(16), 0, Tail.BAD),  # length 0: zeros are no frame
        (bytes(1024), 0, Tail.BAD),
        (b"\xff" * 16, 0, Tail.BAD),  # longer than any payload
        (struct.pack("<IIQ", frame.MAX_FRAME_PAYLOAD_BYTES + 1, 0, 0), 0, Tail.BAD),
        (struct.pack("<IIQ", frame.MAX_FRAME_PAYLOAD_BYTES, 0, 0), 0, Tail.INCOMPLETE),
        (struct.pack("<IIQ", 8, 0, 0) + bytes(8), 0, Tail.BAD),  # a wrong CRC
    ],
)
def test_split_names_what_lies_at_the_end(data: bytes, offset: int, tail: Tail) -> None:
    """Bytes without a frame give none, leave the offset and say why."""
    assert frame.split(data, offset, SEED) == ([], offset, tail)


def test_split_gives_every_frame_in_order() -> None:
    """All frames of a chunk come out with payload, sequence and the place behind."""
    frames, offset, tail = frame.split(CHUNK, 0, SEED)
    assert loaded(CHUNK, frames) == WHOLE
    assert [f.next for f in frames] == STARTS[1:]
    assert (offset, tail) == (len(CHUNK), Tail.END)


@pytest.mark.parametrize("start", range(len(STARTS)))
def test_split_begins_at_any_frame(start: int) -> None:
    """From the start of any frame on, that frame and those behind it come out."""
    frames, _, tail = frame.split(CHUNK, STARTS[start], SEED)
    assert loaded(CHUNK, frames) == WHOLE[start:]
    assert tail is Tail.END


def test_cut_anywhere_gives_the_whole_frames_before_it() -> None:
    """At every truncation, exactly the frames that end before it come out."""
    for cut in range(len(CHUNK)):
        frames, offset, tail = frame.split(CHUNK[:cut], 0, SEED)
        whole = sum(1 for start in STARTS[1:] if start <= cut)
        assert loaded(CHUNK, frames) == WHOLE[:whole], cut
        assert offset == STARTS[whole]
        assert tail is (Tail.END if cut == STARTS[whole] else Tail.INCOMPLETE)


def test_flipped_bit_loses_one_frame_and_forges_none() -> None:
    """Any single flipped bit costs the frame that it hit, and no other record changes.

    Bits of the padding are covered by nothing and cost nothing.
    """
    for bit in range(len(CHUNK) * 8):
        damaged = bytearray(CHUNK)
        damaged[bit // 8] ^= 1 << bit % 8
        hit = sum(1 for start in STARTS[1:] if start <= bit // 8)
        in_padding = bit // 8 >= STARTS[hit] + HEADER_BYTES + len(PAYLOADS[hit])
        expected = WHOLE if in_padding else WHOLE[:hit] + WHOLE[hit + 1 :]
        assert walk(bytes(damaged)) == expected, bit


def test_frame_of_another_lane_never_validates() -> None:
    """The epoch is covered: frames of another lane are damage, not records."""
    assert walk(CHUNK, OTHER_SEED) == []


def test_frame_with_another_sequence_never_validates() -> None:
    """A frame whose sequence was changed is damage, even with all else in place."""
    data = bytearray(CHUNK)
    data[8:16] = struct.pack("<Q", 99)
    frames, offset, tail = frame.split(bytes(data), 0, SEED)
    assert (frames, offset, tail) == ([], 0, Tail.BAD)


@pytest.mark.parametrize("junk", [8, 16, 24, 4096])
def test_resync_finds_the_next_frame(junk: int) -> None:
    """Behind junk of any 8-aligned length the next frame is found where it is."""
    for filler in (b"\0", b"\xff", b"\x10\0\0\0\0\0\0\0"):
        data = (filler * junk)[:junk] + CHUNK
        assert frame.resync(data, 0, SEED) == junk
        assert walk(data) == WHOLE


def test_resync_looks_behind_its_offset_only() -> None:
    """The frame at the offset itself is not found again: the reader moves on."""
    assert frame.resync(CHUNK, 0, SEED) == STARTS[1]
    assert frame.resync(CHUNK, STARTS[4], SEED) is None


def test_resync_finds_a_last_frame_without_its_padding() -> None:
    """A last frame whose payload is whole is found though its padding is missing."""
    data = bytes(8) + frame.encode(b"last!", 3, SEED)[:-3]
    assert frame.resync(data, 0, SEED) == 8


def test_frame_inside_a_payload_is_not_a_record() -> None:
    """A payload that holds a whole frame of the same lane comes out as that payload."""
    inner = frame.encode(b"inner", 7, SEED)
    data = frame.encode(inner, 8, SEED)
    assert walk(data) == [(8, inner)]


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=20),
    st.integers(0, (1 << 64) - 32),
    st.binary(min_size=12, max_size=12),
)
def test_round_trip(payloads: list[bytes], first: int, epoch: bytes) -> None:
    """Whatever is framed comes out again, with its sequence, for any lane."""
    lane = frame.seed(epoch)
    data = b"".join(frame.encode(p, first + n, lane) for n, p in enumerate(payloads))
    frames, offset, tail = frame.split(data, 0, lane)
    assert loaded(data, frames) == list(enumerate(payloads, first))
    assert (offset, tail) == (len(data), Tail.END)


@given(st.binary(max_size=400), st.integers(0, 50))
def test_arbitrary_bytes_never_raise_nor_validate(data: bytes, eighths: int) -> None:
    """Bytes that nobody framed give no record, and no exception."""
    offset = min(eighths * 8, len(data) & -8)
    frames, at, _ = frame.split(data, offset, SEED)
    assert (frames, at) == ([], offset)
    assert frame.resync(data, offset, SEED) is None


@settings(max_examples=200)
@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8),
    st.data(),
)
def test_overwritten_range_never_forges_a_record(
    payloads: list[bytes], data: st.DataObject
) -> None:
    """Whatever a range is overwritten with, what comes out was written, in order."""
    chunk = bytearray(chunk_of(payloads))
    start = data.draw(st.integers(0, len(chunk) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=len(chunk) - start))
    chunk[start : start + len(junk)] = junk
    whole = list(enumerate(payloads))
    found = walk(bytes(chunk))
    assert [item for item in whole if item in found] == found
    # Frames that the range does not touch are all there.
    at, untouched = 0, []
    for item in whole:
        size = len(frame.encode(item[1], 0, SEED))
        if at + size <= start or at >= start + len(junk):
            untouched.append(item)
        at += size
    assert [item for item in found if item in untouched] == untouched
