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
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Final

from femtomp.codec.otlp import encode_request
from femtomp.config import PROTOCOLS
from femtomp.errors import ConfigError, MissingExtraError
from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.otlp_transport import (
    HTTP_PATHS,
    Answer,
    GrpcTransport,
    HttpTransport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.config import OTLPSink
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome
    from femtomp.sinks.otlp_transport import Signal, Transport

# gRPC servers take 4 MiB by default; the rest is room for headers and metadata.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 30.0
# A collector that asks for more is asked again anyway.
MAX_RETRY_AFTER_S: Final = 300.0
# One that asks for none at all, again and again, is not to be stormed.
MIN_DELAY_S: Final = 0.1
JITTER: Final = 0.2
# Single records that are tried on behalf of a collector that says it is exhausted.
MAX_DOUBTFUL: Final = 8
# So often in turn, three minutes at least, a last record is tried that does not get in.
MAX_ALONE: Final = 10

_log: Final = logging.getLogger(__name__)
_TOO_LARGE: Final = Answer("too large", "above the limit of a request")
_SPLIT: Final = ("too large", "exhausted")
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


def resolve_protocol(
    options: OTLPSink, environ: Mapping[str, str], signal: Signal = "logs"
) -> str:
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
    for variable in (
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ):
        value = environ.get(variable, "").strip()
        if value and value not in PROTOCOLS:
            msg = f"{variable} must be one of {', '.join(PROTOCOLS)}, not {value!r}"
            raise ConfigError(msg)
        if value:
            return value
    return PROTOCOLS[0]


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
    transport = open_transport(options, environ)
    return OTLPDriver(transport, interval_s=options.flush_interval_s)


def open_transport(
    options: OTLPSink, environ: Mapping[str, str], signal: Signal = "logs"
) -> Transport:
    """Build the exporter of a signal, as `open_driver` does."""
    require(options, environ)
    if resolve_protocol(options, environ, signal) == "grpc":
        return GrpcTransport(options, signal)
    return HttpTransport(options, http_endpoint(options.endpoint, signal), signal)


class OTLPDriver:
    """Splits batches, sends them, and turns answers into outcomes.

    Parameters
    ----------
    transport : Transport
        Sends one request.
    interval_s : float
        How long records are gathered for one request.
    clock_ns : callable
        Nanoseconds since the epoch, for `observed_time_unix_nano`.
    draw : callable
        Random number of [0, 1), for the jitter of delays.
    sleep : callable
        Waits for so many seconds.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        interval_s: float = 0.0,
        clock_ns: Callable[[], int] = time.time_ns,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.interval_s = interval_s
        self._transport = transport
        self._clock_ns = clock_ns
        self._draw = draw
        self._sleep = sleep
        self._failures = 0
        self._alone = 0

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Send a batch, in as many requests as its size asks for."""
        rest = [(0, len(batch))]
        done = _Done()
        while rest:
            begin, end = rest.pop()
            size = end - begin
            answer = self._send(batch[begin:end])
            if answer.kind in _SPLIT and size > 1:
                middle = begin + size // 2
                rest += [(middle, end), (begin, middle)]
            elif answer.kind == "exhausted" and len(done.doubtful) < MAX_DOUBTFUL:
                done.doubtful.append((begin, answer))
            elif answer.kind in ("retry", "exhausted"):
                return done.retry(self._delay_s(answer), answer.reason)
            elif answer.kind == "refused" and size == len(batch):
                self._failures = 0
                return Refused(answer.reason)
            else:
                self._resolve(batch, done)
                done.settle(size, answer)
                self._failures = 0
        return self._end(done)

    def _resolve(self, batch: Sequence[Record], done: _Done) -> None:
        """Send once more the single records that seemed to exhaust the collector.

        It has done with another request since: now it is the record. If the collector
        goes away meanwhile, it is waited for here: what came behind is delivered, and
        would come twice; the record may be a good one.
        """
        doubtful, done.doubtful = done.doubtful, []
        for index, _ in doubtful:
            again = self._send(batch[index : index + 1])
            while again.kind == "retry":
                _log.warning("in the midst of a batch the collector: %s", again.reason)
                self._sleep(self._delay_s(again))
                again = self._send(batch[index : index + 1])
            done.settle(1, again)

    def _end(self, done: _Done) -> Outcome:
        if not done.doubtful:
            self._alone = 0
            return Delivered(done.refused)
        # Nothing came behind them to tell by. A collector that takes nothing at all is
        # waited for; one record must not hold up all others for ever.
        self._alone += 1
        _, answer = done.doubtful[0]
        if len(done.doubtful) == 1 and self._alone >= MAX_ALONE:
            self._alone = 0
            done.settle(1, answer)
            return Delivered(done.refused)
        return done.retry(self._delay_s(answer), answer.reason)

    def _send(self, chunk: Sequence[Record]) -> Answer:
        data = encode_request(chunk, self._clock_ns())
        if len(data) > MAX_REQUEST_BYTES and len(chunk) > 1:
            return _TOO_LARGE
        # One record above the limit is tried: the collector's own may be higher.
        return self._transport.send(data)

    def _delay_s(self, answer: Answer) -> float:
        backoff = min(FIRST_DELAY_S * 2.0**self._failures, MAX_DELAY_S)
        # Counted no further than the delay grows, so that it cannot overflow.
        self._failures = min(self._failures + 1, 10)
        if answer.delay_s is not None:
            asked = min(max(answer.delay_s, MIN_DELAY_S), MAX_RETRY_AFTER_S)
            # All hosts are told the same: later than that, so as not to come at once.
            return asked * (1 + JITTER * self._draw())
        return backoff * (1 + JITTER * (2 * self._draw() - 1))

    def close(self) -> None:
        """Close the connection; nothing is buffered."""
        self._transport.close()


class _Done:
    """How far a batch has come, record by record from its beginning.

    Attributes
    ----------
    refused : dict of str to int
        How many, by reason.
    doubtful : list
        Where single records are that exhausted the collector, or met one that was
        exhausted already, and its answers; all behind what is settled.
    """

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.doubtful: list[tuple[int, Answer]] = []
        self._records = 0

    def settle(self, size: int, answer: Answer) -> None:
        """Count records that will not come again."""
        lost = min(answer.rejected, size) if answer.kind == "accepted" else size
        if lost:
            self.refused[answer.reason] = self.refused.get(answer.reason, 0) + lost
        self._records += size

    def retry(self, delay_s: float, reason: str) -> RetryAfter:
        """Return the outcome for all that is not settled."""
        return RetryAfter(delay_s, reason, self._records, self.refused)
