"""What drivers of byte streams share: records to lines, written bytes to records.

In: a format and a batch. Out: the encoder, and how many lines went out whole. No I/O.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from femtomp.codec.text import json_line, json_lines, text_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.record import Record


def line_encoder(name: str, *, colour: bool = False) -> Callable[[Record], bytes]:
    """Give the function that turns a record into a line of the format.

    Parameters
    ----------
    name : {"json", "text", "auto"}
        "auto" is text, coloured if `colour` says so; "text" never is.
    colour : bool
        Whether "auto" may use ANSI sequences.

    Examples
    --------
    >>> line_encoder("json") is json_line
    True
    """
    if name == "json":
        return json_line
    return partial(text_line, colour=colour and name == "auto")


def batch_encoder(name: str) -> Callable[[Sequence[Record]], bytes]:
    """Give the function that turns a batch into the lines of the format."""
    if name == "json":
        return json_lines
    encode = line_encoder(name)
    return lambda batch: b"".join([encode(record) for record in batch])


def whole_lines(lines: Sequence[bytes], written: int) -> tuple[int, int]:
    r"""Tell how many lines are in the first `written` bytes, and what is over.

    Parameters
    ----------
    lines : sequence of bytes
        What was to be written, in order.
    written : int
        How many bytes of them were.

    Returns
    -------
    (int, int)
        Lines that are there as a whole, and bytes of the next one that are.

    Examples
    --------
    >>> whole_lines([b"one\n", b"two\n"], 6)
    (1, 2)
    """
    count = 0
    for line in lines:
        if written < len(line):
            break
        written -= len(line)
        count += 1
    return count, written
