"""What a log event is: `Record`, `Identity`, `Resource`, and their limits.

Everything here is frozen and made of plain types (str, int, float, bool, None, bytes,
lists and dicts of these), so that it can cross a process boundary and be given to any
sink. The schema is OpenTelemetry's log data model
(https://opentelemetry.io/docs/specs/otel/logs/data-model/); attribute names are those
of its semantic conventions. The module is imported in every worker: it does no I/O and
loads nothing that a process using `logging` has not loaded already.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

AnyValue: TypeAlias = Any
"""str | int | float | bool | None | bytes | list[AnyValue] | dict[str, AnyValue]."""

# OpenTelemetry's default for LogRecordLimits.attribute_count_limit.
MAX_ATTRIBUTES: Final = 128
# Deep enough for a request's JSON; shallow enough that no decoder recurses dangerously.
MAX_DEPTH: Final = 8
# Items of one list or dict value; a thousand is already unreadable in a log line.
MAX_ITEMS: Final = 1024
# An attribute key is a name: longer ones are cut.
MAX_KEY_CHARS: Final = 256
# One record on the wire. Above it the longest strings are cut and marked.
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024

TRUNCATION_MARK: Final = "… [femtomp: truncated, {} of {} characters kept]"

# Which frames of an exception's stack trace are kept: all, those of no library, or
# those of the modules and directories that a tuple names.
ALL_FRAMES: Final = "all"
APPLICATION_FRAMES: Final = "application"
# A payload below it has no text that any limit by default could be about.
_SMALL_BYTES: Final = 65536


class Limits(NamedTuple):
    """What a record may hold; the server's options, as its workers know them.

    Lengths are characters of a str and bytes of bytes; None is no limit but that on the
    whole record. Depth is at most `MAX_DEPTH`: what decodes a record relies on it.
    """

    attribute_count: int = MAX_ATTRIBUTES
    attribute_value_length: int | None = None
    attribute_depth: int = MAX_DEPTH
    body_length: int | None = None
    stacktrace_length: int | None = None
    exception_frames: str | tuple[str, ...] = ALL_FRAMES
    # A payload of so many bytes cannot have a text that is too long: the hot path looks
    # at no text, only at this.
    harmless_bytes: int = _SMALL_BYTES

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Limits:
        """Return the limits that a server's options are, the others by default.

        Examples
        --------
        >>> limits = Limits.of({"body_length_limit": 100, "attribute_count_limit": 9})
        >>> limits.body_length, limits.attribute_count, limits.harmless_bytes
        (100, 9, 100)
        """
        named = {name: options.get(f"{name}_limit") for name in cls._fields[:5]}
        frames = options.get("exception_frames")
        named["exception_frames"] = tuple(frames) if type(frames) is list else frames
        limits = cls(**{k: v for k, v in named.items() if v is not None})
        lengths = (
            limits.attribute_value_length,
            limits.body_length,
            limits.stacktrace_length,
        )
        least = min((n for n in lengths if n is not None), default=_SMALL_BYTES)
        limits = limits._replace(harmless_bytes=min(least, _SMALL_BYTES))
        return DEFAULT_LIMITS if limits == DEFAULT_LIMITS else limits


DEFAULT_LIMITS: Final = Limits()

_SPECIFIED_FIRST: Final = 10
_SPECIFIED_LAST: Final = 53
_SEVERITY_STEP: Final = 4  # four severities per level name: DEBUG..DEBUG4
_SEVERITY_DEBUG: Final = 5
SEVERITY_MAX: Final = 24


def severity_number(levelno: int) -> int:
    """Map a `logging` level to OpenTelemetry's severity number.

    Total: 0 for 0 and below, 1 for 1 to 9, the OpenTelemetry SDK's own table for 10 to
    53 (ten levels share four numbers, the fourth one repeated), 24 above.

    Parameters
    ----------
    levelno : int
        A level as `logging` knows it, custom ones included.

    Returns
    -------
    int
        0 (unspecified) to 24 (FATAL4).

    Examples
    --------
    >>> [severity_number(n) for n in (0, 5, 10, 20, 25, 30, 40, 50, 99)]
    [0, 1, 5, 9, 12, 13, 17, 21, 24]
    """
    if levelno <= 0:
        return 0
    if levelno < _SPECIFIED_FIRST:
        return 1
    if levelno > _SPECIFIED_LAST:
        return SEVERITY_MAX
    tens, units = divmod(levelno, 10)
    return _SEVERITY_DEBUG + _SEVERITY_STEP * (tens - 1) + min(units, 3)


class Identity(NamedTuple):
    """Who a process is; read afresh after every fork.

    Attributes
    ----------
    pid, parent_pid : int
        As the process itself sees them (its own pid namespace).
    pid_namespace : int
        Inode of the pid namespace; 0 where the platform has none.
    start_ticks : int
        Start time in clock ticks since boot, /proc/self/stat field 22; 0 if unknown.
    boot_id : str
        /proc/sys/kernel/random/boot_id; with pid and start_ticks it names a process.
    name : str
        `multiprocessing`'s process name ("MainProcess", "ForkPoolWorker-3").
    role : str
        "master" for the process that owns the server, "worker" for every other.
    host : str
        Host name.
    command : str
        Path of the program's script, or the interpreter's.
    instance_id : str
        `service.instance.id` of the process's OpenTelemetry tracer provider; empty if
        it had none.
    attributes : tuple of (str, value) pairs
        What `femtomp.identify` or the pool has told besides: a worker's age, a rank.
    """

    pid: int
    parent_pid: int
    pid_namespace: int
    start_ticks: int
    boot_id: str
    name: str
    role: str
    host: str
    command: str
    instance_id: str = ""
    attributes: tuple[tuple[str, AnyValue], ...] = ()


class Resource(dict[str, AnyValue]):
    """The OpenTelemetry resource of one worker: all its attributes.

    `brief` is the part that every JSON line repeats: the service, the worker and what
    the user named; the rest is said once per lane, in `femtomp.worker.started`. One
    object serves all records of a worker, so sinks may group and cache by its id().
    """

    __slots__ = ("brief",)

    def __init__(
        self, attributes: dict[str, AnyValue], brief: dict[str, AnyValue] | None = None
    ) -> None:
        super().__init__(attributes)
        self.brief: dict[str, AnyValue] = attributes if brief is None else brief

    def __reduce__(self) -> tuple[Any, ...]:
        return (Resource, (dict(self), self.brief))


class Scope(NamedTuple):
    """An OpenTelemetry instrumentation scope, where one is known."""

    name: str
    version: str | None = None
    schema_url: str | None = None
    attributes: dict[str, AnyValue] | None = None


class Record(NamedTuple):
    """One structured log event.

    Attributes
    ----------
    timestamp : int
        Nanoseconds since the epoch, UTC, at the log call.
    severity_number : int
        0 to 24, OpenTelemetry's scale; see `severity_number()`.
    severity_text : str
        The level's name, unaltered.
    logger : str
        Name of the logger.
    body : AnyValue
        Exactly `LogRecord.getMessage()`; any value from the OpenTelemetry Logs API.
    attributes : dict
        Extras with their types, and `code.*`, `thread.*`, `exception.*`,
        `femtomp.template`.
    resource : Resource
        The worker. One object per worker.
    uid : str
        The same in every sink and in every re-delivery: lane epoch and sequence.
    trace_id, span_id : str or None
        32 and 16 hex digits of the span active at the call; None without one.
    trace_flags : int or None
        W3C trace flags of that span.
    event_name : str or None
        OpenTelemetry's event name.
    scope : Scope or None
        Instrumentation scope, if the source has one beyond the logger's name.
    dropped_attributes_count : int
        Attributes left out because of a limit.
    observed_timestamp : int or None
        When the source of an OpenTelemetry record says that it was observed.
    """

    timestamp: int
    severity_number: int
    severity_text: str
    logger: str
    body: AnyValue
    attributes: dict[str, AnyValue]
    resource: Resource
    uid: str = ""
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int | None = None
    event_name: str | None = None
    scope: Scope | None = None
    dropped_attributes_count: int = 0
    observed_timestamp: int | None = None


def scrubbed(record: Record, *, keep_floats: bool = False) -> Record:
    r"""Return the record with every str safe for UTF-8 and every number for JSON.

    Lone surrogates become their backslash escapes, NaN, infinities and integers above
    64 bits become strings, unknown types their repr. Sinks call this when encoding
    failed: clean records never pay for it. A format that has NaN and infinities keeps
    all floats.

    Examples
    --------
    >>> r = Record(0, 9, "INFO", "a", "b\udc80", {"n": 1 << 70}, Resource({}))
    >>> scrubbed(r).body, scrubbed(r).attributes
    ('b\\udc80', {'n': '1180591620717411303424'})
    """
    plain = partial(_plain, depth=0, keep_floats=keep_floats)
    return record._replace(
        severity_text=plain(str(record.severity_text)),
        logger=plain(str(record.logger)),
        body=plain(record.body),
        attributes=plain(record.attributes),
        event_name=None if record.event_name is None else plain(record.event_name),
        resource=Resource(plain(record.resource), plain(record.resource.brief)),
    )


_INT64: Final = 1 << 63


def _plain(value: AnyValue, *, depth: int, keep_floats: bool) -> AnyValue:
    kind = type(value)
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "backslashreplace").decode()
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else _integer_text(value)
    if kind is float:
        fits = keep_floats or value - value == 0.0
        return value if fits else _float_name(value)
    if value is None or kind in (bool, bytes):
        return value
    if depth > MAX_DEPTH:
        return "… [femtomp: too deep]"
    plain = partial(_plain, depth=depth + 1, keep_floats=keep_floats)
    if isinstance(value, dict):
        return {str(plain(str(key))): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return _plain(repr(value), depth=depth, keep_floats=keep_floats)


def _integer_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than the interpreter converts (4300)
        return f"{value:#x}"


def _float_name(value: float) -> str:
    # The names that protobuf's JSON mapping gives them.
    if value != value:  # noqa: PLR0124 - the definition of NaN
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
