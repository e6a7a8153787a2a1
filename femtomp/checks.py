"""Checks that options of several kinds share, and how a frozen one is set.

In: an option's value and whose it is. Out: nothing, or a `ConfigError` that names the
option, what was found and what is allowed.
"""

from __future__ import annotations

from femtomp.errors import ConfigError


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
