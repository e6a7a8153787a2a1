"""Any Python value, made plain: str, int, float, bool, None, bytes, lists and dicts.

In: whatever the application logs. Out: values that pickle, JSON and protobuf can carry,
within limits on count, depth and length. Never raises; what cannot be rendered becomes a
marked text. The caller's object is only read, and read once, in the caller's thread.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from femtomp.record import MAX_DEPTH, MAX_ITEMS, MAX_KEY_CHARS

# Repr of an unknown object: enough to recognise it, whatever it holds.
MAX_REPR_CHARS: Final = 4096
_SCALARS: Final = frozenset((str, bool, type(None), bytes, float))
_INT64: Final = 1 << 63
# Types whose str() is their usual written form, by name: they are not imported here.
_BY_STR: Final = (
    ("uuid", "UUID"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("pathlib", "PurePath"),
    ("ipaddress", "_IPAddressBase"),
)
_BY_ISO: Final = (("datetime", "date"), ("datetime", "time"))


def plain(value: object, depth: int = 0) -> Any:
    """Return the value in plain types.

    Examples
    --------
    >>> plain({"a": (1, 2.5, {3})}), plain(1 << 70)
    ({'a': [1, 2.5, [3]]}, '1180591620717411303424')
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else str(value)  # type: ignore[operator]
    try:
        return _container(value, depth) if depth < MAX_DEPTH else _too_deep(value)
    except Exception as exc:  # noqa: BLE001 - the object's own code may raise anything
        # Not BaseException: a timeout or signal's exception belongs to the caller.
        return f"<{_type_name(value)}: cannot be rendered: {type(exc).__name__}>"


def _too_deep(value: object) -> str:
    return f"<{_type_name(value)}: deeper than {MAX_DEPTH} levels>"


def _container(value: object, depth: int) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        kept = {key(k): plain(v, depth + 1) for k, v in items[:MAX_ITEMS]}
        if len(items) > MAX_ITEMS:
            kept["femtomp.truncated"] = f"{MAX_ITEMS} of {len(items)} items kept"
        return kept
    if isinstance(value, (list, tuple, set, frozenset)):
        values = list(value)
        result = [plain(v, depth + 1) for v in values[:MAX_ITEMS]]
        if len(values) > MAX_ITEMS:
            result.append(f"<femtomp: truncated, {MAX_ITEMS} of {len(values)} items kept>")
        return result
    return _other(value)


def _other(value: object) -> Any:
    """Render what is neither a scalar of an exact type nor a container."""
    if isinstance(value, _class("enum", "Enum")):
        return plain(value.value, MAX_DEPTH - 1)  # type: ignore[attr-defined]
    for base in (bool, int, float, str, bytes):
        if isinstance(value, base):
            return plain(base(value))
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if any(isinstance(value, _class(*names)) for names in _BY_ISO):
        return value.isoformat()  # type: ignore[attr-defined]
    if any(isinstance(value, _class(*names)) for names in _BY_STR):
        return str(value)
    text = repr(value)
    if len(text) > MAX_REPR_CHARS:
        text = text[:MAX_REPR_CHARS] + "… [femtomp: truncated]"
    return str(text)


class _Never:
    """Stands for a class whose module is not loaded: nothing is an instance of it."""


def _class(module: str, name: str) -> type:
    return getattr(sys.modules.get(module), name, _Never)


def key(name: object) -> str:
    """Return a dict's key as a str of bounded length."""
    text = name if type(name) is str else _key_text(name)
    return text if len(text) <= MAX_KEY_CHARS else text[:MAX_KEY_CHARS]


def _key_text(name: object) -> str:
    try:
        return str.__str__(str(name))
    except Exception as exc:  # noqa: BLE001 - the key's own code may raise anything
        return f"<{_type_name(name)}: {type(exc).__name__}>"


def _type_name(value: object) -> str:
    return type(value).__name__
