"""Capture: everything a log call knew, as the payload of one record.

In: a `logging.LogRecord`, or the parts of a record made otherwise. Out: bytes for the
lane. The LogRecord is only read: other handlers see what they always saw. Values are made
plain here, in the caller's thread, at the call; what cannot be rendered becomes a marked
text. What must never happen: an exception in the caller, or a value that changes later.

The common record (extras of scalar types, no exception) takes a path without a loop:
`frozenset.issuperset(map(type, ...))` looks at all extras in C.
"""

from __future__ import annotations

import logging
import traceback
from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import wire
from femtomp.record import MAX_ATTRIBUTES, MAX_PAYLOAD_BYTES
from femtomp.worker import context
from femtomp.worker.plain import key, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Record

# The attributes that every LogRecord of this Python has, in the order of its __dict__;
# what stands behind them is the user's, but for these, which formatters add.
_STANDARD_NAMES: Final = frozenset(logging.makeLogRecord({}).__dict__)
_STANDARD: Final = len(_STANDARD_NAMES)
_ADDED: Final = frozenset(("message", "asctime"))
_NOT_EXTRAS: Final = _STANDARD_NAMES | _ADDED
_no_added: Final = _ADDED.isdisjoint
# Not int: 1 << 70 is one too, and few extras are looked at one by one for long.
_all_plain: Final = frozenset((str, int, float, bool, type(None), bytes)).issuperset
# Below it no limit on length can have been passed.
_LARGE_BYTES: Final = 65536

_log_fields = context.fields.get
_trace = context.current_trace
_encode = wire.encode


def from_log_record(record: logging.LogRecord, pid: int) -> bytes:
    """Return the payload of a LogRecord. Never raises for what the caller logged.

    Parameters
    ----------
    record : logging.LogRecord
        Of this process, or received from another one through a stock queue.
    pid : int
        Of the calling process: a record of another one keeps its own.
    """
    values = record.__dict__
    extras = None
    more: dict[str, Any] | None = None
    if len(values) != _STANDARD:
        extras = dict(islice(values.items(), _STANDARD, None))
        if (
            not _all_plain(map(type, extras.values()))
            or not _no_added(extras)
            or len(extras) > MAX_ATTRIBUTES
        ):
            return _with_care(record, pid)
    if (
        record.exc_info
        or record.exc_text
        or record.stack_info
        or record.process != pid
        or type(record.msg) is not str
    ):
        return _with_care(record, pid)
    if fields := _log_fields():
        extras = {**fields, **extras} if extras else fields
    if (span := _trace()) is not None:
        more = {"trace": span}
    try:
        payload = _encode((
            1, time_ns(), record.levelno, record.levelname, record.name,
            record.getMessage(), record.msg if record.args else None,
            record.pathname, record.lineno, record.funcName,
            record.thread, record.threadName, extras, more,
        ))  # fmt: skip
    except Exception:  # noqa: BLE001 - the caller's objects may raise anything
        return _with_care(record, pid)
    return payload if len(payload) <= _LARGE_BYTES else _limited(record, payload, pid)


def _limited(record: logging.LogRecord, payload: bytes, pid: int) -> bytes:
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return payload
    return _with_care(record, pid)


def _with_care(record: logging.LogRecord, pid: int) -> bytes:
    """Take the path for everything that is not the common record."""
    more: dict[str, Any] = {}
    timestamp = time_ns()
    if record.process not in (pid, None):
        more["process"] = (record.process, plain(record.processName) or "")
        timestamp = int(record.created * 1e9)
    if (span := _trace()) is not None:
        more["trace"] = span
    if record.exc_info or record.exc_text:
        more["exception"] = _exception(record)
    if record.stack_info:
        more["stack"] = plain(record.stack_info)
    given = {k: v for k, v in record.__dict__.items() if k not in _NOT_EXTRAS}
    extras = attributes({**_log_fields(), **given}, more)
    body, problem = _message(record)
    if problem:
        extras["femtomp.format_error"] = problem
    fields = (
        1, timestamp, _int(record.levelno), _str(record.levelname), _str(record.name),
        body, _str(record.msg) if record.args else None,
        plain(record.pathname), plain(record.lineno), plain(record.funcName),
        plain(record.thread), plain(record.threadName), extras or None, more or None,
    )  # fmt: skip
    return sized(fields)


def sized(fields: tuple[Any, ...]) -> bytes:
    """Encode a wire tuple of plain values, cut down if it is more than a record may be."""
    payload = _encode(fields)
    if len(payload) > MAX_PAYLOAD_BYTES:
        payload = _encode(wire.shrink(fields))
    return payload


def attributes(given: Mapping[str, object], more: dict[str, Any]) -> dict[str, Any]:
    """Make attributes plain; those beyond the limit are counted in `more`."""
    kept = {key(k): plain(v) for k, v in islice(given.items(), MAX_ATTRIBUTES)}
    if len(given) > MAX_ATTRIBUTES:
        more["dropped"] = more.get("dropped", 0) + len(given) - MAX_ATTRIBUTES
    return kept


def _message(record: logging.LogRecord) -> tuple[str, str | None]:
    """Return `getMessage()`, or what can be said instead and why."""
    try:
        body = record.getMessage()
    except Exception as exc:  # noqa: BLE001 - format errors and the arguments' own code
        args = plain(record.args)
        return f"{_str(record.msg)} {args!r}", f"{type(exc).__name__}: {_str(exc)}"
    return str.__str__(body), None


def _exception(record: logging.LogRecord) -> tuple[str, str, str]:
    """Return type, message and stack trace, as OpenTelemetry's conventions name them."""
    if not record.exc_info or not isinstance(record.exc_info, tuple):
        return "", "", _str(record.exc_text)
    kind, error, trace = record.exc_info
    if kind is None:
        return "", "", _str(record.exc_text or "")
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
    except Exception as exc:  # noqa: BLE001 - __str__ of the exception or its notes
        text = f"<stack trace cannot be rendered: {type(exc).__name__}>"
    return name.removeprefix("builtins."), _str(error), text


def _str(value: object) -> str:
    if type(value) is str:
        return value
    try:
        return str.__str__(str(value))
    except Exception as exc:  # noqa: BLE001 - the object's own code may raise anything
        return f"<{type(value).__name__}: cannot be rendered: {type(exc).__name__}>"


def _int(value: object) -> int:
    return value if type(value) is int else 0


def from_record(record: Record, pid: int) -> bytes:
    """Return the payload of a `Record` that somebody put into the queue."""
    more: dict[str, Any] = {
        "severity": record.severity_number,
        "event_name": record.event_name,
        "dropped": record.dropped_attributes_count,
    }
    if record.trace_id and record.span_id:
        more["trace"] = (
            int(record.trace_id, 16), int(record.span_id, 16), record.trace_flags or 0,
        )  # fmt: skip
    if record.scope is not None:
        more["scope"] = plain(tuple(record.scope))
    origin = record.resource.get("process.pid", pid)
    if origin != pid:
        more["process"] = (origin, record.resource.get("femtomp.worker.name", ""))
    return sized((
        1, record.timestamp, 0, _str(record.severity_text), _str(record.logger),
        plain(record.body), None, None, None, None, None, None,
        attributes(record.attributes, more), more,
    ))  # fmt: skip
