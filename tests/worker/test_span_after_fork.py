"""What a forked child has of the span that was active when it was forked."""

from __future__ import annotations

import logging
import os

import pytest

import femtomp
from femtomp import ConfigError
from tests.components import missing, require
from tests.processes.harness import fork, lines, run_script

if missing("otlp") is None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )
    from opentelemetry.trace import get_current_span


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


def child(tracer, exporter):
    """Log, within no span of one's own and within one; fork once more."""
    log = logging.getLogger("shop")
    log.addHandler(femtomp.worker_handler())
    log.warning("child")
    with tracer.start_as_current_span("own") as own:
        log.warning("within")
    parent = own.parent
    log.warning("parent of own %s", f"{parent.span_id:016x}" if parent else None)
    get_current_span().end()
    log.warning("exported %s", [s.name for s in exporter.get_finished_spans()])
    pid = fork(log.warning, "grandchild")
    assert os.waitpid(pid, 0)[1] == 0


def logged_in_children(path, **options):
    """Run it; return the records by message, and the ids of the parent's span."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    with femtomp.start_server(femtomp.FileSink(path), **options) as server:
        with tracer.start_as_current_span("parent") as span:
            pid = fork(child, tracer, exporter)
            assert os.waitpid(pid, 0)[1] == 0
        assert server.flush(20)
    assert [s.name for s in exporter.get_finished_spans()] == ["parent"]
    of = span.get_span_context()
    found = {r["body"]: r for r in lines(path) if r["logger"] == "shop"}
    return found, {"trace_id": f"{of.trace_id:032x}", "span_id": f"{of.span_id:016x}"}


def ids(record):
    """Give a record's ids, those that it has."""
    return {k: record[k] for k in ("trace_id", "span_id") if k in record}


def link(record):
    """Give what a record has of a parent's span, without the prefix."""
    prefix = "femtomp.parent."
    found = record["attributes"].items()
    return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}


def test_span_is_dropped(tmp_path) -> None:
    """By default a child begins without a span, and its spans are roots."""
    found, _ = logged_in_children(tmp_path / "app.jsonl")
    for message in ("child", "grandchild"):
        assert ids(found[message]) == {} == link(found[message])
    assert "parent of own None" in found


def test_span_is_inherited(tmp_path) -> None:
    """Logs have its ids, spans are its children, and nobody but the parent ends it."""
    found, of = logged_in_children(tmp_path / "app.jsonl", span_after_fork="inherit")
    for message in ("child", "grandchild"):
        assert ids(found[message]) == of
        assert link(found[message]) == {}
    assert found["within"]["trace_id"] == of["trace_id"]
    assert f"parent of own {of['span_id']}" in found
    assert "exported ['own']" in found


def test_span_is_kept_as_a_link(tmp_path) -> None:
    """Its ids are attributes, and the child's own spans are roots."""
    found, of = logged_in_children(tmp_path / "app.jsonl", span_after_fork="link")
    for message in ("child", "within", "grandchild"):
        assert link(found[message]) == of
    assert ids(found["child"]) == {} == ids(found["grandchild"])
    assert found["within"]["trace_id"] != of["trace_id"]
    assert "parent of own None" in found


def test_bad_choice_is_named() -> None:
    """The error says what is allowed."""
    with pytest.raises(ConfigError, match="must be one of drop, link, inherit"):
        femtomp.start_server("console", span_after_fork="keep")


WITHOUT = """
import logging, os, sys

for name in ("opentelemetry", "opentelemetry.trace", "opentelemetry.context"):
    sys.modules[name] = None
import femtomp

with femtomp.start_server(f"file:{sys.argv[1]}", span_after_fork=sys.argv[2]) as server:
    logging.getLogger("shop").addHandler(femtomp.worker_handler())
    with femtomp.log_context(a=1), femtomp.log_context(b=2).inherited():
        if not os.fork():
            logging.getLogger("shop").warning("child")
            os._exit(0)
        assert os.wait()[1] == 0
    assert server.flush(20)
"""


@pytest.mark.parametrize("choice", ["drop", "link", "inherit"])
def test_without_opentelemetry_nothing_changes(tmp_path, choice) -> None:
    """A child is forked as ever, with the fields that it is to inherit."""
    path = tmp_path / "app.jsonl"
    run_script(WITHOUT, path, choice)
    (found,) = [r for r in lines(path) if r["body"] == "child"]
    assert found["attributes"]["b"] == 2
    assert "a" not in found["attributes"]
    assert ids(found) == {} == link(found)
