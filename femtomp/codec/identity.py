"""Identity as the bytes in a lane's `.own` file: a fast pickle of a plain tuple."""

from __future__ import annotations

from typing import Any, Final

from femtomp.codec import wire
from femtomp.errors import CodecError
from femtomp.record import Identity

# Two such texts, a host name and the attributes fit into the file, which has 3584 bytes
# for them, whatever their characters.
MAX_TEXT_CHARS: Final = 256
MAX_BYTES: Final = 3584
# What pickle writes for a dict that has something in it: MARK and SETITEMS.
_OF_DICT_BYTES: Final = 2
_TYPES: Final = (int, int, int, int, str, str, str, str, str, str)
_SCALARS: Final = (str, int, float, bool)


def to_bytes(identity: Identity) -> bytes:
    """Return the identity's bytes; long texts are cut, a Path in sys.argv is a text.

    Attributes that do not fit are left out: large ones, and the last.

    Examples
    --------
    >>> who = Identity(7, 1, 0, 99, "boot", "MainProcess", "master", "host", "app.py")
    >>> from_bytes(to_bytes(who)) == who
    True
    """
    said = [
        v if kind is int else str(v)[:MAX_TEXT_CHARS]
        for kind, v in zip(_TYPES, identity[:-1], strict=True)
    ]
    attributes: dict[str, Any] = {}
    room = MAX_BYTES - len(wire.encode((*said, attributes))) - _OF_DICT_BYTES
    for name, value in identity.attributes:
        # Each by itself, which is a little more than it takes among others.
        size = len(wire.encode((name, value))) if _is_scalar(name, value) else room + 1
        if size <= room:
            attributes[name] = value
            room -= size
    return wire.encode((*said, attributes))


def _is_scalar(name: object, value: object) -> bool:
    return (
        type(name) is str
        and type(value) in _SCALARS
        and (not isinstance(value, int) or -(2**63) <= value < 2**63)
    )


def from_bytes(content: bytes) -> Identity:
    """Read the identity out of an `.own` file.

    Raises
    ------
    CodecError
        If the bytes are not an identity.
    """
    fields = wire.decode(content)
    said = list(fields) if isinstance(fields, tuple) else []
    # A lane of an earlier version has no attributes, and no instance_id.
    attributes = said.pop() if said and type(said[-1]) is dict else {}
    known = (_TYPES, _TYPES[:-1])
    if tuple(map(type, said)) not in known or not _are_scalars(attributes):
        msg = f"not an identity: a {type(fields).__name__}"
        raise CodecError(msg)
    numbers = [each for each in said if type(each) is int]
    if not all(0 <= each < 1 << 63 for each in numbers) or said[0] >= 1 << 31:
        msg = f"not an identity: a pid of {said[0]}"
        raise CodecError(msg)
    return Identity(*said)._replace(attributes=tuple(attributes.items()))


def _are_scalars(attributes: object) -> bool:
    return isinstance(attributes, dict) and all(
        type(name) is str and type(value) in _SCALARS
        for name, value in attributes.items()
    )
