"""The example configurations, in the real Collector: what it has answered is not lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import femtomp
from tests.components import otelcol_path, require
from tests.processes.harness import Attached, until

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "collector"
RECORDS = 500
# What a test's agent has other than the example: free ports, and no certificate.
OURS = """
receivers::otlp::protocols::grpc::endpoint: "127.0.0.1:{grpc}"
receivers::otlp::protocols::http::endpoint: "127.0.0.1:{http}"
exporters::otlp_grpc::tls: {{insecure: true, ca_file: ""}}
exporters::otlp_grpc::retry_on_failure::max_interval: 1s
service::telemetry::metrics::level: none
"""
FULL = """
exporters::otlp_grpc::sending_queue::queue_size: 3000
exporters::otlp_grpc::sending_queue::batch::min_size: 0
exporters::otlp_grpc::sending_queue::batch::max_size: 0
"""
SHORT = """
processors::memory_limiter::check_interval: 20ms
processors::memory_limiter::limit_mib: 1
processors::memory_limiter::spike_limit_mib: 0
"""
# What makes an agent refuse, and what its log says when it is about to.
REFUSALS = {
    "its queue is full": (FULL, ""),
    "it is short of memory": (SHORT, "Refusing data"),
}


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_examples_are_valid(name) -> None:
    """The Collector finds nothing wrong with a configuration, and would if there was."""
    require("otelcol")
    path = EXAMPLES / f"{name}.yaml"
    for text, is_valid in (
        (path.read_text(), True),
        (path.read_text().replace("max_elapsed_time", "max_elapsed_tim"), False),
    ):
        done = subprocess.run(
            [otelcol_path(), "validate", f"--config=yaml:{text}"], capture_output=True
        )
        assert (done.returncode == 0) is is_valid, done.stderr.decode()


class Chain:
    """femtomp, an agent as in the example, and a gateway that may be away."""

    def __init__(self, directory: Path) -> None:
        from tests.real.otelcol_process import Collector
        from tests.real.otlp import Receiver, free_port

        grpc, http, self._port = free_port(), free_port(), free_port()
        self.ours = "yaml:" + OURS.format(grpc=grpc, http=http)
        environ = {
            "GATEWAY": f"127.0.0.1:{self._port}",
            "STORAGE": str(directory / "storage"),
        }
        self.agent = Collector(directory, environ=environ)
        self.set("")
        self.sinks = {
            "http/protobuf": femtomp.OTLPSink(f"http://127.0.0.1:{http}"),
            "grpc": femtomp.OTLPSink(f"http://127.0.0.1:{grpc}", protocol="grpc"),
        }
        self._gateway = Receiver()
        self._is_there = False

    def set(self, changed: str) -> None:
        """Say what is other than in the example."""
        self.agent.configs = (
            str(EXAMPLES / "agent.yaml"),
            self.ours,
            f"yaml:{changed or '{}'}",
        )

    def open_gateway(self) -> None:
        """Let the gateway be there from now on."""
        self._gateway.start(ports=(self._port, 0))
        self._is_there = True

    def arrived(self) -> list[int]:
        """List the numbers of the records that have come to the gateway."""
        from tests.real.otlp import attributes

        found = (attributes(m.attributes) for _, _, m in self._gateway.records())
        return sorted(one["number"] for one in found if "number" in one)

    def close(self) -> None:
        """End all of it."""
        self.agent.kill()
        if self._is_there:
            self._gateway.stop()


@pytest.fixture(name="chain")
def _chain(tmp_path):
    require("otlp")
    require("otelcol")
    chain = Chain(tmp_path)
    yield chain
    chain.close()


def log_numbers() -> None:
    with Attached() as log:
        for number in range(RECORDS):
            log.info("record %d", number, extra={"number": number})


def test_a_killed_agent_loses_nothing_that_it_has_answered(chain) -> None:
    """Its queue is on the disk: after SIGKILL it delivers what femtomp is done with."""
    chain.agent.start()
    with femtomp.start_server(chain.sinks["grpc"]):
        log_numbers()
    # The server has ended: the agent is all that knows of the records.
    chain.agent.kill()
    chain.agent.start()
    chain.open_gateway()
    until(lambda: len(chain.arrived()) >= RECORDS, "the agent has delivered")
    assert chain.arrived() == list(range(RECORDS))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("reason", REFUSALS)
def test_what_an_agent_cannot_keep_waits_in_femtomp(chain, reason, protocol) -> None:
    """An agent that refuses for the moment gets the records later; none is refused."""
    changed, said = REFUSALS[reason]
    chain.set(changed)
    chain.agent.start()
    until(lambda: said in chain.agent.log(), "it refuses")
    with femtomp.start_server(chain.sinks[protocol]) as server:
        log_numbers()
        assert not server.flush(2)
        waiting = server.stats().sinks["otlp"]
        assert waiting.pending
        chain.agent.stop()
        chain.set("")
        chain.agent.start()
        chain.open_gateway()
        assert server.flush(30)
        ended = server.stats().sinks["otlp"]
    until(lambda: set(chain.arrived()) == set(range(RECORDS)), "all have arrived")
    assert ended.refused == ended.evicted == 0
    assert ended.delivered == ended.committed
