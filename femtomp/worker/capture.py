"""Capture: everything a log call knew, as the payload of one record.

In: a `logging.LogRecord`, or the parts of a record made otherwise. Out: bytes for the
lane. The LogRecord is only read: other handlers see what they always saw. Values are
made plain here, in the caller's thread, at the call; what cannot be rendered becomes a
marked text. What must never happen: an exception in the caller, or a value that changes
later.

The common record (extras of scalar types, no exception) takes a path of its own. Its
few extras are looked at one by one: 0.2 to 0.4 us less than `dict(islice(...))` with a
look at all types in C, for two of them.
"""

from __future__ import annotations

import logging
import sys
from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import wire
from femtomp.codec.shrink import shrink
from femtomp.codec.wire import joined, new_encoder
from femtomp.lanes.thrown import thrown_in
from femtomp.record import (
    DEFAULT_LIMITS,
    MAX_DEPTH,
    MAX_PAYLOAD_BYTES,
    SEVERITY_MAX,
    severity_number,
)
from femtomp.worker import context, exceptions
from femtomp.worker.plain import Room, exact, key, plain, text, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Limits, Record

# The attributes that every LogRecord of this Python has, in the order of its __dict__;
# what stands behind them is the user's, but for these, which formatters add. Not by
# `makeLogRecord`: the user's record factory adds its own, and those are no standard.
_STANDARD_NAMES: Final = tuple(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD: Final = len(_STANDARD_NAMES)
# Elsewhere if a record factory set something before them, or one of them is missing.
_LAST_AT: Final = _STANDARD - 1
_LAST: Final = _STANDARD_NAMES[-1]
_HAS_TASK: Final = "taskName" in _STANDARD_NAMES  # since Python 3.12
# uvicorn's message once more, with ANSI sequences: for its own formatter.
_COLOURED: Final = "color_message"
_ADDED: Final = frozenset(("message", "asctime"))
# Looked at with care: what formatters add, and what uvicorn does.
_ODD: Final = _ADDED | {_COLOURED}
_NOT_EXTRAS: Final = _ADDED.union(_STANDARD_NAMES)
_PLAIN: Final = frozenset((str, int, float, bool, type(None), bytes))
TASK: Final = "asyncio.task.name"
TRUNCATED: Final = "femtomp.truncated"
# A LogRecord's attribute with more fields, of names that it has itself: `name`, `args`.
FIELDS: Final = "femtomp_fields"
_SEVERITY_WARN: Final = severity_number(logging.WARNING)
# The year 2262: nanoseconds are 64 bits wide.
_LAST_SECOND: Final = 9_223_372_036

_read_fields = context.read_fields
_trace = context.current_trace
_is_traced = context.is_traced
_OTEL: Final = "opentelemetry.trace"
_encode = wire.encode
_free = wire.free
_modules = sys.modules
_LogRecord = logging.LogRecord


def from_log_record(  # noqa: C901, PLR0912 - the hot path
    record: logging.LogRecord, pid: int, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """Return the payload of a LogRecord. Never raises for what the caller logged.

    Parameters
    ----------
    record : logging.LogRecord
        Of this process, or received from another one through a stock queue.
    pid : int
        Of the calling process: a record of another one keeps its own.
    limits : Limits
        Of the server that it is for.
    """
    extras: dict[str, Any] | None = None
    more: dict[str, Any] | None = None
    try:
        values = record.__dict__
        if len(values) != _STANDARD:
            names = [*values]
            most = _STANDARD + limits.attribute_count
            if len(names) > most or names[_LAST_AT] != _LAST:
                return _with_care(record, pid, limits)
            extras = {}
            for name in names[_STANDARD:]:
                value = values[name]
                if type(value) not in _PLAIN or name in _ODD or type(name) is not str:
                    return _with_care(record, pid, limits)
                extras[name] = value
        message = record.msg
        level, level_name, logger = record.levelno, record.levelname, record.name
        if (
            record.exc_info
            or record.exc_text
            or record.stack_info
            or record.process != pid
            or type(message) is not str
            or type(level) is not int
            or type(level_name) is not str
            or type(logger) is not str
            or type(record) is not _LogRecord
        ):
            return _with_care(record, pid, limits)
        if fields := _read_fields[0]():
            extras = {**fields, **extras} if extras else fields
            # They were made plain when they were bound, whatever the depth allowed.
            if (
                len(extras) > limits.attribute_count
                or limits.attribute_depth != MAX_DEPTH
            ):
                return _with_care(record, pid, limits)
        if _HAS_TASK and (task := values["taskName"]) is not None:
            if type(task) is not str:
                return _with_care(record, pid, limits)
            extras = {TASK: task, **extras} if extras else {TASK: task}
        if (_is_traced or _OTEL in _modules) and (span := _trace()) is not None:
            more = {"trace": span}
        args = record.args
        # wire.encode, without the call: 60 ns.
        try:
            encoder = _free.pop()
        except IndexError as exc:
            if thrown_in(exc):
                raise
            encoder = new_encoder()
        dump, pieces = encoder
        dump((
            1, time_ns(), level, level_name, logger,
            # LogRecord.getMessage, without the call: 80 ns.
            message % args if args else message, message if args else None,
            record.pathname, record.lineno, record.funcName,
            record.thread, record.threadName, extras, more,
        ))  # fmt: skip
        payload = pieces.pop() if len(pieces) == 1 else joined(pieces)
        _free.append(encoder)
    except Exception as exc:
        if thrown_in(exc):
            raise
        return _with_care(record, pid, limits)
    if len(payload) <= limits.harmless_bytes:
        return payload
    return _limited(record, payload, pid, limits)


def _limited(
    record: logging.LogRecord, payload: bytes, pid: int, limits: Limits
) -> bytes:
    if limits is DEFAULT_LIMITS and len(payload) <= MAX_PAYLOAD_BYTES:
        return payload
    return _with_care(record, pid, limits)


def _with_care(record: logging.LogRecord, pid: int, limits: Limits) -> bytes:
    """Take the path for everything that is not the common record."""
    try:
        return _careful(record, pid, limits)
    except Exception as exc:
        if thrown_in(exc):
            raise
        problem = f"{type_name(exc)}: {text(exc)}"
        body, _ = message(record)
        return sized((
            1, time_ns(), 0, "", "", body, None, None, None, None, None, None,
            {"femtomp.capture_error": problem}, {"severity": _SEVERITY_WARN},
        ))  # fmt: skip


def _careful(record: logging.LogRecord, pid: int, limits: Limits) -> bytes:
    more: dict[str, Any] = {}
    # A record that was unpickled, or made of a received dict, may lack some attribute.
    of = Attributes(record)
    timestamp = time_ns()
    if (process := of["process"]) not in (pid, None):
        number = process if type(process) is int else 0
        more["process"] = (number, text(of["processName"] or ""))
        timestamp = _nanoseconds(of["created"], timestamp)
    if (span := _trace_if_any()) is not None:
        more["trace"] = span
    cut: dict[str, int] = {}
    given = {**_read_fields[0](), **given_with(record)}
    extras = attributes(given, more, limits, cut)
    if of["exc_info"] or of["exc_text"]:
        add_exception(more, cut, of["exc_info"], of["exc_text"], limits)
    if of["stack_info"]:
        stack = text(of["stack_info"])
        more["stack"] = cut_ends(
            stack, limits.stacktrace_length, "code.stacktrace", cut
        )
    body, problem = _body(record, limits, cut)
    template = text(of["msg"]) if of["args"] else None
    if template is not None:
        longest = limits.attribute_value_length
        template = cut_end(template, longest, "femtomp.template", cut)
    if problem:
        extras["femtomp.format_error"] = problem
    if _HAS_TASK and of["taskName"] is not None:
        extras.setdefault(TASK, text(of["taskName"]))
    if cut:
        extras[TRUNCATED] = cut
    fields = (
        1, timestamp,
        _int(of["levelno"]), text(of["levelname"]), text(of["name"] or ""),
        body, template,
        plain(of["pathname"]), plain(of["lineno"]), plain(of["funcName"]),
        plain(of["thread"]), plain(of["threadName"]), extras or None, more or None,
    )  # fmt: skip
    return sized(fields)


def given_with(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a call gave beside its message: its `extra`, or a logger's fields."""
    given = {k: v for k, v in record.__dict__.items() if k not in _NOT_EXTRAS}
    if type(beside := given.pop(FIELDS, None)) is dict:
        given |= beside
    if _COLOURED in given and text(record.name).startswith("uvicorn"):
        del given[_COLOURED]
    return given


def add_exception(
    more: dict[str, Any],
    cut: dict[str, int],
    exc_info: Any,
    exc_text: Any,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Put what a call knew of an exception into `more`; what was cut into `cut`."""
    taken = exceptions.take(exc_info, exc_text, limits)
    if taken is None:
        return
    longest = limits.attribute_value_length
    more["exception"] = (
        taken.kind,
        cut_end(taken.message, longest, "exception.message", cut),
        cut_ends(
            taken.stacktrace, limits.stacktrace_length, "exception.stacktrace", cut
        ),
    )
    if taken.structure is not None:
        more["structure"] = taken.structure


def cut_end(value: str, length: int | None, name: str, cut: dict[str, int]) -> str:
    """Return as much of a text as may be; if it was longer, `cut` says how long."""
    if length is None or len(value) <= length:
        return value
    cut[name] = len(value)
    return value[:length]


def cut_ends(value: str, length: int | None, name: str, cut: dict[str, int]) -> str:
    """As `cut_end`, but from the middle: a stack trace's last lines matter most."""
    if length is None or len(value) <= length:
        return value
    cut[name] = len(value)
    mark = "\n…\n"
    first = length // 4
    last = length - first - len(mark)
    return value[:first] + mark + value[-last:] if last > 0 else value[:length]


def _trace_if_any() -> tuple[int, int, int] | None:
    try:
        return _trace()
    except Exception as exc:
        if thrown_in(exc):
            raise
        return None


class Attributes:
    """A record's attributes by name; None for one that it lacks or cannot give."""

    __slots__ = ("_record",)

    def __init__(self, record: logging.LogRecord) -> None:
        self._record = record

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self._record, name, None)
        except Exception as exc:
            if thrown_in(exc):
                raise
            return None


def _nanoseconds(created: object, otherwise: int) -> int:
    """Return a LogRecord's `created` as nanoseconds, if it is a time at all."""
    if isinstance(created, (int, float)) and 0 <= created < _LAST_SECOND:
        # In one product a float would be off by 100 ns.
        return int(created) * 1_000_000_000 + int(created % 1 * 1e9)
    return otherwise


def sized(fields: tuple[Any, ...]) -> bytes:
    """Encode a tuple of plain values, cut down if it is more than a record may be."""
    payload = _encode(fields)
    if len(payload) > MAX_PAYLOAD_BYTES:
        payload = _encode(shrink(fields))
    return payload


def attributes(
    given: Mapping[str, object],
    more: dict[str, Any],
    limits: Limits = DEFAULT_LIMITS,
    cut: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Make attributes plain; those beyond the limit are counted in `more`.

    `cut` is told the names of those that were cut, and the length of their longest
    text.
    """
    room = Room(limits)
    most = limits.attribute_count
    kept: dict[str, Any] = {}
    for k, v in islice(given.items(), most):
        name = key(k)
        kept[name] = plain(v, room)
        if room.cut and cut is not None:
            cut[name], room.cut = room.cut, 0
    if len(given) > most:
        more["dropped"] = _int(more.get("dropped")) + len(given) - most
    return kept


def _body(
    record: logging.LogRecord, limits: Limits, cut: dict[str, int]
) -> tuple[Any, str | None]:
    """Return the body, and what is wrong with it; a dict alone is one itself."""
    given = getattr(record, "msg", None)
    kind = type(given)
    if (
        issubclass(kind, dict)
        and not getattr(record, "args", None)
        and kind.__str__ is object.__str__
        and type(record).getMessage is _LogRecord.getMessage
    ):
        room = Room(limits._replace(attribute_value_length=limits.body_length))
        body = plain(given, room)
        if room.cut:
            cut["body"] = room.cut
        return body, None
    said, problem = message(record)
    return cut_end(said, limits.body_length, "body", cut), problem


def message(record: logging.LogRecord) -> tuple[str, str | None]:
    """Return `getMessage()`, or what can be said instead and why."""
    try:
        return exact(record.getMessage()), None
    except Exception as exc:
        if thrown_in(exc):
            raise
        return _message_again(record)


def _message_again(record: logging.LogRecord) -> tuple[str, str | None]:
    # What another thread threw into it has nothing to do with the record.
    try:
        return exact(record.getMessage()), None
    except Exception as exc:
        if thrown_in(exc):
            raise
        of = Attributes(record)
        said = f"{text(of['msg'])} {plain(of['args'])!r}"
        return said, f"{type_name(exc)}: {text(exc)}"


def _int(value: object) -> int:
    """Return an exact int; levels are often members of an IntEnum."""
    try:
        return int(value) if isinstance(value, int) else 0
    except Exception as exc:
        if thrown_in(exc):
            raise
        return 0


def to_log_record(payload: bytes) -> logging.LogRecord:
    """Return what of a payload of our own is said where there is no lane."""
    fields: Any = wire.decode(payload)
    _, _, level, level_name, logger, body, _, path, line, function, *_ = fields
    record = _LogRecord(logger, level, path, line, body, None, None, function)
    record.levelname = level_name
    return record


def from_record(record: Record, pid: int, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the payload of a `Record` that somebody put into the queue."""
    more: dict[str, Any] = {
        "severity": min(max(_int(record.severity_number), 0), SEVERITY_MAX),
        "dropped": max(_int(record.dropped_attributes_count), 0),
    }
    if record.event_name is not None:
        more["event_name"] = text(record.event_name)
    if type(record.observed_timestamp) is int:
        more["observed"] = record.observed_timestamp
    if (span := _span(record)) is not None:
        more["trace"] = span
    if record.scope is not None:
        more["scope"] = plain(tuple(record.scope))
    origin = record.resource.get("process.pid", pid)
    if origin != pid and type(origin) is int:
        more["process"] = (origin, text(record.resource.get("femtomp.worker.name", "")))
    cut: dict[str, int] = {}
    kept = attributes(record.attributes, more, limits, cut)
    body = plain(record.body, Room(limits._replace(attribute_value_length=None)))
    if type(body) is str:
        body = cut_end(body, limits.body_length, "body", cut)
    if cut:
        kept[TRUNCATED] = cut
    return sized((
        1, _int(record.timestamp), 0, text(record.severity_text), text(record.logger),
        body, None, None, None, None, None, None, kept, more,
    ))  # fmt: skip


def _span(record: Record) -> tuple[int, int, int] | None:
    """Return the ids of a record's span as numbers; None for what are no such ids."""
    try:
        trace_id, span_id = (
            int(record.trace_id or "", 16),
            int(record.span_id or "", 16),
        )
    except (TypeError, ValueError) as exc:
        if thrown_in(exc):
            raise
        return None
    if not (0 < trace_id < 1 << 128 and 0 < span_id < 1 << 64):
        return None
    return trace_id, span_id, _int(record.trace_flags)
