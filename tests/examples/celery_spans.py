"""A Celery application whose every task is a span, which it returns the ids of.

The server starts in `setup_logging`, in the worker's main process, before its pool.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import femtomp

trace.set_tracer_provider(TracerProvider())
log = logging.getLogger("shop.spans")
place = Path(os.environ["CELERY_DIRECTORY"])
app = Celery("shop", broker="filesystem://", backend=f"file://{place}/results")
app.conf.broker_transport_options = {
    "data_folder_in": str(place / "messages"),
    "data_folder_out": str(place / "messages"),
    "control_folder": str(place / "control"),
}
for folder in ("messages", "control", "results"):
    (place / folder).mkdir(parents=True, exist_ok=True)


@signals.setup_logging.connect
def start(**_):
    """Log to femtomp, and keep Celery from setting up logging."""
    femtomp.start_server()
    femtomp.worker_init()


@app.task
def sell():
    """Log outside of a span and inside one."""
    log.info("before")
    with trace.get_tracer("shop").start_as_current_span("task") as span:
        log.info("inside", extra={"pid": os.getpid()})
        context = span.get_span_context()
    return f"{context.trace_id:032x} {context.span_id:016x}"
