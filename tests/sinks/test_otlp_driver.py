"""The OTLP driver against scripted collectors."""

from __future__ import annotations

import email.utils
import importlib.util
import os
import subprocess
import sys
import time

import pytest

from femtomp.config import OTLPSink
from femtomp.errors import ConfigError, MissingExtraError
from femtomp.sinks import Delivered, Refused, RetryAfter, otlp
from femtomp.sinks.otlp import OTLPDriver, open_driver, open_transport
from femtomp.sinks.otlp_answer import Answer
from femtomp.sinks.otlp_grpc import GrpcTransport
from femtomp.sinks.otlp_http import HttpTransport
from femtomp.sinks.otlp_settings import http_endpoint
from tests.components import missing, require
from tests.records import batch, make

if missing("otlp") is None:
    import grpc
    from google.protobuf.any_pb2 import Any
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    from tests.real.otlp import (
        GrpcAnswer,
        HttpAnswer,
        Receiver,
        any_value,
        free_port,
    )

PROTOCOLS = ("http/protobuf", "grpc")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    require("otlp")
    for name in (
        "ENDPOINT",
        "LOGS_ENDPOINT",
        "HEADERS",
        "PROTOCOL",
        "LOGS_PROTOCOL",
        "COMPRESSION",
    ):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


@pytest.fixture(name="receiver", scope="module")
def _receiver():
    require("otlp")
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(name="open_sink")
def _open_sink(receiver):
    receiver.requests.clear()
    receiver.refused.clear()
    receiver.script.clear()
    receiver.partial = (0, "")
    drivers = []

    def open_sink(protocol="http/protobuf", *, environ=None, **options):
        endpoints = {
            "grpc": receiver.grpc_endpoint,
            "http/protobuf": receiver.http_endpoint,
        }
        options.setdefault("endpoint", endpoints[protocol])
        sink = OTLPSink(protocol=protocol, **options)
        drivers.append(open_driver(sink, environ=environ or os.environ))
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.close()


def bodies(receiver) -> list:
    """List the bodies of all records that were accepted."""
    return [any_value(record.body) for _, _, record in receiver.records()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batch_is_one_request(receiver, open_sink, protocol) -> None:
    """An accepted request delivers its whole batch, in order."""
    assert open_sink(protocol).write(batch(3)) == Delivered()
    assert len(receiver.requests) == 1
    assert bodies(receiver) == ["record 0", "record 1", "record 2"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_headers_are_sent(receiver, open_sink, protocol) -> None:
    """Headers of the options go with every request, under lower-case names."""
    open_sink(protocol, headers={"Api-Key": "secret"}).write(batch(1))
    assert receiver.requests[0][0]["api-key"] == "secret"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment_is_honoured(receiver, open_sink, monkeypatch, protocol) -> None:
    """Endpoint, headers and compression come from OTEL_* where not given."""
    grpc_url, http_url = receiver.grpc_endpoint, receiver.http_endpoint
    endpoint = grpc_url if protocol == "grpc" else http_url
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert open_sink(protocol, endpoint=None).write(batch(1)) == Delivered()
    headers = receiver.requests[0][0]
    assert headers["tenant"] == "shop"
    if protocol != "grpc":
        assert headers["content-encoding"] == "gzip"
        assert headers[":path"] == "/v1/logs"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rejected_records_are_counted_not_repeated(
    receiver, open_sink, protocol
) -> None:
    """A partial success delivers the batch, less the records the collector refused."""
    receiver.partial = (2, "too old")
    expected = {"rejected by the collector: too old": 2}
    assert open_sink(protocol).write(batch(5)) == Delivered(expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_warning_of_the_collector_refuses_nothing(
    receiver, open_sink, protocol
) -> None:
    """A message without rejected records is no loss."""
    receiver.partial = (0, "slow down, please")
    assert open_sink(protocol).write(batch(5)) == Delivered()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_http_status(receiver, open_sink, status) -> None:
    """What the specification calls retryable comes again later, with one attempt."""
    receiver.script = [HttpAnswer(status, content=b"busy")]
    driver = open_sink()
    outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, f"HTTP {status} busy")
    assert 0.8 <= outcome.delay_s <= 1.2
    assert len(receiver.refused) == 1
    assert driver.write(batch(2)) == Delivered()


def test_bad_request_is_refused(receiver, open_sink) -> None:
    """What the collector says of the records refuses them, with status and message."""
    receiver.script = [HttpAnswer(400, content=b"no\x1b[2J thanks")]
    assert open_sink().write(batch(2)) == Refused("HTTP 400 no [2J thanks")
    assert receiver.requests == []


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 407, 511])
def test_misconfigured_http_status(receiver, open_sink, status) -> None:
    """What is said of the way to the collector keeps the records, whole."""
    receiver.script = [HttpAnswer(status, {"Location": "http://h/"}, b"no")]
    driver = open_sink()
    outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert outcome.reason.startswith(f"HTTP {status}")
    assert (outcome.accepted, outcome.refused) == (0, {})
    assert len(receiver.refused) == 1
    assert driver.write(batch(2)) == Delivered()


@pytest.mark.parametrize("status", [405, 409, 418, 422, 500, 501, 507])
def test_other_http_status_is_narrowed_down(receiver, open_sink, status) -> None:
    """Any other failure costs no record but the one that it may be about."""
    # Of four: all, the first two, the first.
    receiver.script = [HttpAnswer(status, content=b"oh")] * 3
    driver = open_sink()
    outcome = driver.write(batch(4))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, f"HTTP {status} oh")
    assert bodies(receiver) == ["record 1", "record 2", "record 3"]


def test_status_message_is_read(receiver, open_sink) -> None:
    """The collector's own words are the reason, where it sends a Status."""
    protobuf = {"Content-Type": "application/x-protobuf"}
    status = Status(code=3, message="bad tenant").SerializeToString()
    receiver.script = [HttpAnswer(400, protobuf, status)]
    assert open_sink().write(batch(1)) == Refused("HTTP 400 bad tenant")


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7.0, 8.4),
        ("86400", 300.0, 360.0),
        ("never", 0.8, 1.2),
        ("in 100 s", 50.0, 120.0),
    ],
)
def test_retry_after_is_honoured(receiver, open_sink, value, least, most) -> None:
    """The collector's delay counts, in seconds or as a date, up to five minutes."""
    if value == "in 100 s":
        value = email.utils.formatdate(time.time() + 100, usegmt=True)
    receiver.script = [HttpAnswer(429, {"Retry-After": value})]
    assert least <= open_sink().write(batch(1)).delay_s <= most


@pytest.mark.parametrize(
    "code",
    [
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    ],
)
def test_retryable_grpc_code(receiver, open_sink, code) -> None:
    """Retryable codes of gRPC come again later, with one attempt."""
    receiver.script = [GrpcAnswer(grpc.StatusCode[code])]
    driver = open_sink("grpc")
    outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, f"gRPC {code} scripted")
    assert len(receiver.refused) == 1
    assert driver.write(batch(2)) == Delivered()


def test_invalid_argument_is_refused(receiver, open_sink) -> None:
    """What gRPC's collector says of the records refuses them."""
    receiver.script = [GrpcAnswer(grpc.StatusCode.INVALID_ARGUMENT)]
    expected = Refused("gRPC INVALID_ARGUMENT scripted")
    assert open_sink("grpc").write(batch(2)) == expected


@pytest.mark.parametrize(
    "code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"]
)
def test_misconfigured_grpc_code(receiver, open_sink, code) -> None:
    """What is said of the way to the collector keeps the records, whole."""
    receiver.script = [GrpcAnswer(grpc.StatusCode[code])]
    driver = open_sink("grpc")
    outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, f"gRPC {code} scripted")
    assert len(receiver.refused) == 1
    assert driver.write(batch(2)) == Delivered()


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "FAILED_PRECONDITION"])
def test_other_grpc_code_is_narrowed_down(receiver, open_sink, code) -> None:
    """Any other failure costs no record but the one that it may be about."""
    receiver.script = [GrpcAnswer(grpc.StatusCode[code])] * 3
    outcome = open_sink("grpc").write(batch(4))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, f"gRPC {code} scripted")
    assert bodies(receiver) == ["record 1", "record 2", "record 3"]


def test_grpc_retry_info_is_honoured(receiver, open_sink) -> None:
    """The delay of a RetryInfo counts."""
    info = Any()
    info.Pack(RetryInfo(retry_delay=Duration(seconds=3, nanos=500_000_000)))
    details = Status(code=8, message="slow", details=[info]).SerializeToString()
    trailing = (("grpc-status-details-bin", details),)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    receiver.script = [GrpcAnswer(code, "slow", trailing)]
    assert 3.5 <= open_sink("grpc").write(batch(1)).delay_s <= 4.2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_port_is_retried(open_sink, protocol) -> None:
    """A collector that is not there is waited for, and not for long at once."""
    driver = open_sink(protocol, endpoint=f"http://127.0.0.1:{free_port()}")
    begin = time.monotonic()
    outcome = driver.write(batch(2))
    assert time.monotonic() - begin < 5
    assert isinstance(outcome, RetryAfter)
    assert outcome.accepted == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_batches_are_split(receiver, open_sink, protocol) -> None:
    """No request is above 4 MiB, which gRPC servers take by default."""
    records = [make(body=f"{n}" + "x" * 1_000_000) for n in range(9)]
    assert open_sink(protocol).write(records) == Delivered()
    assert bodies(receiver) == [record.body for record in records]
    assert len(receiver.requests) > 2
    assert all(
        request.ByteSize() <= otlp.MAX_REQUEST_BYTES for _, request in receiver.requests
    )


def test_413_is_split_to_the_record_that_is_too_large(receiver, open_sink) -> None:
    """A collector with a lower limit loses the one record that it cannot take."""
    # Halves of 4: all, first two, then the third alone, then the fourth.
    receiver.script = [HttpAnswer(413)]
    assert open_sink().write(batch(4)) == Delivered()
    assert [r.ByteSize() > 0 for _, r in receiver.requests] == [True, True]
    receiver.script = [HttpAnswer(413)] * 3
    expected = Delivered({"HTTP 413": 1})
    assert open_sink().write(batch(4)) == expected


class Script:
    """A transport that answers from a list."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.sent = []

    def send(self, data):
        """Keep the bodies, and answer."""
        request = ExportLogsServiceRequest.FromString(data)
        logs = request.resource_logs[0].scope_logs[0].log_records
        self.sent.append([record.body.string_value for record in logs])
        return self.answers.pop(0)

    def close(self) -> None:
        """Close nothing."""


def test_partial_progress_is_accepted() -> None:
    """What earlier requests of a batch delivered or lost does not come again."""
    script = Script(
        Answer("too large"),
        Answer("accepted", "rejected", None, 1),
        Answer("refused", "no"),
        Answer("retry", "later", 9.0),
    )
    outcome = OTLPDriver(script).write(batch(6))
    assert outcome == Delivered({"rejected": 1, "no": 3})
    script.answers.insert(0, Answer("too large"))
    script.answers[1:1] = [Answer("accepted")]
    outcome = OTLPDriver(script, draw=lambda: 0.0).write(batch(6))
    assert outcome == RetryAfter(9.0, "later", 3, {})


def test_collector_that_goes_away_between_two_tries_of_a_record_is_waited_for() -> None:
    """A record that seemed to exhaust it is not refused because it went down then."""
    exhausted, down = Answer("exhausted", "no"), Answer("retry", "down")
    script = Script(exhausted, exhausted, Answer("accepted"), down, down)
    script.answers.append(Answer("accepted"))
    driver = OTLPDriver(script, draw=lambda: 0.5)
    records = batch(2)
    assert driver.write(records) == RetryAfter(1.0, "down", 0, {})
    assert driver.write(records) == RetryAfter(2.0, "down", 0, {})
    assert driver.write(records) == Delivered()
    assert script.sent[-1] == ["record 0"], "the other one had arrived"


def test_misconfigured_collector_is_asked_within_a_minute() -> None:
    """What somebody must mend is tried again ever later, up to a minute apart."""
    script = Script(*[Answer("misconfigured", "HTTP 401")] * 60)
    driver = OTLPDriver(script)
    delays = [driver.write(batch(1)).delay_s for _ in range(60)]
    assert delays[0] < 1.3
    assert 40 <= min(delays[10:]) <= max(delays) <= 60


def test_delays_grow_to_a_limit_and_start_again() -> None:
    """Without the collector's word the delay doubles, up to 30 s, with jitter."""
    script = Script(*[Answer("retry", "down")] * 8, Answer("accepted"))
    driver = OTLPDriver(script, draw=lambda: 0.5)
    delays = [driver.write(batch(1)).delay_s for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    assert driver.write(batch(1)) == Delivered()
    script.answers = [Answer("retry", "down")]
    assert driver.write(batch(1)).delay_s == 1


@pytest.mark.parametrize("asked", [None, 30.0, 86400.0])
def test_hosts_that_fail_together_do_not_come_back_together(asked) -> None:
    """Of a hundred, at the longest delay or told the same, no two wait equally long."""
    delays = set()
    for _ in range(100):
        driver = OTLPDriver(Script(*[Answer("retry", "down", asked)] * 8))
        delays.add([driver.write(batch(1)).delay_s for _ in range(8)][-1])
    assert len(delays) == 100
    assert min(delays) >= (min(asked, 300.0) if asked else 24.0)
    assert max(delays) <= 1.2 * (min(asked, 300.0) if asked else 30.0)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (None, None),
        ("http://c:4318", "http://c:4318/v1/logs"),
        ("http://c:4318/", "http://c:4318/v1/logs"),
        ("http://c/base", "http://c/base/v1/logs"),
        ("http://c:4318/v1/logs", "http://c:4318/v1/logs"),
        ("http://c:4318/v1/logs/", "http://c:4318/v1/logs"),
        ("http://c/v1/logs?key=a/b", "http://c/v1/logs?key=a/b"),
        ("http://c/base/?key=1", "http://c/base/v1/logs?key=1"),
    ],
)
def test_http_endpoint_is_a_base_url(endpoint, url) -> None:
    """/v1/logs is added unless the URL ends so."""
    assert http_endpoint(endpoint) == url


def test_url_without_scheme_is_a_config_error() -> None:
    """An HTTP endpoint that is no URL is refused when the sink is built."""
    with pytest.raises(ConfigError, match="must begin with http:// or https://"):
        open_driver(OTLPSink("collector:4318"), environ={})


@pytest.mark.parametrize(
    ("environ", "transport"),
    [
        ({}, HttpTransport),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, GrpcTransport),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
            },
            HttpTransport,
        ),
    ],
)
def test_protocol_comes_from_the_environment(environ, transport) -> None:
    """The variable for logs wins over the general one; HTTP is the default."""
    driver = open_driver(OTLPSink("http://127.0.0.1:9"), environ=environ)
    assert type(driver._transport) is transport
    driver.close()


def test_unknown_protocol_is_a_config_error() -> None:
    """A protocol that femtomp does not speak is named with its variable."""
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL must be one"):
        otlp.require(OTLPSink(), environ)


def test_missing_packages_say_what_to_install(monkeypatch) -> None:
    """Without the extra, the master is told so before anything is started."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r'needs opentelemetry-exporter-otlp: pip install "femtomp\[otel\]"'
    for check in (otlp.require, lambda sink: open_driver(sink, environ={})):
        with pytest.raises(MissingExtraError, match=expected):
            check(OTLPSink())


LOADED = """
import sys
from femtomp.config import OTLPSink
from femtomp.sinks.otlp import require
require(OTLPSink())
heavy = {"google.protobuf", "grpc", "http.client", "ssl", "opentelemetry.sdk"}
print(sorted(heavy & set(sys.modules)))
"""


def test_check_in_the_master_loads_nothing() -> None:
    """`require` looks for the packages without importing any of them."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True)
    assert done.stdout.strip() == b"[]", done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_compression_of_the_options_wins(
    receiver, open_sink, monkeypatch, protocol, compression
) -> None:
    """It is the option's, whatever the environment says."""
    if (protocol, compression) == ("http/protobuf", "deflate"):
        pytest.skip("the receiver does not know it")
    other = "none" if compression == "gzip" else "gzip"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", other)
    driver = open_sink(protocol, compression=compression)
    assert driver.write(batch(3)) == Delivered()
    assert bodies(receiver) == ["record 0", "record 1", "record 2"]
    if protocol != "grpc":
        encoding = receiver.requests[0][0].get("content-encoding")
        assert encoding == (None if compression == "none" else compression)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", ["logs", "metrics"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("TIMEOUT", "-5"),
        ("TIMEOUT", "0"),
        ("CERTIFICATE", "/nonexistent"),
        ("CERTIFICATE", __file__),
        ("CLIENT_CERTIFICATE", __file__),
    ],
)
def test_variable_that_cannot_be_used_is_a_config_error(
    monkeypatch, protocol, signal, name, value
) -> None:
    """It is told when the sink is built: no request would ever succeed."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    sink = OTLPSink("https://127.0.0.1:9", protocol=protocol)
    with pytest.raises(ConfigError, match=f"{name}|TLS"):
        open_transport(sink, os.environ, signal)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", ["logs", "metrics"])
@pytest.mark.parametrize(("name", "value"), [("TIMEOUT", "abc"), ("COMPRESSION", "x")])
def test_variable_without_a_meaning_is_a_config_error(
    monkeypatch, protocol, signal, name, value
) -> None:
    """The error shows the variable and what it has."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    sink = OTLPSink("https://127.0.0.1:9", protocol=protocol)
    with pytest.raises(ConfigError, match=f"{name} must be .* not '{value}'"):
        open_transport(sink, os.environ, signal)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "names", [["certificate_file"], ["client_certificate_file", "client_key_file"]]
)
def test_file_that_is_no_certificate_is_a_config_error(protocol, names) -> None:
    """It would be one more connection that fails, for ever."""
    files = dict.fromkeys(names, __file__)
    sink = OTLPSink("https://127.0.0.1:9", protocol=protocol, **files)
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        open_driver(sink, environ={})
