"""An OTLP receiver that misbehaves: HTTP over plain sockets, one fault a request.

`Faulty` decodes each request, and answers it by the next of its faults: a function that
is given the connection and the request, and says whether the records count as taken.
With none left it answers as a collector should.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Self

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as messages

from tests.real.otlp import any_value, decoded

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

GOOD = messages.ExportLogsServiceResponse().SerializeToString()
PROTOBUF = b"Content-Type: application/x-protobuf\r\n"


def reply(status: int, headers: bytes = b"", content: bytes = b"") -> bytes:
    """Give the bytes of an HTTP answer."""
    length = b"Content-Length: %d\r\n\r\n" % len(content)
    return b"HTTP/1.1 %d Scripted\r\n" % status + headers + length + content


def says(status: int, headers: bytes = b"", content: bytes = b"") -> Callable:
    """Make a fault of an answer; the records are taken if it is a success."""

    def fault(connection, _request):
        connection.sendall(reply(status, headers, content))
        return 200 <= status < 300

    return fault


class Faulty:
    """Listens on a port of the loopback interface; a context manager."""

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.faults: list[Callable] = []
        # Answers a request for what is in it, before the faults: None, or bytes.
        self.judge: Callable = lambda _request: None
        self.taken: list = []
        self.seen = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._listen)]
        self._open: list[socket.socket] = []
        self._is_closing = threading.Event()

    def bodies(self, logger: str = "shop") -> list:
        """List the bodies of the records that were taken, of one logger."""
        with self._lock:
            return [
                any_value(record.body)
                for request in self.taken
                for _, scope, record in decoded(request)
                if scope == logger
            ]

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            serving = threading.Thread(target=self._serve, args=(connection,))
            with self._lock:
                self._open.append(connection)
                self._threads.append(serving)
            serving.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            stream = connection.makefile("rb")
            stack.callback(stream.close)
            while (request := _request(stream)) is not None:
                self._answer(connection, request)

    def _answer(self, connection: socket.socket, request) -> None:
        with self._lock:
            self.seen += 1
            verdict = self.judge(request)
            fault = self.faults.pop(0) if verdict is None and self.faults else None
        if verdict is not None:
            connection.sendall(verdict)
        elif fault is not None:
            if fault(connection, request):
                self._take(request)
        else:
            self._take(request)
            connection.sendall(reply(200, PROTOBUF, GOOD))

    def _take(self, request) -> None:
        with self._lock:
            self.taken.append(request)

    def wait(self, timeout: float) -> None:
        """Wait inside a fault, for no longer than the receiver lives."""
        self._is_closing.wait(timeout)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_closing.is_set():
            return
        self._is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            threads, connections = list(self._threads), list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)


def _request(stream):
    """Read one request; None at the connection's end."""
    if not stream.readline():
        return None
    length = 0
    while (line := stream.readline().strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    body = stream.read(length)
    if len(body) < length:
        return None
    return messages.ExportLogsServiceRequest.FromString(body)


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Make a throw-away authority and a certificate for 127.0.0.1: CA, cert and key."""
    ca, ca_key, cert, key, csr, extra = (
        directory / name
        for name in ("ca.pem", "ca.key", "cert.pem", "cert.key", "csr.pem", "extra")
    )
    extra.write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *kind, "-subj", "/CN=throw-away", "-days", "2",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign",
         "-keyout", ca_key, "-out", ca],
        ["req", *kind, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", csr],
        ["x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-days", "2", "-extfile", extra, "-out", cert],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return ca, cert, key
