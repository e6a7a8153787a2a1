"""The OTLP driver against receivers that others wrote, over HTTP and gRPC."""

from __future__ import annotations

import time

import pytest

import femtomp
from femtomp.config import OTLPSink
from femtomp.sinks import Delivered
from femtomp.sinks.otlp import open_driver
from tests.components import require
from tests.processes.harness import Attached, until
from tests.records import batch, make

PROTOCOLS = ("http/protobuf", "grpc")


@pytest.fixture(name="deliver")
def _deliver():
    drivers = []

    def deliver(server, protocol, records):
        endpoint = server.grpc_endpoint if protocol == "grpc" else server.http_endpoint
        options = OTLPSink(endpoint, protocol=protocol)
        drivers.append(open_driver(options, environ={}))
        return drivers[-1].write(records)

    yield deliver
    for driver in drivers:
        driver.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_official_receiver_decodes_every_record(deliver, protocol) -> None:
    """The generated classes read back resource, scope, body, attributes and uid."""
    require("otlp")
    from tests.real.otlp import Receiver, any_value, attributes

    records = batch(20)
    with Receiver() as receiver:
        assert deliver(receiver, protocol, records) == Delivered()
        received = receiver.records()
    assert [any_value(one.body) for _, _, one in received] == [r.body for r in records]
    resource, scope, first = received[0]
    assert resource == dict(records[0].resource)
    assert scope == "shop.cart"
    expected = {**records[0].attributes, "log.record.uid": "e-0"}
    assert attributes(first.attributes) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rotel_decodes_every_record(deliver, protocol) -> None:
    """An independent collector takes the request and shows what was sent."""
    require("otlp")
    require("rotel")
    from tests.real.otlp import Rotel

    record = make(
        body="multi\nline ☃",
        severity_number=17,
        severity_text="ERROR",
        attributes={"user_id": 42, "ratio": 0.5, "flags": [True, None], "raw": b"\x00"},
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        trace_flags=1,
    )
    with Rotel() as rotel:
        assert deliver(rotel, protocol, [record]) == Delivered()
        rotel.wait(lambda: "0af7651916cd43dd8448eb211c80319c" in rotel.log().lower())
        log = rotel.log()
    for expected in ("service.name", "shop.cart", "user_id", "log.record.uid", "0.5"):
        assert expected in log
    assert record.uid in log
    assert "b7ad6b7169203331" in log.lower()


def test_few_records_are_gathered_for_one_request() -> None:
    """The first is sent at once, those behind it together; neither a flush nor an end
    waits for more.
    """
    require("otlp")
    from tests.real.otlp import Receiver

    with Receiver() as receiver:
        sink = OTLPSink(receiver.http_endpoint, flush_interval_s=5)
        with femtomp.start_server(sink) as server, Attached() as log:
            log.info("first")
            until(lambda: len(receiver.requests) == 1, "the first", timeout=1.5)
            begin = time.monotonic()
            for number in range(20):
                log.info("%d", number)
                until(lambda: server.stats().sinks["otlp"].pending > number, "there")  # noqa: B023
            assert len(receiver.requests) == 1
            assert server.flush(5)
            assert len(receiver.requests) == 2
            assert time.monotonic() - begin < 4
            log.info("third")
            until(lambda: len(receiver.requests) == 3, "the third", timeout=1.5)
            log.info("last")
            begin = time.monotonic()
            assert server.stop(5).drained
            assert time.monotonic() - begin < 3
        assert len(receiver.requests) == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_disabled_sdk_sends_all_the_same(monkeypatch, protocol) -> None:
    """OTEL_SDK_DISABLED=true is not said of a sink that was asked for."""
    require("otlp")
    from tests.real.otlp import Receiver, any_value

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with Receiver() as receiver:
        grpc, http = receiver.grpc_endpoint, receiver.http_endpoint
        sink = OTLPSink(grpc if protocol == "grpc" else http, protocol=protocol)
        with femtomp.start_server(sink) as server, Attached() as log:
            log.info("all the same")
            assert server.flush(10)
        bodies = [any_value(record.body) for _, _, record in receiver.records()]
    assert "all the same" in bodies
