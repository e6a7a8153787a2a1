"""Spans of the SDK: their events as records, their fields in other records."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

import pytest

import femtomp
from femtomp import ConfigError
from femtomp.testing import captured_records
from tests.components import missing, require
from tests.processes.harness import fork, lines, run_script

if missing("otlp") is None:
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    from femtomp.otel import LoggerProvider, SpanProcessor


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


@pytest.fixture(name="records")
def _records():
    with captured_records() as found:
        yield found


@pytest.fixture(name="traced")
def _traced(records):
    """Give what makes a tracer, and takes its processor away at the end."""
    made = []

    def trace(**options):
        provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=4))
        made.append(SpanProcessor(**options))
        provider.add_span_processor(made[-1])
        return provider.get_tracer("shop.pay", "1.2", attributes={"tier": "gold"})

    yield trace
    for processor in reversed(made):
        processor.shutdown()


def ids(span):
    """Give a span's ids as records have them."""
    of = span.get_span_context()
    return f"{of.trace_id:032x}", f"{of.span_id:016x}"


def test_event_becomes_a_record(traced, records) -> None:
    """With the span's ids and scope, its own name, time and attributes."""
    with traced().start_as_current_span("sale") as span:
        span.add_event("paid", {"price": 4.2, "items": ("tea", "milk")}, timestamp=5)
        assert not records, "an event is said when its span ends"
    (found,) = records
    assert (found.trace_id, found.span_id) == ids(span)
    assert found.trace_flags == int(span.get_span_context().trace_flags)
    assert found.timestamp == 5
    assert found.event_name == found.body == "paid"
    assert found.attributes == {"price": 4.2, "items": ["tea", "milk"]}
    assert (found.severity_number, found.severity_text) == (9, "INFO")
    assert found.logger == "shop.pay"
    assert found.scope.version == "1.2"
    assert found.scope.attributes == {"tier": "gold"}


def test_recorded_exception_becomes_an_error(traced, records) -> None:
    """Type, message and stack trace are where every record has them."""
    tracer = traced()
    with pytest.raises(KeyError), tracer.start_as_current_span("sale") as span:
        raise KeyError("tea")
    (found,) = records
    assert (found.severity_number, found.severity_text) == (17, "ERROR")
    assert found.body == "KeyError: 'tea'"
    assert found.event_name == "exception"
    assert found.attributes["exception.type"] == "KeyError"
    assert found.attributes["exception.message"] == "'tea'"
    assert 'raise KeyError("tea")' in found.attributes["exception.stacktrace"]
    assert (found.trace_id, found.span_id) == ids(span)


def test_inner_span_has_its_own_ids(traced, records) -> None:
    """The span that is active while another ends is not the event's."""
    tracer = traced(log_fields=True)
    with tracer.start_as_current_span("outer", attributes={"order": 1}):
        with tracer.start_as_current_span("inner", attributes={"item": "tea"}) as inner:
            inner.add_event("weighed")
        logging.getLogger("shop").warning("outside")
    event, outside = records
    assert (event.trace_id, event.span_id) == ids(inner)
    assert event.attributes == {"span.name": "inner", "item": "tea"}
    assert outside.attributes["span.name"] == "outer"
    assert outside.attributes["order"] == 1


def test_events_can_be_left_out(traced, records) -> None:
    """Who wants the fields alone says so."""
    with traced(events=False).start_as_current_span("sale") as span:
        span.add_event("paid")
    assert not records


def test_span_that_is_not_sampled_says_nothing(records) -> None:
    """Its events were never kept, and it has no fields."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    processor = SpanProcessor(log_fields=True)
    provider.add_span_processor(processor)
    with provider.get_tracer("shop").start_as_current_span("sale") as span:
        span.add_event("paid")
        logging.getLogger("shop").warning("sold")
    processor.shutdown()
    (found,) = records
    assert found.body == "sold"
    assert "span.name" not in found.attributes


def by_logging():
    """Log by the standard logger."""
    logging.getLogger("shop").warning("sold", extra={"item": "milk"})


def by_logging_with_care():
    """Log what is not plain."""
    logging.getLogger("shop").warning("sold", extra={"item": "milk", "more": object()})


def by_logger():
    """Log by femtomp's."""
    femtomp.get_logger("shop").warning("sold", item="milk")


def by_api():
    """Log by OpenTelemetry's API."""
    LoggerProvider().get_logger("shop").emit(body="sold", attributes={"item": "milk"})


WAYS = [by_logging, by_logging_with_care, by_logger, by_api]


@pytest.mark.parametrize("way", WAYS)
def test_span_is_in_the_fields_of_every_front_end(traced, records, way) -> None:
    """The name and the attributes as they are at the call; the call's own win."""
    tracer = traced(log_fields=True)
    given = {"item": "tea", "till": 3, "code.line.number": 1}
    with tracer.start_as_current_span("sale", attributes=given) as span:
        with femtomp.log_context(till=4):
            way()
        span.set_attribute("till", 5)
        way()
    way()
    found = [
        {k: r.attributes.get(k) for k in ("span.name", "item", "till")} for r in records
    ]
    assert found == [
        {"span.name": "sale", "item": "milk", "till": 4},
        {"span.name": "sale", "item": "milk", "till": 5},
        {"span.name": None, "item": "milk", "till": None},
    ]
    assert all(r.attributes.get("code.line.number") != 1 for r in records)


def test_fields_by_name(traced, records) -> None:
    """Those that are named; the span's name is always there."""
    tracer = traced(log_fields=["till"])
    with tracer.start_as_current_span("sale", attributes={"item": "tea", "till": 3}):
        by_logger()
    (found,) = records
    assert found.attributes["till"] == 3
    assert found.attributes["span.name"] == "sale"
    with pytest.raises(ConfigError, match="must be a list of names, not 'till'"):
        SpanProcessor(log_fields="till")


def test_fields_are_opt_in(traced, records) -> None:
    """Without the option a record has ids of the span, and nothing else of it."""
    with traced().start_as_current_span("sale", attributes={"till": 3}) as span:
        by_logger()
    (found,) = records
    assert (found.trace_id, found.span_id) == ids(span)
    assert not {"till", "span.name"} & found.attributes.keys()


def test_attributes_are_read_without_their_lock(traced, records) -> None:
    """The SDK logs that a span has too many attributes while it holds their lock."""
    tracer = traced(log_fields=True)

    def work():
        with (
            tracer.start_as_current_span("sale", attributes={"till": 3}) as span,
            span._attributes._lock,
        ):
            by_logger()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert [r.attributes["till"] for r in records] == [3]


def test_spans_go_where_they_went(traced, records) -> None:
    """The trace pipeline gets the same spans, with their events."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("shop").start_as_current_span("sale") as span:
        span.add_event("paid", {"price": 4.2})
    (found,) = exporter.get_finished_spans()
    assert found.name == "sale"
    assert [(e.name, dict(e.attributes)) for e in found.events] == [
        ("paid", {"price": 4.2})
    ]
    assert len(records) == 1


def test_events_of_a_forked_worker_arrive(tmp_path) -> None:
    """One processor, added in the master, serves its forks: their own lane, no thread."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        provider = TracerProvider()
        processor = SpanProcessor(log_fields=True)
        provider.add_span_processor(processor)
        tracer = provider.get_tracer("shop")

        def work():
            with tracer.start_as_current_span("sale", attributes={"till": 3}) as span:
                span.add_event("paid")
                femtomp.worker_init()
                logging.getLogger("shop").warning("sold")
                told = dict(zip(("trace_id", "span_id"), ids(span), strict=True))
            (tmp_path / f"{os.getpid()}").write_text(json.dumps(told))

        pids = [fork(work) for _ in range(2)]
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        processor.shutdown()
        assert server.flush(20)
    found = lines(path)
    for pid in pids:
        of_pid = [
            r
            for r in found
            if r["resource"]["process.pid"] == pid and r["logger"] == "shop"
        ]
        told = json.loads((tmp_path / str(pid)).read_text())
        assert sorted(r["body"] for r in of_pid) == ["paid", "sold"]
        for record in of_pid:
            assert {k: record[k] for k in told} == told
            assert record["attributes"]["span.name"] == "sale"
            assert record["attributes"]["till"] == 3


WITHOUT_SDK = """
import sys

sys.modules["opentelemetry.sdk"] = None
from femtomp.otel import LoggerProvider

assert LoggerProvider(missing="ignore").get_logger("shop")
try:
    from femtomp.otel import SpanProcessor
except ImportError as exc:
    print(exc)
"""


def test_logs_api_needs_no_sdk() -> None:
    """`femtomp.otel` loads without opentelemetry-sdk; `SpanProcessor` says what to do."""
    said = run_script(WITHOUT_SDK)
    assert "femtomp.otel.SpanProcessor needs opentelemetry-sdk" in str(said)
    assert sys.modules["femtomp.otel"].__all__ == [
        "Logger",
        "LoggerProvider",
        "SpanProcessor",
    ]
