"""Options of sinks: frozen values, checked at construction, in the master.

In: keyword arguments. Out: frozen dataclasses that the supervisor's configuration pipe
carries; `grammar` makes them of strings, `settings` of a file. Nothing here opens
anything; whether a sink can be built is found out by the supervisor before
`start_server` returns. Values of headers are never shown by a repr.
"""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from femtomp.checks import one_of, put, shown, text
from femtomp.errors import ConfigError
from femtomp.file_options import check_file_options, check_path
from femtomp.formats import FORMATS, Format, checked_format, is_path
from femtomp.journald_options import JOURNALD_SOCKET, check_journald_options, socket_of
from femtomp.limits import checked_filter, checked_rate
from femtomp.otlp_options import check_otlp_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.limits import Filter, Rate

CONSOLE_FORMATS: Final = tuple(FORMATS)
FILE_FORMATS: Final = tuple(name for name in FORMATS if name != "auto")
STREAMS: Final = ("stderr", "stdout")
PROTOCOLS: Final = ("http/protobuf", "grpc")


@dataclass(frozen=True)
class ConsoleSink:
    """Write records to the terminal or pipe that the master's stderr or stdout is.

    Parameters
    ----------
    stream : {"stderr", "stdout"}
        Which of the master's streams.
    format : {"auto", "text", "json", "flat", "ecs", "otlp-json", "logfmt"} or formatter
        "auto": coloured text on a terminal (NO_COLOR and FORCE_COLOR are respected),
        plain text elsewhere. `FEMTOMP_CONSOLE_FORMAT` replaces "auto". A formatter is
        a `logging.Formatter` that can be pickled, or the path of a callable that makes
        one, "package.module.callable"; it must be importable in the supervisor.
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
    format: Format = "auto"
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        one_of("ConsoleSink", "stream", self.stream, STREAMS)
        checked = checked_format("ConsoleSink", self.format, CONSOLE_FORMATS)
        put(self, "format", checked)
        _check_shared(self)


@dataclass(frozen=True)
class FileSink:
    """Append records to a file, one a line, and rotate it.

    Nobody but the supervisor writes or rotates, so no process needs to agree on it. A
    rotated file is named after the time: ``app.jsonl.20261121T235959.123456Z``, which
    sorts, then ``.gz``. Several supervisors may write the same file: they take turns.

    Parameters
    ----------
    path : str or path-like
        The file; a relative path is resolved in the master, now. Its directory must
        exist. A symbolic link is followed: what it leads to is rotated.
    format : {"json", "text", "flat", "ecs", "otlp-json", "logfmt"} or formatter
        As in `ConsoleSink`. "json": one JSON object a line.
    rotate_bytes : int, optional
        Rotate before the file is larger; a record that is, has a file of its own.
    rotate_interval_s : float, optional
        Rotate at the first record of each such interval: 3600 is each full hour, 86400
        each midnight, 604800 each Monday.
    utc : bool
        False: hours and days of `rotate_interval_s` are those of local time.
    compress : {"gzip"}, optional
        Compress rotated files, in the background, at low priority.
    keep_files : int, optional
        So many rotated files are kept; all if not given.
    keep_days : float, optional
        Rotated files are deleted so long after their last record.
    fsync : {"never", "batch"}
        "batch": a record counts as delivered when it is on the disk, which costs one
        fdatasync a batch: some milliseconds, for up to 2048 records. "never": when the
        kernel has it, which survives any process but not power loss.
    mode : int
        Permissions of files that are made. One that exists keeps its own.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "file" if not given.

    Examples
    --------
    >>> FileSink("/var/log/shop.jsonl").path
    PosixPath('/var/log/shop.jsonl')
    >>> daily = FileSink("shop.jsonl", rotate_interval_s=86400, keep_days=14)
    """

    path: Path | str
    _: KW_ONLY
    format: Format = "json"
    rotate_bytes: int | None = None
    rotate_interval_s: float | None = None
    utc: bool = True
    compress: Literal["gzip"] | None = None
    keep_files: int | None = None
    keep_days: float | None = None
    fsync: Literal["never", "batch"] = "never"
    mode: int = 0o640
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option; make the path absolute."""
        put(self, "format", checked_format("FileSink", self.format, FILE_FORMATS))
        check_file_options(self)
        try:
            path = Path(self.path).expanduser().absolute()
        except TypeError as exc:
            msg = f"FileSink: path must be a path, not {self.path!r}"
            raise ConfigError(msg) from exc
        if not os.fspath(self.path):
            msg = "FileSink: path is empty: say which file, as in file:app.jsonl"
            raise ConfigError(msg)
        check_path(path)
        put(self, "path", path)
        _check_shared(self)


@dataclass(frozen=True)
class JournaldSink:
    """Send records to systemd-journald, by its native protocol.

    Parameters
    ----------
    path : str
        The datagram socket of journald.
    namespace : str, optional
        A journal namespace (`LogNamespace=`), instead of `path`.
    identifier : str, optional
        SYSLOG_IDENTIFIER, what `journalctl -t` selects; the service's name if not
        given.
    prefix : str
        Before the names of fields that are made of extras: "SHOP_".
    nested : {"json", "fields"}
        What becomes of a dict or list: one field with JSON, or a field for each member
        (CART_ITEMS).
    sender : {"worker", "supervisor"}
        Who `_PID` and the other trusted fields are of. As root, the worker's are there
        as well while it lives, as OBJECT_PID and so on; or, with "worker", instead: of
        one that ends before journald reads its entry they are missing then, its unit
        too, and `journalctl -u` does not show it.
    missing : {"refuse", "wait", "stderr"}
        What to do where journald has no socket when the server starts: fail, keep the
        records until there is one, or write lines with ``<priority>`` to stderr.
    rate_limit : {"warn", "pace"}
        journald drops what a unit logs above its LogRateLimitBurst. "warn" once that
        this happens; "pace": send no faster, and keep the records.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "journald" if not given.

    Examples
    --------
    >>> JournaldSink().path
    '/run/systemd/journal/socket'
    >>> JournaldSink(namespace="shop").path
    '/run/systemd/journal.shop/socket'
    """

    path: str = JOURNALD_SOCKET
    _: KW_ONLY
    namespace: str | None = None
    identifier: str | None = None
    prefix: str = ""
    nested: Literal["json", "fields"] = "json"
    sender: Literal["worker", "supervisor"] = "supervisor"
    missing: Literal["refuse", "wait", "stderr"] = "refuse"
    rate_limit: Literal["warn", "pace"] = "warn"
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option; a namespace becomes its path."""
        check_journald_options(self)
        if self.namespace is not None:
            put(self, "path", socket_of(self.namespace))
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
        Sent with every request; checked here, and never shown in a repr or an error.
    compression : {"none", "gzip", "deflate"}, optional
        Not given: `OTEL_EXPORTER_OTLP_LOGS_COMPRESSION`,
        `OTEL_EXPORTER_OTLP_COMPRESSION`, then "none".
    timeout_s : float, optional
        Of one request, from its first byte to the last of the reply; the variables
        ..._TIMEOUT, then 10. What failed is tried again for as long as the quota lasts.
    flush_interval_s : float
        Records are gathered so long for one request, if they are few: a request costs
        as much as a hundred records. The first one after a pause is sent at once.
    metrics : bool
        Send figures of the whole server, too, to the same collector (/v1/metrics),
        every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds, 60,000 if not set. What is not
        given above comes from `OTEL_EXPORTER_OTLP_METRICS_*`.
    certificate_file, client_key_file, client_certificate_file : path-like, optional
        The authority that the collector's certificate is checked with, and what the
        sink shows of itself, PEM; the variables ..._CERTIFICATE, ..._CLIENT_KEY and
        ..._CLIENT_CERTIFICATE.
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
    compression: Literal["none", "gzip", "deflate"] | None = None
    timeout_s: float | None = None
    flush_interval_s: float = 0.2
    metrics: bool = False
    certificate_file: Path | str | None = None
    client_key_file: Path | str | None = None
    client_certificate_file: Path | str | None = None
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        if self.endpoint is not None:
            text("OTLPSink", "endpoint", self.endpoint)
        if self.protocol is not None:
            one_of("OTLPSink", "protocol", self.protocol, PROTOCOLS)
        if self.headers is not None:
            put(self, "headers", dict(self.headers))
        check_otlp_options(self)
        _check_shared(self)

    def __repr__(self) -> str:
        """Show everything but the values of headers and the endpoint's credentials."""
        headers = self.headers and dict.fromkeys(self.headers, "***")
        return (
            f"OTLPSink(endpoint={shown(self.endpoint)!r}, protocol={self.protocol!r}, "
            f"headers={headers!r})"
        )


@dataclass(frozen=True)
class HandlerSink:
    """Hand records to a `logging.Handler`, or to a destination of your own.

    It is made and used in the supervisor, by one thread: one connection for the whole
    pool, and no worker waits for it. Its level, filters and formatter are respected.

    Parameters
    ----------
    factory : str
        Path of what makes it, "package.module.callable": a handler's class, or a
        function that gives a handler, or an object with `write(batch)` and `close()`
        (`femtomp.Sink`). Importable in the supervisor: not in the program's script.
    args : mapping of str to any
        Keyword arguments for it, which can be pickled; never shown in a repr.
    level, name, filter, rate
        As in `ConsoleSink`; the name is "handler" if not given.

    Examples
    --------
    >>> HandlerSink("logging.handlers.SysLogHandler", args={"address": "/dev/log"})
    HandlerSink('logging.handlers.SysLogHandler', args={'address': '***'})
    """

    factory: str
    _: KW_ONLY
    args: Mapping[str, Any] = field(default_factory=dict)
    level: int | str = 0
    name: str | None = None
    filter: Filter = None
    rate: Rate = None

    def __post_init__(self) -> None:
        """Check every option."""
        if not isinstance(self.factory, str) or not is_path(self.factory):
            msg = (
                "HandlerSink: factory must be the path of a callable, as in "
                f"'package.module.callable', not {self.factory!r}"
            )
            raise ConfigError(msg)
        try:
            put(self, "args", {str(k): v for k, v in dict(self.args).items()})
            pickle.dumps(self.args)
        except Exception as exc:
            msg = (
                "HandlerSink: args must be keyword arguments that can be pickled for "
                f"the supervisor: {type(exc).__name__}: {exc}"
            )
            raise ConfigError(msg) from exc
        _check_shared(self)

    def __repr__(self) -> str:
        """Show everything but the values of the arguments."""
        args = dict.fromkeys(self.args, "***")
        return f"HandlerSink({self.factory!r}, args={args!r})"


SinkOptions: TypeAlias = ConsoleSink | FileSink | JournaldSink | OTLPSink | HandlerSink
SINK_TYPES: Final = (ConsoleSink, FileSink, JournaldSink, OTLPSink, HandlerSink)
DEFAULT_NAMES: Final[dict[type, str]] = {
    ConsoleSink: "console",
    FileSink: "file",
    JournaldSink: "journald",
    OTLPSink: "otlp",
    HandlerSink: "handler",
}


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
    put(sink, "level", level_number(sink.level))
    put(sink, "filter", checked_filter(owner, sink.filter, level_number))
    put(sink, "rate", checked_rate(owner, sink.rate))
