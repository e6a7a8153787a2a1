"""Where a value in a text begins and ends: quoted, in brackets, to a line's end, bare.

In: a text, and where its value may begin. Out: two offsets. Each character is looked at
a bounded number of times: all repetition is possessive.
"""

from __future__ import annotations

import re
from typing import Final

MARK: Final = "[redacted]"
# Their values have spaces, commas and quotes of their own.
WHOLE_LINE: Final = frozenset(("authorization", "cookie", "cookies"))

_SPACE: Final = re.compile(r"[=>~ \t]*+")
_QUOTE: Final = re.compile(r"[bBfFrRuU]{0,2}(\\*+)([\"'])")
_BRACKET: Final = re.compile(r"[\"'\\()\[\]{}]")
_PEM_BEGIN: Final = "-----BEGIN "
_PEM_END: Final = "-----END "
_LINE: Final = re.compile(r"[^\r\n]*+")
# "Basic dXNlcg==": the scheme is no secret, what follows is.
_SCHEME: Final = re.compile(
    r"(?:apikey|basic|bearer|digest|negotiate|token)[ \t]++(?=\S)", re.IGNORECASE
)
# A comma, bracket or quote is part of a value unless something else follows that
# looks like its end: a space, another such sign, the next key.
_VALUE: Final = re.compile(
    r"(?:[^\s,;&)\]}>\"'|\\]|"
    r"[,;&)\]}>\"'|\\](?![\s,;&)\]}>\"'|\\]|\Z|[\w.\-]++[\"']?[:=]))*+"
)


def value_at(text: str, at: int, name: str, quote: str) -> tuple[int, int]:
    """Return where the value behind a separator begins and ends."""
    start = end_of(_SPACE, text, at)
    if text[start : start + 1] == ":":  # C++'s and Rust's paths
        return start, start
    if text.startswith(_PEM_BEGIN, start):
        end = text.find(_PEM_END, start)
        return start, len(text) if end < 0 else end_of(_LINE, text, end)
    if (opened := _QUOTE.match(text, start)) is not None:
        level, sign = len(opened[1]), opened[2]
        return opened.end(), _closing(text, opened.end(), sign, level)
    if name in WHOLE_LINE:
        end = end_of(_LINE, text, start)
        closing = text.find(quote, start, end) if quote else -1
        return start, end if closing < 0 else closing
    if text.startswith(MARK, start):
        return start, start + len(MARK)
    if text[start : start + 1] in ("(", "[", "{"):
        return start, _closing_bracket(text, start)
    if (scheme := _SCHEME.match(text, start)) is not None:
        start = scheme.end()
    return start, end_of(_VALUE, text, start)


def end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where a pattern that begins at an offset ends."""
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _closing(text: str, at: int, sign: str, level: int) -> int:
    """Return where a quoted value ends; one that is not closed, with the text.

    `level` is how many backslashes stand before its quotes, as in JSON within JSON.
    """
    here = at
    while (here := text.find(sign, here)) >= 0:
        first = here
        while first > at and text[first - 1] == "\\":
            first -= 1
        slashes = here - first
        if level == 0 and slashes % 2 == 0:
            return here
        if level and slashes <= level:
            return first
        here += 1
    return len(text)


def _closing_bracket(text: str, at: int) -> int:
    """Return where a list or dict ends, quoted brackets aside."""
    depth = 0
    sign = ""
    skip = -1
    for match in _BRACKET.finditer(text, at):
        found = match[0]
        if match.start() == skip:
            continue
        if found == "\\":
            skip = match.end()
        elif sign:
            sign = "" if found == sign else sign
        elif found in "\"'":
            sign = found
        else:
            depth += 1 if found in "([{" else -1
            if depth == 0:
                return match.end()
    return len(text)
