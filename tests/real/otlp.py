"""OTLP receivers: the official gRPC service with HTTP beside it, and rotel's agent.

`Receiver` decodes with the generated classes of `opentelemetry-proto` and answers as
scripted. `Rotel` is a collector written in Rust by others: what it makes of a request
is in its log.
"""

from __future__ import annotations

import gzip
import http.server
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent import futures
from typing import NamedTuple, Self

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as messages
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as service
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)

from tests.components import rotel_path

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class HttpAnswer(NamedTuple):
    """What the HTTP side says to one request instead of 200."""

    status: int
    headers: dict[str, str] = {}  # noqa: RUF012 - a tuple's default, never changed
    content: bytes = b""


class GrpcAnswer(NamedTuple):
    """What the gRPC side says to one request instead of OK."""

    code: grpc.StatusCode
    details: str = "scripted"
    trailing: tuple = ()


def any_value(message):
    """Turn a protobuf AnyValue into a plain value."""
    kind = message.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [any_value(item) for item in message.array_value.values]
    if kind == "kvlist_value":
        return attributes(message.kvlist_value.values)
    return getattr(message, kind)


def attributes(pairs) -> dict:
    """Turn a protobuf list of KeyValue into a dict."""
    return {pair.key: any_value(pair.value) for pair in pairs}


def decoded(request) -> list[tuple[dict, str, object]]:
    """List a request's records: resource attributes, scope name, LogRecord."""
    return [
        (attributes(worker.resource.attributes), scope.scope.name, record)
        for worker in request.resource_logs
        for scope in worker.scope_logs
        for record in scope.log_records
    ]


class Receiver(service.LogsServiceServicer):
    """Takes logs over gRPC and HTTP; a context manager.

    Metrics are kept in `metrics`, whatever the script says of logs.

    `script` holds answers, the next request's first; a request that is answered from it
    is kept in `refused` instead of `requests`. `partial` is put into each good answer.
    """

    def __init__(self) -> None:
        self.script: list[HttpAnswer | GrpcAnswer] = []
        self.partial = (0, "")
        self.requests: list[tuple[dict, messages.ExportLogsServiceRequest]] = []
        self.refused: list[messages.ExportLogsServiceRequest] = []
        self.metrics: list[metrics_service_pb2.ExportMetricsServiceRequest] = []
        self._lock = threading.Lock()

    def start(self, host: str = "127.0.0.1", ports: tuple = (0, 0)) -> Receiver:
        """Listen, for gRPC and HTTP; on free ports of the loopback interface."""
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        pool = futures.ThreadPoolExecutor(4)
        self._grpc = grpc.server(pool, options=options)
        service.add_LogsServiceServicer_to_server(self, self._grpc)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(
            _Metrics(self.metrics), self._grpc
        )
        port = self._grpc.add_insecure_port(f"{host}:{ports[0]}")
        self.grpc_endpoint = f"http://127.0.0.1:{port}"
        self._grpc.start()
        address = host, ports[1]
        self._http = http.server.ThreadingHTTPServer(address, _handler(self))
        self._http.daemon_threads = True
        self.http_endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close both servers."""
        self._grpc.stop(0).wait(STOP_TIMEOUT_S)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(STOP_TIMEOUT_S)

    def records(self) -> list[tuple[dict, str, object]]:
        """List all accepted records: resource attributes, scope name, LogRecord."""
        with self._lock:
            return [one for _, request in self.requests for one in decoded(request)]

    def take(self, headers: dict, request) -> HttpAnswer | GrpcAnswer | None:
        """Keep a request, and give the answer that is scripted for it."""
        with self._lock:
            answer = self.script.pop(0) if self.script else None
            if answer is None:
                self.requests.append((headers, request))
            else:
                self.refused.append(request)
        return answer

    def response(self):
        """Give the message that accepts a request."""
        rejected, message = self.partial
        response = messages.ExportLogsServiceResponse()
        if rejected or message:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = message
        return response

    def Export(self, request, context):
        """Answer gRPC's call."""
        answer = self.take(dict(context.invocation_metadata()), request)
        if answer is not None:
            context.set_trailing_metadata(answer.trailing)
            context.abort(answer.code, answer.details)
        return self.response()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, taken: list) -> None:
        self._taken = taken

    def Export(self, request, _context):
        self._taken.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def points(request) -> dict:
    """Give a request's points: by name, and by attributes in the order of keys."""
    found = {}
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            key = tuple(sorted(attributes(point.attributes).items()))
            found[(metric.name, *key)] = point
    return found


def _handler(receiver: Receiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # a kept connection must not outlive its test

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/metrics":
                taken = metrics_service_pb2.ExportMetricsServiceRequest
                receiver.metrics.append(taken.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            request = messages.ExportLogsServiceRequest.FromString(body)
            headers = {k.lower(): v for k, v in self.headers.items()}
            answer = receiver.take({**headers, ":path": self.path}, request)
            if answer is None:
                protobuf = {"Content-Type": "application/x-protobuf"}
                content = receiver.response().SerializeToString()
                answer = HttpAnswer(200, protobuf, content)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def free_port() -> int:
    """Give a port of the loopback interface that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Rotel:
    """rotel's agent, which writes each record that it decodes to its log."""

    def start(self) -> Rotel:
        """Start it and wait until both ports take connections."""
        ports = free_port(), free_port()
        self.grpc_endpoint = f"http://127.0.0.1:{ports[0]}"
        self.http_endpoint = f"http://127.0.0.1:{ports[1]}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [
                rotel_path(),
                *["start", "--exporter", "blackhole", "--log-format", "text"],
                *["--debug-log", "logs", "--debug-log-verbosity", "detailed"],
                f"--otlp-grpc-endpoint=127.0.0.1:{ports[0]}",
                f"--otlp-http-endpoint=127.0.0.1:{ports[1]}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        for port in ports:
            self.wait(lambda port=port: _listens(port))
        return self

    def log(self) -> str:
        """Give all that it has logged."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def wait(self, condition) -> None:
        """Return when a condition holds; fail with the log after a deadline."""
        deadline = time.monotonic() + START_TIMEOUT_S
        pause = threading.Event()
        while not condition():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            pause.wait(0.01)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_TIMEOUT_S)
        self._log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
