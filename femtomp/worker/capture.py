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
import traceback
from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import wire
from femtomp.codec.shrink import shrink
from femtomp.codec.wire import joined, new_encoder
from femtomp.record import (
    MAX_ATTRIBUTES,
    MAX_PAYLOAD_BYTES,
    SEVERITY_MAX,
    severity_number,
)
from femtomp.worker import context
from femtomp.worker.plain import MAX_VALUES, exact, key, plain, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Record

# The attributes that every LogRecord of this Python has, in the order of its __dict__;
# what stands behind them is the user's, but for these, which formatters add. Not by
# `makeLogRecord`: the user's record factory adds its own, and those are no standard.
_STANDARD_NAMES: Final = tuple(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD: Final = len(_STANDARD_NAMES)
# Elsewhere if a record factory set something before them, or one of them is missing.
_LAST_AT: Final = _STANDARD - 1
_LAST: Final = _STANDARD_NAMES[-1]
_ADDED: Final = frozenset(("message", "asctime"))
_NOT_EXTRAS: Final = _ADDED.union(_STANDARD_NAMES)
_PLAIN: Final = frozenset((str, int, float, bool, type(None), bytes))
_EXC_INFO_LENGTH: Final = 3  # type, value, traceback
# Below it no limit on length can have been passed.
LARGE_BYTES: Final = 65536
# A LogRecord's attribute with more fields, of names that it has itself: `name`, `args`.
FIELDS: Final = "femtomp_fields"
_SEVERITY_WARN: Final = severity_number(logging.WARNING)
# The year 2262: nanoseconds are 64 bits wide.
_LAST_SECOND: Final = 9_223_372_036

_log_fields = context.fields.get
_trace = context.current_trace
_encode = wire.encode
_free = wire.free
_modules = sys.modules
_LogRecord = logging.LogRecord


def from_log_record(record: logging.LogRecord, pid: int) -> bytes:
    """Return the payload of a LogRecord. Never raises for what the caller logged.

    Parameters
    ----------
    record : logging.LogRecord
        Of this process, or received from another one through a stock queue.
    pid : int
        Of the calling process: a record of another one keeps its own.
    """
    extras: dict[str, Any] | None = None
    more: dict[str, Any] | None = None
    try:
        values = record.__dict__
        if len(values) != _STANDARD:
            names = [*values]
            if len(names) > _STANDARD + MAX_ATTRIBUTES or names[_LAST_AT] != _LAST:
                return _with_care(record, pid)
            extras = {}
            for name in names[_STANDARD:]:
                value = values[name]
                if type(value) not in _PLAIN or name in _ADDED or type(name) is not str:
                    return _with_care(record, pid)
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
            return _with_care(record, pid)
        if fields := _log_fields():
            extras = {**fields, **extras} if extras else fields
        if "opentelemetry.trace" in _modules and (span := _trace()) is not None:
            more = {"trace": span}
        args = record.args
        # wire.encode, without the call: 60 ns.
        try:
            encoder = _free.pop()
        except IndexError:
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
    except Exception:
        return _with_care(record, pid)
    return payload if len(payload) <= LARGE_BYTES else _limited(record, payload, pid)


def _limited(record: logging.LogRecord, payload: bytes, pid: int) -> bytes:
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return payload
    return _with_care(record, pid)


def _with_care(record: logging.LogRecord, pid: int) -> bytes:
    """Take the path for everything that is not the common record."""
    try:
        return _careful(record, pid)
    except Exception as exc:
        problem = f"{type_name(exc)}: {_str(exc)}"
        body, _ = _message(record)
        return sized((
            1, time_ns(), 0, "", "", body, None, None, None, None, None, None,
            {"femtomp.capture_error": problem}, {"severity": _SEVERITY_WARN},
        ))  # fmt: skip


def _careful(record: logging.LogRecord, pid: int) -> bytes:
    more: dict[str, Any] = {}
    # A record that was unpickled, or made of a received dict, may lack some attribute.
    of = _Attributes(record)
    timestamp = time_ns()
    if (process := of["process"]) not in (pid, None):
        number = process if type(process) is int else 0
        more["process"] = (number, _str(of["processName"] or ""))
        timestamp = _nanoseconds(of["created"], timestamp)
    if (span := _trace_if_any()) is not None:
        more["trace"] = span
    if (exception := _exception(of["exc_info"], of["exc_text"])) is not None:
        more["exception"] = exception
    if of["stack_info"]:
        more["stack"] = _str(of["stack_info"])
    given = {k: v for k, v in record.__dict__.items() if k not in _NOT_EXTRAS}
    if type(beside := given.pop(FIELDS, None)) is dict:
        given |= beside
    extras = attributes({**_log_fields(), **given}, more)
    body, problem = _message(record)
    if problem:
        extras["femtomp.format_error"] = problem
    fields = (
        1, timestamp,
        _int(of["levelno"]), _str(of["levelname"]), _str(of["name"] or ""),
        body, _str(of["msg"]) if of["args"] else None,
        plain(of["pathname"]), plain(of["lineno"]), plain(of["funcName"]),
        plain(of["thread"]), plain(of["threadName"]), extras or None, more or None,
    )  # fmt: skip
    return sized(fields)


def _trace_if_any() -> tuple[int, int, int] | None:
    try:
        return _trace()
    except Exception:
        return None


class _Attributes:
    """A record's attributes by name; None for one that it lacks."""

    __slots__ = ("_record",)

    def __init__(self, record: logging.LogRecord) -> None:
        self._record = record

    def __getitem__(self, name: str) -> Any:
        return getattr(self._record, name, None)


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


def attributes(given: Mapping[str, object], more: dict[str, Any]) -> dict[str, Any]:
    """Make attributes plain; those beyond the limit are counted in `more`."""
    room = [MAX_VALUES]
    kept = {key(k): plain(v, room) for k, v in islice(given.items(), MAX_ATTRIBUTES)}
    if len(given) > MAX_ATTRIBUTES:
        more["dropped"] = _int(more.get("dropped")) + len(given) - MAX_ATTRIBUTES
    return kept


def _message(record: logging.LogRecord) -> tuple[str, str | None]:
    """Return `getMessage()`, or what can be said instead and why."""
    try:
        return exact(record.getMessage()), None
    except Exception as exc:
        of = _Attributes(record)
        said = f"{_str(of['msg'])} {plain(of['args'])!r}"
        return said, f"{type_name(exc)}: {_str(exc)}"


def _exception(exc_info: Any, exc_text: Any) -> tuple[str, str, str] | None:
    """Return type, message and stack trace, for OpenTelemetry's `exception.*`."""
    is_triple = isinstance(exc_info, tuple) and len(exc_info) == _EXC_INFO_LENGTH
    error = exc_info[1] if is_triple else exc_info
    if not isinstance(error, BaseException):  # exc_info=True outside of an `except`
        return ("", "", _str(exc_text)) if exc_text else None
    kind = type(error)
    module, name = (_str(_of_class(kind, n)) for n in ("__module__", "__qualname__"))
    trace = exc_info[2] if is_triple else error.__traceback__
    try:
        text = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
    except Exception as exc:
        text = f"<stack trace cannot be rendered: {type_name(exc)}>"
    return f"{module}.{name}".removeprefix("builtins."), _str(error), text


def _of_class(kind: type, name: str) -> object:
    # Not getattr: a metaclass may answer with code of its own.
    return type.__getattribute__(kind, name)


def _str(value: object) -> str:
    try:
        return exact(value if type(value) is str else str(value))
    except Exception as exc:
        return f"<{type_name(value)}: cannot be rendered: {type_name(exc)}>"


def _int(value: object) -> int:
    """Return an exact int; levels are often members of an IntEnum."""
    try:
        return int(value) if isinstance(value, int) else 0
    except Exception:
        return 0


def to_log_record(payload: bytes) -> logging.LogRecord:
    """Return what of a payload of our own is said where there is no lane."""
    fields: Any = wire.decode(payload)
    _, _, level, level_name, logger, body, _, path, line, function, *_ = fields
    record = _LogRecord(logger, level, path, line, body, None, None, function)
    record.levelname = level_name
    return record


def from_record(record: Record, pid: int) -> bytes:
    """Return the payload of a `Record` that somebody put into the queue."""
    more: dict[str, Any] = {
        "severity": min(max(_int(record.severity_number), 0), SEVERITY_MAX),
        "dropped": max(_int(record.dropped_attributes_count), 0),
    }
    if record.event_name is not None:
        more["event_name"] = _str(record.event_name)
    if (span := _span(record)) is not None:
        more["trace"] = span
    if record.scope is not None:
        more["scope"] = plain(tuple(record.scope))
    origin = record.resource.get("process.pid", pid)
    if origin != pid and type(origin) is int:
        more["process"] = (origin, _str(record.resource.get("femtomp.worker.name", "")))
    return sized((
        1, _int(record.timestamp), 0, _str(record.severity_text), _str(record.logger),
        plain(record.body), None, None, None, None, None, None,
        attributes(record.attributes, more), more,
    ))  # fmt: skip


def _span(record: Record) -> tuple[int, int, int] | None:
    """Return the ids of a record's span as numbers; None for what are no such ids."""
    try:
        trace_id, span_id = (
            int(record.trace_id or "", 16),
            int(record.span_id or "", 16),
        )
    except (TypeError, ValueError):
        return None
    if not (0 < trace_id < 1 << 128 and 0 < span_id < 1 << 64):
        return None
    return trace_id, span_id, _int(record.trace_flags)
