"""Any Python value, made plain: str, int, float, bool, None, bytes, lists and dicts.

In: whatever the application logs. Out: values that pickle, JSON and protobuf can carry,
within limits on count, depth and length. Never raises; what cannot be rendered becomes
a marked text. The caller's object is only read, and read once, in the caller's thread.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from femtomp.lanes.thrown import thrown_in
from femtomp.record import DEFAULT_LIMITS, MAX_ITEMS, MAX_KEY_CHARS
from femtomp.worker import shapes
from femtomp.worker.shapes import loaded_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from femtomp.record import Limits

    _Way = Callable[[Any, int, "Room"], Any]

# Repr of an unknown object: enough to recognise it, whatever it holds.
MAX_REPR_CHARS: Final = 4096
# Values of one record, all levels together: a list that holds another one a thousand
# times, eight levels deep, would have 10^24 of them.
MAX_VALUES: Final = 16 * 1024
# A container that another thread changes meanwhile is begun again.
_ATTEMPTS: Final = 8
_INT64: Final = 1 << 63
# Classes whose way is known; a program that makes classes up must not fill memory.
_MAX_WAYS: Final = 512
_NO_LIMIT: Final = sys.maxsize
# `type(x).__name__` may be code of a metaclass.
_class_name: Final = type.__dict__["__name__"].__get__


class Room:
    """What the values of one record may still take, together.

    Attributes
    ----------
    values : int
        How many may still be made.
    length, depth : int
        Of a text or bytes, and of containers in containers. Numbers that are too large
        to be numbers are no texts that somebody wrote: they stay whole.
    cut : int
        Length of the longest text that was cut; 0 if none was.
    around : set of int
        Which objects are being gone through: one may be within itself.
    """

    __slots__ = ("around", "cut", "depth", "length", "values")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.values = MAX_VALUES
        self.depth = limits.attribute_depth
        length = limits.attribute_value_length
        self.length = _NO_LIMIT if length is None else length
        self.cut = 0
        self.around: set[int] = set()


_ways: Final[dict[int, tuple[type, _Way]]] = {}


def plain(value: object, room: Room | None = None) -> Any:
    """Return the value in plain types.

    Parameters
    ----------
    value : object
        Anything.
    room : Room, optional
        Shared by what goes into one record.

    Examples
    --------
    >>> plain({"a": (1, 2.5, {3})}), plain(1 << 70)
    ({'a': [1, 2.5, [3]]}, '1180591620717411303424')
    """
    return _plain(value, 0, Room() if room is None else room)


def _plain(value: object, depth: int, room: Room) -> Any:
    room.values -= 1
    kind = type(value)
    # Not `kind in {...}`: a metaclass may have made its classes unhashable.
    if kind is str or kind is bytes:
        return value if len(value) <= room.length else _cut(value, room)  # type: ignore[arg-type]
    if kind is float or kind is bool or value is None:
        return value
    try:
        if kind is int:
            return value if -_INT64 <= value < _INT64 else _digits(value)  # type: ignore[operator, arg-type]
        # Not isinstance: the value's `__class__` may be code, and a query.
        if issubclass(kind, dict):
            return _mapping(value, value.items, depth, room)  # type: ignore[attr-defined]
        if issubclass(kind, (list, tuple, set, frozenset)):
            return _list(value, depth, room)
        return _other(value, depth, room)
    except Exception as exc:
        if thrown_in(exc):
            raise
        return f"<{type_name(value)}: cannot be rendered: {type_name(exc)}>"


def _cut(value: str | bytes, room: Room) -> str | bytes:
    room.cut = max(room.cut, len(value))
    return value[: room.length]


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # sys.set_int_max_str_digits; no such limit in base 16
        return _short(hex(value))


def _mapping(
    value: Any, begin: Callable[[], Iterable[Any]], depth: int, room: Room
) -> Any:
    if depth >= room.depth:
        return _too_deep(value, room)
    kept: dict[str, Any] = {}
    for number, (k, v) in enumerate(_first(begin)):
        if number == MAX_ITEMS or room.values <= 0:
            kept["femtomp.truncated"] = f"{number} of {_size(begin())} items kept"
            break
        kept[key(k)] = _plain(v, depth + 1, room)
    return kept


def _size(values: Any) -> int | str:
    return len(values) if hasattr(values, "__len__") else "more"


def _list(value: Any, depth: int, room: Room) -> Any:
    kind = type(value)
    if (
        kind is not list
        and issubclass(kind, tuple)
        and kind is not tuple
        and (pairs := shapes.named_fields(value)) is not None
    ):
        return _mapping(value, lambda: pairs, depth, room)
    if depth >= room.depth:
        return _too_deep(value, room)
    kept: list[Any] = []
    for number, v in enumerate(_first(value.__iter__)):
        if number == MAX_ITEMS or room.values <= 0:
            kept.append(f"<femtomp: truncated, {number} of {len(value)} items kept>")
            break
        kept.append(_plain(v, depth + 1, room))
    return kept


def _first(begin: Callable[[], Iterable[Any]]) -> list[Any]:
    """Return one value more than is kept, as `items` of a subclass need not end.

    All at once, but a thread that changes the container can come between its two calls.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(islice(begin(), MAX_ITEMS + 1))
        except RuntimeError as exc:
            if thrown_in(exc):
                raise
    return list(islice(begin(), MAX_ITEMS + 1))


def _too_deep(value: object, room: Room) -> str:
    return f"<{type_name(value)}: deeper than {room.depth} levels>"


def _other(value: object, depth: int, room: Room) -> Any:
    """Render what is neither a scalar of an exact type nor a container."""
    found = _rendered(value, depth, room)
    if type(found) is str or type(found) is bytes:
        return found if len(found) <= room.length else _cut(found, room)
    return found


def _rendered(value: object, depth: int, room: Room) -> Any:
    kind = type(value)
    known = _ways.get(id(kind))
    if known is None:
        if len(_ways) >= _MAX_WAYS:
            _ways.clear()
        # The class is kept, so that its id cannot come to mean another one.
        known = _ways[id(kind)] = kind, _way_of(kind)
    return known[1](value, depth, room)


def _way_of(kind: type) -> _Way:
    for module, name, way in _WAYS:
        if issubclass(kind, loaded_class(module, name)):
            return way
    shape = shapes.shape_of(kind)
    return lambda value, depth, room: _shaped(shape, value, depth, room)


def _value(value: Any, depth: int, room: Room) -> Any:
    return _plain(value.value, max(depth, room.depth - 1), room)


def _str(value: Any, _depth: int, _room: Room) -> str:
    return exact(str(value))  # not str.__str__: a secret's own masks it


def _int(value: Any, depth: int, room: Room) -> Any:
    return _plain(int(value), depth, room)


def _float(value: Any, _depth: int, _room: Room) -> float:
    return float(value)


def _bytes(value: Any, _depth: int, _room: Room) -> bytes:
    return memoryview(value).tobytes()


def _iso(value: Any, _depth: int, _room: Room) -> str:
    return exact(value.isoformat())


def _seconds(value: Any, _depth: int, _room: Room) -> float:
    return float(value.total_seconds())


def _array(value: Any, depth: int, room: Room) -> Any:
    if value.size > MAX_ITEMS:
        return f"<{type_name(value)}: {value.dtype}, shape {value.shape}>"
    return _plain(value.tolist(), depth, room)


def _timedelta64(value: Any, _depth: int, _room: Room) -> float | str:
    try:
        return float(value / type(value)(1, "s"))
    except TypeError:  # months have no seconds
        return exact(str(value))


def _complex(value: Any, _depth: int, _room: Room) -> str:
    return repr(complex(value))


def _item(value: Any, depth: int, room: Room) -> Any:
    return _plain(value.item(), max(depth, room.depth - 1), room)


# The first one that a class is of. They are not imported: what is not loaded has no
# instances.
_WAYS: Final[tuple[tuple[str, str, _Way], ...]] = (
    ("enum", "Enum", _value),
    ("builtins", "str", _str),
    ("builtins", "int", _int),
    ("builtins", "float", _float),
    ("builtins", "bytes", _bytes),
    ("builtins", "bytearray", _bytes),
    ("builtins", "memoryview", _bytes),
    ("datetime", "date", _iso),
    ("datetime", "time", _iso),
    ("datetime", "timedelta", _seconds),
    # Their str() is their usual written form.
    ("uuid", "UUID", _str),
    ("decimal", "Decimal", _str),
    ("fractions", "Fraction", _str),
    ("pathlib", "PurePath", _str),
    ("ipaddress", "_IPAddressBase", _str),
    ("numpy", "ndarray", _array),
    ("numpy", "timedelta64", _timedelta64),
    ("numpy", "datetime64", _str),  # its item() is a number where it has nanoseconds
    ("numpy", "longdouble", _float),  # it is its own item
    ("numpy", "complexfloating", _complex),
    ("numpy", "generic", _item),
)


def _shaped(shape: shapes.Shape, value: Any, depth: int, room: Room) -> Any:
    """Render mappings, sequences and objects with fields; what is none by its repr."""
    if id(value) in room.around:
        return f"<{type_name(value)}: it is within itself>"
    room.around.add(id(value))
    try:
        if shape.pairs is not None and (pairs := shape.pairs(value)) is not None:
            return _mapping(value, lambda: pairs, depth, room)
        if shape.items is not None and (items := shape.items(value)) is not None:
            return _list(items, depth, room)
    finally:
        room.around.discard(id(value))
    if shape.text is not None and (text := shape.text(value)) is not None:
        return text
    return _short(exact(repr(value)))


def _short(text: str) -> str:
    if len(text) <= MAX_REPR_CHARS:
        return text
    return text[:MAX_REPR_CHARS] + "… [femtomp: truncated]"


def exact(text: str) -> str:
    """Return a str that is no subclass's: its `__str__` may return the very object.

    Raises
    ------
    TypeError
        If it is no str.
    """
    return text if type(text) is str else str.__str__(text)


def text(value: object) -> str:
    """Return `str()` of a value; a marked text if its own code raises."""
    try:
        return exact(value if type(value) is str else str(value))
    except Exception as exc:
        if thrown_in(exc):
            raise
        return f"<{type_name(value)}: cannot be rendered: {type_name(exc)}>"


def key(name: object) -> str:
    """Return a dict's key as a str of bounded length."""
    text = name if type(name) is str else _key_text(name)
    return text if len(text) <= MAX_KEY_CHARS else text[:MAX_KEY_CHARS]


def _key_text(name: object) -> str:
    try:
        return exact(str(name))
    except Exception as exc:
        if thrown_in(exc):
            raise
        return f"<{type_name(name)}: {type_name(exc)}>"


def type_name(value: object) -> str:
    """Return the name of a value's class, without running any of its code."""
    return str(_class_name(type(value)))


def described(exc: BaseException) -> str:
    """Return an exception's class and message, whatever its own code does."""
    try:
        return _short(f"{type_name(exc)}: {exact(str(exc))}")
    except Exception as worse:
        if thrown_in(worse):
            raise
        return f"{type_name(exc)}: <cannot be rendered: {type_name(worse)}>"
