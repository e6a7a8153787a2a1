"""Spans of a real gunicorn's workers, in their logs."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.components import require
from tests.examples.pool import Gunicorn

REQUESTS = 12


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["lazy", "preloaded"])
def test_logs_of_a_gunicorn_worker_have_its_spans_ids(tmp_path, arguments) -> None:
    """In file and OTLP, each request's log has the ids of its span; others have none."""
    require("gunicorn")
    require("otlp")
    from tests.real.otlp import Receiver

    path = tmp_path / "app.jsonl"
    with Receiver() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        sinks = f"file:{path},otlp"
        app = "tests.examples.spans:app"
        with Gunicorn(tmp_path, *arguments, sinks=sinks, app=app, **environ) as pool:
            spans = set()
            for _ in range(REQUESTS):
                address = f"http://127.0.0.1:{pool.port}/"
                with urllib.request.urlopen(address, timeout=20) as answer:
                    spans.add(answer.read().decode())
            assert pool.terminate() == 0
        exported = {
            f"{record.trace_id.hex()} {record.span_id.hex()}"
            for _, scope, record in receiver.records()
            if scope == "shop.spans" and record.body.string_value == "inside"
        }
    records = [json.loads(line) for line in path.read_text().splitlines()]
    inside = [r for r in records if r["body"] == "inside"]
    assert len(spans) == len(inside) == REQUESTS
    assert {f"{r['trace_id']} {r['span_id']}" for r in inside} == spans == exported
    assert all(r["attributes"]["pid"] == r["resource"]["process.pid"] for r in inside)
    before = [r for r in records if r["body"] == "before"]
    assert len(before) == REQUESTS
    assert not any("trace_id" in r for r in before)
