"""Options that say what is left out: levels by logger, filters and rates.

In: what the user gave. Out: plain values, checked in the master. `Filter` and `Rate`
are options of every sink.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

Filter: TypeAlias = "Mapping[str, int | str] | str | None"
Rate: TypeAlias = "float | tuple[float, int] | None"

# Above every level: a logger that is not wanted at all.
OFF: Final = 1 << 31
_PAIR: Final = 2
_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def checked_filter(
    owner: str, given: object, level_number: Callable[[object], int]
) -> dict[str, int] | str | None:
    """Check a sink's filter; levels become numbers.

    Raises
    ------
    ConfigError
        Naming the sink.
    """
    if given is None or (isinstance(given, str) and _PATH.fullmatch(given)):
        return given
    if isinstance(given, Mapping):
        return checked_levels(f"{owner}: filter", given, level_number)
    msg = (
        f"{owner}: filter must be a mapping of loggers to levels, or the path of a "
        f"function such as 'package.function', not {given!r}"
    )
    raise ConfigError(msg)


def checked_levels(
    owner: str, given: object, level_number: Callable[[object], int]
) -> dict[str, int]:
    """Check a mapping of loggers to levels, and return it with numbers.

    Examples
    --------
    >>> from femtomp.config import level_number
    >>> checked_levels("levels", {"noisy.lib": "WARNING"}, level_number)
    {'noisy.lib': 30}
    """
    if not isinstance(given, Mapping):
        msg = f"{owner} must be a mapping of loggers to levels, not {given!r}"
        raise ConfigError(msg)
    for name in given:
        if not isinstance(name, str):
            msg = f"{owner}: {name!r} is not the name of a logger"
            raise ConfigError(msg)
    return {
        name: OFF if level in ("OFF", "off") else level_number(level)
        for name, level in given.items()
    }


def checked_rate(owner: str, given: object) -> tuple[float, int] | None:
    """Check a rate, and return it with its burst.

    Examples
    --------
    >>> checked_rate("ConsoleSink", 20), checked_rate("ConsoleSink", (0.5, 10))
    ((20.0, 20), (0.5, 10))
    """
    if given is None:
        return None
    # A list is what TOML has for a pair.
    pair = given if isinstance(given, (tuple, list)) else (given, None)
    if len(pair) == _PAIR and _is_number(rate := pair[0]) and rate > 0:
        burst = max(1, round(rate)) if pair[1] is None else pair[1]
        if type(burst) is int and burst > 0:
            return float(rate), burst
    msg = (
        f"{owner}: rate must be records a second, or (records a second, burst), both "
        f"above 0, not {given!r}"
    )
    raise ConfigError(msg)


def _is_number(value: object) -> TypeGuard[float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]
