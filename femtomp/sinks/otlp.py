"""Driver of an OpenTelemetry collector: batches as OTLP requests, over HTTP or gRPC.

In: endpoint, protocol and headers; what is not given comes from the variables
OTEL_EXPORTER_OTLP_LOGS_* and OTEL_EXPORTER_OTLP_*. The driver owns one exporter's
connection. It asks once and says what came of it: 2xx is delivered, less what the
collector rejected; what the specification calls retryable is tried later, after the
delay the collector asks for; everything else is refused. A request that is too large
is split.

This module loads nothing of OpenTelemetry until a driver is opened: the master calls
`require` in it.

https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import importlib.util
import os
import random
import time
from typing import TYPE_CHECKING, Final

from femtomp.config import PROTOCOLS
from femtomp.errors import ConfigError, MissingExtraError
from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.otlp_transport import (
    HTTP_PATH,
    Answer,
    GrpcTransport,
    HttpTransport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.config import OTLPSink
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome
    from femtomp.sinks.otlp_transport import Transport

# gRPC servers take 4 MiB by default; the rest is room for headers and metadata.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 30.0
# A collector that asks for more is asked again anyway.
MAX_RETRY_AFTER_S: Final = 300.0
JITTER: Final = 0.2

_PROTOCOL_VARIABLES: Final = (
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
)
_TOO_LARGE: Final = Answer("too large", "above the limit of a request")
_PACKAGES: Final = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
}


def require(options: OTLPSink, environ: Mapping[str, str] | None = None) -> None:
    """Check that the packages are there, without loading them.

    Cheap; for the master, before a supervisor is started.

    Parameters
    ----------
    options : OTLPSink
        Tells the protocol.
    environ : mapping of str to str, optional
        `os.environ` if not given.

    Raises
    ------
    MissingExtraError
        Naming what to install.
    ConfigError
        If the environment names a protocol that does not exist.
    """
    protocol = resolve_protocol(options, os.environ if environ is None else environ)
    for package in (_PACKAGES[protocol], "opentelemetry.proto.logs"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # a parent is missing
            found = None
        if found is None:
            msg = (
                "OTLPSink needs opentelemetry-exporter-otlp: "
                'pip install "femtomp[otel]"'
            )
            raise MissingExtraError(msg)


def resolve_protocol(options: OTLPSink, environ: Mapping[str, str]) -> str:
    """Tell which protocol is meant: the option, then the environment, then HTTP.

    Raises
    ------
    ConfigError
        If a variable names none of "http/protobuf" and "grpc".

    Examples
    --------
    >>> from femtomp.config import OTLPSink
    >>> resolve_protocol(OTLPSink(), {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    'grpc'
    """
    if options.protocol is not None:
        return options.protocol
    for variable in _PROTOCOL_VARIABLES:
        value = environ.get(variable, "").strip()
        if value and value not in PROTOCOLS:
            msg = f"{variable} must be one of {', '.join(PROTOCOLS)}, not {value!r}"
            raise ConfigError(msg)
        if value:
            return value
    return PROTOCOLS[0]


def http_endpoint(endpoint: str | None) -> str | None:
    """Complete a base URL to the one that takes logs; None stays None.

    Examples
    --------
    >>> http_endpoint("http://collector:4318/")
    'http://collector:4318/v1/logs'
    >>> http_endpoint("http://collector:4318/v1/logs")
    'http://collector:4318/v1/logs'
    """
    if endpoint is None:
        return None
    base = endpoint.rstrip("/")
    return base if base.endswith(HTTP_PATH) else base + HTTP_PATH


def open_driver(options: OTLPSink, *, environ: Mapping[str, str]) -> Driver:
    """Build the exporter; that nobody listens is found out at the first batch.

    Parameters
    ----------
    options : OTLPSink
        Endpoint, protocol and headers.
    environ : mapping of str to str
        For the protocol. The official exporter reads `os.environ` for all else.

    Raises
    ------
    MissingExtraError
        If the exporter's packages are not installed.
    ConfigError
        If endpoint or protocol cannot be used.
    """
    require(options, environ)
    transport: Transport
    if resolve_protocol(options, environ) == "grpc":
        transport = GrpcTransport(options.endpoint, options.headers)
    else:
        transport = HttpTransport(http_endpoint(options.endpoint), options.headers)
    return OTLPDriver(transport)


class OTLPDriver:
    """Splits batches, sends them, and turns answers into outcomes.

    Parameters
    ----------
    transport : Transport
        Sends one request.
    clock_ns : callable
        Nanoseconds since the epoch, for `observed_time_unix_nano`.
    draw : callable
        Random number of [0, 1), for the jitter of delays.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        draw: Callable[[], float] = random.random,
    ) -> None:
        # Late: it loads protobuf.
        from femtomp.codec.otlp import export_request

        self._export_request = export_request
        self._transport = transport
        self._clock_ns = clock_ns
        self._draw = draw
        self._failures = 0

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Send a batch, in as many requests as its size asks for."""
        refused: dict[str, int] = {}
        done, size = 0, len(batch)
        while done < len(batch):
            chunk = batch[done : done + size]
            answer = self._send(chunk)
            if answer.kind == "too large" and len(chunk) > 1:
                size = len(chunk) // 2
                continue
            if answer.kind == "retry":
                delay = self._delay_s(answer)
                return RetryAfter(delay, answer.reason, done, refused)
            self._failures = 0
            lost = answer.rejected if answer.kind == "accepted" else len(chunk)
            if answer.kind != "accepted" and len(chunk) == len(batch):
                return Refused(answer.reason)
            if lost:
                count = refused.get(answer.reason, 0) + min(lost, len(chunk))
                refused[answer.reason] = count
            done += len(chunk)
        return Delivered(refused)

    def _send(self, chunk: Sequence[Record]) -> Answer:
        request = self._export_request(chunk, self._clock_ns())
        data = request.SerializeToString()
        if len(data) > MAX_REQUEST_BYTES and len(chunk) > 1:
            return _TOO_LARGE
        # One record above the limit is tried: the collector's own may be higher.
        return self._transport.send(request, data)

    def _delay_s(self, answer: Answer) -> float:
        backoff = min(FIRST_DELAY_S * 2.0**self._failures, MAX_DELAY_S)
        # Counted no further than the delay grows, so that it cannot overflow.
        self._failures = min(self._failures + 1, 10)
        if answer.delay_s is not None:
            return min(answer.delay_s, MAX_RETRY_AFTER_S)
        return min(backoff * (1 + JITTER * (2 * self._draw() - 1)), MAX_DELAY_S)

    def close(self) -> None:
        """Close the connection; nothing is buffered."""
        self._transport.close()
