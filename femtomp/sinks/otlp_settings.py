"""What one OTLP connection is to be: an `OTLPSink`'s options over the variables.

In: the options, the environment, the signal (logs or metrics). Out: a `Settings`, whole
and checked. The variables have the names and the precedence that the OpenTelemetry SDK
gives them: OTEL_EXPORTER_OTLP_LOGS_X before OTEL_EXPORTER_OTLP_X; an empty one counts
as not set.

What must never happen: a setting that only the first request shows to be unusable, or
an error that shows a header's value.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from femtomp.errors import ConfigError
from femtomp.otlp_options import (
    COMPRESSIONS,
    MAX_TIMEOUT_S,
    check_headers,
    check_url,
)
from femtomp.sinks.secrets import credentials, hide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import OTLPSink

Signal: TypeAlias = Literal["logs", "metrics"]
Protocol: TypeAlias = Literal["http/protobuf", "grpc"]
HTTP_PATHS: Final[dict[str, str]] = {"logs": "/v1/logs", "metrics": "/v1/metrics"}
DEFAULT_TIMEOUT_S: Final = 10.0
_DEFAULT_ENDPOINTS: Final = {
    "http/protobuf": "http://localhost:4318",
    "grpc": "http://localhost:4317",
}
_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
# A value of W3C baggage, which is percent-encoded. Anything else is taken as it is, as
# the SDKs do: "authorization=Basic abc=" is what people write.
_ENCODED: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")


class Files(NamedTuple):
    """Paths of PEM files; None for what is not given."""

    authority: str | None
    client_key: str | None
    client_certificate: str | None


class Settings(NamedTuple):
    """One connection.

    Attributes
    ----------
    endpoint : str
        The URL that is posted to; for gRPC what `grpc` takes as a target.
    is_secure : bool
        Whether it is TLS.
    headers : dict of str to str
        By lower-case names.
    timeout_s : float
        For one request, from its first byte to the last of its reply.
    compression : {"none", "gzip", "deflate"}
    files : Files
    """

    endpoint: str
    is_secure: bool
    headers: dict[str, str]
    timeout_s: float
    compression: str
    files: Files


def settings_of(
    options: OTLPSink, environ: Mapping[str, str], protocol: str, signal: Signal
) -> Settings:
    """Resolve what a connection of a signal is.

    Parameters
    ----------
    options : OTLPSink
    environ : mapping of str to str
    protocol : {"http/protobuf", "grpc"}
    signal : {"logs", "metrics"}

    Returns
    -------
    Settings
        All secrets in it are hidden from what the supervisor says from now on.

    Raises
    ------
    ConfigError
        Naming the option or the variable that cannot be used.
    """
    variables = _Variables(environ, signal)
    is_grpc = protocol == "grpc"
    url = _grpc_url(options, variables) if is_grpc else _url(options, variables, signal)
    headers = _headers(options, variables, protocol)
    hide([*headers.values(), *credentials(url)])
    name, given = variables.get("TIMEOUT")
    timeout_s = _seconds(name, given) if options.timeout_s is None else None
    compression = options.compression or _compression(*variables.get("COMPRESSION"))
    return Settings(
        _target(url) if is_grpc else url,
        _is_secure(url, variables) if is_grpc else url.startswith("https:"),
        headers,
        timeout_s or options.timeout_s or DEFAULT_TIMEOUT_S,
        compression,
        _files(options, variables),
    )


class _Variables:
    """The variables of one signal."""

    def __init__(self, environ: Mapping[str, str], signal: Signal) -> None:
        self._environ = environ
        self._signal = signal.upper()

    def get(self, name: str) -> tuple[str, str]:
        """Return the name of the variable that counts, and its value; "" for none."""
        general = _PREFIX + name
        for variable in (f"{_PREFIX}{self._signal}_{name}", general):
            value = self._environ.get(variable, "").strip()
            if value:
                return variable, value
        return general, ""

    def of_signal(self, name: str) -> str:
        """Return the value of the signal's own variable; "" for none."""
        return self._environ.get(f"{_PREFIX}{self._signal}_{name}", "").strip()


def user_agent() -> str:
    """Return what a collector is told of who sends."""
    from importlib import metadata

    try:
        return f"femtomp/{metadata.version('femtomp')}"
    except metadata.PackageNotFoundError:  # a frozen program, a bare checkout
        return "femtomp"


def http_endpoint(endpoint: str | None, signal: Signal = "logs") -> str | None:
    """Complete a base URL to the one that takes a signal; None stays None.

    Examples
    --------
    >>> http_endpoint("http://collector:4318/")
    'http://collector:4318/v1/logs'
    >>> http_endpoint("http://collector:4318/v1/logs")
    'http://collector:4318/v1/logs'
    >>> http_endpoint("http://collector:4318/v1/logs", "metrics")
    'http://collector:4318/v1/metrics'
    """
    if endpoint is None:
        return None
    path = HTTP_PATHS[signal]
    base, mark, query = endpoint.partition("?")
    base = base.rstrip("/")
    if not base.endswith(path):
        base = base.removesuffix("/v1/logs") + path
    return base + mark + query


def _url(options: OTLPSink, variables: _Variables, signal: Signal) -> str:
    url = http_endpoint(options.endpoint, signal) or variables.of_signal("ENDPOINT")
    if not url:
        _, base = variables.get("ENDPOINT")
        base = base or _DEFAULT_ENDPOINTS["http/protobuf"]
        url = base.removesuffix("/") + HTTP_PATHS[signal]
    check_url(url)
    return url


def _grpc_url(options: OTLPSink, variables: _Variables) -> str:
    _, given = variables.get("ENDPOINT")
    url = options.endpoint or given or _DEFAULT_ENDPOINTS["grpc"]
    if credentials(url):
        msg = (
            "OTLPSink: gRPC knows no credentials in an endpoint: take what is before "
            "the @ out of it, and use headers="
        )
        raise ConfigError(msg)
    return url


def _target(url: str) -> str:
    """Return what `grpc` takes: host and port of a URL, and anything else as it is."""
    return urlsplit(url).netloc or url


def _is_secure(url: str, variables: _Variables) -> bool:
    """Return whether gRPC speaks TLS; the variable counts for all but https://."""
    scheme = urlsplit(url).scheme
    if scheme == "https":
        return True
    _, insecure = variables.get("INSECURE")
    return insecure.lower() != "true" if insecure else scheme != "http"


def _headers(options: OTLPSink, variables: _Variables, protocol: str) -> dict[str, str]:
    given = {name.lower(): value for name, value in (options.headers or {}).items()}
    hide(given.values())
    name, text = variables.get("HEADERS")
    if protocol == "grpc" and given:
        text = ""  # they replace those of the environment; over HTTP they are added
    of_environ = _parsed(name, text)
    hide(of_environ.values())
    check_headers("OTLPSink: header", given, protocol)
    check_headers(f"{name}: header", of_environ, protocol)
    return {**of_environ, **given}


def _parsed(variable: str, text: str) -> dict[str, str]:
    """Read "name=value,name=value"."""
    headers: dict[str, str] = {}
    for number, pair in enumerate(text.split(","), start=1):
        if not pair.strip():
            continue
        name, mark, value = pair.partition("=")
        if not mark or not name.strip():
            # Not shown: a comma inside a secret makes such an entry.
            msg = (
                f"{variable}: entry {number} is not of the form name=value; separate "
                "entries by commas, and write a comma inside a value as %2C"
            )
            raise ConfigError(msg)
        value = value.strip()
        if _ENCODED.fullmatch(value):
            value = unquote(value).strip()
        headers[unquote(name).strip().lower()] = value
    return headers


def _seconds(variable: str, given: str) -> float | None:
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:  # nor NaN
        msg = (
            f"OTLPSink: {variable} must be seconds, more than 0 and at most "
            f"{MAX_TIMEOUT_S:g}, not {given!r}"
        )
        raise ConfigError(msg)
    return seconds


def _compression(variable: str, given: str) -> str:
    value = given.lower() or "none"
    if value not in COMPRESSIONS:
        allowed = ", ".join(COMPRESSIONS)
        msg = f"OTLPSink: {variable} must be one of {allowed}, not {given!r}"
        raise ConfigError(msg)
    return value


def _files(options: OTLPSink, variables: _Variables) -> Files:
    given = (
        options.certificate_file,
        options.client_key_file,
        options.client_certificate_file,
    )
    names = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    return Files(
        *(
            str(path) if path is not None else variables.get(name)[1] or None
            for path, name in zip(given, names, strict=True)
        )
    )
