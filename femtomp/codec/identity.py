"""Identity as the bytes in a lane's `.own` file: a fast pickle of a plain tuple."""

from __future__ import annotations

from typing import Final

from femtomp.codec import wire
from femtomp.errors import CodecError
from femtomp.record import Identity

# Two such texts and a host name fit into the file, whatever their characters.
MAX_TEXT_CHARS: Final = 256
_TYPES: Final = (int, int, int, int, str, str, str, str, str, str)


def to_bytes(identity: Identity) -> bytes:
    """Return the identity's bytes; long texts are cut, a Path in sys.argv is a text.

    Examples
    --------
    >>> who = Identity(7, 1, 0, 99, "boot", "MainProcess", "master", "host", "app.py")
    >>> from_bytes(to_bytes(who)) == who
    True
    """
    return wire.encode(
        tuple(
            v if kind is int else str(v)[:MAX_TEXT_CHARS]
            for kind, v in zip(_TYPES, identity, strict=True)
        )
    )


def from_bytes(content: bytes) -> Identity:
    """Read the identity out of an `.own` file.

    Raises
    ------
    CodecError
        If the bytes are not an identity.
    """
    fields = wire.decode(content)
    # A lane of a release before this one has no instance_id.
    known = (_TYPES, _TYPES[:-1])
    if not isinstance(fields, tuple) or tuple(map(type, fields)) not in known:
        msg = f"not an identity: a {type(fields).__name__}"
        raise CodecError(msg)
    return Identity(*fields)
