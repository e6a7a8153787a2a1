"""Identity as the bytes in a lane's `.own` file: a fast pickle of a plain tuple."""

from __future__ import annotations

from typing import Final

from femtomp.codec import wire
from femtomp.errors import CodecError
from femtomp.record import Identity

# Two such texts, a host name and the attributes fit into the file, which has 3584 bytes
# for them, whatever their characters.
MAX_TEXT_CHARS: Final = 256
MAX_BYTES: Final = 3584
_TYPES: Final = (int, int, int, int, str, str, str, str, str, str)
_SCALARS: Final = (str, int, float, bool)


def to_bytes(identity: Identity) -> bytes:
    """Return the identity's bytes; long texts are cut, a Path in sys.argv is a text.

    Attributes that do not fit, the last ones, are left out.

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
    attributes = {name: value for name, value in identity.attributes if _fits(value)}
    while len(made := wire.encode((*said, attributes))) > MAX_BYTES and attributes:
        attributes.popitem()
    return made


def _fits(value: object) -> bool:
    return type(value) in _SCALARS and (
        not isinstance(value, int) or -(2**63) <= value < 2**63
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
    return Identity(*said)._replace(attributes=tuple(attributes.items()))


def _are_scalars(attributes: object) -> bool:
    return isinstance(attributes, dict) and all(
        type(name) is str and type(value) in _SCALARS
        for name, value in attributes.items()
    )
