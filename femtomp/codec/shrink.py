"""Records that are too large, cut until they fit a lane.

Pure. In: a payload's tuple. Out: one whose longest texts are cut, and say so.
"""

from __future__ import annotations

from typing import Any, Final

from femtomp.codec.wire import encode
from femtomp.record import MAX_PAYLOAD_BYTES

# Of a record that is far too large, this much of each text is always left.
_LEAST_SHARE: Final = 64


def shrink(fields: tuple[Any, ...], limit: int = MAX_PAYLOAD_BYTES) -> tuple[Any, ...]:
    """Cut the longest strings of a tuple until its payload is at most `limit` bytes.

    Every str or bytes above an equal share of the room is cut to that share and marked;
    should lists and dicts alone be too much, the attributes are replaced by a mark, and
    at last the body.
    """
    mark = "… [femtomp: truncated, {kept} of {size} kept]"
    # A quarter: a str takes up to four bytes a character.
    share = limit // 4
    while share >= _LEAST_SHARE:
        cut = _cut(fields, share, mark)
        if len(encode(cut)) <= limit:
            return tuple(cut)
        share //= 4
    values = list(_cut(fields, _LEAST_SHARE, mark))
    values[12] = {"femtomp.truncated": "attributes were larger than a record may be"}
    if len(encode(tuple(values))) > limit:
        # A body or scope of very many small values.
        values[5] = f"[femtomp: truncated, a {type(values[5]).__name__}]"
        values[13] = {k: v for k, v in (values[13] or {}).items() if k != "scope"}
    return tuple(values)


def _cut(value: Any, share: int, mark: str) -> Any:
    kind = type(value)
    if kind is str or kind is bytes:
        if len(value) <= share:
            return value
        note = mark.format(kept=share, size=len(value))
        return value[:share] + (note if kind is str else note.encode())
    if kind is tuple or kind is list:
        return kind(_cut(item, share, mark) for item in value)
    if kind is dict:
        return {_cut(k, share, mark): _cut(v, share, mark) for k, v in value.items()}
    return value
