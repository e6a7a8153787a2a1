"""One POST of OTLP over HTTP, by the session that the official exporter has built.

In: a serialized request. Out: status, headers and the beginning of the reply, or what
went wrong before there was a status. The session is the exporter's: its TLS, headers,
compression, proxies and credential provider count. The reply is read here, because the
exporter reads all there is of it for as long as a server drips, and forgets the status
of one that it cannot decode.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.errors import ConfigError
from femtomp.otlp_options import MAX_TIMEOUT_S
from femtomp.sinks.otlp_tls import check_files

if TYPE_CHECKING:
    from collections.abc import Mapping

# An answer is a few bytes, a proxy's error page a few thousand.
MAX_REPLY_BYTES: Final = 16 * 1024
_HTTP_PACKAGE: Final = "opentelemetry-exporter-otlp-proto-http"


class HttpReply(NamedTuple):
    """What a server answered.

    Attributes
    ----------
    is_cut_off : bool
        The connection ended, or the time was up, before all of it was there.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    is_cut_off: bool


class Poster:
    """Posts to one URL.

    Parameters
    ----------
    exporter : OTLPLogExporter
        Lends its session.
    url : str

    Raises
    ------
    ConfigError
        If URL or headers cannot be used, or the exporter has another inside.
    """

    def __init__(self, exporter: Any, url: str) -> None:
        import requests

        self._url = url
        self._errors = requests.exceptions
        client = getattr(exporter, "_client", None)
        if client is not None:  # since 1.45
            self._of_1_45(client)
        else:
            self._of_1_39(exporter)
        # Else requests reads all there is of a redirect's reply, to follow it or not.
        self._session.get_redirect_target = _nowhere
        known_timeout_s(self._timeout_s)
        if url.startswith("https://"):
            cert = self._tls["cert"]
            pair = cert if isinstance(cert, tuple) else (cert, None)
            check_files(self._tls["verify"], pair[1], pair[0])
        try:
            request = requests.Request("POST", url, headers=self._headers)
            self._session.prepare_request(request)
        except ValueError as exc:
            msg = f"OTLPSink: endpoint or headers cannot be used: {exc}"
            raise ConfigError(msg) from exc

    def _of_1_45(self, client: Any) -> None:
        try:
            self._session: Any = client._transport._session  # noqa: SLF001
            self._headers: dict[str, str] = dict(client._headers)  # noqa: SLF001
            self._timeout_s = float(client._timeout)  # noqa: SLF001
            self._compress: Any = client._compress  # noqa: SLF001
        except AttributeError as exc:
            raise unknown_exporter(_HTTP_PACKAGE) from exc
        # Said with each request, or requests lets REQUESTS_CA_BUNDLE win over them.
        self._tls = {"verify": self._session.verify, "cert": self._session.cert}

    def _of_1_39(self, exporter: Any) -> None:
        try:
            self._session = exporter._session  # noqa: SLF001
            self._timeout_s = float(exporter._timeout)  # noqa: SLF001
            kind = exporter._compression.value  # noqa: SLF001
            self._tls = {
                "verify": exporter._certificate_file,  # noqa: SLF001
                "cert": exporter._client_cert,  # noqa: SLF001
            }
        except AttributeError as exc:
            raise unknown_exporter(_HTTP_PACKAGE) from exc
        self._headers = {}  # the session has them
        self._compress = _compressions()[kind]

    def post(self, data: bytes) -> HttpReply | Exception:
        """Post once; twice if a connection ended that may have been kept too long."""
        deadline = time.monotonic() + self._timeout_s
        content = self._compress(data)
        try:
            try:
                return self._post(content, deadline)
            except self._errors.Timeout:
                raise
            except self._errors.ConnectionError:
                return self._post(content, deadline)
        except (OSError, ValueError) as exc:
            return exc

    def _post(self, content: bytes, deadline: float) -> HttpReply:
        response = self._session.post(
            self._url,
            data=content,
            headers=self._headers,
            timeout=max(deadline - time.monotonic(), 0.001),
            allow_redirects=False,
            stream=True,
            **self._tls,
        )
        with response:
            body, is_cut_off = self._body(response, deadline)
            return HttpReply(response.status_code, response.headers, body, is_cut_off)

    def _body(self, response: Any, deadline: float) -> tuple[bytes, bool]:
        body = bytearray()
        try:
            for piece in response.iter_content(1):
                body += piece
                if len(body) >= MAX_REPLY_BYTES:
                    break
                if time.monotonic() > deadline:
                    return bytes(body), True
        except self._errors.ContentDecodingError:
            pass  # garbage, but all of it
        except (OSError, ValueError):
            return bytes(body), True
        return bytes(body), False


def _nowhere(_: Any) -> None:
    """Tell where a redirect leads: it is an answer, and not followed."""


def _compressions() -> dict[str, Any]:
    import gzip
    import zlib

    return {"none": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


def header_values(exporter: Any) -> list[str]:
    """Return the values of an exporter's headers, those of the environment included."""
    holder = getattr(exporter, "_client", None)
    headers = getattr(exporter, "_headers", None) or getattr(holder, "_headers", None)
    headers = headers or {}
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [str(value) for _, value in pairs]


def known_timeout_s(given: float) -> None:
    """Check what came from a variable, perhaps: sockets take no other time.

    Raises
    ------
    ConfigError
    """
    if not 0 < given <= MAX_TIMEOUT_S:  # nor NaN
        msg = (
            "OTLPSink: OTEL_EXPORTER_OTLP_TIMEOUT must be seconds, more than 0 and at "
            f"most {MAX_TIMEOUT_S:g}, not {given!r}"
        )
        raise ConfigError(msg)


def unknown_exporter(package: str) -> ConfigError:
    """Return the error that an exporter of another making deserves."""
    from importlib.metadata import version

    return ConfigError(
        f"OTLPSink cannot use {package} {version(package)}: it has changed inside; "
        "install the version that femtomp was tested with (1.45) or a newer femtomp"
    )
