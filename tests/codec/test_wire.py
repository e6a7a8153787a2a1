"""Payloads: every record comes out with its own values, or as an error."""

from __future__ import annotations

import copyreg
import io
import pickle
import pickletools
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec import frame, wire
from femtomp.codec.shrink import shrink
from femtomp.errors import CodecError
from femtomp.record import MAX_PAYLOAD_BYTES, Record, Resource, Scope

RESOURCE = Resource({"process.pid": 1})
MIB = 1024 * 1024


def fields(number: int = 0, **changes) -> tuple:
    """Give a record's tuple in which one string object stands twice."""
    name = f"shop.{number}"
    values = {
        "version": 1,
        "timestamp": 1_700_000_000_000_000_000 + number,
        "levelno": 20,
        "level": "INFO",
        "logger": name,
        "body": f"sold {number}",
        "template": "sold %d",
        "path": "/srv/shop.py",
        "line": number,
        "function": "sell",
        "thread": 7,
        "thread_name": "MainThread",
        "attributes": {"twice": name, "number": number, "n": None},
        "more": None,
    }
    assert changes.keys() <= values.keys()
    return tuple({**values, **changes}.values())


def chunk_of(payloads: list[bytes]) -> tuple[bytes, list[frame.Frame]]:
    """Give payloads as the reader has them: framed, in one chunk."""
    seed = frame.seed(bytes(12))
    data = b"".join(frame.encode(p, n, seed) for n, p in enumerate(payloads))
    frames, _, tail = frame.split(data, 0, seed)
    assert tail is frame.Tail.END
    return data, frames


def with_frame(body: bytes) -> bytes:
    """Wrap opcodes in PROTO and FRAME, as protocol 5 does for all but tiny pickles."""
    return b"\x80\x05\x95" + struct.pack("<Q", len(body)) + body


def short_str(text: str) -> bytes:
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


PLAIN = wire.encode(fields(99))


class _Reduced:
    def __reduce__(self):
        return print, ("executed",)


# What must never be loaded, each as the payload of one record.
POISON = {
    "global": pickle.dumps((1, print), 5),
    "global of protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "reduce": pickle.dumps((1, _Reduced()), 5),
    "instance": b"(ios\nsystem\n.",
    "persistent id": b"\x80\x05Pid\n0\x85.",
    "binary persistent id": with_frame(short_str("id") + b"Q\x85."),
    "extension": b"\x80\x05\x82\xf0\x85.",
    "memoised strings": pickle.dumps(fields(99), 5),
    "memo put": with_frame(short_str("a") + b"q\x00\x85."),
    "long memo put": with_frame(short_str("a") + b"r\x01\x00\x00\x00\x85."),
    "memo get of nothing": with_frame(b"h\x00\x85."),
    "memo get of another record's": with_frame(b"h\x01\x85."),
    "bytes behind the end": PLAIN + b"more",
    "another pickle behind the end": PLAIN + PLAIN,
    "bytes behind STOP in the FRAME": with_frame(b"K\x01K\x02\x86.K\x07."),
    "a record behind STOP in the FRAME": with_frame(b"K\x01K\x02\x86." + PLAIN),
    "cut": PLAIN[:-1],
    "half": PLAIN[: len(PLAIN) // 2],
    "list": wire.encode([1, 2]),  # type: ignore[arg-type]
    "dict": wire.encode({"a": 1}),  # type: ignore[arg-type]
    "none": b"N.",
    "text": b"no pickle at all",
    "zeros": bytes(64),
    "future protocol": b"\x80\xff(t.",
    "out-of-band buffer": b"\x80\x05\x97\x85.",
    "build on a tuple": b"\x80\x05)}b\x85.",
    "stack underflow": b"\x80\x05\x86.",
    "huge length": b"\x80\x05\x8e" + b"\xff" * 8 + b".",
    "huge bytearray": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "bad utf-8": with_frame(b"\x8c\x02\xff\xfe\x85."),
    "unhashable key": with_frame(b"}]K\x01s\x85."),
}


@pytest.mark.parametrize("name", POISON)
def test_poisoned_record_leaves_all_others_right(name: str) -> None:
    """Of 512 records with one poisoned in the middle, the other 511 come out right."""
    payloads = [wire.encode(fields(n)) for n in range(512)]
    payloads[256] = POISON[name]
    found = wire.decode_chunk(*chunk_of(payloads))
    assert len(found) == 512
    assert isinstance(found[256], CodecError), found[256]
    assert [f for n, f in enumerate(found) if n != 256] == [
        fields(n) for n in range(512) if n != 256
    ]


@pytest.mark.parametrize("name", POISON)
@pytest.mark.parametrize("place", [0, 2])
def test_poisoned_record_is_refused_at_either_end(name: str, place: int) -> None:
    """First or last of a chunk, a poisoned record is an error and nothing else is."""
    payloads = [wire.encode(fields(n)) for n in range(3)]
    payloads[place] = POISON[name]
    found = wire.decode_chunk(*chunk_of(payloads))
    assert isinstance(found[place], CodecError), found[place]
    assert [f for n, f in enumerate(found) if n != place] == [
        fields(n) for n in range(3) if n != place
    ]


NO_TUPLE = ("list", "dict", "none")


@pytest.mark.parametrize("name", [n for n in POISON if n not in NO_TUPLE])
def test_poison_is_refused_alone(name: str) -> None:
    """One payload by itself is judged as it is in a chunk."""
    with pytest.raises(CodecError):
        wire.decode(POISON[name])


def test_registered_extension_is_refused(capsys) -> None:
    """An extension code names a global: it is refused where it is registered too."""
    copyreg.add_extension("builtins", "print", 240)
    try:
        payload = pickle.dumps((print, ("executed",)), 2)
        assert pickletools.dis(payload, io.StringIO()) is None
        assert b"\x82\xf0" in payload
        with pytest.raises(CodecError, match="global"):
            wire.decode(payload)
    finally:
        copyreg.remove_extension("builtins", "print", 240)
    assert capsys.readouterr().out == ""


def test_shared_plain_unpickler_mixes_up_ordinary_pickles() -> None:
    """Why memo opcodes are refused: one Unpickler over ordinary pickles exchanges
    values between records, and raises nothing.
    """
    payloads = [pickle.dumps(fields(n), 5) for n in range(512)]
    stream = io.BytesIO(b"".join(payloads))
    unpickler = pickle.Unpickler(stream)
    loaded = [unpickler.load() for _ in payloads]
    wrong = sum(1 for n, found in enumerate(loaded) if found != fields(n))
    assert wrong > 256
    # The same bytes through the decoder: not one record, and not one wrong one.
    found = wire.decode_chunk(*chunk_of(payloads))
    assert all(isinstance(f, CodecError) for f in found)
    assert all("memo" in str(f) for f in found)


def test_memo_of_one_record_does_not_reach_the_next() -> None:
    """A record that puts into the memo and one that gets from it are both refused."""
    put = with_frame(short_str("stolen") + b"\x94\x85.")
    get = with_frame(b"h\x00\x85.")
    found = wire.decode_chunk(*chunk_of([PLAIN, put, get, PLAIN]))
    assert found[0] == found[3] == fields(99)
    assert all(isinstance(f, CodecError) for f in found[1:3])


def test_clean_chunk_is_loaded_by_one_unpickler(monkeypatch) -> None:
    """A chunk without damage costs one Unpickler, not one a record."""
    made = []
    refusing = wire._Refusing
    monkeypatch.setattr(wire, "_Refusing", lambda s: made.append(1) or refusing(s))
    payloads = [wire.encode(fields(n)) for n in range(512)]
    assert wire.decode_chunk(*chunk_of(payloads)) == [fields(n) for n in range(512)]
    assert len(made) == 1


def test_empty_chunk() -> None:
    """No frames, no records."""
    assert wire.decode_chunk(b"", []) == []


def test_encoder_writes_no_memo_opcode() -> None:
    """The encoder's pickles have no memo opcode, however often a value occurs."""
    shared = ["a list", {"of": "it"}]
    payload = wire.encode(fields(attributes={"a": shared, "b": shared, "c": shared}))
    names = {opcode.name for opcode, _, _ in pickletools.genops(payload)}
    assert not {n for n in names if "PUT" in n or "GET" in n or n == "MEMOIZE"}
    assert "STOP" in names


@pytest.mark.parametrize(
    "value",
    [object(), print, Resource, Resource({}), 1j, type("S", (str,), {})("a"), ...],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused_when_encoded(value: object) -> None:
    """What would need an import to be loaded is refused by the encoder already."""
    with pytest.raises(CodecError, match="not a plain type"):
        wire.encode((1, value))


class TestEncoders:
    """The free list of encoders."""

    @pytest.fixture(autouse=True)
    def _empty(self, monkeypatch) -> None:
        monkeypatch.setattr(wire, "free", [])

    def test_encoder_is_used_again(self) -> None:
        """One encoder serves any number of calls, and is clean after each."""
        for n in range(100):
            assert wire.decode(wire.encode(fields(n))) == fields(n)
        assert len(wire.free) == 1
        assert wire.free[0][1] == []

    def test_encoder_that_failed_is_not_used_again(self) -> None:
        """After an exception the encoder is gone: no half record leads the next."""
        wire.encode(fields())
        before = wire.free[0]
        half = ("x" * 200_000, object())  # long strings are written out at once
        with pytest.raises(CodecError):
            wire.encode(half)
        assert wire.free == []
        assert wire.decode(wire.encode(fields(5))) == fields(5)
        assert wire.free[0] is not before

    @pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 1 << 20, 5 << 20])
    def test_output_in_pieces_is_joined(self, size: int) -> None:
        """A pickle that is written in several pieces is one payload."""
        values = fields(body="x" * size, template="y" * size)
        assert wire.decode(wire.encode(values)) == values
        assert wire.free[0][1] == []
        assert wire.decode(wire.encode(fields(1))) == fields(1)

    def test_cyclic_values_are_an_error(self) -> None:
        """A list that holds itself is refused, and the next record is right."""
        cyclic: list = []
        cyclic.append(cyclic)
        with pytest.raises((ValueError, RecursionError)):
            wire.encode((1, cyclic))
        assert wire.decode(wire.encode(fields(2))) == fields(2)

    def test_threads_do_not_share_an_encoder(self) -> None:
        """Encoding in many threads at once, failures among them, mixes nothing up."""
        previous = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        barrier = threading.Barrier(8)

        def run(thread: int) -> int:
            barrier.wait(10)
            wrong = 0
            for n in range(400):
                values = fields(thread * 1000 + n)
                if n % 10 == 3:
                    with pytest.raises(CodecError):
                        wire.encode((values, object()))
                wrong += wire.decode(wire.encode(values)) != values
            return wrong

        try:
            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(run, range(8))) == 0
        finally:
            sys.setswitchinterval(previous)
        assert len(wire.free) <= 8
        assert all(pieces == [] for _, pieces in wire.free)

    def test_reentrant_encoding_uses_another_encoder(self) -> None:
        """A call inside a call (a signal handler's) leaves both records right."""
        wire.encode(fields())
        dump, pieces = wire.free.pop()
        dump(("outer",))  # where a signal arrives: dumped, not yet taken
        assert wire.decode(wire.encode(fields(1))) == fields(1)
        assert wire.decode(pieces.pop()) == ("outer",)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.text(st.characters(), max_size=40),
)
PLAIN_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=20,
)


@given(st.lists(st.tuples(PLAIN_VALUES, PLAIN_VALUES), max_size=6))
def test_round_trip_of_plain_values(values: list[tuple]) -> None:
    """Tuples of plain values, lone surrogates included, come out as they went in."""
    found = wire.decode_chunk(*chunk_of([wire.encode(v) for v in values]))
    assert found == values
    assert [wire.decode(wire.encode(v)) for v in values] == values


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=5))
def test_arbitrary_payloads_never_raise(payloads: list[bytes]) -> None:
    """Any bytes at all give an error or a tuple for each frame, and no exception."""
    framed = [PLAIN, *payloads, PLAIN]
    found = wire.decode_chunk(*chunk_of(framed))
    assert len(found) == len(framed)
    assert found[0] == found[-1] == fields(99)
    assert all(isinstance(f, (tuple, CodecError)) for f in found)


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_damaged_byte_is_an_error_or_stays_in_its_record(at: int, byte: int) -> None:
    """A byte changed behind the CRC's back never reaches a neighbour."""
    damaged = PLAIN[:at] + bytes([byte]) + PLAIN[at + 1 :]
    found = wire.decode_chunk(*chunk_of([PLAIN, damaged, PLAIN]))
    assert found[0] == found[2] == fields(99)


# -- to_record -------------------------------------------------------------------------


def record_of(values: tuple, of_process=None) -> Record:
    return wire.to_record(values, "e-1", RESOURCE, of_process or (lambda *_: RESOURCE))


def test_record_has_every_field() -> None:
    """A tuple becomes a record with severity, code, thread, template and extras."""
    record = record_of(fields(3))
    assert record[:5] == (
        1_700_000_000_000_000_003,
        9,
        "INFO",
        "shop.3",
        "sold 3",
    )
    assert record.attributes == {
        "code.file.path": "/srv/shop.py",
        "code.line.number": 3,
        "code.function.name": "sell",
        "thread.id": 7,
        "thread.name": "MainThread",
        "femtomp.template": "sold %d",
        "twice": "shop.3",
        "number": 3,
        "n": None,
    }
    assert record.resource is RESOURCE
    assert record.uid == "e-1"
    assert (record.trace_id, record.span_id, record.trace_flags) == (None, None, None)


def test_record_has_what_most_have_not() -> None:
    """Exception, stack, trace, process, severity, event, scope and drops are found."""
    asked = []
    other = Resource({"process.pid": 2})
    more = {
        "exception": ("ValueError", "bad", "Traceback ..."),
        "stack": "Stack ...",
        "trace": (1, 2, 1),
        "process": (2, "worker-2"),
        "severity": 17,
        "event_name": "sold",
        "scope": ["lib", "1.0", None, None],
        "dropped": 3,
    }
    record = record_of(
        fields(more=more), lambda pid, name: asked.append((pid, name)) or other
    )
    assert record.attributes["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "bad"
    assert record.attributes["exception.stacktrace"] == "Traceback ..."
    assert record.attributes["code.stacktrace"] == "Stack ..."
    assert record.trace_id == "0" * 31 + "1"
    assert record.span_id == "0" * 15 + "2"
    assert record.trace_flags == 1
    assert record.resource is other
    assert asked == [(2, "worker-2")]
    assert record.severity_number == 17
    assert record.event_name == "sold"
    assert record.scope == Scope("lib", "1.0")
    assert record.dropped_attributes_count == 3


def test_users_attributes_win() -> None:
    """An extra named like one of ours replaces it, with an exception or without."""
    for more in (None, {"exception": ("E", "m", "t")}):
        extras = {"code.line.number": "mine", "exception.type": "mine"}
        attributes = record_of(fields(attributes=extras, more=more)).attributes
        assert attributes["code.line.number"] == "mine"
        assert attributes["exception.type"] == "mine"


@pytest.mark.parametrize(
    "values",
    [
        (),
        (1,),
        fields()[:-1],
        (*fields(), None),
        fields(version=2),
        fields(version="1"),
        fields(version=None),
        fields(timestamp=1.5),
        fields(timestamp=None),
        fields(timestamp=True),
        fields(levelno="20"),
        fields(levelno=None),
        fields(level=None),
        fields(level=b"INFO"),
        fields(logger=None),
        fields(attributes=[]),
        fields(attributes="a"),
        fields(more=[]),
        fields(more="a"),
        fields(more=1),
        fields(more={"exception": ("one", "two")}),
        fields(more={"exception": 3}),
        fields(more={"trace": (1, 2)}),
        fields(more={"trace": ("a", "b", "c")}),
        fields(more={"trace": (1.5, 2, 3)}),
        fields(more={"trace": (1, 2, float("inf"))}),
        fields(more={"process": 1}),
        fields(more={"process": ([], "unhashable")}),
        fields(more={"process": ("1", "name")}),
        fields(more={"process": (1, None)}),
        fields(more={"severity": "high"}),
        fields(more={"severity": float("nan")}),
        fields(more={"severity": float("inf")}),
        fields(more={"severity": "9" * 5000}),
        fields(more={"scope": 1}),
        fields(more={"scope": []}),
        fields(more={"scope": ["a"] * 9}),
        fields(more={"dropped": None}),
        fields(more={"dropped": float("-inf")}),
    ],
    ids=lambda values: repr(values)[-60:],
)
def test_tuples_of_another_shape_are_errors(values: tuple) -> None:
    """A tuple that no femtomp writes is a CodecError, and never another exception."""
    with pytest.raises(CodecError):
        record_of(values)


@given(st.tuples(*[PLAIN_VALUES] * 14) | st.lists(PLAIN_VALUES, max_size=15).map(tuple))
def test_arbitrary_tuples_never_raise_anything_else(values: tuple) -> None:
    """Any tuple of plain values is a record or a CodecError."""
    try:
        assert isinstance(record_of(values), Record)
    except CodecError:
        pass


MORE = st.fixed_dictionaries(
    {},
    optional={
        name: PLAIN_VALUES | st.tuples(PLAIN_VALUES, PLAIN_VALUES, PLAIN_VALUES)
        for name in (
            "exception",
            "stack",
            "trace",
            "process",
            "severity",
            "event_name",
            "scope",
            "dropped",
        )
    },
)


@given(MORE)
def test_arbitrary_details_never_raise_anything_else(more: dict) -> None:
    """Any value for what most records have not is a record or a CodecError."""

    def of_process(pid: int, name: str) -> Resource:
        assert {(pid, name): 1}  # as the engine does: it must be hashable
        return RESOURCE

    try:
        record_of(fields(more=more), of_process)
    except CodecError:
        pass


# -- shrink ----------------------------------------------------------------------------


def test_large_body_is_cut_below_the_limit_and_marked() -> None:
    """A body of 10 MB becomes one below 4 MiB that begins alike and says so."""
    body = "0123456789" * 1_000_000
    small = shrink(fields(body=body))
    assert len(wire.encode(small)) <= MAX_PAYLOAD_BYTES
    kept, _, mark = small[5].partition("…")
    assert body.startswith(kept)
    assert len(kept) >= 256 * 1024
    assert "truncated" in mark
    assert "10000000" in mark
    assert small[:5] == fields()[:5]
    assert small[6:] == fields()[6:]


# Larger than 64 KiB, each in another way.
LARGE = {
    "body of emoji": {"body": "\U0001f600" * 32_000},
    "body of surrogates": {"body": "\udc80" * 32_000},
    "body of bytes": {"body": b"\xff" * 90_000},
    "few attributes": {"attributes": {f"a{n}": "x" * 16_000 for n in range(6)}},
    "128 attributes": {"attributes": {f"a{n}": "x" * 1000 for n in range(128)}},
    "deep": {"attributes": {"deep": [[["x" * 90_000]]]}},
    "many small": {"attributes": {"many": ["y" * 60] * 1500}},
    "key": {"attributes": {"x" * 90_000: 1}},
    "exception": {"more": {"exception": ("E", "m" * 40_000, "t" * 40_000)}},
    "stack": {"more": {"stack": "s" * 90_000}},
    "body of ints": {"body": [1 << 40] * 10_000},
    "body of a dict": {"body": {str(n): [n, "a"] for n in range(5000)}},
    "scope": {"more": {"scope": ["n", None, None, {"a": [1 << 40] * 10_000}]}},
    "all": {"body": [300] * 30_000, "attributes": {"a": [300] * 30_000}},
}


@pytest.mark.parametrize("name", LARGE)
def test_anything_large_is_cut_below_the_limit(name: str) -> None:
    """Whatever is large, the record still fits, is of the known shape and is marked."""
    values = fields(**LARGE[name])
    assert len(wire.encode(values)) > 65_536
    payload = wire.encode(shrink(values, 65_536))
    assert len(payload) <= 65_536
    assert b"truncated" in payload
    record = record_of(wire.decode(payload))  # type: ignore[arg-type]
    assert record.logger == "shop.0"


def test_record_below_the_limit_is_left_alone() -> None:
    """What fits is not cut."""
    values = fields(body="x" * 100_000)
    assert shrink(values) == values
