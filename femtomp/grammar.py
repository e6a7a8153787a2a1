"""Sinks as words: one grammar for code, `FEMTOMP_SINKS` and `--sink`.

In: strings, sink objects, environment variables. Out: sink objects, each with a name of
its own::

    console | console:FORMAT | file:PATH
    | journald | journald:SOCKET | otlp | otlp:ENDPOINT
    | package.callable

`FEMTOMP_SINKS` holds several, separated by commas.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from femtomp.checks import shown
from femtomp.config import (
    CONSOLE_FORMATS,
    DEFAULT_NAMES,
    SINK_TYPES,
    ConsoleSink,
    FileSink,
    HandlerSink,
    JournaldSink,
    OTLPSink,
    SinkOptions,
)
from femtomp.errors import ConfigError
from femtomp.formats import checked_format, is_path
from femtomp.journald_options import JOURNALD_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONSOLE_FORMAT: Final = "FEMTOMP_CONSOLE_FORMAT"
SINKS: Final = "FEMTOMP_SINKS"


def parse_sink(text: str) -> SinkOptions:
    """Turn one word of the sink grammar into a sink.

    Parameters
    ----------
    text : str
        As in the module's docstring.

    Returns
    -------
    ConsoleSink, FileSink, JournaldSink, OTLPSink or HandlerSink

    Raises
    ------
    ConfigError
        If the kind is unknown or its argument is missing.

    Examples
    --------
    >>> parse_sink("console:json").format
    'json'
    >>> parse_sink("logging.handlers.SysLogHandler")
    HandlerSink('logging.handlers.SysLogHandler', args={})
    """
    kind, _, argument = text.strip().partition(":")
    if kind == "console":
        return ConsoleSink(format=argument or "auto")
    if kind == "file":
        return FileSink(argument)
    if kind == "journald":
        return JournaldSink(argument or JOURNALD_SOCKET)
    if kind == "otlp":
        return OTLPSink(argument or None)
    if is_path(text.strip()):
        return HandlerSink(text.strip())
    known = (
        "console, console:FORMAT, file:PATH, journald, otlp, or the import path of "
        "what makes a handler or a sink, package.callable"
    )
    msg = f"unknown sink {shown(text)!r}: use {known}"
    raise ConfigError(msg)


def resolve_sinks(sinks: object, environ: Mapping[str, str]) -> tuple[SinkOptions, ...]:
    """Give every sink an object and a name of its own.

    Parameters
    ----------
    sinks : iterable of sinks or str, one of these, or None
        None: what `FEMTOMP_SINKS` says, else the console.
    environ : mapping of str to str
        `os.environ`.

    Raises
    ------
    ConfigError
        If one is not a sink, or two have the same name or write the same file. What
        is wrong in `FEMTOMP_SINKS` names it.
    """
    if sinks is None:
        return _of_variable(environ)
    return _resolved(sinks, environ)


def _of_variable(environ: Mapping[str, str]) -> tuple[SinkOptions, ...]:
    given = environ.get(SINKS, "")
    words = [w for w in given.split(",") if w.strip()]
    try:
        return _resolved(words or ["console"], environ)
    except ConfigError as exc:
        if not words:
            raise
        msg = f"{SINKS}={shown(given)!r}: {exc}"
        raise ConfigError(msg) from exc


def _resolved(sinks: object, environ: Mapping[str, str]) -> tuple[SinkOptions, ...]:
    if isinstance(sinks, (str, *SINK_TYPES)):
        sinks = [sinks]
    try:
        given = list(cast("Iterable[object]", sinks))
    except TypeError:
        given = [sinks]
    parsed = [_sink(item, environ) for item in given]
    if not parsed:
        msg = "sinks is empty: give at least one, or None for the console"
        raise ConfigError(msg)
    _refuse_same_file(parsed)
    return _named(parsed)


def _refuse_same_file(sinks: list[SinkOptions]) -> None:
    """Refuse two sinks of one regular file: each line would be there twice."""
    seen: dict[str, str] = {}
    for sink in sinks:
        if not isinstance(sink, FileSink):
            continue
        path = os.path.realpath(sink.path)
        if path in seen and not _is_special(path):
            names = " and ".join(sorted({seen[path], os.fspath(sink.path)}))
            msg = f"two sinks write the same file: {names}; leave one of them out"
            raise ConfigError(msg)
        seen[path] = os.fspath(sink.path)


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


def _sink(item: object, environ: Mapping[str, str]) -> SinkOptions:
    sink = parse_sink(item) if isinstance(item, str) else item
    if not isinstance(sink, SINK_TYPES):
        what = "a dict" if isinstance(item, dict) else repr(item)  # with headers
        msg = f"not a sink: {what}; use a string such as 'console', or FileSink(...)"
        raise ConfigError(msg)
    console_format = environ.get(CONSOLE_FORMAT)
    if isinstance(sink, ConsoleSink) and sink.format == "auto" and console_format:
        checked = checked_format(CONSOLE_FORMAT, console_format, CONSOLE_FORMATS)
        return replace(sink, format=checked)
    return sink


def _named(sinks: list[SinkOptions]) -> tuple[SinkOptions, ...]:
    taken: set[str] = set()
    result: list[SinkOptions] = []
    for sink in sinks:
        name = base = sink.name or DEFAULT_NAMES[type(sink)]
        number = 2
        while name in taken:
            if sink.name:
                msg = f"two sinks are named {base!r}: a name must be unique"
                raise ConfigError(msg)
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        result.append(replace(sink, name=name))
    return tuple(result)
