"""The bytes between a sink and its collector: one deadline, and a bound on what comes.

In: host, port, perhaps a proxy and TLS. Out: a connected socket for `http.client`. A
timeout of a socket counts for one operation, so that a server that drips a byte now and
then holds a request up for ever. These sockets know when the whole exchange must be
over, and how much may still come.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.sinks.otlp_proxy import Proxy
    from femtomp.sinks.otlp_settings import Files

_CA_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ReplyTooLongError(OSError):
    """More came than any answer has."""


class _Bounded:
    """A socket with a deadline for all operations together."""

    deadline = math.inf
    left = 0
    """How many bytes may still come."""

    def begin(self, deadline: float, most: int) -> None:
        """Begin an exchange: when it must be over, and the most that may come."""
        self.deadline, self.left = deadline, most

    def _hurry(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        """Receive, until the deadline."""
        self._hurry()
        count: int = super().recv_into(*args)  # type: ignore[misc]
        self.left -= count
        if self.left < 0:
            msg = "the reply is too long"
            raise ReplyTooLongError(msg)
        return count

    def send(self, *args: Any) -> int:
        """Send a part, until the deadline."""
        self._hurry()
        count: int = super().send(*args)  # type: ignore[misc]
        return count

    def sendall(self, *args: Any) -> None:
        """Send, until the deadline."""
        self._hurry()
        super().sendall(*args)  # type: ignore[misc]


class PlainSocket(_Bounded, socket.socket):
    """Over TCP."""


class TlsSocket(_Bounded, ssl.SSLSocket):
    """Over TLS, made by a context whose `sslsocket_class` it is."""


def connected(host: str, port: int, deadline: float, most: int) -> PlainSocket:
    """Connect to the first address of a host that answers.

    Each gets its share of the time: one that swallows packets must not keep the next
    from being tried.

    Raises
    ------
    OSError
        That of the last address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    problem: OSError = TimeoutError()
    for index, (family, kind, protocol, _, address) in enumerate(found):
        made = PlainSocket(family, kind, protocol)
        try:
            share = (deadline - time.monotonic()) / (len(found) - index)
            made.settimeout(max(share, 0.001))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as exc:
            problem = exc
            made.close()
            continue
        made.begin(deadline, most)
        return made
    raise problem


def through(proxy: Proxy, to: PlainSocket, host: str, port: int) -> None:
    """Have a proxy connect to a host: what follows is between that and us.

    Raises
    ------
    OSError
        If the proxy does not.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
    to.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    with contextlib.closing(http.client.HTTPResponse(to, method="CONNECT")) as reply:
        reply.begin()
        if reply.status != http.HTTPStatus.OK:
            msg = f"the proxy {proxy.host}:{proxy.port} answered HTTP {reply.status}"
            raise OSError(msg)


def encrypted(
    over: PlainSocket, host: str, context: ssl.SSLContext, most: int
) -> TlsSocket:
    """Speak TLS from here on."""
    deadline = over.deadline
    over.settimeout(max(deadline - time.monotonic(), 0.001))
    made: Any = context.wrap_socket(over, server_hostname=host)
    made.begin(deadline, most)
    return made  # type: ignore[no-any-return]


def tls_context(files: Files, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Load the authorities that are trusted, and what the sink shows of itself.

    For each connection: files are renewed while a server runs.

    Raises
    ------
    ConfigError
        Naming the file that cannot be read, or is not what it should be.
    """
    path = files.authority or _bundle(environ)
    try:
        if path is None:
            context = ssl.create_default_context()
        elif os.path.isdir(path):
            context = ssl.create_default_context(capath=path)
        else:
            context = ssl.create_default_context(cafile=path)
        context.set_alpn_protocols(["http/1.1"])
        path = files.client_certificate
        if path is not None:
            # The key may be in the certificate's file. Nobody is there to be asked for
            # a password.
            context.load_cert_chain(path, files.client_key, password="")
    except OSError as exc:  # ssl.SSLError is one
        msg = f"OTLPSink: {path} cannot be used for TLS: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    context.sslsocket_class = TlsSocket
    return context


def _bundle(environ: Mapping[str, str]) -> str | None:
    """Return where the authorities are that are trusted without being named."""
    for name in _CA_VARIABLES:
        if environ.get(name):
            return environ[name]
    try:
        import certifi
    except ImportError:  # then the system's
        return None
    return certifi.where()
