"""`Redaction`: what is left out of every record before any sink.

In: names, patterns and values from the user. Out: one frozen value, checked in the
master, told to the supervisor over its stdin; the known values are in no repr.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from femtomp.checks import one_of
from femtomp.errors import ConfigError

PATTERN_NAMES: Final = (
    "private_key", "jwt", "bearer_token", "url_password", "aws_key", "card_number",
)  # fmt: skip
# Shorter ones are in every other word.
_LEAST_VALUE_CHARS: Final = 4
_MARK: Final = "[redacted]"


@dataclass(frozen=True)
class Redaction:
    """What is left out of every record before any sink sees it.

    Parameters
    ----------
    keys : iterable of str
        Names of secret keys, beside the standard ones ("password", "token", "api_key",
        "authorization", "cookie", ...). Compared by their words, in any case and with
        any separator: "pin" is in "userPin" and "X-PIN", not in "spinning".
    patterns : "all" or iterable of str or compiled pattern
        What secrets look like: "private_key" (PEM), "jwt", "bearer_token",
        "url_password" (of connection strings), "aws_key" and "card_number" (with its
        check digit); or patterns of your own. None by default.
    values : iterable of str
        Secrets that are known, of four characters at least; they are in no repr, error
        or file.
    allow : iterable of str
        Whole keys that are not secret though a name is in them ("token_count").
    standard_keys : bool
        Whether the standard names count.

    Examples
    --------
    >>> Redaction(keys=["pin"], values=["hunter2"])
    Redaction(keys=('pin',), patterns=(), values=<1 hidden>, allow=(),
              standard_keys=True)
    """

    keys: Iterable[str] = ()
    patterns: Literal["all"] | Iterable[str | re.Pattern[str]] = ()
    values: Iterable[str] = field(default=(), repr=False)
    allow: Iterable[str] = ()
    standard_keys: bool = True

    def __post_init__(self) -> None:
        """Check every option; iterables become tuples."""
        given = PATTERN_NAMES if self.patterns == "all" else self.patterns
        for name, value in (
            ("keys", self.keys), ("patterns", given), ("values", self.values),
            ("allow", self.allow),
        ):  # fmt: skip
            object.__setattr__(self, name, _words(name, value))
        for key in (*self.keys, *self.allow):
            if not any(c.isalnum() for c in key):
                msg = f"Redaction: {key!r} has no word, so no key could have it"
                raise ConfigError(msg)
        for pattern in self.patterns:
            if not isinstance(pattern, re.Pattern):
                one_of("Redaction", "patterns", pattern, ("all", *PATTERN_NAMES))
            elif not isinstance(pattern.pattern, str):
                msg = f"Redaction: {pattern!r} is for bytes; texts are looked at"
                raise ConfigError(msg)
        # Said by its place: the value itself is in no message.
        for at, value in enumerate(self.values):
            if len(value) < _LEAST_VALUE_CHARS or value in _MARK:
                msg = (
                    f"Redaction: values[{at}] is too short to be told from other words:"
                    f" give {_LEAST_VALUE_CHARS} characters or more"
                )
                raise ConfigError(msg)

    def __repr__(self) -> str:
        """Show everything but the values."""
        hidden = f"<{len(tuple(self.values))} hidden>"
        return (
            f"Redaction(keys={self.keys!r}, patterns={self.patterns!r}, "
            f"values={hidden}, allow={self.allow!r}, "
            f"standard_keys={self.standard_keys!r})"
        )


def _words(name: str, given: object) -> tuple[str | re.Pattern[str], ...]:
    """Return what was given as a tuple; errors name types, never a value."""
    kinds = (str, re.Pattern) if name == "patterns" else (str,)
    several = given if isinstance(given, Iterable) else None
    if several is None or isinstance(given, (str, bytes, dict)):
        msg = f"Redaction: {name} must be several strings, not a {_type_of(given)}"
        raise ConfigError(msg)
    words = tuple(several)
    for word in words:
        if not isinstance(word, kinds):
            msg = f"Redaction: {name} must hold strings, not a {_type_of(word)}"
            raise ConfigError(msg)
    return words


def _type_of(value: object) -> str:
    return type(value).__name__
