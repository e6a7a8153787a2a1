"""OpenTelemetry in the workers: its Logs API, and its spans' events as records.

In: calls of `opentelemetry._logs`, and spans of the SDK's tracer provider. Out: records
in this process's lane. Neither sets a global provider: that is the application's to do.
`LoggerProvider` needs opentelemetry-api alone, `SpanProcessor` the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from femtomp.otel.logs import Logger, LoggerProvider

if TYPE_CHECKING:
    from femtomp.otel.spans import SpanProcessor

__all__ = ["Logger", "LoggerProvider", "SpanProcessor"]


def __getattr__(name: str) -> Any:
    if name == "SpanProcessor":
        from femtomp.otel.spans import SpanProcessor

        return SpanProcessor
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
