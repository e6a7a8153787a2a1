"""Secrets of sinks, kept out of every word that the supervisor says.

In: header values and the credentials of URLs, when a driver is built. Out: texts
without them. They stay in the engine's memory; what a collector, a library or an
exception says may quote them, so all of that passes here on its way to stderr,
statistics and `start_server`'s errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"
# "1" and "no" are no secrets, and without them a text could not be read any more.
_LEAST_CHARS: Final = 4
_hidden: Final[set[str]] = set()


def hide(values: Iterable[str]) -> None:
    """Have `masked` leave these out from now on, however they are written."""
    for value in values:
        for form in (value, unquote(value), quote(value, safe=""), repr(value)[1:-1]):
            if len(form.strip()) >= _LEAST_CHARS:
                _hidden.add(form.strip())
        # "Bearer TOKEN", "Basic TOKEN": the token alone is the secret.
        _, _, token = value.strip().rpartition(" ")
        if len(token) >= _LEAST_CHARS:
            _hidden.add(token)


def credentials(url: str) -> list[str]:
    """Return what stands before the host of a URL, and its password alone.

    Examples
    --------
    >>> credentials("http://ann:pass@collector:4318/v1/logs")
    ['ann:pass', 'pass']
    """
    before, at, _ = (url.partition("//")[2] or url).rpartition("@")
    return [before, before.partition(":")[2]] if at else []


def masked(text: str) -> str:
    """Return a text without any secret that was hidden."""
    for value in sorted(_hidden, key=len, reverse=True):
        if value in text:
            text = text.replace(value, MASK)
    return text
