"""A logger of keyword fields: from its call to bytes in the lane.

In: a template, its arguments and fields, from any thread. Out: the record that the same
call of `logging.getLogger(name)`, with the fields as `extra`, makes. Where femtomp's
handler alone would see that record, it is encoded at once and no LogRecord is built;
anywhere else, and for whatever is not common, the call goes on to the standard logger,
so that no other handler goes blind. Nothing about handlers is remembered between calls,
all of it is looked at each time: docs/adr/0012-logger.md has why, and what it costs.
What must never happen: an exception in the caller, or a value that changes later.
"""

from __future__ import annotations

import logging
import sys
import threading
from time import time_ns
from types import FunctionType
from typing import Any, Final

from femtomp.checks import number_of_level
from femtomp.codec.wire import encode
from femtomp.lanes.thrown import thrown_in
from femtomp.record import MAX_DEPTH
from femtomp.worker import context
from femtomp.worker.by_record import (
    RESERVED,
    TRACE,
    by_record,
    level_number,
    unnamed,
)
from femtomp.worker.capture import TASK, attributes
from femtomp.worker.fork import mark
from femtomp.worker.handler import WorkerHandler
from femtomp.worker.standard import outer, task_name, untouched

_DEBUG: Final = logging.DEBUG
_INFO: Final = logging.INFO
_WARNING: Final = logging.WARNING
_ERROR: Final = logging.ERROR
_CRITICAL: Final = logging.CRITICAL
_PLAIN: Final = frozenset((str, int, float, bool, type(None), bytes))

# Since Python 3.12 a LogRecord has it.
_HAS_TASK: Final = hasattr(logging, "logAsyncioTasks")

_level_names = logging._levelToName  # noqa: SLF001 - getLevelName, without the call
_getframe = sys._getframe  # noqa: SLF001 - as logging's own `currentframe`
_read_fields = context.read_fields
_trace = context.current_trace
_is_traced = context.is_traced
_OTEL: Final = "opentelemetry.trace"
_modules = sys.modules
_Standard = logging.Logger
_LogRecord = logging.LogRecord
_NullHandler = logging.NullHandler


_call_handlers = untouched("callHandlers")
_handle = untouched("handle")
_make_record = untouched("makeRecord")
_log = untouched("_log")
_is_enabled_for = untouched("isEnabledFor")


class Logger:
    """Logs templates with keyword fields; made by `femtomp.get_logger`.

    Immutable, picklable, and safe under threads, forks and signals; a log call never
    raises. Positional arguments fill the template. Keywords become attributes of the
    record, with their types, whatever their name; only `exc_info`, `stack_info`,
    `stacklevel` and `extra` mean what they mean to `logging`. Fields of a call win over
    bound ones, and these over `log_context`'s.

    A lambda without parameters, as a field or an argument, is called if the level is
    enabled, and its result is logged. No other callable is ever called: a function or
    class that is logged may be anything.

    Examples
    --------
    >>> import femtomp
    >>> from femtomp.testing import captured_records
    >>> log = femtomp.get_logger("shop").bind(till=3)
    >>> with captured_records() as records:
    ...     log.info("sold %s", "tea", price=4.2, stock=lambda: 17)
    >>> record = records[0]
    >>> record.body, [record.attributes[name] for name in ("till", "price", "stock")]
    ('sold tea', [3, 4.2, 17])
    """

    __slots__ = ("_attributes", "_cache", "_fields", "_is_standard", "_logger")

    def __init__(self, logger: logging.Logger, fields: dict[str, Any]) -> None:
        self._logger: Final = logger
        self._fields: Final = fields
        # One of the user's own class, or with methods of its own, may do anything.
        values = vars(logger)
        is_usual = type(logger) in (_Standard, logging.RootLogger)
        self._is_standard: Final = is_usual and not any(map(callable, values.values()))
        # A method that is put there later makes one attribute more.
        self._attributes: Final = len(values)
        # What logging knows already, and forgets when a level is set anywhere. Where
        # another method gives them, that is asked each time.
        asks_cache = self._is_standard and _Standard.isEnabledFor is _is_enabled_for
        self._cache: Final[dict[int, bool]] = logger._cache if asks_cache else {}  # type: ignore[attr-defined]  # noqa: SLF001

    # The level is looked at in each method, and not in one for all: a disabled call
    # costs half of what it would.

    def trace(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at TRACE, which is 5.

        Its records say so, but the level itself gets no name: that is for the
        application to do, by `logging.addLevelName(5, "TRACE")`.
        """
        try:
            if not self._cache[TRACE]:
                return
        except KeyError:
            if not self._logger.isEnabledFor(TRACE):
                return
        self._log(TRACE, message, args, fields)

    def debug(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at DEBUG."""
        try:
            if not self._cache[_DEBUG]:
                return
        except KeyError:
            if not self._logger.isEnabledFor(_DEBUG):
                return
        self._log(_DEBUG, message, args, fields)

    def info(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at INFO."""
        try:
            if not self._cache[_INFO]:
                return
        except KeyError:
            if not self._logger.isEnabledFor(_INFO):
                return
        self._log(_INFO, message, args, fields)

    def warning(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at WARNING."""
        try:
            if not self._cache[_WARNING]:
                return
        except KeyError:
            if not self._logger.isEnabledFor(_WARNING):
                return
        self._log(_WARNING, message, args, fields)

    def error(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at ERROR."""
        if self._logger.isEnabledFor(_ERROR):
            self._log(_ERROR, message, args, fields)

    def critical(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at CRITICAL."""
        if self._logger.isEnabledFor(_CRITICAL):
            self._log(_CRITICAL, message, args, fields)

    def exception(self, message: object, /, *args: object, **fields: object) -> None:
        """Log at ERROR, with the exception that is being handled."""
        if self._logger.isEnabledFor(_ERROR):
            self._log(_ERROR, message, args, {"exc_info": True, **fields})

    def log(
        self, level: int | str, message: object, /, *args: object, **fields: object
    ) -> None:
        """Log at a level, by number or name; at ERROR if there is no such level."""
        number = level if type(level) is int else level_number(level, fields)
        if self._logger.isEnabledFor(number):
            self._log(number, message, args, fields)

    def bind(self, /, **fields: object) -> Logger:
        """Return a logger that adds these fields to its own."""
        return Logger(self._logger, {**self._fields, **fields})

    def unbind(self, /, *names: str) -> Logger:
        """Return a logger without these fields; one that is not there is no matter."""
        kept = {k: v for k, v in self._fields.items() if k not in names}
        return Logger(self._logger, kept)

    def new(self, /, **fields: object) -> Logger:
        """Return a logger with these fields, and none of its own."""
        return Logger(self._logger, fields)

    @property
    def name(self) -> str:
        """The name, as `logging` has it."""
        return self._logger.name

    @property
    def disabled(self) -> bool:
        """Whether `logging` was told that nothing be logged here."""
        return self._logger.disabled

    def isEnabledFor(self, level: int, /) -> bool:  # noqa: N802 - logging's name
        """Tell whether a level is enabled."""
        return self._logger.isEnabledFor(level)

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        """Return the level, which may be that of a parent."""
        return self._logger.getEffectiveLevel()

    def setLevel(self, level: int | str, /) -> None:  # noqa: N802 - logging's name
        """Set the level of `logging.getLogger(name)`."""
        self._logger.setLevel(number_of_level(level))

    def __repr__(self) -> str:
        """Show the fields' names; their values may be secrets."""
        return f"<femtomp.Logger {' '.join((self.name, *self._fields))}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name."""
        return _remake, (self.name, self._fields)

    def _log(
        self, level: int, message: Any, args: tuple[Any, ...], fields: dict[str, Any]
    ) -> None:
        handler = self._only_handler()
        if handler is None:
            by_record(self._logger, level, message, args, self._fields, fields)
            return
        if level < handler.level:
            return
        way: Any = handler._channel  # noqa: SLF001 - this module is its other half
        try:
            payload = self._payload(way, level, message, args, fields)
        except Exception as exc:
            if thrown_in(exc):
                raise
            payload = None  # the standard way marks what cannot be rendered
        if payload is None or len(payload) > way.limits.harmless_bytes:
            by_record(self._logger, level, message, args, self._fields, fields)
            return
        handler.keep(payload)

    def _only_handler(self) -> WorkerHandler | None:
        """Return femtomp's handler if no other would see, filter or change a record.

        As `logging.Logger.callHandlers` walks: a NullHandler sees nothing.
        """
        logger = self._logger
        found: WorkerHandler | None = None
        node: logging.Logger | None = logger
        while node is not None:
            if node.handlers:
                for each in node.handlers:
                    if type(each) is WorkerHandler and found is None:
                        found = each
                    elif type(each) is not _NullHandler:
                        return None
            node = node.parent if node.propagate else None
        if (
            found is None
            or not self._is_standard
            or len(logger.__dict__) != self._attributes
            or found.filters
            or logger.filters
            or logger.disabled
            or _Standard.callHandlers is not _call_handlers
            or _Standard.handle is not _handle
            or _Standard.makeRecord is not _make_record
            or _Standard._log is not _log  # noqa: SLF001
            or logging._logRecordFactory is not _LogRecord  # type: ignore[attr-defined]  # noqa: SLF001
            or not logging.logThreads
            or not logging._srcfile  # noqa: SLF001
            or not mark[0]
        ):
            return None
        return found

    def _payload(  # noqa: C901, PLR0912 - the hot path: calls are dear
        self,
        way: Any,
        level: int,
        message: Any,
        args: tuple[Any, ...],
        fields: dict[str, Any],
    ) -> bytes | None:
        """Return the record's payload; None if it is for the standard way."""
        now = time_ns()
        if (
            type(message) is not str
            or not way.fresh_from <= now * 1e-9 < way.fresh_until
        ):
            return None
        extras = {**self._fields, **fields} if self._fields else fields
        frame = _getframe(3)
        if not RESERVED.isdisjoint(extras):
            extras = extras.copy()
            frame = outer(frame, extras.pop("stacklevel", 1))
            if not RESERVED.isdisjoint(extras):
                return None
        for each in args:
            # A single mapping fills a template by its keys.
            if type(each) is FunctionType or (
                len(args) == 1 and type(each) not in _PLAIN
            ):
                return None
        is_plain = True
        for each in extras.values():
            if type(each) not in _PLAIN:
                if type(each) is FunctionType:
                    return None
                is_plain = False
        limits = way.limits
        if bound := _read_fields[0]():
            extras = {**bound, **extras}
            # They were made plain when they were bound, whatever the depth allowed.
            if limits.attribute_depth != MAX_DEPTH:
                return None
        if len(extras) > limits.attribute_count:
            return None
        more: dict[str, Any] | None = None
        if (_is_traced or _OTEL in _modules) and (span := _trace()) is not None:
            more = {"trace": span}
        if not is_plain:
            more = more or {}
            cut: dict[str, int] = {}
            extras = attributes(extras, more, limits, cut)
            if cut:
                return None
        if _HAS_TASK and (task := task_name()) is not None:
            extras = {TASK: task, **extras}
        code = frame.f_code
        return encode((
            1, now, level, _level_names.get(level) or unnamed(level),
            self._logger.name,
            message % args if args else message, message if args else None,
            code.co_filename, frame.f_lineno, code.co_name,
            threading.get_ident(), threading.current_thread().name,
            extras or None, more or None,
        ))  # fmt: skip


def _remake(name: str, fields: dict[str, Any]) -> Logger:
    return Logger(logging.getLogger(name), fields)


def get_logger(name: str | None = None, /, **fields: object) -> Logger:
    """Return a logger of keyword fields.

    It is `logging.getLogger(name)` with another way to call it: levels, handlers,
    filters and `propagate` are that logger's. With no server, or with handlers of
    others that see its records (pytest's caplog, Sentry), its calls are that logger's
    too: a library may use it, whoever its user is.

    Parameters
    ----------
    name : str, optional
        As of `logging.getLogger`; the root logger if not given.
    **fields
        Bound to the logger: every record has them.

    Returns
    -------
    Logger

    Examples
    --------
    >>> import femtomp
    >>> log = femtomp.get_logger("shop", till=3)
    >>> log.bind(customer=17)
    <femtomp.Logger shop till customer>
    """
    return Logger(logging.getLogger(name), fields)
