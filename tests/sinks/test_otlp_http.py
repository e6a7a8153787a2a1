"""OTLP over HTTP on the wire: connections, proxies, TLS, and the time of a reply."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
import zlib

import pytest

from femtomp.config import OTLPSink
from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.otlp import open_driver
from tests.components import missing, require
from tests.records import batch, make

if missing("otlp") is None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    from tests.real.otlp_faults import certificates
    from tests.real.test_otlp_errors import server_side


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


class Server:
    """Speaks HTTP and keeps what it is sent, as a collector or a proxy; a context."""

    def __init__(self, tls=None) -> None:
        self.requests: list = []
        self.connects: list = []
        self.forward_to = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append(
                    (self.client_address[1], self.path, _lower(self.headers), body)
                )
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_CONNECT(self):
                server.connects.append((self.path, _lower(self.headers)))
                if server.forward_to is None:
                    self.send_error(407)
                    return
                self.send_response(200)
                self.end_headers()
                with socket.create_connection(("127.0.0.1", server.forward_to)) as to:
                    threads = [
                        threading.Thread(target=_pump, args=pair)
                        for pair in ((self.connection, to), (to, self.connection))
                    ]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


def _lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def _pump(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def sent(environ=None, **options):
    """Write twice by one driver; give the outcomes."""
    driver = open_driver(OTLPSink(**options), environ=environ or {})
    try:
        return [driver.write(batch(2)), driver.write(batch(3))]
    finally:
        driver.close()


def test_connection_is_kept() -> None:
    """One connection carries all requests."""
    with Server() as server:
        url = f"http://127.0.0.1:{server.port}"
        assert sent(endpoint=url) == [Delivered(), Delivered()]
    assert len({port for port, *_ in server.requests}) == 1
    _, path, headers, body = server.requests[0]
    assert path == "/v1/logs"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["user-agent"].startswith("femtomp")
    assert ExportLogsServiceRequest.FromString(body).resource_logs


def test_deflate() -> None:
    """It is zlib's format, and the header says so."""
    with Server() as server:
        sent(endpoint=f"http://127.0.0.1:{server.port}", compression="deflate")
    _, _, headers, body = server.requests[0]
    assert headers["content-encoding"] == "deflate"
    assert ExportLogsServiceRequest.FromString(zlib.decompress(body)).resource_logs


def test_credentials_of_the_endpoint_are_a_header() -> None:
    """They are sent as Basic authorization, unquoted; a header of that name wins."""
    with Server() as server:
        url = f"http://ann:p%40ss@127.0.0.1:{server.port}/x?y=z a"
        sent(endpoint=url.replace(" ", "%20"))
        sent(endpoint=url.replace(" ", "%20"), headers={"Authorization": "mine"})
    headers = [found for _, _, found, _ in server.requests]
    assert headers[0]["authorization"] == "Basic YW5uOnBAc3M="
    assert headers[2]["authorization"] == "mine"
    assert server.requests[0][1] == "/x/v1/logs?y=z%20a"


def test_proxy_is_given_the_whole_url() -> None:
    """Without TLS a proxy sees the request, and its credentials."""
    with Server() as proxy:
        environ = {"http_proxy": f"http://ann:pass@127.0.0.1:{proxy.port}"}
        outcome = sent(environ, endpoint="http://collector.invalid:4318")
        assert outcome == [Delivered(), Delivered()]
    _, path, headers, _ = proxy.requests[0]
    assert path == "http://collector.invalid:4318/v1/logs"
    assert headers["host"] == "collector.invalid:4318"
    assert headers["proxy-authorization"] == "Basic YW5uOnBhc3M="


def test_tls_goes_through_a_proxy(tmp_path) -> None:
    """A proxy connects and sees neither path nor headers."""
    ca, cert, key = certificates(tmp_path)
    with Server(server_side(cert, key)) as server, Server() as proxy:
        proxy.forward_to = server.port
        environ = {"HTTPS_PROXY": f"ann:pass@127.0.0.1:{proxy.port}"}
        url = f"https://127.0.0.1:{server.port}"
        options = {"endpoint": url, "certificate_file": ca, "headers": {"a": "b"}}
        assert sent(environ, **options) == [Delivered(), Delivered()]
        ((path, headers),) = proxy.connects
    assert path == f"127.0.0.1:{server.port}"
    assert headers["proxy-authorization"] == "Basic YW5uOnBhc3M="
    assert not proxy.requests
    ours = server.requests[0][2]
    assert ours["a"] == "b"
    assert "proxy-authorization" not in ours


def test_proxy_that_refuses_is_named() -> None:
    """The records wait, and its answer is the reason."""
    with Server() as proxy:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        outcome, _ = sent(environ, endpoint="https://collector.invalid")
    assert isinstance(outcome, RetryAfter)
    expected = f"the proxy 127.0.0.1:{proxy.port} answered HTTP 407"
    assert outcome.reason == f"https://collector.invalid: {expected}"


@pytest.mark.parametrize("named", ["option", "variable"])
def test_authority_that_was_named_wins_over_a_bundle(tmp_path, named) -> None:
    """REQUESTS_CA_BUNDLE is for those that name none."""
    ca, cert, key = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other, *_ = certificates(tmp_path / "other")
    environ = {"REQUESTS_CA_BUNDLE": str(other)}
    options = {}
    if named == "option":
        options["certificate_file"] = ca
    else:
        environ["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(ca)
    with Server(server_side(cert, key)) as server:
        url = f"https://127.0.0.1:{server.port}"
        assert sent(environ, endpoint=url, **options)[0] == Delivered()
        del environ["REQUESTS_CA_BUNDLE"]
        assert sent({"CURL_CA_BUNDLE": str(ca)}, endpoint=url)[0] == Delivered()
        untrusted, _ = sent({}, endpoint=url)
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.reason


def test_certificate_that_was_renewed_is_read_for_the_next_connection(tmp_path) -> None:
    """Files are read when a connection is made, not once for a server's life."""
    ca, cert, key = certificates(tmp_path)
    (tmp_path / "old").mkdir()
    old_ca, *_ = certificates(tmp_path / "old")
    new = ca.read_bytes()
    ca.write_bytes(old_ca.read_bytes())
    with Server(server_side(cert, key)) as server:
        url = f"https://127.0.0.1:{server.port}"
        driver = open_driver(OTLPSink(url, certificate_file=ca), environ={})
        assert "CERTIFICATE_VERIFY_FAILED" in driver.write(batch(1)).reason
        ca.write_bytes(b"half of it")
        assert "cannot be used for TLS" in driver.write(batch(1)).reason
        ca.write_bytes(new)
        assert driver.write(batch(1)) == Delivered()
        driver.close()


def test_refused_connection_is_said_in_words() -> None:
    """The address without credentials, and what the system says."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        outcome, _ = sent(endpoint=f"http://ann:passw0rd@127.0.0.1:{port}")
    assert outcome.reason == f"http://127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("is_tls", [False, True])
def test_server_that_says_nothing_is_left_in_time(tmp_path, is_tls) -> None:
    """The timeout counts for the handshake, too."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        scheme = "https" if is_tls else "http"
        url = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}"
        begin = time.monotonic()
        outcome = sent(endpoint=url, timeout_s=0.3)[0]
        assert 0.5 < time.monotonic() - begin < 5
    assert "no answer within 0.3 s" in outcome.reason


def test_reply_that_is_endless_is_cut(tmp_path) -> None:
    """Neither headers nor interim replies without end take time or memory."""
    for flood in (b"X: " + b"y" * 65536, b"HTTP/1.1 100 Continue\r\n\r\n" * 4096):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(listener=listener, flood=flood):
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    connection.recv(65536)
                    if flood.startswith(b"X"):
                        connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    while True:
                        connection.sendall(flood)

            thread = threading.Thread(target=serve)
            thread.start()
            begin = time.monotonic()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            driver = open_driver(OTLPSink(url, timeout_s=30), environ={})
            assert isinstance(driver.write(batch(1)), RetryAfter)
            assert time.monotonic() - begin < 10
            driver.close()
            thread.join(10)


def test_refusal_that_does_not_wait_for_the_body_is_read() -> None:
    """413 before the request was read to its end is an answer, and no broken pipe."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with listener.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        driver = open_driver(OTLPSink(url, timeout_s=5), environ={})
        assert driver.write([make(body="x" * 20_000_000)]) == Refused("HTTP 413")
        driver.close()
        thread.join(10)
