"""Spans of OpenTelemetry's SDK: their events as records, their fields in other records.

::

    provider = opentelemetry.trace.get_tracer_provider()  # of the SDK, the user's own
    provider.add_span_processor(femtomp.otel.SpanProcessor())

In: spans as they end; for a log call's fields the span that is active. Out: a record
for each event, with the span's ids and the event's time, in this process's lane. The
spans themselves go where the tracer provider sends them, unchanged.

What must never happen: a wait for a lock that the caller holds. The SDK logs that a
span has too many attributes while it holds theirs, so they are read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError, MissingExtraError
from femtomp.otel.logs import LoggerProvider

try:
    from opentelemetry.context import attach, detach
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.trace import (
        NonRecordingSpan,
        get_current_span,
        set_span_in_context,
    )
except ImportError as exc:
    _msg = (
        "femtomp.otel.SpanProcessor needs opentelemetry-sdk: "
        'pip install "femtomp[otel]"'
    )
    raise MissingExtraError(_msg) from exc

from opentelemetry._logs import SeverityNumber

from femtomp.worker import context
from femtomp.worker.plain import key, plain

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from opentelemetry.context import Context

    from femtomp.worker.handler import Missing

NAME: Final = "span.name"
_EXCEPTION: Final = "exception"
# These say of a record where it was logged, and by whom.
_OF_RECORDS: Final = ("code.", "thread.", "exception.")


class SpanProcessor(sdk.SpanProcessor):
    """Turns what is said of spans into records: for `add_span_processor`.

    A span's events become records when it ends, each with the span's ids, scope, and
    its own time, name and attributes. A recorded exception is one of level ERROR, with
    `exception.*`; all others are INFO. Like the tracer provider it serves forked
    children too; nothing is done but what the call that ends a span does.

    Parameters
    ----------
    events : bool
        Make records of events.
    log_fields : bool or iterable of str
        Give every record, of any front end, the fields of the span that is active at
        the call: `span.name`, and its attributes, all or those named. Fields of
        `log_context` and of the call win over them.
    spool, missing
        As in `LoggerProvider`.

    Raises
    ------
    NoServerError
        If no address is to be found and `missing` is "raise".
    ConfigError
        If `log_fields` is a single text.

    Examples
    --------
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from femtomp.otel import SpanProcessor
    >>> provider = TracerProvider()
    >>> provider.add_span_processor(SpanProcessor(missing="ignore"))
    >>> with provider.get_tracer("shop").start_as_current_span("sale") as span:
    ...     span.add_event("paid", {"price": 4.2})
    """

    def __init__(
        self,
        *,
        events: bool = True,
        log_fields: bool | Iterable[str] = False,
        spool: str | os.PathLike[str] | None = None,
        missing: Missing = "raise",
    ) -> None:
        self._provider: Final = LoggerProvider(spool=spool, missing=missing)
        self._has_events: Final = bool(events)
        self._names: Final = (
            None if isinstance(log_fields, bool) else frozenset(_names(log_fields))
        )
        self._has_fields: Final = log_fields is not False
        if self._has_fields:
            context.read_fields[0] = self._fields

    def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
        """Do nothing: what there is to say of a span is known at its end."""

    def on_end(self, span: sdk.ReadableSpan) -> None:
        """Write a record for each of its events."""
        if not self._has_events or not span.events:
            return
        of = span.get_span_context()
        if of is None:
            return
        scope = span.instrumentation_scope
        logger = (
            self._provider.get_logger("opentelemetry")
            if scope is None
            else self._provider.get_logger(
                scope.name or "opentelemetry",
                scope.version,
                scope.schema_url,
                scope.attributes,
            )
        )
        if not logger.enabled():
            return
        fields = self._of(span) if self._has_fields else {}
        # Without the span that is active now: it is the parent of this one.
        token = attach(set_span_in_context(NonRecordingSpan(of)))
        try:
            for event in span.events:
                attributes = event.attributes or {}
                number, level, body = _described(event.name, attributes)
                logger.emit(
                    timestamp=event.timestamp,
                    severity_number=number,
                    severity_text=level,
                    body=body,
                    attributes={**fields, **attributes},
                    event_name=event.name,
                )
        finally:
            detach(token)

    def _fields(self) -> dict[str, Any]:
        """Return what a log call's record has beside what the call says."""
        bound = context.fields.get()
        span = get_current_span()
        return {**self._of(span), **bound} if span.is_recording() else bound

    def _of(self, span: Any) -> dict[str, Any]:
        """Return a span's fields, as plain values."""
        name = getattr(span, "name", None)
        # The SDK's own dict: to copy it is one operation, and needs no lock.
        inner = getattr(getattr(span, "_attributes", None), "_dict", None)
        given = inner.copy() if isinstance(inner, dict) else {}
        names = self._names
        found = {
            key(k): plain(v)
            for k, v in given.items()
            if (names is None or k in names) and not k.startswith(_OF_RECORDS)
        }
        return found if name is None else {NAME: plain(name), **found}

    def shutdown(self) -> None:
        """Take the fields back; the lane is the process's."""
        if context.read_fields[0] == self._fields:
            context.read_fields[0] = context.fields.get

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Return True: what was said is in the lane already."""
        return True


def _names(given: Iterable[str]) -> Iterable[str]:
    if isinstance(given, str):
        msg = f"SpanProcessor: log_fields must be a list of names, not {given!r}"
        raise ConfigError(msg)
    return given


def _described(
    name: str, attributes: Mapping[str, Any]
) -> tuple[SeverityNumber, str, str]:
    """Return an event's severity, its text, and what people read."""
    kind = attributes.get("exception.type")
    if name != _EXCEPTION or kind is None:
        return SeverityNumber.INFO, "INFO", name
    said = attributes.get("exception.message")
    body = f"{kind}: {said}" if said else str(kind)
    return SeverityNumber.ERROR, "ERROR", body
