"""A WSGI application whose every request is a span, and which answers with its ids."""

from __future__ import annotations

import logging
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
log = logging.getLogger("shop.spans")


def app(_environ, start_response):
    """Log inside a span and outside of one."""
    log.info("before")
    with trace.get_tracer("shop").start_as_current_span("request") as span:
        log.info("inside", extra={"pid": os.getpid()})
        context = span.get_span_context()
    answer = f"{context.trace_id:032x} {context.span_id:016x}".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
