"""The formats of console and file: their names, and how a user's own is given.

In: the option `format` of a sink. Out: a name of the table, the path of a callable, or
a formatter packed for its way to the supervisor, which never sees the caller's objects.
Whether a path or a packed formatter can be loaded there is found out before
`start_server` returns.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from femtomp.errors import ConfigError

FORMATS: Final = {
    "auto": "text, coloured on a terminal",
    "text": "people",
    "json": "programs: everything that a record holds",
    "flat": "Loki, Datadog, jq",
    "ecs": "Elasticsearch, by Filebeat or Elastic Agent",
    "otlp-json": "the OpenTelemetry Collector, by its otlpjsonfile receiver",
    "logfmt": "grep, Loki",
}
"""Every format by name, and who reads it."""


@dataclass(frozen=True)
class PackedFormatter:
    """A `logging.Formatter` on its way: pickled, and not loaded by who carries it."""

    description: str
    pickled: bytes = field(repr=False)


Format: TypeAlias = str | logging.Formatter | PackedFormatter


def checked_format(owner: str, value: object, names: tuple[str, ...]) -> Any:
    """Return what the option `format` says, fit for its way to the supervisor.

    Parameters
    ----------
    owner : str
        The sink's class, for messages.
    value : object
        A name, the path of a callable ("package.module.callable"), or an object with a
        method `format`, such as a `logging.Formatter`.
    names : tuple of str
        Those that this sink allows.

    Returns
    -------
    str or PackedFormatter

    Raises
    ------
    ConfigError
        If it is none of these, or cannot be pickled.

    Examples
    --------
    >>> checked_format("FileSink", "json", ("json", "text"))
    'json'
    """
    if isinstance(value, PackedFormatter):
        return value
    if isinstance(value, str) and value in names:
        return names[names.index(value)]  # of an enum's member, its text
    if isinstance(value, str) and is_path(value):
        return value
    if callable(getattr(value, "format", None)) and not isinstance(value, (str, type)):
        return _packed(owner, value)
    msg = (
        f"{owner}: format must be one of {', '.join(names)}, "
        "the path of a callable that returns a logging.Formatter, as in "
        f"'package.module.callable', or such a formatter, not {value!r}"
    )
    raise ConfigError(msg)


def is_path(text: str) -> bool:
    """Tell whether a text is the path of something in a module.

    Examples
    --------
    >>> is_path("shop.logs.Formatter"), is_path("ecs"), is_path("a..b")
    (True, False, False)
    """
    parts = text.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _packed(owner: str, formatter: object) -> PackedFormatter:
    import pickle

    kind = type(formatter)
    try:
        return PackedFormatter(
            f"{kind.__module__}.{kind.__qualname__}", pickle.dumps(formatter)
        )
    except Exception as exc:
        msg = (
            f"{owner}: the formatter {kind.__qualname__} cannot be pickled for the "
            f"supervisor ({exc}): give the path of a callable that makes it, as in "
            "format='package.module.callable'"
        )
        raise ConfigError(msg) from exc
