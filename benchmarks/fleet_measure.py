"""What one record costs, measured: bytes in a lane, bytes in OTLP, a Collector's time.

The records are those of a request's end in a shop, as `benchmarks.otlp` logs them. The
Collector is one that its user names, as that which `make test-collector` builds.
"""

from __future__ import annotations

import gzip
import http.client
import http.server
import logging
import socket
import subprocess
import threading
import time
from typing import NamedTuple

import femtomp
from benchmarks.cpu import process_cpu_ns

PATHS = ("/cart", "/cart/checkout", "/products/8812", "/login", "/account/orders")
RECORDS = 20_000
# Of one request, in the measure of a Collector, and how many records it gets in all.
SIZES = (10, 1000)
POSTED = 200_000
START_TIMEOUT_S = 20.0
_QUIET_S = 0.5
_CONFIG = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 1024}}
exporters:
  otlp_http:
    endpoint: "{backend}"
    sending_queue:
      sizer: bytes
      queue_size: 1000000000
      batch: {{flush_timeout: 1s, min_size: 1000000, max_size: 3500000}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs:
      {{receivers: [otlp], processors: [memory_limiter], exporters: [otlp_http]}}
"""


class Bytes(NamedTuple):
    """Bytes a record."""

    lane: float
    otlp: float
    gzipped: float


class Cost(NamedTuple):
    """A Collector's CPU time, in seconds."""

    request_s: float
    record_s: float


class Backend(http.server.ThreadingHTTPServer):
    """Takes everything, or nothing while `is_away`; keeps bodies if told to."""

    daemon_threads = True

    def __init__(self, *, keeps: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_away = False
        self.keeps = keeps
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that is gone."""

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        """Answer one request."""
        backend = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if backend.keeps and not backend.is_away:
            backend.bodies.append(body)
        self.send_response(503 if backend.is_away else 200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure_bytes() -> tuple[Bytes, list[bytes]]:
    """Let a backlog grow, look what it takes, then look what is sent of it."""
    backend = Backend(keeps=True)
    backend.is_away = True
    sink = femtomp.OTLPSink(backend.url)
    try:
        with femtomp.start_server(sink, name="benchmark-fleet") as server:
            _log(RECORDS)
            lanes = (server.spool / "lanes").iterdir()
            lane = sum(file.stat().st_blocks * 512 for file in lanes)
            backend.is_away = False
            assert server.flush(60)
    finally:
        backend.close()
    bodies = backend.bodies
    sent, gzipped = sum(map(len, bodies)), sum(len(gzip.compress(b)) for b in bodies)
    return Bytes(lane / RECORDS, sent / RECORDS, gzipped / RECORDS), bodies


def _log(records: int) -> None:
    shop = logging.getLogger("shop.checkout")
    handler = femtomp.worker_handler()
    shop.addHandler(handler)
    shop.setLevel("INFO")
    shop.propagate = False
    for index in range(records):
        extra = {"user_id": 1_000_000_000 + index, "path": PATHS[index % 5]}
        shop.info("request %s finished in %d us", extra["path"], index, extra=extra)
    shop.removeHandler(handler)


def request_of(bodies: list[bytes], size: int) -> bytes:
    """Make a request with that many of the records that were sent."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    request = ExportLogsServiceRequest.FromString(max(bodies, key=len))
    worker = max(request.resource_logs, key=lambda w: w.ByteSize())
    scope = max(worker.scope_logs, key=lambda s: s.ByteSize())
    records = list(scope.log_records)[:size]
    assert len(records) == size
    del request.resource_logs[:], scope.log_records[:], worker.scope_logs[:]
    worker.scope_logs.append(scope)
    worker.scope_logs[0].log_records.extend(records)
    request.resource_logs.append(worker)
    return request.SerializeToString()


def measure_collector(program: str, bodies: list[bytes]) -> Cost:
    """Send the same records in small and in large requests; solve for the two costs."""
    backend = Backend(keeps=False)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = _CONFIG.format(port=port, backend=backend.url)
    collector = subprocess.Popen(
        [program, f"--config=yaml:{config}"], stderr=subprocess.DEVNULL
    )
    try:
        _until_it_listens(collector, port)
        took = [_cpu_s(collector.pid, port, bodies, size) for size in SIZES]
    finally:
        collector.terminate()
        collector.wait()
        backend.close()
    small, large = SIZES
    # CPU by record = request_s / size + record_s, for both sizes.
    request_s = (took[0] - took[1]) / (1 / small - 1 / large)
    return Cost(request_s, took[1] - request_s / large)


def _until_it_listens(collector: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if collector.poll() is not None or time.monotonic() > deadline:
            msg = f"{collector.args[0]} does not listen"
            raise RuntimeError(msg)
        time.sleep(0.02)


def _cpu_s(pid: int, port: int, bodies: list[bytes], size: int) -> float:
    body = request_of(bodies, size)
    headers = {"Content-Type": "application/x-protobuf"}
    before = process_cpu_ns(pid)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(POSTED // size):
        connection.request("POST", "/v1/logs", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()
    return (_when_quiet(pid) - before) / 1e9 / POSTED


def _when_quiet(pid: int) -> int:
    """Return the CPU time at the moment when the Collector has done with its queue."""
    found = process_cpu_ns(pid)
    while True:
        time.sleep(_QUIET_S)
        again = process_cpu_ns(pid)
        if again - found < 5_000_000:
            return again
        found = again
