"""A `logging.LogRecord` made of a `Record`: for formatters and handlers of the stdlib.

In: a `Record`, whatever process made it. Out: a LogRecord as the log call's own process
had it, as far as a record tells: a `logging.Formatter` writes the same line here as it
would have written there. No clock is read and no record factory is called; every call
gives a new object, so a formatter may change it.

`msg` is the template, as whoever groups messages by it (Sentry) needs, and
`getMessage()` the finished message. `exc_info` is made again (`exception_info`), and
`exc_text` has the traceback as the worker wrote it.

What cannot come back: `args` is empty; `relativeCreated` is 0.0 and `taskName` None,
since a record does not hold them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.exception_info import exc_info
from femtomp.codec.exceptions import ATTRIBUTE
from femtomp.codec.values import as_text
from femtomp.record import LEVEL, severity_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import AnyValue, Record

TEMPLATE: Final = "femtomp.template"
_NANOSECONDS: Final = 1_000_000_000
_NANOSECONDS_PER_MS: Final = 1_000_000
# Beyond it `datetime.fromtimestamp` and `time.gmtime` raise: 9999-12-31, less a day for
# any time zone.
_LAST_SECOND: Final = 253_402_214_400
_EMPTY: Final = dict.fromkeys(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
# `message` and `asctime` are the formatter's.
_TAKEN: Final = frozenset(("message", "asctime", *_EMPTY))
# Attributes that a LogRecord has under another name.
_RENAMED: Final = frozenset((
    ATTRIBUTE,  # it says what `exc_text` says
    LEVEL,
    "code.file.path",
    "code.line.number",
    "code.function.name",
    "code.stacktrace",
    "exception.stacktrace",
    "thread.id",
    "thread.name",
))  # fmt: skip


class _Rebuilt(logging.LogRecord):
    """A LogRecord whose message was formatted in another process."""

    # In no `__dict__`: formatters take what is there for fields.
    __slots__ = ("said",)

    said: tuple[object, str]

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """Return the finished message, unless a filter has set another one."""
        msg, body = self.said
        return body if self.msg is msg and not self.args else super().getMessage()


def to_log_record(record: Record) -> logging.LogRecord:
    """Rebuild the LogRecord that a record was made of.

    Never raises, whatever the record holds. Attributes that a LogRecord has no name for
    (extras, `exception.type`, `femtomp.template`) become attributes of their own name,
    and so do `uid`, `trace_id`, `span_id`, `trace_flags` and `event_name` where the
    record has them and no extra is called so. An extra with the name of a standard
    attribute, which only femtomp's own logger lets through, gets underscores behind it:
    `name_`.

    Parameters
    ----------
    record : Record
        Any record.

    Returns
    -------
    logging.LogRecord
        A new one.

    Notes
    -----
    A record has OpenTelemetry's severity, not the level's number. The number is exact
    for every level that `logging` knows by that name here, and for those whose units
    are 0, 1 or 2; of the others (25, 35: four severities for ten levels) it is the one
    that ends in 5.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> worker = Resource({"process.pid": 7, "femtomp.worker.name": "w-1"})
    >>> made = to_log_record(
    ...     Record(0, 9, "INFO", "shop", "hi", {"user": "ann"}, worker)
    ... )
    >>> form = "%(levelno)d %(processName)s[%(process)d] %(name)s: %(message)s %(user)s"
    >>> logging.Formatter(form).format(made)
    '20 w-1[7] shop: hi ann'
    """
    attributes = record.attributes
    made = _Rebuilt.__new__(_Rebuilt)
    body = record.body
    template = attributes.get(TEMPLATE)
    msg = template if type(template) is str else body
    made.said = msg, as_text(body)
    values = made.__dict__
    values.update(_EMPTY)
    values.update(
        name=record.logger,
        msg=msg,
        args=(),
        exc_info=exc_info(attributes),
        levelname=record.severity_text,
        levelno=_level(record),
        exc_text=_text_or_none(attributes.get("exception.stacktrace")),
        stack_info=_text_or_none(attributes.get("code.stacktrace")),
        **_time(record.timestamp),
        **_code(attributes),
        **_process(record),
    )
    _add_known(values, record)
    _add_extras(values, attributes)
    return made


def _level(record: Record) -> int:
    number = record.attributes.get(LEVEL)
    if type(number) is int:
        return number
    return level_of(record.severity_text, record.severity_number)


def level_of(name: str, severity: int) -> int:
    """Return the number of a level, by its name and its severity.

    Examples
    --------
    >>> level_of("ERROR", 17), level_of("NOTICE", 12), level_of("INFO", 17)
    (40, 25, 40)
    """
    number = logging.getLevelNamesMapping().get(name)
    if number is not None and severity_number(number) == severity:
        return number
    if severity <= 0:
        return 0
    if severity < severity_number(logging.DEBUG):
        return 5  # what most call TRACE
    tens, units = divmod(severity - severity_number(logging.DEBUG), 4)
    return 10 * (tens + 1) + (units if units < 3 else 5)  # noqa: PLR2004 - the fourth


def _time(timestamp: int) -> dict[str, float]:
    timestamp = min(max(timestamp, 0), _LAST_SECOND * _NANOSECONDS)
    created = timestamp / 1e9
    msecs = timestamp % _NANOSECONDS // _NANOSECONDS_PER_MS
    if int(created) != timestamp // _NANOSECONDS:
        msecs = 0  # the division rounded up to the next second, as in `logging`
    return {"created": created, "msecs": float(msecs), "relativeCreated": 0.0}


def _code(attributes: Mapping[str, AnyValue]) -> dict[str, Any]:
    # What `findCaller` says of a caller that it does not find.
    path = _text(attributes.get("code.file.path"), "(unknown file)")
    filename = path.rpartition("/")[2]
    stem, dot, _ = filename.rpartition(".")
    return {
        "pathname": path,
        "filename": filename,
        # As os.path.splitext: a leading dot begins no suffix.
        "module": stem if dot and stem.strip(".") else filename,
        "lineno": _number(attributes.get("code.line.number")),
        "funcName": _text(attributes.get("code.function.name"), "(unknown function)"),
        "thread": _number(attributes.get("thread.id")),
        "threadName": _text(attributes.get("thread.name"), ""),
    }


def _process(record: Record) -> dict[str, Any]:
    resource = record.resource
    return {
        "process": _number(resource.get("process.pid")),
        "processName": _text(resource.get("femtomp.worker.name"), "MainProcess"),
    }


def _add_known(values: dict[str, Any], record: Record) -> None:
    for key in ("uid", "trace_id", "span_id", "trace_flags", "event_name"):
        value = getattr(record, key)
        if value is not None and value != "":
            values[key] = value


def _add_extras(values: dict[str, Any], attributes: Mapping[str, AnyValue]) -> None:
    clashing = []
    for key, value in attributes.items():
        if key in _TAKEN:
            clashing.append(key)
        elif key not in _RENAMED:
            values[key] = value
    # Last: `name_` may be an extra too.
    for key in clashing:
        name = key + "_"
        while name in values:
            name += "_"
        values[name] = attributes[key]


def _number(value: AnyValue) -> int:
    # 0 where there is none: "%(lineno)d" refuses None.
    return value if type(value) is int else 0


def _text(value: AnyValue, otherwise: str) -> str:
    return otherwise if value is None else str(value)


def _text_or_none(value: AnyValue) -> str | None:
    return None if value is None else str(value)
