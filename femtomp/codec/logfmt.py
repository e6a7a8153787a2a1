r"""Records as logfmt: ``key=value`` pairs, one record a line, for grep and Loki.

In: a `Record`. Out: one line with the keys and order of the format `flat`. A value that
is one plain word stands alone; any other is quoted and escaped as in JSON, so that it
can neither end the line nor look like another pair. Lists and dicts are JSON texts::

    timestamp=2026-11-21T09:23:37.123456789Z level=INFO message="sold tea" item=tea\n

In keys, what logfmt does not allow (space, = and ", controls) becomes an underscore;
keys that fall together get underscores behind them. An unquoted null is None, and the
text is "null". What readers agree on: https://pkg.go.dev/github.com/go-logfmt/logfmt
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from femtomp.codec.flat import flat_fields
from femtomp.codec.values import (
    REFUSED,
    as_text,
    clean,
    fitting,
    free_name,
    is_word,
)
from femtomp.codec.visible import CONTROLS

if TYPE_CHECKING:
    from femtomp.record import AnyValue, Record

_CONTROLS: Final = "".join(map(chr, CONTROLS))
# How a reader in Go marks bytes that are no text.
_REPLACEMENT: Final = "\ufffd"
_unfit: Final = re.compile(f'[\\s="{_REPLACEMENT}{_CONTROLS}]')
_ESCAPES: Final = {
    **{code: f"\\u{code:04x}" for code in CONTROLS},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def logfmt_line(record: Record) -> bytes:
    r"""Encode a record as one line of logfmt.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> record = Record(0, 9, "INFO", "a", 'say "hi"', {"b c": [1, "d"]}, Resource({}))
    >>> print(logfmt_line(record).decode()[41:], end="")
    level=INFO message="say \"hi\"" logger=a b_c="[1,\"d\"]"
    """
    try:
        return _line(fitting(record))
    except REFUSED:
        return _line(clean(record))


def _line(record: Record) -> bytes:
    pairs: dict[str, str] = {}
    for key, value in flat_fields(record).items():
        name = _name(key)
        if name in pairs:
            name = free_name(name, pairs)
        pairs[name] = _value(value)
    return (" ".join([f"{k}={v}" for k, v in pairs.items()]) + "\n").encode()


@lru_cache(maxsize=4096)
def _name(key: str) -> str:
    return _unfit.sub("_", key) or "_"


def _value(value: AnyValue) -> str:
    text = as_text(value)
    if is_word(text) and _REPLACEMENT not in text:
        return '"null"' if text == "null" and value is not None else text
    if text.isprintable():
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return f'"{text.translate(_ESCAPES)}"'
