"""What the supervisor's own libraries log never becomes a record.

The root logger is at DEBUG and the collector refuses or is not there: OpenTelemetry,
gRPC and urllib3 have much to say then. Nothing that was emitted may be exported more
than once, and nothing may be exported that was not emitted.
"""

from __future__ import annotations

import logging
import os
import time

import pytest

import femtomp
from tests.components import missing, require
from tests.processes.harness import fork, until

if missing("otlp") is None:
    import grpc

    from tests.real.otlp import GrpcAnswer, HttpAnswer, Receiver, any_value, free_port

COUNT = 50
OWN = "femtomp."


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


@pytest.fixture(name="noisy")
def _noisy(monkeypatch):
    """Have every library say all that it can, here and in the supervisor."""
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    monkeypatch.setenv("OTEL_LOG_LEVEL", "debug")
    monkeypatch.setenv("OTEL_PYTHON_LOG_LEVEL", "debug")
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)
    for handler in root.handlers[:]:
        if isinstance(handler, femtomp.WorkerHandler):
            root.removeHandler(handler)


def work():
    """Log at DEBUG through the root logger."""
    for number in range(COUNT):
        logging.getLogger("shop").debug("record %d", number)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("way", ["refuses", "is busy"])
def test_at_most_one_is_exported_per_emitted(noisy, protocol, way, capfd) -> None:
    """A collector that refuses makes no record of any library's complaint."""
    with Receiver() as receiver:
        is_grpc = protocol == "grpc"
        busy = way == "is busy"
        answers = {
            (True, True): GrpcAnswer(grpc.StatusCode.UNAVAILABLE),
            (True, False): GrpcAnswer(grpc.StatusCode.INVALID_ARGUMENT),
            (False, True): HttpAnswer(503),
            (False, False): HttpAnswer(400),
        }
        receiver.script = [answers[is_grpc, busy]] * 2
        endpoint = receiver.grpc_endpoint if is_grpc else receiver.http_endpoint
        sink = femtomp.OTLPSink(endpoint, protocol=protocol)
        with femtomp.start_server(sink, level="DEBUG") as server:
            femtomp.worker_init("DEBUG")
            for _ in range(2):
                assert os.waitpid(fork(work), 0)[1] == 0
                assert server.flush(20)
            # Whatever came of it would come now.
            quiet = time.monotonic() + 1.5
            stats = until(
                lambda: time.monotonic() > quiet and server.stats(), "quiet", 10
            )
            names = [
                (scope, any_value(record.body))
                for _, scope, record in receiver.records()
                if not record.event_name.startswith(OWN)
            ]
            assert stats.started == 2 * COUNT
            assert stats.sinks["otlp"].committed == 2 * COUNT
        assert {scope for scope, _ in names} <= {"shop"}
        if busy:
            assert len(names) == 2 * COUNT
            assert stats.sinks["otlp"].delivered == 2 * COUNT
        else:
            of_sink = stats.sinks["otlp"]
            assert of_sink.refused + of_sink.delivered == 2 * COUNT
            assert len(names) == of_sink.delivered
    lines = capfd.readouterr().err.count("\n")
    assert lines < 40, "the complaints are limited"


def test_absent_collector_costs_few_words(noisy, capfd) -> None:
    """With nobody there, at DEBUG, stderr is not flooded and no record is made."""
    sink = femtomp.OTLPSink(f"http://127.0.0.1:{free_port()}")
    with femtomp.start_server(sink, level="DEBUG", linger_s=0.1) as server:
        femtomp.worker_init("DEBUG")
        assert os.waitpid(fork(work), 0)[1] == 0
        assert not server.flush(4)
        assert server.stats().started == COUNT
        assert server.stats().sinks["otlp"].pending == COUNT
        server.stop(timeout=0.5)
    assert capfd.readouterr().err.count("\n") < 20
