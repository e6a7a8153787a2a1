"""Plain values: anything at all goes in, and only plain types come out."""

from __future__ import annotations

import asyncio
import collections
import ctypes
import dataclasses
import decimal
import enum
import fractions
import io
import ipaddress
import pathlib
import re
import sys
import threading
import types
import uuid
from datetime import UTC, date, datetime, time, timedelta
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec import wire
from femtomp.record import MAX_DEPTH, MAX_ITEMS, MAX_KEY_CHARS
from femtomp.worker.plain import MAX_REPR_CHARS, MAX_VALUES, Room, key, plain

PLAIN_TYPES = {str, int, float, bool, type(None), bytes, list, dict}


def assert_plain(value: object) -> int:
    """Check every type below a value; give how many values there are."""
    assert type(value) in PLAIN_TYPES, type(value)
    count = 1
    if isinstance(value, dict):
        assert all(type(k) is str for k in value)
        count += sum(assert_plain(v) for v in value.values())
    elif isinstance(value, list):
        count += sum(assert_plain(v) for v in value)
    elif type(value) is int:
        assert -(1 << 63) <= value < 1 << 63
    return count


class Colour(enum.Enum):
    RED = "red"
    LIST = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Order:
    number: int


class IntEnumLike(int):
    def __str__(self):
        return "no number"


class StrEnum(enum.StrEnum):
    ON = "on"


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - as users make them


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (-(1 << 63), -(1 << 63)),
        ((1 << 63) - 1, (1 << 63) - 1),
        (1 << 63, "9223372036854775808"),
        (-(1 << 70), "-1180591620717411303424"),
        (1.5, 1.5),
        ("text", "text"),
        ("\udc80", "\udc80"),
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        ((1, [2, {3}]), [1, [2, [3]]]),
        (frozenset({1}), [1]),
        (Point(1, 2), {"x": 1, "y": 2}),
        ({1: "a", None: "b", (2, 3): "c"}, {"1": "a", "None": "b", "(2, 3)": "c"}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict([(1, True), (None, 0.5)]), {"1": True, "None": 0.5}),
        (IntEnumLike(7), 7),
        (StrEnum.ON, "on"),
        (pathlib.PurePosixPath("\udc80"), "\udc80"),
        (datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),  # noqa: DTZ001
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(seconds=1), 1.0),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 3), "1/3"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("::1"), "::1"),
        (Colour.RED, "red"),
        (Colour.LIST, [1, 2]),
        (Level.HIGH, 3),
        (Flags.A | Flags.B, 3),
        (Order(7), {"number": 7}),
        (1j, "1j"),
        (range(3), "range(0, 3)"),
        (print, "<built-in function print>"),
        (int, "<class 'int'>"),
        (..., "Ellipsis"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_known_types_have_their_usual_form(value, expected) -> None:
    """Each type of the standard library has the form that readers expect."""
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert_plain(found)


class Raises:
    """Its every hook raises."""

    def _raise(self, *args):
        raise RuntimeError("hostile")

    __str__ = __repr__ = __format__ = __eq__ = __bool__ = __len__ = _raise
    __iter__ = __reduce__ = __reduce_ex__ = __getstate__ = _raise
    __int__ = __float__ = __index__ = __bytes__ = __getattr__ = _raise

    def __hash__(self):
        return 1


class RaisesClass:
    @property
    def __class__(self):
        raise RuntimeError("hostile")


class PretendsDict:
    __class__ = dict


class Str(str):
    """As Django's SafeString: `str()` of it is no exact str."""

    __slots__ = ()

    def __str__(self):
        return self


class Secret(str):
    __slots__ = ()

    def __str__(self):
        return "***"

    __repr__ = __str__


class RaisesStr(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError("hostile")

    __repr__ = __len__ = __getitem__ = encode = __hash__ = __str__


class ReprStr:
    def __repr__(self):
        return Str("shown")


class ReprNone:
    def __repr__(self):
        return None

    __str__ = __repr__


class RaisesInt(int):
    def __int__(self):
        raise RuntimeError("hostile")

    __lt__ = __le__ = __index__ = __str__ = __repr__ = __int__


class Float(float):
    def __float__(self):
        return self

    __repr__ = __str__ = lambda self: "float"


class Bytes(bytes):
    def __bytes__(self):
        return self


class EndlessDict(dict):
    def items(self):
        while True:
            yield "k", 1


class EndlessList(list):
    def __iter__(self):
        while True:
            yield 1


class BadItems(dict):
    def items(self):
        return [1, 2, 3]


class RaisesIter(list):
    def __iter__(self):
        raise RuntimeError("hostile")


class UnhashableMeta(type):
    __hash__ = None

    def __eq__(cls, other):
        return True


class OfUnhashableClass(metaclass=UnhashableMeta):
    pass


def _raise(_):
    raise RuntimeError("hostile")


class NamelessMeta(type):
    __name__ = property(_raise)


class OfNamelessClass(metaclass=NamelessMeta):
    def __repr__(self):
        raise RuntimeError("hostile")


class NamelessError(Exception, metaclass=NamelessMeta):
    pass


class RaisesNameless:
    def __repr__(self):
        raise NamelessError


class Iso(datetime):
    def isoformat(self, *args):
        return 5


class Recursive:
    def __repr__(self):
        return repr([self])


class LongRepr:
    def __repr__(self):
        return "r" * 10_000_000


class EndlessEnum(enum.Enum):
    A = 1

    @property
    def value(self):
        return self


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> list:
    value: list = [1]
    value.append({"again": value})
    return value


def wide() -> list:
    """Give 10^24 values in a few kilobytes."""
    value: list = [1] * MAX_ITEMS
    for _ in range(7):
        value = [value] * MAX_ITEMS
    return value


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


class RaisesFormat:
    def __format__(self, spec):
        raise RuntimeError("hostile")

    __reduce__ = __reduce_ex__ = __getstate__ = __deepcopy__ = __copy__ = __format__

    def __repr__(self):
        return "no reduce"


class LenList(list):
    def __len__(self):
        raise RuntimeError("hostile")


class LenDict(dict):
    def __len__(self):
        raise RuntimeError("hostile")

    keys = values = get = __getitem__ = __contains__ = __iter__ = __len__


class IntSaying(int):
    """An int whose every written form lies."""

    __str__ = __repr__ = __format__ = lambda self, *_: "lie"


class Hostage:
    """What remembers who looked at it."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was looked up")


@dataclasses.dataclass
class OfHostile:
    a: object
    b: object = None


HOSTILE = {
    "no reduce": RaisesFormat,
    "list without length": lambda: LenList([1, 2]),
    "long list without length": lambda: LenList(range(5000)),
    "dict of its own": lambda: LenDict(a=1),
    "long dict of its own": lambda: LenDict((n, n) for n in range(5000)),
    "lying int": lambda: IntSaying(5),
    "looked at": Hostage,
    "dataclass": lambda: OfHostile(Raises()),
    "deep dataclass": lambda: OfHostile(deep(100_000)),
    "surrogate": lambda: "\udc80\0",
    "surrogate as a key": lambda: {"\udc80": "\0"},
    "ctypes array": ctypes.c_char * 5,
    "rlock": threading.RLock,
    "thread": threading.current_thread,
    "raises": Raises,
    "raises __class__": RaisesClass,
    "pretends to be a dict": PretendsDict,
    "str that is no str": lambda: Str("safe"),
    "str that raises": lambda: RaisesStr("x" * 10_000),
    "repr of a subclass": ReprStr,
    "repr of None": ReprNone,
    "int that raises": lambda: RaisesInt(5),
    "float": lambda: Float(1.5),
    "bytes": lambda: Bytes(b"x"),
    "endless dict": EndlessDict,
    "endless list": EndlessList,
    "dict of no pairs": lambda: BadItems(a=1),
    "list that raises": lambda: RaisesIter([1]),
    "of an unhashable class": OfUnhashableClass,
    "unhashable class": lambda: OfUnhashableClass,
    "of a nameless class": OfNamelessClass,
    "raises a nameless error": RaisesNameless,
    "datetime": lambda: Iso(2026, 1, 1),
    "recursive repr": Recursive,
    "long repr": LongRepr,
    "endless enum": lambda: EndlessEnum.A,
    "a million levels": lambda: deep(1_000_000),
    "deep deque": lambda: _deep_deque(100_000),
    "cyclic": cyclic,
    "wide": wide,
    "huge int": lambda: 1 << 100_000,
    "huge negative int": lambda: -(10**5000),
    "huge int in a list": lambda: [1 << 100_000],
    "nan": lambda: float("nan"),
    "lock": threading.Lock,
    "lambda": lambda: lambda: None,
    "generator": lambda: (n for n in range(3)),
    "coroutine": lambda: _closed(asyncio.sleep(0)),
    "frame": sys._getframe,
    "module": lambda: types,
    "released view": released,
    "open file": io.BytesIO,
    "ctypes": ctypes.c_int,
    "ctypes structure": type("S", (ctypes.Structure,), {"_fields_": []}),
    "null pointer": ctypes.POINTER(ctypes.c_int),
    "mock": mock.MagicMock,
    "mock of a dict": lambda: mock.Mock(spec=dict),
    "mock of a str": lambda: mock.Mock(spec=str),
    "weak reference": lambda: __import__("weakref").ref(Raises),
    "match": lambda: re.match("a", "a"),
    "exception": lambda: ValueError("\udc80"),
    "namespace": lambda: types.SimpleNamespace(a=Raises()),
    "proxy": lambda: types.MappingProxyType({"a": Raises()}),
}


def _deep_deque(levels: int) -> collections.deque:
    value: collections.deque = collections.deque()
    for _ in range(levels):
        value = collections.deque([value])
    return value


def _closed(coroutine):
    coroutine.close()
    return coroutine


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["alone", "in a list", "in a dict", "as a key"])
def test_hostile_values_are_rendered(name, place) -> None:
    """Whatever an object does when it is looked at, plain values come out."""
    value = HOSTILE[name]()
    match place:
        case "in a list":
            value = [1, value, 2]
        case "in a dict":
            value = {"before": 1, "value": value, "behind": 2}
        case "as a key":
            try:
                value = {value: 1}
            except Exception:
                return  # it cannot be a key in Python either
    found = plain(value)
    assert assert_plain(found) <= 2 * MAX_VALUES + 10
    assert wire.decode(wire.encode((found,))) == (found,) or name == "nan"
    if place == "in a list":
        assert found[0] == 1
        assert found[2] == 2 or name in ("wide", "endless list")
    if place == "in a dict":
        assert found["before"] == 1


def test_subclasses_of_str_keep_their_text() -> None:
    """A str that is its own `str()` comes out with its text, a masked one masked."""
    assert plain(Str("safe")) == "safe"
    assert plain(Secret("password")) == "***"
    assert plain([Secret("password")]) == ["***"]
    assert plain({"password": Secret("password")}) == {"password": "***"}


def test_what_cannot_be_rendered_is_marked() -> None:
    """A value whose own code raises says of what class it is and what it raised."""
    assert plain(Raises()) == "<Raises: cannot be rendered: RuntimeError>"
    assert plain([Raises()]) == ["<Raises: cannot be rendered: RuntimeError>"]


def test_exceptions_from_outside_pass() -> None:
    """A signal's exception that arrives while a value is rendered is the caller's."""

    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain([Interrupted()])


def test_depth_is_limited() -> None:
    """Below eight levels containers are named, and scalars and dates still rendered."""
    value: object = {"scalar": 1, "date": date(2026, 1, 2), "list": [1]}
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    found = plain(value)
    for _ in range(MAX_DEPTH - 1):
        (found,) = found
    assert found == {
        "scalar": 1,
        "date": "2026-01-02",
        "list": "<list: deeper than 8 levels>",
    }


@pytest.mark.parametrize("size", [MAX_ITEMS - 1, MAX_ITEMS, MAX_ITEMS + 1, 100_000])
def test_items_are_limited(size) -> None:
    """At most 1024 items of a list or dict are kept; what is left out is said."""
    found = plain(list(range(size)))
    assert found[: min(size, MAX_ITEMS)] == list(range(min(size, MAX_ITEMS)))
    assert len(found) == min(size, MAX_ITEMS + 1)
    if size > MAX_ITEMS:
        assert found[-1] == f"<femtomp: truncated, 1024 of {size} items kept>"
    found = plain({str(n): n for n in range(size)})
    assert len(found) == min(size, MAX_ITEMS + 1)
    if size > MAX_ITEMS:
        assert found["femtomp.truncated"] == f"1024 of {size} items kept"


def test_values_of_a_record_are_limited() -> None:
    """A structure with 10^24 leaves costs no more than the limit, and says so."""
    found = plain(wide())
    assert MAX_VALUES <= assert_plain(found) <= 2 * MAX_VALUES
    assert "truncated" in repr(found)


def test_limit_is_shared_by_what_shares_it() -> None:
    """Values that go into one record share the room for them."""
    room = Room()
    total = sum(assert_plain(plain(wide(), room)) for _ in range(50))
    assert total <= 2 * MAX_VALUES + 100
    assert plain("a scalar still", room) == "a scalar still"


def test_long_reprs_are_cut() -> None:
    """The repr of an unknown object is kept to a size that a line can have."""
    found = plain(LongRepr())
    assert found == "r" * MAX_REPR_CHARS + "… [femtomp: truncated]"


def test_huge_integers_are_text() -> None:
    """An integer beyond the interpreter's limit on digits is given in base 16."""
    assert plain(1 << 20_000)[:6] == "0x1000"
    assert len(plain(1 << 1_000_000)) < MAX_REPR_CHARS + 50
    assert plain({"n": -(1 << 20_000)})["n"][:6] == "-0x100"


@pytest.mark.parametrize("size", [0, MAX_KEY_CHARS, MAX_KEY_CHARS + 1, 10_000])
def test_keys_are_bounded(size) -> None:
    """A key is cut to 256 characters, whatever its type."""
    assert key("k" * size) == "k" * min(size, MAX_KEY_CHARS)
    assert key(Str("k" * size)) == "k" * min(size, MAX_KEY_CHARS)
    assert type(key(Str("k"))) is str
    assert len(key((1,) * size)) <= MAX_KEY_CHARS


def test_value_is_a_copy() -> None:
    """What is changed after the call does not change what was taken."""
    value = {"list": [1], "bytes": bytearray(b"a")}
    found = plain(value)
    value["list"].append(2)
    value["bytes"][0] = 0
    assert found == {"list": [1], "bytes": b"a"}


def test_dict_that_other_threads_change() -> None:
    """Rendering a dict that another thread changes all the time never fails."""
    shared = {str(n): n for n in range(500)}
    stop = threading.Event()

    def change() -> None:
        n = 500
        while not stop.is_set():
            shared[str(n)] = n
            shared.pop(str(n - 500))
            n += 1

    thread = threading.Thread(target=change)
    thread.start()
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found = [plain(shared) for _ in range(200)]
    finally:
        sys.setswitchinterval(previous)
        stop.set()
        thread.join()
    assert not [f for f in found if isinstance(f, str)]


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.complex_numbers(),
            st.text(st.characters()),
            st.binary(),
            st.datetimes(),
            st.uuids(),
            st.decimals(),
            st.fractions(),
            st.timedeltas(),
            st.sampled_from([*Colour, *Level, *Flags]),
            st.builds(Str),
            st.builds(Order, st.integers()),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.tuples(inner, inner),
            st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=5),
        ),
        max_leaves=30,
    )
)
def test_anything_becomes_plain_and_stays_so(value) -> None:
    """Any value becomes plain, can be encoded, and is left alone the second time."""
    found = plain(value)
    assert_plain(found)
    wire.decode(wire.encode((found,)))
    assert repr(plain(found)) == repr(found)


class Generic:
    """As numpy's scalars: no int, no float, but with `item`."""

    def __init__(self, value) -> None:
        self._value = value

    def item(self):
        return self._value() if callable(self._value) else self._value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (1.5, 1.5),
        (True, True),
        ("text", "text"),
        (b"x", b"x"),
        (1 << 70, str(1 << 70)),
        (date(2026, 1, 2), "2026-01-02"),
        ((1, 2), [1, 2]),
        (lambda: 1 / 0, "<Generic: cannot be rendered: ZeroDivisionError>"),
        ([[1]], ["<list: deeper than 8 levels>"]),
    ],
    ids=range(10),
)
def test_numpys_scalars_are_their_items(value, expected, monkeypatch) -> None:
    """A scalar of numpy's, where numpy is loaded, is the Python value that it stands for."""
    numpy = types.ModuleType("numpy")
    numpy.generic = Generic
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    assert plain(Generic(value)) == expected
    assert plain({"n": [Generic(value)]})["n"] == [expected]


def test_endless_item_ends(monkeypatch) -> None:
    """A scalar that is its own item does not end the caller."""
    numpy = types.ModuleType("numpy")
    numpy.generic = Generic
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    value = Generic(None)
    value._value = lambda: value
    assert plain(value) == "<Generic: cannot be rendered: RecursionError>"
