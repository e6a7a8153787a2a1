"""A pool of forked workers, every sink at once, each read back from where it ends."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter

import pytest

import femtomp
from tests.components import require
from tests.processes.harness import Attached, fork, lines, until

WORKERS = 4
RECORDS = 250


def work(worker):
    log = logging.getLogger("shop.worker")
    for number in range(RECORDS):
        log.info(
            "record %d", number,
            extra={"worker": worker, "number": number, "ratio": 0.5, "flag": True},
        )  # fmt: skip
    try:
        try:
            int("x")
        except ValueError as exc:
            msg = "two\nPRIORITY=0\nlines"
            raise RuntimeError(msg) from exc
    except RuntimeError:
        log.exception("failed", extra={"worker": worker, "number": RECORDS})


def test_every_record_reaches_every_sink(tmp_path):
    """Journal, collector and file each get every record of four workers, exactly once."""
    require("journald")
    require("otlp")
    from tests.real.journald import Journald
    from tests.real.otlp import Receiver, attributes

    path = tmp_path / "app.jsonl"
    with Journald() as journald, Receiver() as http, Receiver() as grpc:
        sinks = [
            femtomp.FileSink(path),
            femtomp.JournaldSink(journald.socket),
            femtomp.OTLPSink(http.http_endpoint),
            femtomp.OTLPSink(grpc.grpc_endpoint, protocol="grpc"),
        ]
        resource = {"service.name": "shop", "deployment.environment.name": "test"}
        with femtomp.start_server(sinks, resource=resource) as server, Attached():
            pids = [fork(work, worker) for worker in range(WORKERS)]
            for pid in pids:
                assert os.waitpid(pid, 0)[1] == 0
            assert server.flush(30)
            stats = server.stats()
        expected = Counter((w, n) for w in range(WORKERS) for n in range(RECORDS + 1))
        for sink in stats.sinks.values():
            assert sink.delivered == len(expected)
        records = lines(path)
        by_uid = {record["uid"]: record for record in records}
        assert (
            Counter(
                (r["attributes"]["worker"], r["attributes"]["number"]) for r in records
            )
            == expected
        )

        journald.sync()
        entries = list(journald.entries("LOGGER=shop.worker"))
        assert (
            Counter((int(e["WORKER"]), int(e["NUMBER"])) for e in entries) == expected
        )
        for entry in entries:
            record = by_uid[entry["LOG_RECORD_UID"]]
            stack = entry.get("EXCEPTION_STACKTRACE")
            said = record["body"] if stack is None else f"{record['body']}\n{stack}"
            assert entry["MESSAGE"] == said.rstrip("\n")
            assert int(entry["WORKER_PID"]) == record["resource"]["process.pid"]
            assert entry["SERVICE_NAME"] == "shop"
        failed = [e for e in entries if "EXCEPTION_STACKTRACE" in e]
        assert len(failed) == WORKERS
        assert {e["PRIORITY"] for e in failed} == {"3"}
        assert {e["EXCEPTION_MESSAGE"] for e in failed} == {"two\nPRIORITY=0\nlines"}
        assert all(
            "The above exception was the direct cause" in e["EXCEPTION_STACKTRACE"]
            for e in failed
        )

        for receiver in (http, grpc):
            got = [r for r in receiver.records() if r[1] == "shop.worker"]
            assert len(got) == len(expected)
            for resource_attributes, _, log_record in got:
                values = attributes(log_record.attributes)
                record = by_uid[values["log.record.uid"]]
                assert log_record.body.string_value == record["body"]
                assert (
                    resource_attributes["process.pid"]
                    == record["resource"]["process.pid"]
                )
                assert values["number"] == record["attributes"]["number"]
                if "ratio" in values:
                    assert (values["ratio"], values["flag"]) == (0.5, True)
            instances = {
                (r["process.pid"], r["service.instance.id"]) for r, _, _ in got
            }
            assert {pid for pid, _ in instances} == set(pids)
            assert len(instances) == WORKERS


SPANS = """
    import json, logging, os, sys
    import femtomp
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("shop")
    log = logging.getLogger("shop")
    with femtomp.start_server(sys.argv[1:]) as server:
        log.addHandler(femtomp.worker_handler())
        log.setLevel("INFO")
        with tracer.start_as_current_span("parent"), femtomp.log_context(request="r1"):
            log.info("in the parent's span")
            if not os.fork():
                log.info("in a child, without one")
                with tracer.start_as_current_span("child") as span:
                    log.info("in the child's span", extra={'span': f'{span.get_span_context().span_id:016x}'})
                os._exit(0)
            os.wait()
        log.info("outside")
"""


def test_ids_are_those_of_the_call(tmp_path):
    """Trace and span ids are the active span's; a forked child starts without one."""
    require("otlp")
    from tests.processes.harness import run_script
    from tests.real.otlp import Receiver

    path = tmp_path / "app.jsonl"
    with Receiver() as receiver:
        run_script(SPANS, f"file:{path}", f"otlp:{receiver.http_endpoint}")
        exported = {
            r.body.string_value: r
            for _, scope, r in receiver.records()
            if scope == "shop"
        }
    records = {r["body"]: r for r in lines(path)}
    parent = records["in the parent's span"]
    child = records["in the child's span"]
    assert len(parent["trace_id"]) == 32
    assert parent["attributes"]["request"] == "r1"
    assert parent["trace_flags"] & 1
    assert "trace_id" not in records["in a child, without one"]
    assert "request" not in records["in a child, without one"]["attributes"]
    assert "trace_id" not in records["outside"]
    assert child["trace_id"] != parent["trace_id"]
    assert child["span_id"] == child["attributes"]["span"]
    for body, record in records.items():
        assert exported[body].trace_id.hex() == record.get("trace_id", "")
        assert exported[body].span_id.hex() == record.get("span_id", "")


def test_a_dead_sink_holds_up_no_other(tmp_path):
    """With the collector down the file gets everything at once; later so does it."""
    require("otlp")
    from tests.real.otlp import free_port

    port = free_port()
    path = tmp_path / "app.jsonl"
    sinks = [femtomp.FileSink(path), femtomp.OTLPSink(f"http://127.0.0.1:{port}")]
    with femtomp.start_server(sinks) as server, Attached() as log:
        for number in range(100):
            log.info("record %d", number, extra={"number": number})
        until(lambda: server.stats().sinks["file"].delivered == 100, "the file has all")
        assert server.stats().sinks["otlp"].pending == 100
        assert not server.flush(timeout=0.1)


def test_journald_may_be_restarted(tmp_path):
    """Records made while journald is down arrive when it is back."""
    require("journald")
    from tests.real.journald import Journald

    with Journald() as journald:
        sink = femtomp.JournaldSink(journald.socket)
        with femtomp.start_server(sink) as server, Attached() as log:
            log.info("before")
            assert server.flush(10)
            journald.sync()  # delivered is what its socket took, not what it has read
            journald.kill()
            for number in range(50):
                log.info("meanwhile %d", number)
            assert not server.flush(0.2)
            journald.start()
            log.info("after")
            assert server.flush(20)
        journald.sync()
        messages = [e["MESSAGE"] for e in journald.entries("LOGGER=shop")]
    assert messages == ["before", *(f"meanwhile {n}" for n in range(50)), "after"]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_the_console_is_the_masters_stream(stream, tmp_path):
    """The console sink writes JSON lines where the master's stream leads."""
    program = (
        "import femtomp, logging\n"
        f"with femtomp.start_server(femtomp.ConsoleSink({stream!r}, format='json')):\n"
        "    femtomp.worker_init()\n"
        "    logging.warning('hello', extra={'n': 1})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        # Spools that others left would be spoken of on stderr.
        env={**os.environ, "FEMTOMP_SPOOL_PARENT": str(tmp_path)},
    )
    written = [json.loads(line) for line in getattr(done, stream).splitlines()]
    assert [(r["body"], r["attributes"].get("n")) for r in written][-1] == ("hello", 1)
    assert getattr(done, {"stderr": "stdout", "stdout": "stderr"}[stream]) == ""
