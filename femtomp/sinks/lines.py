"""What drivers of byte streams share: records to lines, written bytes to records.

In: a format and a batch. Out: the encoder, and how many lines went out whole. No I/O.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from femtomp.codec.ecs import ecs_line, ecs_lines
from femtomp.codec.flat import flat_line, flat_lines
from femtomp.codec.logfmt import logfmt_line
from femtomp.codec.otlp_json import otlp_json_line
from femtomp.codec.text import json_line, json_lines, text_line
from femtomp.formats import is_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.formats import Format
    from femtomp.record import Record


# Each format of `femtomp.formats`: its encoder, and one of a whole batch if that is
# faster than line by line.
_ENCODERS: Final[dict[str, Callable[[Record], bytes]]] = {
    "auto": partial(text_line, colour=False),
    "text": partial(text_line, colour=False),
    "json": json_line,
    "flat": flat_line,
    "ecs": ecs_line,
    "otlp-json": otlp_json_line,
    "logfmt": logfmt_line,
}
_BATCH_ENCODERS: Final[dict[str, Callable[[Sequence[Record]], bytes]]] = {
    "json": json_lines,
    "flat": flat_lines,
    "ecs": ecs_lines,
}


def line_encoder(given: Format, *, colour: bool = False) -> Callable[[Record], bytes]:
    """Give the function that turns a record into a line of the format.

    Parameters
    ----------
    given : str or formatter
        What the option `format` of a sink holds.
    colour : bool
        Whether "auto", which is text, may use ANSI sequences; "text" never does.

    Raises
    ------
    ConfigError
        If it is a formatter of the user's that cannot be loaded.

    Examples
    --------
    >>> line_encoder("json") is json_line
    True
    """
    if not isinstance(given, str) or is_path(given):
        from femtomp.sinks.formatter import formatter_encoder

        return formatter_encoder(given)
    if given == "auto" and colour:
        return partial(text_line, colour=True)
    return _ENCODERS[given]


def batch_encoder(given: Format) -> Callable[[Sequence[Record]], bytes]:
    """Give the function that turns a batch into the lines of the format."""
    if isinstance(given, str) and given in _BATCH_ENCODERS:
        return _BATCH_ENCODERS[given]
    encode = line_encoder(given)
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
