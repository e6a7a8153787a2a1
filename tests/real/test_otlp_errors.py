"""The error table of OTLP over HTTP: what a collector does wrong, and what comes of it.

Each row is a server with a sink, a receiver that misbehaves as scripted, and the law of
conservation afterwards, exactly: what was committed is delivered, refused or pending,
and what was delivered is what the receiver took.
"""

from __future__ import annotations

import email.utils
import gzip
import socket
import ssl
import struct
import time

import pytest

import femtomp
from tests.components import missing, require
from tests.processes.harness import Attached, until

if missing("otlp") is None:
    from google.rpc.status_pb2 import Status
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceResponse,
    )

    from tests.real.otlp import Receiver, any_value, decoded, free_port
    from tests.real.otlp_faults import PROTOBUF, Faulty, certificates, reply, says

COUNT = 512
EXPECTED = [f"record {n}" for n in range(COUNT)]
BAD = "record 300"


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


@pytest.fixture(name="receiver")
def _receiver():
    require("otlp")
    with Faulty() as receiver:
        yield receiver


class Row:
    """One row of the table: a server with one sink, and the records of one process."""

    def __init__(self, endpoint: str, **options) -> None:
        self._sink = femtomp.OTLPSink(endpoint, **options)

    def __enter__(self):
        self.server = femtomp.start_server(self._sink, level="DEBUG")
        self._attached = Attached()
        self._log = self._attached.__enter__()
        return self

    def log(self, bodies=tuple(EXPECTED)) -> None:
        """Log the records."""
        for body in bodies:
            self._log.info(body)

    def conserved(self, **expected: int) -> None:
        """Hold the counters to what is expected; what is not named is 0."""
        stats = self.server.stats()
        of_sink = stats.sinks["otlp"]
        found = {
            name: getattr(of_sink, name)
            for name in (
                "delivered", "filtered", "refused", "evicted", "corrupt",
                "quarantined", "pending",
            )
        }  # fmt: skip
        assert found == dict.fromkeys(found, 0) | expected
        assert of_sink.committed == sum(expected.values())
        assert stats.started == of_sink.committed + sum(stats.dropped.values())
        assert sum(stats.dropped.values()) == 0

    def drained(self, timeout: float = 30) -> None:
        """Wait until nothing is pending."""
        assert self.server.flush(timeout)

    def __exit__(self, *_: object) -> None:
        self._attached.__exit__()
        self.server.stop(timeout=2)


def arrived(receiver) -> None:
    """Say that the receiver has each record once, in order."""
    assert receiver.bodies() == EXPECTED


def holds(request, body: str) -> bool:
    """Tell whether a request holds a record."""
    return any(any_value(record.body) == body for _, _, record in decoded(request))


def test_429_with_seconds(receiver) -> None:
    """Records wait for as long as the collector asks for, then arrive once."""
    times = []

    def busy(connection, _):
        times.append(time.monotonic())
        connection.sendall(reply(429, b"Retry-After: 1\r\n"))

    def late(connection, _):
        times.append(time.monotonic())
        connection.sendall(reply(200))
        return True

    receiver.faults = [busy, late]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)
    assert times[1] - times[0] >= 1.0


def test_429_with_a_date(receiver) -> None:
    """A Retry-After that is a date is waited for."""
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    receiver.faults = [says(429, b"Retry-After: %s\r\n" % date.encode())]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)


def test_503_storm(receiver) -> None:
    """A collector that refuses again and again loses and repeats nothing."""
    storm = [says(503), *[says(503, b"Retry-After: 0\r\n")] * 20]
    receiver.faults = storm
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)
    assert receiver.seen > 21


def test_400_is_counted_and_not_repeated(receiver, capfd) -> None:
    """A request that the collector calls bad is refused whole, with its own words."""
    status = Status(code=3, message="record 300 is bad").SerializeToString()
    refusal = reply(400, PROTOBUF, status)
    refused = []

    def judge(request):
        if not holds(request, BAD):
            return None
        refused.extend(any_value(record.body) for _, _, record in decoded(request))
        return refusal

    receiver.judge = judge
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        assert BAD in refused
        assert len(refused) == len(set(refused)), "it was repeated"
        row.conserved(delivered=COUNT - len(refused), refused=len(refused))
        row.log(["after"])
        row.drained()
        row.conserved(delivered=COUNT + 1 - len(refused), refused=len(refused))
        said = f"otlp refused {len(refused)}: HTTP 400 record 300 is bad"
        until(lambda: said in capfd.readouterr().err, "said")
    expected = [body for body in EXPECTED if body not in refused]
    assert receiver.bodies() == [*expected, "after"]


def test_413_is_split_down_to_the_one_record(receiver) -> None:
    """Of a request that is too large all arrives but the record that is too large."""
    receiver.judge = lambda r: reply(413) if holds(r, BAD) else None
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT - 1, refused=1)
    assert receiver.bodies() == [body for body in EXPECTED if body != BAD]


def test_partial_success(receiver, capfd) -> None:
    """What the collector rejected is counted with its message, and not repeated."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 3
    response.partial_success.error_message = "too old"
    receiver.faults = [says(200, PROTOBUF, response.SerializeToString())]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT - 3, refused=3)
        until(lambda: "refused 3: rejected by the collector: too old"
              in capfd.readouterr().err, "said")  # fmt: skip
    arrived(receiver)


def test_truncated_reply(receiver) -> None:
    """A success that breaks off is none: the records come again, and count once."""

    def truncated(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        connection.shutdown(socket.SHUT_RDWR)

    receiver.faults = [truncated]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)


def test_slow_reader(receiver) -> None:
    """A collector that does not answer in time holds nothing up for longer than that."""

    def never(_connection, _):
        receiver.wait(20)

    receiver.faults = [never]
    with Row(receiver.endpoint, timeout_s=0.5) as row:
        begin = time.monotonic()
        row.log()
        row.drained()
        assert time.monotonic() - begin < 10
        row.conserved(delivered=COUNT)
    arrived(receiver)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 9999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["status", "headers", "header", "continue", "body", "chunks"],
)
def test_reply_that_drips(receiver, head, drop) -> None:
    """A reply that comes byte by byte ends with the request's time, not its own."""

    def drip(connection, _):
        connection.sendall(head)
        while not receiver._is_closing.is_set():
            connection.sendall(drop)
            receiver.wait(0.1)

    receiver.faults = [drip]
    with Row(receiver.endpoint, timeout_s=0.5) as row:
        begin = time.monotonic()
        row.log()
        row.drained()
        assert time.monotonic() - begin < 10
        row.conserved(delivered=COUNT)
    arrived(receiver)


def test_tls_failure(tmp_path, capfd) -> None:
    """An authority that is not trusted holds records back; mended, they arrive."""
    ca, cert, key = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    _, *stranger = certificates(tmp_path / "other")
    with Faulty(tls=server_side(*stranger)) as untrusted:
        port = untrusted.port
        with Row(untrusted.endpoint, certificate_file=ca) as row:
            row.log()
            until(lambda: "CERTIFICATE_VERIFY_FAILED" in capfd.readouterr().err, "said")
            row.conserved(pending=COUNT)
            assert untrusted.taken == []
            untrusted.__exit__()
            with Faulty(port=port, tls=server_side(cert, key)) as mended:
                row.drained()
                row.conserved(delivered=COUNT)
                arrived(mended)


def server_side(cert, key) -> ssl.SSLContext:
    """Make a server's TLS context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_wrong_protocol_on_the_port(receiver) -> None:
    """Whatever else speaks there, records wait for a collector."""

    def ssh(connection, _):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.shutdown(socket.SHUT_RDWR)

    receiver.faults = [ssh] * 4
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)


def test_http_to_the_grpc_port(capfd) -> None:
    """HTTP to a collector's gRPC port: nothing is lost, and the reason is said."""
    with Receiver() as other, Row(other.grpc_endpoint) as row:
        row.log()
        until(lambda: "cannot take records now" in capfd.readouterr().err, "said")
        row.conserved(pending=COUNT)


def test_dns_failure(capfd) -> None:
    """A name that does not exist may exist later: all records stay."""
    with Row("http://collector.invalid:4318") as row:
        row.log()
        until(lambda: "cannot take records now" in capfd.readouterr().err, "said")
        row.conserved(pending=COUNT)


def test_refused_connection() -> None:
    """A collector that comes late gets what was logged before."""
    port = free_port()
    with Row(f"http://127.0.0.1:{port}") as row:
        row.log()
        row.conserved(pending=COUNT)
        with Faulty(port=port) as late:
            row.drained()
            row.conserved(delivered=COUNT)
            arrived(late)


@pytest.mark.parametrize("way", ["half-closed", "reset"])
def test_keep_alive_that_ended(receiver, way) -> None:
    """A connection that the collector closed after a reply costs nothing at the next."""

    def ends(connection, _):
        connection.sendall(reply(200))
        if way == "half-closed":
            connection.shutdown(socket.SHUT_WR)
        else:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.shutdown(socket.SHUT_RD)
        return True

    receiver.faults = [ends, ends]
    half = COUNT // 2
    with Row(receiver.endpoint) as row:
        row.log(EXPECTED[:half])
        row.drained()
        row.log(EXPECTED[half:])
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (b"Content-Type: text/html\r\n", b"<html>It works!</html>"),
        (b"Content-Type: text/html\r\n", b""),
        (b"Content-Type: text/plain\r\n", b"ok"),
        (b"Content-Type: application/json\r\n", b'{"status": "ok"}'),
        (PROTOBUF, b"\xff\xfe garbage"),
        (b"Content-Encoding: gzip\r\n", b"no gzip at all"),
        (b"Content-Type: text/html\r\n", b"x" * 1_000_000),
    ],
    ids=["html", "empty-html", "text", "json", "protobuf", "gzip", "endless"],
)
def test_200_with_garbage(receiver, headers, content, capfd) -> None:
    """A success that is no OTLP delivers nothing: the records wait for a collector."""

    def portal(connection, _request):
        connection.sendall(reply(200, headers, content))

    receiver.faults = [portal]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
        said = "cut off" if len(content) > 100_000 else "is no OTLP"
        until(lambda: said in capfd.readouterr().err, "said")
    arrived(receiver)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (b"", b""),
        (PROTOBUF, b""),
        (b"Content-Type: text/plain\r\n", b""),
        (b"Content-Type: application/json; charset=utf-8\r\n", b"{}"),
        (b"Content-Type: application/json\r\n", b'{"partialSuccess": {}}'),
        (
            b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            gzip.compress(b"{}"),
        ),
    ],
    ids=["nothing", "protobuf", "empty", "json", "partial", "gzip"],
)
def test_200_of_a_collector(receiver, headers, content) -> None:
    """Nothing at all, and OTLP in JSON, are what a collector may say."""
    receiver.faults = [says(200, headers, content)]
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    arrived(receiver)


def test_redirect_that_drips(receiver) -> None:
    """Nor is all read that comes with a redirect: it ends with the request's time."""

    def drip(connection, _):
        head = b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:9/\r\n"
        connection.sendall(head + b"Content-Length: 9999\r\n\r\n")
        while not receiver._is_closing.is_set():
            connection.sendall(b"x")
            receiver.wait(0.1)

    receiver.faults = [drip]
    with Row(receiver.endpoint, timeout_s=0.5) as row:
        row.log(["one"])
        row.drained(10)
        row.conserved(delivered=1)


def test_redirects_are_not_followed(receiver, capfd) -> None:
    """Records go where they were meant to go, wait meanwhile, and it is said."""
    receiver.faults = [says(301, b"Location: http://127.0.0.1:9/\r\n")]
    with Row(receiver.endpoint) as row:
        row.log(["one"])
        row.drained()
        row.conserved(delivered=1)
        words = "redirects to http://127.0.0.1:9/, which is not followed"
        until(lambda: words in capfd.readouterr().err, "said")
    assert receiver.bodies() == ["one"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_misconfiguration_loses_nothing(receiver, status, capfd) -> None:
    """A wrong token or path holds the records back until it is mended."""
    receiver.faults = [says(status, b"", b"who are you?")] * 2
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
        said = f"cannot take records now: HTTP {status} who are you?"
        until(lambda: said in capfd.readouterr().err, "said")
    arrived(receiver)


def test_500_for_everything_loses_nothing(receiver) -> None:
    """A collector that fails whatever it is sent is waited for."""
    receiver.faults = [says(500)] * 40
    with Row(receiver.endpoint) as row:
        row.log()
        row.drained()
        row.conserved(delivered=COUNT)
    # It recovers in the midst of a batch: what it failed with comes behind the rest.
    assert sorted(receiver.bodies()) == sorted(EXPECTED)


@pytest.mark.slow
def test_500_for_one_record_lets_the_others_pass(receiver) -> None:
    """They arrive once each, those too that are logged later; it is tried again."""
    verdicts = []

    def judge(request):
        if holds(request, BAD) and len(verdicts) < 12:
            verdicts.append(len(decoded(request)))
            return reply(500)
        return None

    receiver.judge = judge
    with Row(receiver.endpoint) as row:
        row.log()
        others = [body for body in EXPECTED if body != BAD]
        until(lambda: receiver.bodies() == others, "the others", 10)
        row.log(["later"])
        until(lambda: receiver.bodies() == [*others, "later"], "the later one", 10)
        row.drained()
        row.conserved(delivered=COUNT + 1)
    assert sorted(receiver.bodies()) == sorted([*EXPECTED, "later"])
    assert verdicts[-1] == 1


def test_client_certificate(tmp_path) -> None:
    """A collector that asks who is there is shown the sink's own certificate."""
    ca, cert, key = certificates(tmp_path)
    context = server_side(cert, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with Faulty(tls=context) as collector:
        files = {"client_certificate_file": cert, "client_key_file": key}
        with Row(collector.endpoint, certificate_file=ca, **files) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
        arrived(collector)
        with Row(collector.endpoint, certificate_file=ca) as row:
            row.log(["nobody"])
            assert not row.server.flush(2)
            row.conserved(pending=1)
        arrived(collector)
