"""The demo's OTLP receiver: takes what a collector would.

In: OTLP/HTTP requests on a port of the loopback interface. Out: the records in them.
The port listens from the construction on; the thread that answers begins with `serve`,
after the workers were forked. Needs opentelemetry-proto.
"""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from femtomp.cli.demo_report import Delivery
from femtomp.config import OTLPSink, SinkOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_POLL_S: Final = 0.05
_IDLE_S: Final = 5.0
_STOP_TIMEOUT_S: Final = 5.0
# A batch of the sink is far below it; whoever sends more is not the sink.
_MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024


class Receiver:
    """A destination: see `demo_destinations.Destination`."""

    name = "otlp"

    def __init__(self, run: str) -> None:
        self._run: Final = run
        self._deliveries: list[Delivery] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread: threading.Thread | None = None

    @property
    def sink(self) -> SinkOptions:
        """Where the server shall send to."""
        return OTLPSink(
            f"http://127.0.0.1:{self._server.server_address[1]}",
            protocol="http/protobuf",
            name=self.name,
        )

    def serve(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), daemon=True
        )
        self._thread.start()

    def take(self, body: bytes) -> bytes:
        """Keep the records of a request; return the response."""
        request = ExportLogsServiceRequest.FromString(body)
        found = list(_deliveries(request, self._run))
        with self._lock:
            self._deliveries += found
        return bytes(ExportLogsServiceResponse().SerializeToString())

    def read(self, expected: int) -> list[Delivery]:  # noqa: ARG002 - all is here at once
        """Return what arrived."""
        with self._lock:
            return list(self._deliveries)

    def close(self) -> None:
        """End thread and port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(_STOP_TIMEOUT_S)
        self._server.server_close()


def _deliveries(request: ExportLogsServiceRequest, run: str) -> Iterator[Delivery]:
    for worker in request.resource_logs:
        pid = _attributes(worker.resource.attributes)["process.pid"].int_value
        for scope in worker.scope_logs:
            for record in scope.log_records:
                found = _attributes(record.attributes)
                if "demo.run" in found and found["demo.run"].string_value == run:
                    yield Delivery(
                        found["log.record.uid"].string_value,
                        pid,
                        found["demo.sequence"].int_value,
                    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AnyValue]:
    return {pair.key: pair.value for pair in pairs}


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_S

        def do_POST(self) -> None:
            """Answer an export request."""
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(min(size, _MAX_REQUEST_BYTES))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            content = receiver.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: the terminal is the demo's."""

    return Handler
