"""The error table of OTLP over gRPC: as `test_otlp_errors`, with gRPC's own codes."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent import futures

import pytest

from tests.components import missing, require
from tests.processes.harness import until
from tests.real.test_otlp_errors import BAD, COUNT, EXPECTED, Row, holds

if missing("otlp") is None:
    import grpc
    from google.protobuf.any_pb2 import Any
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as messages

    from tests.real.otlp import any_value, decoded, free_port
    from tests.real.otlp_faults import Faulty, certificates, says

METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
RETRYABLE = (
    "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE",
    "DATA_LOSS",
)  # fmt: skip
MISCONFIGURED = ("NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAUTHENTICATED")
OTHERS = ("UNKNOWN", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INTERNAL")


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


class Collector:
    """A gRPC server of one method, whose replies are bytes; a context manager."""

    def __init__(self, *, port: int = 0, credentials=None, **options) -> None:
        self.faults: list = []
        self.judge = lambda _request, _context: None
        self.response = messages.ExportLogsServiceResponse().SerializeToString()
        self.taken: list = []
        self._lock = threading.Lock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4),
            options=[(f"grpc.{k}", v) for k, v in options.items()],
        )
        handler = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=messages.ExportLogsServiceRequest.FromString,
        )
        self._server.add_generic_rpc_handlers(
            (_Handlers(handler),),
        )
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.endpoint = (
            f"{'http' if credentials is None else 'https'}://127.0.0.1:{self.port}"
        )

    def _export(self, request, context):
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
            if fault is None:
                self.judge(request, context)
                self.taken.append(request)
        if fault is not None:
            return fault(request, context)
        return self.response

    def bodies(self) -> list:
        """List the bodies of the records that were taken."""
        with self._lock:
            return [
                any_value(record.body)
                for request in self.taken
                for _, scope, record in decoded(request)
                if scope == "shop"
            ]

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(10)


class _Handlers:
    """Serves one method, whatever it is called."""

    def __init__(self, handler) -> None:
        self._handler = handler

    def service(self, details):
        """Give the handler, for the method of OTLP alone."""
        return self._handler if details.method == METHOD else None


def aborts(code: str, details: str = "scripted", trailing: tuple = ()):
    """Make a fault of a code."""

    def fault(_request, context):
        context.set_trailing_metadata(trailing)
        context.abort(grpc.StatusCode[code], details)

    return fault


def row_of(collector, **options) -> Row:
    """Give a row whose sink speaks gRPC."""
    return Row(collector.endpoint, protocol="grpc", **options)


@pytest.mark.parametrize("code", RETRYABLE)
def test_retryable_code(code) -> None:
    """What the specification calls retryable comes again, and arrives once."""
    with Collector() as collector:
        collector.faults = [aborts(code)]
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
        assert collector.bodies() == EXPECTED


@pytest.mark.parametrize("code", MISCONFIGURED)
def test_misconfiguration_loses_nothing(code, capfd) -> None:
    """A wrong token or service holds the records back until it is mended."""
    with Collector() as collector:
        collector.faults = [aborts(code, "who are you?")] * 2
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
            said = f"cannot take records now: gRPC {code} who are you?"
            until(lambda: said in capfd.readouterr().err, "said")
        assert collector.bodies() == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("code", OTHERS)
def test_other_code_for_one_record_lets_the_others_pass(code) -> None:
    """They arrive once each, and it is tried again."""
    verdicts = []

    def judge(request, context):
        if holds(request, BAD) and len(verdicts) < 12:
            verdicts.append(len(decoded(request)))
            context.abort(grpc.StatusCode[code], "oh")

    with Collector() as collector:
        collector.judge = judge
        with row_of(collector) as row:
            row.log()
            others = [body for body in EXPECTED if body != BAD]
            until(lambda: collector.bodies() == others, "the others", 10)
            row.drained()
            row.conserved(delivered=COUNT)
        assert collector.bodies() == [*others, BAD]


def test_invalid_argument_refuses_the_request(capfd) -> None:
    """What is said of the records is counted, said, and not repeated."""
    refused = []
    code = "INVALID_ARGUMENT"

    def judge(request, context):
        if holds(request, BAD):
            refused.extend(any_value(r.body) for _, _, r in decoded(request))
            context.abort(grpc.StatusCode[code], "no, thanks")

    with Collector() as collector:
        collector.judge = judge
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT - len(refused), refused=len(refused))
            said = f"otlp refused {len(refused)}: gRPC {code} no, thanks"
            until(lambda: said in capfd.readouterr().err, "said")
        assert BAD in refused
        assert len(refused) == len(set(refused)), "it was repeated"
        assert collector.bodies() == [b for b in EXPECTED if b not in refused]


def test_resource_exhausted_with_retry_info() -> None:
    """A collector that says when it has room again is asked then, and not before."""
    info = Any()
    info.Pack(RetryInfo(retry_delay=Duration(seconds=1, nanos=200_000_000)))
    details = Status(code=8, message="slow", details=[info]).SerializeToString()
    times = []

    def exhausted(request, context):
        times.append(time.monotonic())
        aborts("RESOURCE_EXHAUSTED", "slow", (("grpc-status-details-bin", details),))(
            request, context
        )

    with Collector() as collector:
        collector.faults = [exhausted]
        collector.judge = lambda *_: times.append(time.monotonic())
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
        assert collector.bodies() == EXPECTED
        assert times[1] - times[0] >= 1.2


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("RESOURCE_EXHAUSTED", "Received message larger than max (5 vs. 4)"),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4: 5"),
        ("RESOURCE_EXHAUSTED", "no"),
        ("OUT_OF_RANGE", "Error, decoded message length too large: found 5 bytes"),
    ],
)
def test_exhaustion_is_split_down_to_the_one_record(code, details) -> None:
    """All arrives but the one record that the collector cannot take."""

    def judge(request, context):
        if holds(request, BAD):
            context.abort(grpc.StatusCode[code], details)

    with Collector() as collector:
        collector.judge = judge
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT - 1, refused=1)
        assert collector.bodies() == [body for body in EXPECTED if body != BAD]


def test_exhaustion_of_everything_loses_nothing() -> None:
    """A collector that is exhausted, and not by one record, is waited for."""
    with Collector() as collector:
        collector.faults = [aborts("RESOURCE_EXHAUSTED", "busy")] * 23
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
        assert collector.bodies() == EXPECTED


def test_real_message_limit() -> None:
    """A real server's limit on messages costs the one record that is above it."""
    bodies = [*EXPECTED[:50], "x" * 200_000, *EXPECTED[50:]]
    with Collector(max_receive_message_length=100_000) as collector:
        with row_of(collector) as row:
            row.log(bodies)
            row.drained()
            row.conserved(delivered=COUNT, refused=1)
        assert collector.bodies() == EXPECTED


def test_partial_success(capfd) -> None:
    """What the collector rejected is counted with its message, and not repeated."""
    response = messages.ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 3
    response.partial_success.error_message = "too old"

    def partly(request, _context):
        collector.taken.append(request)
        return response.SerializeToString()

    with Collector() as collector:
        collector.faults = [partly]
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT - 3, refused=3)
            until(lambda: "refused 3: rejected by the collector: too old"
                  in capfd.readouterr().err, "said")  # fmt: skip
        assert collector.bodies() == EXPECTED


def test_slow_collector() -> None:
    """A call that is not answered in time comes again."""

    def never(_request, context):
        while context.is_active():
            time.sleep(0.05)
        return b""

    with Collector() as collector:
        collector.faults = [never]
        with row_of(collector, timeout_s=0.5) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
        assert collector.bodies() == EXPECTED


def test_ok_with_garbage(capfd) -> None:
    """An OK that comes with no OTLP delivers nothing: the records wait."""

    def garbage(_request, _context):
        return b"\xff\xfe garbage"

    with Collector() as collector:
        collector.faults = [garbage]
        with row_of(collector) as row:
            row.log()
            row.drained()
            row.conserved(delivered=COUNT)
            until(lambda: "is no OTLP" in capfd.readouterr().err, "said")
        assert collector.bodies() == EXPECTED


def test_tls_failure(tmp_path, capfd, monkeypatch) -> None:
    """An authority that is not trusted holds records back; mended, they arrive. What
    gRPC's C library has to say of it is in femtomp's line, and nowhere else.
    """
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    said: list[str] = []

    def lines() -> str:
        said.append(capfd.readouterr().err)
        return "".join(said)

    ca, cert, key = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    _, *stranger = certificates(tmp_path / "other")
    with Collector(credentials=server_side(*stranger)) as untrusted:
        port = untrusted.port
        with row_of(untrusted, certificate_file=ca) as row:
            row.log()
            until(lambda: "UNAVAILABLE" in lines(), "said")
            row.conserved(pending=COUNT)
            assert untrusted.taken == []
            untrusted.__exit__()
            with Collector(port=port, credentials=server_side(cert, key)) as mended:
                row.drained()
                row.conserved(delivered=COUNT)
                assert mended.bodies() == EXPECTED
    whole = lines().splitlines()
    assert [line for line in whole if not line.startswith("femtomp[")] == []


def server_side(cert, key):
    """Make a server's credentials."""
    return grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])


@pytest.mark.parametrize("speaker", ["http", "silent", "closing"])
def test_wrong_protocol_on_the_port(speaker, capfd) -> None:
    """Whatever else speaks there, records wait for a collector."""
    with contextlib.ExitStack() as stack:
        if speaker == "http":
            other = stack.enter_context(Faulty())
            other.faults = [says(404)] * 100
        else:
            other = stack.enter_context(Mute(closing=speaker == "closing"))
        address = f"http://127.0.0.1:{other.port}"
        with Row(address, protocol="grpc", timeout_s=1) as row:
            row.log()
            until(lambda: "cannot take records now" in capfd.readouterr().err, "said")
            row.conserved(pending=COUNT)


class Mute:
    """Takes connections and says nothing; a context manager."""

    def __init__(self, *, closing: bool) -> None:
        import socket

        self._how = socket.SHUT_RDWR
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closing = closing
        self._open: list = []
        self._thread = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if self._closing:
                    connection.close()
                else:
                    self._open.append(connection)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(self._how)
        self._listener.close()
        self._thread.join(10)
        for connection in self._open:
            connection.close()


def test_dns_failure(capfd) -> None:
    """A name that does not exist may exist later: all records stay."""
    with Row("http://collector.invalid:4317", protocol="grpc", timeout_s=2) as row:
        row.log()
        until(lambda: "cannot take records now" in capfd.readouterr().err, "said")
        row.conserved(pending=COUNT)


def test_collector_that_was_restarted() -> None:
    """A connection that has ended is made anew, and nothing is lost or repeated."""
    half = COUNT // 2
    with Collector() as first, row_of(first) as row:
        row.log(EXPECTED[:half])
        row.drained()
        first.__exit__()
        row.log(EXPECTED[half:])
        with Collector(port=first.port) as second:
            row.drained()
            row.conserved(delivered=COUNT)
            assert first.bodies() + second.bodies() == EXPECTED


def test_refused_connection() -> None:
    """A collector that comes late gets what was logged before."""
    port = free_port()
    with Row(f"http://127.0.0.1:{port}", protocol="grpc") as row:
        row.log()
        row.conserved(pending=COUNT)
        with Collector(port=port) as late:
            row.drained()
            row.conserved(delivered=COUNT)
            assert late.bodies() == EXPECTED
