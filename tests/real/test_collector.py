"""The OTLP driver and the OpenTelemetry Collector: what it decodes, what it answers."""

from __future__ import annotations

import pytest

from femtomp.config import OTLPSink
from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.otlp import open_driver
from tests.components import require
from tests.processes.harness import until
from tests.records import batch, make

PROTOCOLS = ("http/protobuf", "grpc")
CONFIG = """
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{grpc}"}}
      http: {{endpoint: "127.0.0.1:{http}"}}
exporters:
  otlp_http:
    endpoint: "{backend}"
    compression: none
    sending_queue: {{enabled: false}}
    retry_on_failure: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [otlp_http]}}
"""


class Through:
    """The driver, the Collector, and a backend that decodes what the Collector says."""

    def __init__(self, directory, protocol, backend) -> None:
        from tests.real.otelcol_process import Collector
        from tests.real.otlp import free_port

        ports = {"grpc": free_port(), "http": free_port()}
        config = CONFIG.format(**ports, backend=backend.http_endpoint)
        self.collector = Collector(directory, f"yaml:{config}")
        port = ports["grpc" if protocol == "grpc" else "http"]
        options = OTLPSink(f"http://127.0.0.1:{port}", protocol=protocol)
        self.driver = open_driver(options, environ={})
        self.backend = backend


@pytest.fixture(name="through", params=PROTOCOLS)
def _through(request, tmp_path):
    require("otlp")
    require("otelcol")
    from tests.real.otlp import Receiver

    with Receiver() as backend:
        through = Through(tmp_path, request.param, backend)
        with through.collector:
            yield through
        through.driver.close()


def test_the_collector_decodes_every_record(through) -> None:
    """Resource, scope, body, attributes, ids and severity are what the record had."""
    from tests.real.otlp import any_value, attributes

    record = make(
        body="multi\nline ☃",
        severity_number=17,
        severity_text="ERROR",
        attributes={"user_id": 42, "ratio": 0.5, "flags": [True, None], "raw": b"\x00"},
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        trace_flags=1,
    )
    assert through.driver.write([record, *batch(20)]) == Delivered()
    found = through.backend.records()
    assert len(found) == 21
    resource, scope, first = next(one for one in found if one[2].trace_id)
    assert resource == dict(record.resource)
    assert scope == "shop.cart"
    assert any_value(first.body) == record.body
    wanted = {**record.attributes, "log.record.uid": record.uid}
    assert attributes(first.attributes) == wanted
    assert first.trace_id.hex() == record.trace_id
    assert first.span_id.hex() == record.span_id
    assert (first.severity_number, first.severity_text) == (17, "ERROR")


@pytest.mark.parametrize(
    ("status", "outcome"), [(429, RetryAfter), (503, RetryAfter), (400, Refused)]
)
def test_the_collector_passes_on_what_its_backend_says(
    through, status, outcome
) -> None:
    """What the backend wants later is tried again; what it refuses is refused."""
    from tests.real.otlp import HttpAnswer

    headers = {"Retry-After": "7"} if status == 429 else {}
    # Over gRPC 429 comes as RESOURCE_EXHAUSTED without a RetryInfo: it may be the size,
    # so the batch is split before it waits.
    through.backend.script += [HttpAnswer(status, headers)] * 8
    found = through.driver.write(batch(3))
    assert isinstance(found, outcome)
    print(found)


def test_a_collector_that_is_away_is_tried_again(through) -> None:
    """Stopped or killed, it is waited for; what it gets afterwards is delivered."""
    for end in (through.collector.stop, through.collector.kill):
        end()
        assert isinstance(through.driver.write(batch(3)), RetryAfter)
        through.collector.start()
        # gRPC connects again when it likes, within a second.
        until(lambda: through.driver.write(batch(3)) == Delivered(), "it takes records")
    assert len(through.backend.records()) == 6
