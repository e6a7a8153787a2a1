"""Options of sinks: frozen values, checked at construction, in the master.

In: keyword arguments, strings of the sink grammar, environment variables. Out: frozen
dataclasses that the supervisor's configuration pipe carries. Nothing here opens
anything; whether a sink can be built is found out by the supervisor before
`start_server` returns. Values of headers are never shown by a repr.

The sink grammar, one for code, `FEMTOMP_SINKS` (comma separated) and `--sink`::

    console | console:json | console:text | file:PATH
    | journald | journald:SOCKET | otlp | otlp:ENDPOINT
"""

from __future__ import annotations

import logging
import os
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from femtomp.errors import ConfigError
from femtomp.limits import checked_filter, checked_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from femtomp.limits import Filter, Rate

FORMATS: Final = ("auto", "text", "json")
FILE_FORMATS: Final = ("json", "text")
STREAMS: Final = ("stderr", "stdout")
PROTOCOLS: Final = ("http/protobuf", "grpc")
JOURNALD_SOCKET: Final = "/run/systemd/journal/socket"


@dataclass(frozen=True)
class ConsoleSink:
    """Write records to the terminal or pipe that the master's stderr or stdout is.

    Parameters
    ----------
    stream : {"stderr", "stdout"}
        Which of the master's streams.
    format : {"auto", "text", "json"}
        "auto": coloured text on a terminal (NO_COLOR and FORCE_COLOR are respected),
        plain text elsewhere. `FEMTOMP_CONSOLE_FORMAT` replaces "auto".
    level : int or str
        Records below this level are filtered (and counted) for this sink.
    name : str, optional
        Name in statistics; "console" if not given.
    filter : mapping of str to level, or str, optional
        The level by logger, of which the longest prefix counts ("" for all others,
        "OFF" for none): ``{"noisy.lib": "WARNING"}``. Or the dotted path of a function,
        loaded in the supervisor, that takes a `Record` and says whether to keep it.
    rate : number or (number, int), optional
        Records a second at most, and how many at once (as many, if not given). What is
        over is filtered, counted, and said in `femtomp.records.lost`.

    Examples
    --------
    >>> ConsoleSink("stdout", format="json").stream
    'stdout'
    """

    stream: Literal["stderr", "stdout"] = "stderr"
    _: KW_ONLY
    format: Literal["auto", "text", "json"] = "auto"
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        one_of("ConsoleSink", "stream", self.stream, STREAMS)
        one_of("ConsoleSink", "format", self.format, FORMATS)
        _check_shared(self)


@dataclass(frozen=True)
class FileSink:
    """Append records to a file, one a line.

    Parameters
    ----------
    path : str or path-like
        The file; a relative path is resolved in the master, now. Its directory must
        exist.
    format : {"json", "text"}
        "json": one JSON object a line.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "file" if not given.

    Examples
    --------
    >>> FileSink("/var/log/shop.jsonl").path
    PosixPath('/var/log/shop.jsonl')
    """

    path: Path | str
    _: KW_ONLY
    format: Literal["json", "text"] = "json"
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option; make the path absolute."""
        one_of("FileSink", "format", self.format, FILE_FORMATS)
        try:
            path = Path(self.path).expanduser().absolute()
        except TypeError as exc:
            msg = f"FileSink: path must be a path, not {self.path!r}"
            raise ConfigError(msg) from exc
        if not os.fspath(self.path):
            msg = "FileSink: path is empty: say which file, as in file:app.jsonl"
            raise ConfigError(msg)
        _set(self, "path", path)
        _check_shared(self)


@dataclass(frozen=True)
class JournaldSink:
    """Send records to systemd-journald, by its native protocol.

    Parameters
    ----------
    path : str
        The datagram socket of journald.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "journald" if not given.

    Examples
    --------
    >>> JournaldSink().path
    '/run/systemd/journal/socket'
    """

    path: str = JOURNALD_SOCKET
    _: KW_ONLY
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        _text("JournaldSink", "path", self.path)
        _check_shared(self)


@dataclass(frozen=True)
class OTLPSink:
    """Export records to an OpenTelemetry collector. Needs ``femtomp[otel]``.

    Parameters
    ----------
    endpoint : str, optional
        Base URL ("http://collector:4318"; /v1/logs is added unless it ends so) for
        HTTP, host:port or URL for gRPC. Not given: `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`,
        then `OTEL_EXPORTER_OTLP_ENDPOINT`, then the local collector.
    protocol : {"http/protobuf", "grpc"}, optional
        Not given: `OTEL_EXPORTER_OTLP_LOGS_PROTOCOL`, `OTEL_EXPORTER_OTLP_PROTOCOL`,
        then "http/protobuf".
    headers : mapping of str to str, optional
        Sent with every request; never shown in a repr.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "otlp" if not given.

    Examples
    --------
    >>> OTLPSink(headers={"api-key": "secret"})
    OTLPSink(endpoint=None, protocol=None, headers={'api-key': '***'})
    """

    endpoint: str | None = None
    _: KW_ONLY
    protocol: Literal["http/protobuf", "grpc"] | None = None
    headers: Mapping[str, str] | None = None
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        if self.endpoint is not None:
            _text("OTLPSink", "endpoint", self.endpoint)
        if self.protocol is not None:
            one_of("OTLPSink", "protocol", self.protocol, PROTOCOLS)
        if self.headers is not None:
            _set(self, "headers", dict(self.headers))
        _check_shared(self)

    def __repr__(self) -> str:
        """Show everything but the values of headers and the endpoint's credentials."""
        headers = self.headers and dict.fromkeys(self.headers, "***")
        return (
            f"OTLPSink(endpoint={_shown(self.endpoint)!r}, protocol={self.protocol!r}, "
            f"headers={headers!r})"
        )


SinkOptions: TypeAlias = ConsoleSink | FileSink | JournaldSink | OTLPSink
SINK_TYPES: Final = (ConsoleSink, FileSink, JournaldSink, OTLPSink)
DEFAULT_NAMES: Final[dict[type, str]] = {
    ConsoleSink: "console",
    FileSink: "file",
    JournaldSink: "journald",
    OTLPSink: "otlp",
}


def parse_sink(text: str) -> SinkOptions:
    """Turn one word of the sink grammar into a sink.

    Parameters
    ----------
    text : str
        As in the module's docstring.

    Returns
    -------
    ConsoleSink, FileSink, JournaldSink or OTLPSink

    Raises
    ------
    ConfigError
        If the kind is unknown or its argument is missing.

    Examples
    --------
    >>> parse_sink("console:json").format
    'json'
    """
    kind, _, argument = text.strip().partition(":")
    if kind == "console":
        return ConsoleSink(format=cast("Any", argument or "auto"))
    if kind == "file":
        return FileSink(argument)
    if kind == "journald":
        return JournaldSink(argument or JOURNALD_SOCKET)
    if kind == "otlp":
        return OTLPSink(argument or None)
    known = "console, console:json, file:PATH, journald or otlp"
    msg = f"unknown sink {_shown(text)!r}: use {known}"
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
        If one is not a sink, or two have the same name.
    """
    if sinks is None:
        words = environ.get("FEMTOMP_SINKS", "").split(",")
        sinks = [w for w in words if w.strip()] or ["console"]
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
    return _named(parsed)


def _sink(item: object, environ: Mapping[str, str]) -> SinkOptions:
    sink = parse_sink(item) if isinstance(item, str) else item
    if not isinstance(sink, SINK_TYPES):
        what = "a dict" if isinstance(item, dict) else repr(item)  # with headers
        msg = f"not a sink: {what}; use a string such as 'console', or FileSink(...)"
        raise ConfigError(msg)
    console_format = environ.get("FEMTOMP_CONSOLE_FORMAT")
    if isinstance(sink, ConsoleSink) and sink.format == "auto" and console_format:
        return replace(sink, format=cast("Any", console_format))
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


def level_number(level: object) -> int:
    """Turn a level (number or name, any case) into its number.

    Raises
    ------
    ConfigError
        If there is no such level.

    Examples
    --------
    >>> level_number("info"), level_number(15)
    (20, 15)
    """
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    if isinstance(level, str):
        text = level.strip().upper()
        if text.isdecimal():
            return int(text)
        number = logging.getLevelNamesMapping().get(text)
        if number is not None:
            return number
    names = ", ".join(logging.getLevelNamesMapping())
    msg = f"unknown level {level!r}: use a number or one of {names}"
    raise ConfigError(msg)


def _check_shared(sink: SinkOptions) -> None:
    owner = type(sink).__name__
    _set(sink, "level", level_number(sink.level))
    _set(sink, "filter", checked_filter(owner, sink.filter, level_number))
    _set(sink, "rate", checked_rate(owner, sink.rate))


def _shown(address: str | None) -> str | None:
    scheme, slashes, rest = (address or "").rpartition("//")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}***@{host}" if at else address


def one_of(owner: str, option: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed, by the option's name."""
    if value not in allowed:
        msg = f"{owner}: {option} must be one of {', '.join(allowed)}, not {value!r}"
        raise ConfigError(msg)


def _text(owner: str, option: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        msg = f"{owner}: {option} must be a non-empty string, not {value!r}"
        raise ConfigError(msg)


def _set(instance: object, name: str, value: object) -> None:
    # Frozen to everyone else; __post_init__ may normalise once.
    object.__setattr__(instance, name, value)
