"""What is behind the fleet's gateway: it writes down each record that it is given.

Runs in the gateway's network namespace. Two ways to be given records:

- `json`: behind a Collector, whose otlp_http exporter sends OTLP as JSON;
- `otlp`: in place of one, where none was built: OTLP over HTTP and gRPC.

In: how, a file, and ports, as arguments; then seconds a line on stdin, which each answer
takes from then on. Out: a line a record in the file, appended before the answer, so what
was answered is there whoever is killed::

    monotonic nanoseconds, number of the request, uid, host.name, host, worker, number
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import sys
import threading
import time

from tests.real.otlp import Receiver, attributes, decoded

_ANY = "0.0.0.0"


class Book:
    """The file, and how long an answer takes."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count()
        self._slow = threading.Event()  # never set: what is waited on
        self.delay_s = 0.0

    def take(self, records: list[tuple[str, dict]]) -> None:
        """Write records down: their hosts' names and attributes; then wait."""
        request, now = f"{os.getpid()}.{next(self._numbers)}", time.monotonic_ns()
        lines = [
            f"{now} {request} {found['log.record.uid']} {name} "
            f"{found['fleet.host']} {found['worker']} {found['number']}\n"
            for name, found in records
            if "fleet.host" in found
        ]
        os.write(self._file, "".join(lines).encode())
        self._slow.wait(self.delay_s)


class InPlace(Receiver):
    """Takes OTLP itself."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def take(self, headers: dict, request) -> None:
        """Write down what a request holds."""
        found = decoded(request)
        self._book.take(
            [(r["host.name"], attributes(m.attributes)) for r, _, m in found]
        )


def plain(pairs: list[dict]) -> dict:
    """Turn OTLP's attributes, as JSON, into a dict."""
    found = {pair["key"]: pair.get("value", {}) for pair in pairs}
    return {key: next(iter(value.values()), None) for key, value in found.items()}


def taken(request: dict) -> list[tuple[str, dict]]:
    """List a request's records: host.name and attributes."""
    return [
        (plain(worker["resource"]["attributes"])["host.name"], plain(one["attributes"]))
        for worker in request.get("resourceLogs", [])
        for scope in worker["scopeLogs"]
        for one in scope["logRecords"]
    ]


def behind(book: Book, port: int) -> http.server.ThreadingHTTPServer:
    """Make a server that takes OTLP as JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            book.take(taken(json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer((_ANY, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    """Serve until stdin ends."""
    how, path, *ports = sys.argv[1:]
    book = Book(path)
    # Who was killed or cut off hears no answer: expected here, and not to be said.
    http.server.ThreadingHTTPServer.handle_error = lambda *_: None
    if how == "json":
        server = behind(book, int(ports[0]))
    else:
        receiver = InPlace(book)
        receiver.start(_ANY, tuple(map(int, ports)))
    print("ready", flush=True)
    for line in sys.stdin:
        book.delay_s = float(line)
        print("slow", flush=True)
    if how == "json":
        server.shutdown()
        server.server_close()
    else:
        receiver.stop()


if __name__ == "__main__":
    main()
