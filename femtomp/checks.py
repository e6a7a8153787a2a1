"""Checks that options of several kinds share, and how a frozen one is set.

In: an option's value and whose it is. Out: nothing, or a `ConfigError` that names the
option, what was found and what is allowed.
"""

from __future__ import annotations

import logging
from typing import Final

from femtomp.errors import ConfigError

# Loguru's levels that `logging` has not, by the numbers that they have there; uvicorn's
# TRACE is the same one, and OpenTelemetry's severity 1 to 4. A name that `logging` was
# given, by the application or a library, wins.
LEVELS: Final = {"TRACE": 5, "SUCCESS": 25}


def level_or_none(given: object) -> int | None:
    """Return the number of a level, given by number or name; None if there is none.

    Names are those of `logging.getLevelNamesMapping()`, and `LEVELS`; in any case.

    Examples
    --------
    >>> [level_or_none(level) for level in (15, "15", "info", "TRACE", "chatty", None)]
    [15, 15, 20, 5, None, None]
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return int(given)
    if not isinstance(given, str):
        return None
    text = given.strip()
    if text.isdecimal():
        return int(text)
    names = {**LEVELS, **logging.getLevelNamesMapping()}
    for name in (text, text.upper()):
        if name in names:
            return names[name]
    # One that was added as "Verbose".
    return {name.upper(): number for name, number in names.items()}.get(text.upper())


def number_of_level(given: object) -> int:
    """Return the number of a level.

    Raises
    ------
    ConfigError
        If there is no such level; it names those there are.
    """
    number = level_or_none(given)
    if number is None:
        names = ", ".join({**logging.getLevelNamesMapping(), **LEVELS})
        msg = f"unknown level {given!r}: use a number or one of {names}"
        raise ConfigError(msg)
    return number


def shown(address: str | None) -> str | None:
    """Return an address without its credentials."""
    scheme, slashes, rest = (address or "").rpartition("//")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}***@{host}" if at else address


def one_of(owner: str, option: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed, by the option's name."""
    if value not in allowed:
        msg = f"{owner}: {option} must be one of {', '.join(allowed)}, not {value!r}"
        raise ConfigError(msg)


def text(owner: str, option: str, value: object) -> None:
    """Refuse what is no text, or an empty one."""
    if not isinstance(value, str) or not value:
        msg = f"{owner}: {option} must be a non-empty string, not {value!r}"
        raise ConfigError(msg)


def put(instance: object, name: str, value: object) -> None:
    """Set a field of an option that is frozen to everyone else.

    Its `__post_init__` may, once.
    """
    object.__setattr__(instance, name, value)
