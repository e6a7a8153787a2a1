"""Payloads of another user: bounded before they are loaded, whatever their bytes say."""

from __future__ import annotations

import pickle
import pickletools
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec import opcodes, wire
from femtomp.errors import CodecError
from femtomp.record import MAX_DEPTH
from tests.codec.test_wire import PLAIN, PLAIN_VALUES, POISON, chunk_of, fields

# Each kills, stops or fills the process that loads it, or one that looks at the result.
BOMBS = {
    # Every tuple of it holds the one before it twice: 2**100 leaves.
    "leaves by DUP": b"\x80\x05)" + b"2\x86" * 100 + b".",
    "leaves by the memo": b"\x80\x05)\x94" + b"h\x00h\x00\x86q\x00" * 100 + b".",
    "a hash without end": b"\x80\x05})" + b"2\x86" * 100 + b"Ns\x85.",
    "a hash without end, by the memo": (
        b"\x80\x05})" + b"q\x00h\x00\x86" * 100 + b"Ns\x85."
    ),
    "a deep key": b"\x80\x05})" + b"\x85" * 1_000_000 + b"Ns\x85.",
    "a deep value": b"\x80\x05)" + b"\x85" * 1_000_000 + b".",
    "deep lists": b"\x80\x05" + b"]" * 100_000 + b"a" * 99_999 + b"\x85.",
    "a deep set": b"\x80\x05" + b"(" * 9999 + b")" + b"\x91" * 9999 + b"\x85.",
    "text many times": b"\x80\x05(X\0\0\1\0" + b"x" * 65536 + b"2" * 65536 + b"t.",
    "a huge memo": b"\x80\x05)r\xff\xff\xff\xff\x85.",
    "a huge length": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_neither_memory_nor_time(name) -> None:
    """Little memory and time are enough to refuse each, alone and among records."""
    program = """
import resource, sys
from femtomp.codec import frame, wire
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
bomb, seed = sys.stdin.buffer.read(), frame.seed(bytes(12))
plain = wire.encode((1, "plain"))
chunk = b"".join(frame.encode(p, n, seed) for n, p in enumerate([plain, bomb, plain]))
found = wire.decode_chunk(chunk, frame.split(chunk, 0, seed)[0], hostile=True)
assert found[0] == found[2] == (1, "plain")
print(type(found[1]).__name__)
try:
    wire.decode(bomb)
except wire.CodecError:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=BOMBS[name], capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == [b"CodecError", b"refused"], done.stderr.decode()


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_among_records_of_others(name) -> None:
    """Whatever the trusting decoder refuses, the careful one refuses as well."""
    found = wire.decode_chunk(*chunk_of([PLAIN, POISON[name], PLAIN]), hostile=True)
    assert found[0] == found[2] == fields(99)
    assert isinstance(found[1], CodecError)


@given(st.lists(PLAIN_VALUES.map(lambda value: (value, value)), max_size=5))
def test_what_the_encoder_writes_is_passed(values) -> None:
    """Tuples of plain values are loaded as they were written."""
    chunk = chunk_of([wire.encode(value) for value in values])
    assert wire.decode_chunk(*chunk, hostile=True) == values


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("kind", [str, bytes, int, list, dict])
def test_every_length_of_a_value_is_passed(kind, size) -> None:
    """Each of the encodings that pickle has for a type is known, by its length."""
    value = {
        str: "x" * size,
        bytes: b"x" * size,
        int: -(1 << size) if size < 65_536 else size,
        list: list(range(size // 16)),
        dict: {str(n): -n for n in range(size // 16)},
    }[kind]
    payload = wire.encode((value, 1.5, None, True, False, ()))
    assert wire.decode(payload) == (value, 1.5, None, True, False, ())


def test_a_record_may_nest_as_deep_as_capture_allows() -> None:
    """The limit is above what a worker writes, and not far above."""
    value: list = []
    for _ in range(MAX_DEPTH + 2):
        value = [value]
    assert wire.decode(wire.encode(fields(attributes={"deep": value})))
    for _ in range(MAX_DEPTH + 2):
        value = [value]
    with pytest.raises(CodecError, match="deep"):
        wire.decode(wire.encode(fields(attributes={"deep": value})))


def test_only_opcodes_that_hold_each_value_once_are_known() -> None:
    """No opcode that is passed reads the stack's top twice, the memo or a name."""
    known = {
        chr(code)
        for table in ("_SILENT", "_FIXED", "_COUNTED", "_TUPLES", "_PUTS")
        for code in getattr(opcodes, table)
    } | set("(.teu")
    refused = {op.code for op in pickletools.opcodes} - known
    names = {op.name for op in pickletools.opcodes if op.code in refused}
    assert {"DUP", "GET", "BINGET", "LONG_BINGET", "PUT", "MEMOIZE"} <= names
    assert {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "BUILD"} <= names
    assert {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEWOBJ"} <= names


@given(st.binary(max_size=60).map(lambda body: b"\x80\x05" + body + b"."))
def test_any_bytes_are_passed_or_a_codec_error(payload) -> None:
    """Nothing but a CodecError comes out of hostile bytes."""
    try:
        opcodes.check(payload)
        wire.decode(payload)
    except CodecError:
        pass


@given(st.data())
def test_what_is_passed_is_no_larger_than_its_bytes(data) -> None:
    """Whatever opcodes of the known ones stand there, a leaf costs a byte at least."""
    words = [b"N", b"K\x01", b")", b"]", b"}", b"(", b"\x85", b"\x86", b"a", b"t", b"e",
             b"\x8c\x01a", b"s", b"u", b"2", b"h\x00", b"\x94"]  # fmt: skip
    body = b"".join(data.draw(st.lists(st.sampled_from(words), max_size=30)))
    try:
        value = wire.decode(body + b".")
    except CodecError:
        return
    assert _size(value) <= len(body)


def _size(value) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(k) + _size(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return 1 + sum(_size(v) for v in value)
    return 1


def test_ordinary_pickles_are_refused() -> None:
    """Pickles with a memo are none of the encoder's."""
    with pytest.raises(CodecError, match="memo"):
        opcodes.check(pickle.dumps(("a", "a"), 5))
