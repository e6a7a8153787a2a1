"""OTLP over HTTP: one POST of protobuf bytes, over a connection that is kept.

In: a serialized request. Out: an `Answer`. The client is `http.client` over sockets
that know one deadline for connecting, sending and the whole reply (`otlp_socket`). A
redirect is an answer and is not followed: records go where they were meant to go.

What must never happen: a request that a server can hold up beyond its time, or a reply
that takes more memory than an answer deserves.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import gzip
import http.client
import time
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

from femtomp.errors import ConfigError
from femtomp.sinks.otlp_answer import Answer, HttpReply, in_words, of_http
from femtomp.sinks.otlp_proxy import basic_authorization, proxy_of
from femtomp.sinks.otlp_settings import settings_of, user_agent
from femtomp.sinks.otlp_socket import (
    PlainSocket,
    ReplyTooLongError,
    TlsSocket,
    connected,
    encrypted,
    through,
    tls_context,
)
from femtomp.sinks.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from femtomp.config import OTLPSink
    from femtomp.sinks.otlp_settings import Settings, Signal

# An answer is a few bytes, a proxy's error page a few thousand. That of a bad record
# may quote it.
MAX_BODY_BYTES: Final = 64 * 1024
# With status and headers, all that may come of a reply.
_MAX_REPLY_BYTES: Final = MAX_BODY_BYTES + 128 * 1024
# What `requests` leaves as it is in a URL.
_SAFE: Final = "!#$%&'()*+,/:;=?@[]~"
_PORTS: Final = {"http": 80, "https": 443}
_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


class HttpTransport:
    """Posts requests of one signal to one URL.

    Parameters
    ----------
    options : OTLPSink
        What it does not give comes from the environment.
    environ : mapping of str to str
    signal : {"logs", "metrics"}
        Whose variables count.

    Raises
    ------
    ConfigError
        If something cannot be used: URL, header, proxy, certificate.
    """

    def __init__(
        self, options: OTLPSink, environ: Mapping[str, str], signal: Signal = "logs"
    ) -> None:
        settings = settings_of(options, environ, "http/protobuf", signal)
        _refuse_provider(environ, signal)
        self._signal: Signal = signal
        self._timeout_s = settings.timeout_s
        self._compress = _COMPRESS[settings.compression]
        self._connection = _Connection(_route(settings, environ), settings, environ)
        parts = urlsplit(settings.endpoint)
        self.address: Final = f"{parts.scheme}://{self._connection.authority}"
        self._path = self._connection.target(parts.path or "/", parts.query)
        self._headers = {
            "host": self._connection.authority,
            "user-agent": user_agent(),
            "content-type": "application/x-protobuf",
            "accept-encoding": "identity",
        }
        if settings.compression != "none":
            self._headers["content-encoding"] = settings.compression
        if authorization := basic_authorization(parts):
            hide([authorization])
            self._headers["authorization"] = authorization
        self._headers |= settings.headers
        self._headers |= self._connection.headers

    def send(self, data: bytes) -> Answer:
        """Post once; once more if a connection was kept that had ended."""
        deadline = time.monotonic() + self._timeout_s
        content = self._compress(data)
        while True:
            is_kept = self._connection.begin(deadline)
            try:
                reply = self._post(content)
            except (OSError, http.client.HTTPException, ConfigError) as exc:
                self._connection.close()
                if is_kept and not isinstance(exc, (TimeoutError, ReplyTooLongError)):
                    continue
                return self._failed(exc)
            return of_http(reply, self._signal, self.address)

    def _post(self, content: bytes) -> HttpReply:
        connection = self._connection
        try:
            connection.request("POST", self._path, content, self._headers)
        except (BrokenPipeError, ConnectionResetError):
            # Who refuses a body that is too large need not read it to its end: the
            # answer may be there. If there is none, `getresponse` says so.
            if connection.sock is None:
                raise
        response = connection.getresponse()
        try:
            body, is_whole = _body_of(response)
        except OSError as exc:
            # The status came, so the request has arrived: it is not posted again now.
            body, is_whole = f"({in_words(exc)})".encode(), False
        finally:
            response.close()
        if not is_whole:
            connection.close()  # the rest is not waited for
        headers = {name.lower(): value for name, value in response.getheaders()}
        return HttpReply(response.status, headers, body, is_whole)

    def _failed(self, exc: Exception) -> Answer:
        if isinstance(exc, TimeoutError):
            words = f"no answer within {self._timeout_s:g} s"
        else:
            words = in_words(exc)
        return Answer.of("retry", f"{self.address}: {words}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _refuse_provider(environ: Mapping[str, str], signal: Signal) -> None:
    """Refuse what gives a session of `requests`, which has no deadline for a reply."""
    for of in ("", f"{signal.upper()}_"):
        variable = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{of}CREDENTIAL_PROVIDER"
        if environ.get(variable):
            msg = (
                f"OTLPSink: {variable} is not supported over HTTP: use headers=, "
                'protocol="grpc", or a Collector beside the server that has the '
                "credentials"
            )
            raise ConfigError(msg)


class _Route(NamedTuple):
    """Where the bytes go."""

    host: str
    port: int
    is_secure: bool


def _route(settings: Settings, environ: Mapping[str, str]) -> _Route:
    parts = urlsplit(settings.endpoint)
    if settings.is_secure:
        tls_context(settings.files, environ)  # looked at now, not at the first request
    port = parts.port or _PORTS[parts.scheme]
    return _Route(str(parts.hostname), port, settings.is_secure)


class _Connection(http.client.HTTPConnection):
    """One connection that is kept between requests."""

    sock: PlainSocket | TlsSocket | None

    def __init__(
        self, route: _Route, settings: Settings, environ: Mapping[str, str]
    ) -> None:
        super().__init__(route.host, route.port)
        self._route = route
        self._files = settings.files
        self._environ = environ
        self._proxy = proxy_of(settings.endpoint, environ)
        self._deadline = 0.0
        host = f"[{route.host}]" if ":" in route.host else route.host
        default = _PORTS["https" if route.is_secure else "http"]
        is_default = route.port == default
        self.authority: Final = host if is_default else f"{host}:{route.port}"

    def begin(self, deadline: float) -> bool:
        """Begin an exchange; return whether a connection was kept for it."""
        self._deadline = deadline
        if self.sock is None:
            return False
        self.sock.begin(deadline, _MAX_REPLY_BYTES)
        return True

    def target(self, path: str, query: str) -> str:
        """Return what stands in the request's line."""
        target = quote(path, safe=_SAFE)
        if query:
            target += "?" + quote(query, safe=_SAFE)
        if self._proxy is not None and not self._route.is_secure:
            return f"http://{self.authority}{target}"
        return target

    @property
    def headers(self) -> dict[str, str]:
        """What a proxy that sees the request is told in it."""
        if self._proxy is None or self._route.is_secure:
            return {}
        return self._proxy.headers

    def connect(self) -> None:
        """Connect, through the proxy if there is one, before the deadline."""
        route, proxy = self._route, self._proxy
        host, port = (route.host, route.port) if proxy is None else proxy[:2]
        sock: PlainSocket | TlsSocket
        sock = plain = connected(host, port, self._deadline, _MAX_REPLY_BYTES)
        try:
            if proxy is not None and route.is_secure:
                through(proxy, plain, route.host, route.port)
            if route.is_secure:
                context = tls_context(self._files, self._environ)
                sock = encrypted(plain, route.host, context, _MAX_REPLY_BYTES)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _body_of(response: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """Read what there is, to a limit; return it and whether it is all of it."""
    body = bytearray()
    try:
        while piece := response.read1(MAX_BODY_BYTES + 1 - len(body)):
            body += piece
            if len(body) > MAX_BODY_BYTES:
                return bytes(body[:MAX_BODY_BYTES]), False
    except http.client.HTTPException:
        return bytes(body), False
    declared = response.getheader("content-length", "")
    is_chunked = "chunked" in (response.getheader("transfer-encoding") or "").lower()
    if not is_chunked and declared.isdecimal() and len(body) < int(declared):
        # None of these has a body, whatever its headers say.
        return bytes(body), response.status in {204, 304}
    return bytes(body), True
