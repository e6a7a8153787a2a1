"""Spans of real pools' workers, in their logs: in the journal, the file and OTLP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.components import require
from tests.examples.pool import ROOT, Gunicorn

REQUESTS = 12
LOGGER = "shop.spans"
SEND = """
from tests.examples.celery_spans import sell

for result in [sell.delay() for _ in range(12)]:
    print(result.get(timeout=60))
"""


class Place(NamedTuple):
    """The destinations of a pool."""

    journald: object
    receiver: object
    path: object

    @property
    def environ(self):
        """What a pool has to be told."""
        return {
            "FEMTOMP_SINKS": f"journald:{self.journald.socket},otlp,file:{self.path}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.http_endpoint,
        }

    def lines(self):
        """Give the file's records of the pool's own logger."""
        records = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [r for r in records if r["logger"] == LOGGER]

    def ids(self):
        """Give by destination the ids of what was logged inside a span."""
        self.journald.sync()
        entries = self.journald.entries(f"LOGGER={LOGGER}", "MESSAGE=inside")
        return {
            "journal": {f"{e['TRACE_ID']} {e['SPAN_ID']}" for e in entries},
            "file": {
                f"{r['trace_id']} {r['span_id']}"
                for r in self.lines()
                if r["body"] == "inside"
            },
            "otlp": {
                f"{record.trace_id.hex()} {record.span_id.hex()}"
                for _, scope, record in self.receiver.records()
                if scope == LOGGER and record.body.string_value == "inside"
            },
        }


@pytest.fixture(name="place")
def _place(tmp_path):
    for component in ("journald", "otlp"):
        require(component)
    from tests.real.journald import Journald
    from tests.real.otlp import Receiver

    with Journald() as journald, Receiver() as receiver:
        yield Place(journald, receiver, tmp_path / "app.jsonl")


def check(place, spans):
    """Each log inside a span has its ids, everywhere; those outside have none."""
    assert len(spans) == REQUESTS
    assert place.ids() == dict.fromkeys(("journal", "file", "otlp"), spans)
    inside = [r for r in place.lines() if r["body"] == "inside"]
    assert all(r["attributes"]["pid"] == r["resource"]["process.pid"] for r in inside)
    before = [r for r in place.lines() if r["body"] == "before"]
    assert len(before) == REQUESTS
    assert not any("trace_id" in r for r in before)


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["lazy", "preloaded"])
def test_logs_of_a_gunicorn_worker_have_its_spans_ids(
    place, tmp_path, arguments
) -> None:
    """Each request's log has the ids of its span in every sink; others have none."""
    require("gunicorn")
    app = "tests.examples.spans:app"
    environ = place.environ
    sinks = environ.pop("FEMTOMP_SINKS")
    with Gunicorn(
        tmp_path, "--workers=2", *arguments, sinks=sinks, app=app, **environ
    ) as pool:
        pool.await_workers(2)
        spans = set()
        for _ in range(REQUESTS):
            address = f"http://127.0.0.1:{pool.port}/"
            with urllib.request.urlopen(address, timeout=20) as answer:
                spans.add(answer.read().decode())
        assert pool.terminate() == 0
    check(place, spans)


def test_logs_of_a_celery_task_have_its_spans_ids(place, tmp_path) -> None:
    """So has each task's, in the processes of a real prefork pool."""
    require("celery")
    environ = {
        **os.environ,
        **place.environ,
        "PYTHONPATH": str(ROOT),
        "CELERY_DIRECTORY": str(tmp_path / "celery"),
        "C_FORCE_ROOT": "1",
    }
    with celery(tmp_path, environ):
        sent = subprocess.run(
            [sys.executable, "-c", SEND],
            env=environ, check=True, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
    check(place, set(sent.stdout.split("\n")) - {""})


@contextmanager
def celery(directory, environ):
    """Run a Celery worker with two processes; it has ended at the end."""
    arguments = ["-m", "celery", "-A", "tests.examples.celery_spans", "--quiet"]
    with (directory / "said").open("wb") as said:
        worker = subprocess.Popen(
            [sys.executable, *arguments, "worker", "-linfo", "-c2"],
            cwd=ROOT, env=environ, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        yield
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)
