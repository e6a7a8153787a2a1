"""OpenTelemetry's Logs API, for workers: what is emitted goes into the lane.

::

    from opentelemetry._logs import set_logger_provider

    set_logger_provider(femtomp.otel.LoggerProvider())  # in the master or any worker

In: calls of `opentelemetry._logs`, by libraries, by a handler of OpenTelemetry's or by
the application. Out: records in this process's lane, with the trace context of the
call. No SDK pipeline is needed in the worker: no processor, no exporter, no thread. A
record is safe when `emit` returns; what must never happen is an exception in its
caller. Nothing here sets the global provider: that is the application's to do.

Which clause of the specification is kept where: docs/conformance.md.
https://opentelemetry.io/docs/specs/otel/logs/api/
"""

from __future__ import annotations

import os
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.errors import MissingExtraError

try:
    from opentelemetry import _logs as api
    from opentelemetry.context import get_current
    from opentelemetry.trace import get_current_span
except ImportError as exc:
    _msg = 'femtomp.otel needs opentelemetry-api: pip install "femtomp[otel]"'
    raise MissingExtraError(_msg) from exc

from femtomp.record import DEFAULT_LIMITS, SEVERITY_MAX
from femtomp.record import severity_number as to_severity
from femtomp.worker import capture
from femtomp.worker.channel import channel, say
from femtomp.worker.context import read_fields
from femtomp.worker.fork import catch_up, mark
from femtomp.worker.handler import worker_handler
from femtomp.worker.plain import Room, described, plain, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context

    from femtomp.worker.handler import Missing

# Names of loggers are those of modules; whoever makes them up gets one a call.
MAX_LOGGERS: Final = 1024
# The year 2262: what sinks with signed 64 bit clocks can say.
_LAST_NANOSECOND: Final = (1 << 63) - 1
# SeverityNumber, four a level, as a level of `logging`: a lane keeps room for ERROR.
_LEVELS: Final = (0, *(level for level in (5, 10, 20, 30, 40, 50) for _ in range(4)))


class LoggerProvider(api.LoggerProvider):
    """Gives the loggers that write into this process's lane.

    One object serves the master and all forked children. All methods are safe to be
    called by several threads at once. With `OTEL_SDK_DISABLED=true` when it is made it
    does nothing, as the SDK's: its loggers keep no record, and no server is needed.

    Parameters
    ----------
    spool : path-like, optional
        The server's spool; `FEMTOMP_SPOOL`, which `start_server` sets, if not given.
    severity_number : int
        Records with a lower one are not `enabled`, and not kept; those without one are.
    missing : {"raise", "stderr", "ignore"}
        What to do where there is no address.

    Raises
    ------
    NoServerError
        If no address is to be found and `missing` is "raise".

    Examples
    --------
    >>> from femtomp.otel import LoggerProvider
    >>> logger = LoggerProvider(missing="ignore").get_logger("shop", "1.2")
    >>> logger.emit(body={"sold": 3}, event_name="sale")
    """

    def __init__(
        self,
        *,
        spool: str | os.PathLike[str] | None = None,
        severity_number: int = 0,
        missing: Missing = "raise",
    ) -> None:
        disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower()
        self._is_disabled: Final = disabled == "true"
        if self._is_disabled:
            missing = "ignore"
        self._handler: Final = worker_handler(spool=spool, missing=missing)
        self._least: Final = int(severity_number)
        self._loggers: dict[Any, Logger] = {}

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        *,
        include_trace_context: bool = True,
    ) -> Logger:
        """Return the logger of an instrumentation scope.

        Equal arguments give the same object; other attributes another one, whose
        records say so.

        Parameters
        ----------
        name : str
            Of the library or module that logs.
        version, schema_url : str, optional
        attributes : mapping, optional
            Of the scope.
        include_trace_context : bool
            Take the ids of the span that is active at the call. False: only those of a
            context that the call is given.
        """
        given = "" if name is None else text(name)
        if not issubclass(type(name), str) or not given:
            say(f"a logger's name must be a text that is not empty, not {given!r}")
        scope = (
            given,
            None if version is None else text(version),
            None if schema_url is None else text(schema_url),
            _of_scope(attributes),
        )
        key = (*scope[:3], repr(scope[3]), bool(include_trace_context))
        found = self._loggers.get(key)
        if found is None:
            made = Logger(self, scope, include_trace_context=include_trace_context)
            if len(self._loggers) >= MAX_LOGGERS:
                return made
            # One operation: no lock that a fork could take along.
            found = self._loggers.setdefault(key, made)
        return found

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Return True: what was emitted is in the lane already, and safe there.

        `Server.flush` waits until it is delivered.
        """
        return True

    def shutdown(self) -> None:
        """Do nothing: the lane is the process's, and the supervisor drains it."""


class Logger(api.Logger):
    """Emits the records of one instrumentation scope; made by `LoggerProvider`.

    `emit` never raises for what it is given, and is safe under threads, forks and
    signals.
    """

    def __init__(
        self,
        provider: LoggerProvider,
        scope: tuple[str, str | None, str | None, dict[str, Any] | None],
        *,
        include_trace_context: bool,
    ) -> None:
        super().__init__(*scope)
        self._handler: Final = provider._handler  # noqa: SLF001 - one module
        self._is_ignored: Final = self._handler._missing == "ignore"  # noqa: SLF001
        self._is_disabled: Final = provider._is_disabled  # noqa: SLF001 - one module
        self._least: Final = provider._least  # noqa: SLF001
        self._includes: Final = bool(include_trace_context)
        self._scope: Final = scope if any(scope[1:]) else None

    def emit(
        self,
        record: LogRecord | None = None,
        *,
        timestamp: int | None = None,
        observed_timestamp: int | None = None,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        severity_text: str | None = None,
        body: Any = None,
        attributes: Mapping[str, Any] | None = None,
        event_name: str | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Keep a record, given whole or by its parts, all of which are optional.

        Parameters
        ----------
        record : LogRecord, optional
            The API's, or one that an SDK has wrapped. With it the others do not count.
        timestamp, observed_timestamp : int, optional
            Nanoseconds since the epoch. Not given: now, and when the supervisor has it.
        context : Context, optional
            Whose span it is about; the current one if not given.
        severity_number : SeverityNumber or int, optional
        severity_text, event_name : str, optional
        body, attributes
            Any values; made plain here, now.
        exception : BaseException, optional
            Becomes the attributes exception.*, but for those that are given.
        """
        if not self._is_heard():
            return
        try:
            if record is not None:
                parts = self._of_record(getattr(record, "log_record", record))
            else:
                span = self._span(context)
                parts = _Parts(
                    timestamp, observed_timestamp, span, severity_number,
                    severity_text, body, attributes, event_name, exception,
                )  # fmt: skip
            number = _severity(parts.severity_number)
            if 0 < number < self._least:
                return
            payload = self._payload(parts, number)
        except Exception as exc:
            # Code of the caller's values: the record is kept, marked.
            problem = {"femtomp.capture_error": described(exc)}
            payload = self._payload(_Parts(body=text(body), attributes=problem), 0)
        if not mark[0]:
            catch_up()
        self._handler.keep_anew(payload)

    def enabled(
        self,
        *,
        context: Context | None = None,  # noqa: ARG002 - the API's
        severity_number: SeverityNumber | None = None,
        event_name: str | None = None,  # noqa: ARG002
    ) -> bool:
        """Tell whether a record of this severity would be kept at all."""
        if not self._is_heard():
            return False
        number = _severity(severity_number)
        return not 0 < number < self._least

    def _is_heard(self) -> bool:
        """Tell whether anything is done with records; a server may start later."""
        if self._is_disabled:
            return False
        way = self._handler
        return not self._is_ignored or way.spool is not None or way.address is not None

    def _of_record(self, record: Any) -> _Parts:
        """Take a LogRecord apart; it read the context when it was made."""
        span: tuple[int, int, int] | None
        span = (record.trace_id, record.span_id, int(record.trace_flags or 0))
        is_implicit = record.context is None or record.context == get_current()
        has_ids = record.trace_id and record.span_id
        if not has_ids or (is_implicit and not self._includes):
            span = None
        return _Parts(
            record.timestamp, record.observed_timestamp, span, record.severity_number,
            record.severity_text, record.body, record.attributes, record.event_name,
            getattr(record, "exception", None),  # since 1.42
        )  # fmt: skip

    def _span(self, context: Context | None) -> tuple[int, int, int] | None:
        if context is None and not self._includes:
            return None
        # A context that is given counts, though it be empty: then there is no span.
        found = get_current_span(context).get_span_context()
        if not found.trace_id or not found.span_id:
            return None
        return found.trace_id, found.span_id, int(found.trace_flags)

    def _payload(self, parts: _Parts, number: int) -> bytes:
        path = self._handler.spool
        limits = DEFAULT_LIMITS if path is None else channel(path).known_limits()
        level = _LEVELS[number]
        more: dict[str, Any] = {}
        if number != to_severity(level):
            more["severity"] = number
        if self._scope is not None:
            more["scope"] = list(self._scope)
        if parts.span is not None:
            more["trace"] = parts.span
        if parts.event_name is not None:
            more["event_name"] = text(parts.event_name)
        if parts.observed_timestamp is not None:
            more["observed"] = _nanoseconds(parts.observed_timestamp)
        cut: dict[str, int] = {}
        given = {**read_fields[0](), **(parts.attributes or {})}
        kept = capture.attributes(given, more, limits, cut)
        error = parts.exception
        if error is not None:
            exc_info = (type(error), error, error.__traceback__)
            capture.add_exception(more, cut, exc_info, None, limits)
        body = plain(parts.body, Room(limits._replace(attribute_value_length=None)))
        if type(body) is str:
            body = capture.cut_end(body, limits.body_length, "body", cut)
        if cut:
            kept[capture.TRUNCATED] = cut
        timestamp = parts.timestamp
        if timestamp is None:  # it is the time of the call, whoever made the record
            timestamp = parts.observed_timestamp or time_ns()
        return capture.sized((
            1, _nanoseconds(timestamp), level, text(parts.severity_text or ""),
            self._name, body, None, None, None, None, None, None,
            kept or None, more or None,
        ))  # fmt: skip


class _Parts(NamedTuple):
    """What one call says."""

    timestamp: int | None = None
    observed_timestamp: int | None = None
    span: tuple[int, int, int] | None = None
    severity_number: Any = None
    severity_text: str | None = None
    body: Any = None
    attributes: Mapping[str, Any] | None = None
    event_name: str | None = None
    exception: BaseException | None = None


def _of_scope(attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    try:
        return plain(dict(attributes)) if attributes else None
    except Exception as exc:
        say(f"a logger goes without its attributes: {described(exc)}")
        return None


def _nanoseconds(given: int) -> int:
    return min(max(int(given), 0), _LAST_NANOSECOND)


def _severity(given: Any) -> int:
    """Return a SeverityNumber, or what was given for one, as 0 to 24."""
    number = getattr(given, "value", given)
    return min(max(number, 0), SEVERITY_MAX) if type(number) is int else 0
