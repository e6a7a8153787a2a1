"""The server's own figures, as OpenTelemetry metrics, at a real receiver."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

import pytest

import femtomp
from femtomp import ConfigError
from femtomp.lanes.spool import ENGINE, Spool
from tests.components import missing, require
from tests.processes.harness import fork, until

if missing("otlp") is None:
    import grpc

    from tests.real.otlp import (
        GrpcAnswer,
        HttpAnswer,
        Receiver,
        attributes,
        free_port,
        points,
    )

COUNT = 300
PROCESSED = "otel.sdk.processor.log.processed"
EXPORTED = "otel.sdk.exporter.log.exported"
WORKERS = {"name": "femtomp.WorkerHandler", "type": "femtomp.WorkerHandler"}
FILE = {"name": "file", "type": "femtomp.FileSink"}


@pytest.fixture(autouse=True)
def _otlp(monkeypatch):
    require("otlp")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")


def work():
    """Log below and above a sink's level."""
    log = logging.getLogger("shop")
    log.addHandler(femtomp.worker_handler())
    log.setLevel("DEBUG")
    for number in range(COUNT):
        log.log(logging.DEBUG if number % 3 else logging.INFO, "record %d", number)


def value(request, metric, component=None, **more):
    """Give one point's value."""
    of = {f"otel.component.{key}": text for key, text in (component or {}).items()}
    point = points(request)[(metric, *sorted({**of, **more}.items()))]
    return point.as_int if point.HasField("as_int") else point.as_double


def assert_equal(request, stats, otlp):
    """Compare what was sent with the server's statistics."""
    assert value(request, "otel.sdk.log.created") == stats.started
    assert value(request, "femtomp.engine.restarts") == stats.engine_starts - 1
    committed = stats.sinks["otlp"].committed
    assert value(request, PROCESSED, WORKERS) == committed
    for reason, count in stats.dropped.items():
        error = {"error.type": "queue_full" if reason == "quota" else reason}
        assert value(request, PROCESSED, WORKERS, **error) == count
    for component in (otlp, FILE):
        of = stats.sinks[component["name"]]
        figures = {
            (EXPORTED, ""): of.delivered,
            (EXPORTED, "rejected"): of.refused,
            (PROCESSED, ""): of.delivered + of.refused,
            (PROCESSED, "queue_full"): of.evicted,
            (PROCESSED, "corrupt"): of.corrupt,
            (PROCESSED, "quarantined"): of.quarantined,
            ("femtomp.sink.filtered", ""): of.filtered,
            ("otel.sdk.processor.log.queue.size", ""): of.pending,
        }
        for (metric, error), figure in figures.items():
            more = {"error.type": error} if error else {}
            assert value(request, metric, component, **more) == figure, metric


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_figures_are_those_of_the_statistics(protocol, tmp_path) -> None:
    """What arrives over the wire equals `Server.stats()`, refused and filtered ones too."""
    with Receiver() as receiver:
        is_grpc = protocol == "grpc"
        refusal = GrpcAnswer(grpc.StatusCode.INVALID_ARGUMENT)
        busy = GrpcAnswer(grpc.StatusCode.UNAVAILABLE)
        receiver.script = (
            [busy, refusal] if is_grpc else [HttpAnswer(503), HttpAnswer(400)]
        )
        endpoint = receiver.grpc_endpoint if is_grpc else receiver.http_endpoint
        sinks = [
            femtomp.OTLPSink(endpoint, protocol=protocol, metrics=True),
            femtomp.FileSink(tmp_path / "app.jsonl", level="INFO"),
        ]
        resource = {"service.name": "shop"}
        with femtomp.start_server(sinks, level="DEBUG", resource=resource) as server:
            for pid in [fork(work) for _ in range(2)]:
                assert os.waitpid(pid, 0)[1] == 0
            assert server.flush(20)
            stats = server.stats()
        kind = "grpc" if is_grpc else "http"
        otlp = {"name": "otlp", "type": f"otlp_{kind}_log_exporter"}
        last = receiver.metrics[-1]
        assert stats.sinks["otlp"].refused > 0
        assert stats.sinks["file"].filtered == 400
        assert_equal(last, stats, otlp)
        assert value(last, "femtomp.sink.retries", otlp) == 1
        assert value(last, "femtomp.sink.lag", otlp) == 0
        assert value(last, "otel.sdk.exporter.log.inflight", otlp) == 0
        sizes = points(last)[("femtomp.sink.batch.size", *named(otlp))]
        assert sizes.count == sum(sizes.bucket_counts) >= 1
        assert sizes.sum >= 2 * COUNT
        of_server = attributes(last.resource_metrics[0].resource.attributes)
        assert of_server["service.name"] == "shop"
        assert "process.pid" not in of_server


def named(component):
    """Give a component's attributes as `points` has them."""
    return sorted((f"otel.component.{k}", v) for k, v in component.items())


def test_sink_that_is_down_is_seen() -> None:
    """While a destination takes nothing its queue, its retries and its lag say so."""
    with Receiver() as receiver:
        sinks = [
            femtomp.OTLPSink(f"http://127.0.0.1:{free_port()}", name="down"),
            femtomp.OTLPSink(receiver.http_endpoint, metrics=True),
        ]
        down = {"name": "down", "type": "otlp_http_log_exporter"}
        with femtomp.start_server(sinks, level="DEBUG", linger_s=0.1) as server:
            assert os.waitpid(fork(work), 0)[1] == 0

            def is_seen():
                last = receiver.metrics[-1] if receiver.metrics else None
                return (
                    last is not None
                    and value(last, "otel.sdk.processor.log.queue.size", down) == COUNT
                    and value(last, "femtomp.sink.retries", down) >= 1
                    and value(last, "femtomp.sink.lag", down) > 0.5
                    and value(last, "otel.sdk.exporter.log.inflight", down) > 0
                )

            until(is_seen, "the metrics of a sink that is down")
            server.stop(timeout=0.2)


def test_figures_go_on_behind_an_engine() -> None:
    """Sums have the start of the server, whatever engine counts, and the same resource."""
    with Receiver() as receiver:
        sinks = [femtomp.OTLPSink(receiver.http_endpoint, metrics=True)]
        with femtomp.start_server(sinks, level="DEBUG") as server:
            assert os.waitpid(fork(work), 0)[1] == 0
            assert server.flush(20)
            until(lambda: receiver.metrics, "the first figures")
            before = receiver.metrics[-1]
            os.kill(Spool(server.spool).control()[ENGINE], signal.SIGKILL)
            until(
                lambda: value(receiver.metrics[-1], "femtomp.engine.restarts") == 1,
                "the next engine's figures",
            )
            after = receiver.metrics[-1]
        created = ("otel.sdk.log.created",)
        old, new = points(before)[created], points(after)[created]
        assert old.start_time_unix_nano == new.start_time_unix_nano
        assert old.as_int == new.as_int == COUNT
        resources = [r.resource_metrics[0].resource for r in (before, after)]
        assert resources[0] == resources[1]


def test_sums_do_not_shrink_with_a_sink_that_goes(tmp_path) -> None:
    """What workers kept is theirs, whatever sinks come and go."""
    with Receiver() as receiver:
        otlp = femtomp.OTLPSink(receiver.http_endpoint, metrics=True, name="new")
        file = femtomp.FileSink(tmp_path / "app.jsonl")
        with femtomp.start_server([file], level="DEBUG") as server:
            assert os.waitpid(fork(work), 0)[1] == 0
            assert server.flush(20)
            until(lambda: not server.stats().lanes, "the worker's lane was taken in")
            server.reconfigure([otlp])
            until(lambda: receiver.metrics, "figures")
            assert server.stats().sinks["new"].committed < COUNT
            assert value(receiver.metrics[-1], PROCESSED, WORKERS) == COUNT


def test_hostile_resource_is_sent_as_it_can_be() -> None:
    """What is no text and no number of OTLP's is escaped, and the figures arrive."""
    with Receiver() as receiver:
        sink = femtomp.OTLPSink(receiver.http_endpoint, metrics=True)
        given = {"service.name": "shop\udc80", "serial": 1 << 70}
        with femtomp.start_server([sink], resource=given):
            until(lambda: receiver.metrics, "figures")
        found = attributes(receiver.metrics[-1].resource_metrics[0].resource.attributes)
        assert found["service.name"] == "shop\\udc80"
        assert found["serial"] == str(1 << 70)


@pytest.mark.parametrize("is_there", [True, False])
def test_metrics_disturb_no_record(is_there, capfd) -> None:
    """A collector that takes no metrics gets all records, and an end is not held up."""
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint
        address = endpoint if is_there else f"http://127.0.0.1:{free_port()}"
        os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = address
        os.environ["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"] = endpoint
        try:
            sink = femtomp.OTLPSink(protocol="grpc", metrics=True)
            server = femtomp.start_server(sink, level="DEBUG")
        finally:
            del os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"]
            del os.environ["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"]
        assert os.waitpid(fork(work), 0)[1] == 0
        begun = time.monotonic()
        assert server.stop(timeout=20).drained
        assert time.monotonic() - begun < 10
        assert len(receiver.records()) >= COUNT
        assert bool(receiver.metrics) == is_there
    assert ("metrics of otlp not taken" in capfd.readouterr().err) != is_there


def test_collector_that_hangs_holds_up_an_end_for_two_seconds(monkeypatch) -> None:
    """Who takes metrics and never answers is not waited for, and gets no record late."""
    with Receiver() as receiver, socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        at = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
        monkeypatch.setenv(at, f"http://127.0.0.1:{port}/v1/metrics")
        at = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
        monkeypatch.setenv(at, f"{receiver.http_endpoint}/v1/logs")
        server = femtomp.start_server(femtomp.OTLPSink(metrics=True), level="DEBUG")
        assert os.waitpid(fork(work), 0)[1] == 0
        silent.settimeout(20)
        taken, _ = silent.accept()  # the first figures are on their way
        assert server.flush(20)
        assert len(receiver.records()) >= COUNT
        begun = time.monotonic()
        assert server.stop(timeout=20).drained
        assert time.monotonic() - begun < 8
        taken.close()


def test_bad_interval_is_an_error_at_the_start(monkeypatch) -> None:
    """`start_server` says which variable is wrong."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    sink = femtomp.OTLPSink("http://127.0.0.1:9", metrics=True)
    with pytest.raises(ConfigError, match="OTEL_METRIC_EXPORT_INTERVAL must be mill"):
        femtomp.start_server(sink)


def test_nothing_is_sent_unasked() -> None:
    """Metrics are opt-in."""
    with Receiver() as receiver:
        sink = femtomp.OTLPSink(receiver.http_endpoint)
        with femtomp.start_server(sink, level="DEBUG"):
            assert os.waitpid(fork(work), 0)[1] == 0
        assert receiver.records()
        assert not receiver.metrics
