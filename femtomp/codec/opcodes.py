"""What a pickle would do, found out before it is loaded: for bytes of another user.

In: a payload. Out: nothing, or a `CodecError`. The encoder's pickles hold every value
once, in as many bytes as it needs, so what they load is never larger than they are. Two
things break that, and an Unpickler asks nobody about either: copies by reference (DUP,
the memo), of which 224 bytes make 10^9 leaves or a key whose hash takes years; and
nesting, of which a tuple a million deep overflows the C stack when it is hashed. Here
both are refused, with every opcode that the encoder does not write.

A scan costs more than the load it precedes (docs/security.md has the figure): it is for
spools whose workers have another uid than their engine. A process of the same uid can
kill the engine anyway.
"""

from __future__ import annotations

from typing import Final

from femtomp.errors import CodecError
from femtomp.record import MAX_DEPTH

# The record's tuple, its dict of attributes and that of a scope are around the values.
MAX_NESTING: Final = MAX_DEPTH + 8

_STOP, _MARK = ord("."), ord("(")
# Without a value of their own: the protocol, and how much to read ahead.
_SILENT: Final = {0x80: 1, 0x95: 8}
# One flat value: None, True, False, BININT*, BINFLOAT, and empty containers.
_FIXED: Final = {
    ord("N"): 0, 0x88: 0, 0x89: 0, ord("K"): 1, ord("M"): 2, ord("J"): 4, ord("G"): 8,
    ord(")"): 0, ord("]"): 0, ord("}"): 0,
}  # fmt: skip
# One flat value behind its length: LONG1, LONG4, *BINUNICODE*, *BINBYTES*.
_COUNTED: Final = {
    0x8A: 1, 0x8B: 4, 0x8C: 1, ord("X"): 4, 0x8D: 8, ord("C"): 1, ord("B"): 4, 0x8E: 8,
}  # fmt: skip
# What makes a tuple of the last values on the stack: TUPLE1 to 3.
_TUPLES: Final = {0x85: 1, 0x86: 2, 0x87: 3}
# What puts them into the container below: APPEND, SETITEM; and all down to the MARK:
# APPENDS, SETITEMS.
_PUTS: Final = {ord("a"): 1, ord("s"): 2}
_PUTS_MARKED: Final = b"eu"
_TUPLE: Final = ord("t")
# What the others mean, where a word says more than a number.
_WHY: Final = {
    **dict.fromkeys(b"\x94pqrghj", "uses the pickle memo"),
    **dict.fromkeys(b"c\x93io\x81\x92R\x82\x83\x84", "names a global"),
    **dict.fromkeys(b"PQ", "has a persistent id"),
}


def check(data: bytes, start: int = 0, end: int | None = None) -> None:
    r"""Refuse a pickle that the encoder would not have written.

    Parameters
    ----------
    data : bytes
        Holds the pickle from `start` to `end`.
    start, end : int

    Raises
    ------
    CodecError
        Naming the opcode, or what else is wrong.

    Examples
    --------
    >>> check(b"K\x01K\x02\x86.")
    >>> check(b"K\x012\x86.")
    Traceback (most recent call last):
    femtomp.errors.CodecError: payload has the pickle opcode 0x32: refused
    """
    end = len(data) if end is None else end
    at = start
    # How deep each value on the stack is nested, and where the marks are.
    depths: list[int] = []
    marks: list[int] = []
    while at < end:
        code = data[at]
        at += 1
        if (width := _COUNTED.get(code)) is not None:
            at += width + int.from_bytes(data[at : at + width], "little")
            depths.append(0)
        elif (size := _FIXED.get(code)) is not None:
            at += size
            depths.append(0)
        elif code == _MARK:
            marks.append(len(depths))
        elif code == _TUPLE or code in _TUPLES:
            first = _first_taken(code, depths, marks)
            depths[first:] = [_nested(depths[first:])]
        elif code in _PUTS or code in _PUTS_MARKED:
            first = _first_taken(code, depths, marks)
            # A long list is filled in several steps: it is no deeper for that.
            depths[first - 1 :] = [max(depths[first - 1], _nested(depths[first:]))]
        elif code == _STOP:
            break
        elif (size := _SILENT.get(code)) is not None:
            at += size
        else:
            why = _WHY.get(code) or f"has the pickle opcode {code:#04x}"
            msg = f"payload {why}: refused"
            raise CodecError(msg)
    if at != end:
        msg = "payload does not end where its pickle does: refused"
        raise CodecError(msg)


def _first_taken(code: int, depths: list[int], marks: list[int]) -> int:
    """Return where on the stack the values begin that an opcode takes from it."""
    first = -1
    if count := _TUPLES.get(code) or _PUTS.get(code):
        first = len(depths) - count
    elif marks:
        first = marks.pop()
    below = 0 if code == _TUPLE or code in _TUPLES else 1
    if not below <= first <= len(depths):
        msg = f"payload has the pickle opcode {code:#04x} without values: refused"
        raise CodecError(msg)
    return first


def _nested(depths: list[int]) -> int:
    """Return how deep a container of values that are so deep is."""
    nesting = max(depths, default=0) + 1
    if nesting > MAX_NESTING:
        msg = f"payload nests values over {MAX_NESTING} deep: refused"
        raise CodecError(msg)
    return nesting
