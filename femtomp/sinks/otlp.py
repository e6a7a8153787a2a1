"""Driver of an OpenTelemetry collector: batches as OTLP requests, over HTTP or gRPC.

In: endpoint, protocol and headers; what is not given comes from the variables
OTEL_EXPORTER_OTLP_LOGS_* and OTEL_EXPORTER_OTLP_*. The driver owns one connection. It
asks once and says what came of it: 2xx with an OTLP response is delivered, less what
the collector rejected; what it says of the records refuses them; what is retryable or
badly configured is tried later. A request that is too large, or that fails for a reason
which may lie in one record, is split.

This module loads nothing of OpenTelemetry until a driver is opened: the master calls
`require` in it.

https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import importlib.util
import os
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from femtomp.codec.otlp import encode_request
from femtomp.config import PROTOCOLS
from femtomp.errors import ConfigError, MissingExtraError
from femtomp.record import Record
from femtomp.sinks import Asked, RetryAfter
from femtomp.sinks.otlp_answer import Answer
from femtomp.sinks.otlp_settings import settings_of
from femtomp.sinks.otlp_suspects import Piece, Suspects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.config import OTLPSink
    from femtomp.sinks import Driver, Outcome
    from femtomp.sinks.otlp_settings import Signal

# gRPC servers take 4 MiB by default; the rest is room for headers and metadata.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 30.0
# A collector that asks for more is asked again anyway.
MAX_RETRY_AFTER_S: Final = 300.0
# One that asks for none at all, again and again, is not to be stormed.
MIN_DELAY_S: Final = 0.1
JITTER: Final = 0.2
# What is badly configured is asked again as soon as somebody may have mended it: with
# the jitter once a minute.
MAX_MISCONFIGURED_DELAY_S: Final = 50.0
# Single records that fail one after the other: then it is the collector.
MAX_IN_A_ROW: Final = 5

_TOO_LARGE: Final = Answer("too large", "above the limit of a request")
_TRIED: Final = "the collector is tried with this record, it failed"
_SPLIT: Final = ("too large", "exhausted", "failed")
_PACKAGES: Final = {
    "http/protobuf": ("opentelemetry.proto.logs", "google.rpc"),
    "grpc": ("opentelemetry.proto.logs", "google.rpc", "grpc"),
}
_SIGNALS: Final[tuple[Signal, ...]] = ("logs", "metrics")


class Transport(Protocol):
    """One attempt to send a request; waits for no longer than its timeout."""

    def send(self, data: bytes, /) -> Answer:
        """Send a serialized request."""

    def close(self) -> None:
        """Close the connection."""


def require(options: OTLPSink, environ: Mapping[str, str] | None = None) -> None:
    """Check that the packages are there, without loading them, and what is set.

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
        If an option or a variable cannot be used: protocol, endpoint, header.
    """
    environ = os.environ if environ is None else environ
    for signal in _SIGNALS if options.metrics else _SIGNALS[:1]:
        protocol = resolve_protocol(options, environ, signal)
        _require_packages(_PACKAGES[protocol])
        settings_of(options, environ, protocol, signal)


def _require_packages(packages: tuple[str, ...]) -> None:
    for package in packages:
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


def open_driver(options: OTLPSink, *, environ: Mapping[str, str]) -> Driver:
    """Build the transport; that nobody listens is found out at the first batch.

    Parameters
    ----------
    options : OTLPSink
        Endpoint, protocol and headers.
    environ : mapping of str to str
        For what the options do not give.

    Raises
    ------
    MissingExtraError
        If a package that it needs is not installed.
    ConfigError
        If something cannot be used: endpoint, header, certificate.
    """
    transport = open_transport(options, environ)
    return OTLPDriver(transport, interval_s=options.flush_interval_s)


def open_transport(
    options: OTLPSink, environ: Mapping[str, str], signal: Signal = "logs"
) -> Transport:
    """Build the transport of a signal, as `open_driver` does."""
    require(options, environ)
    if resolve_protocol(options, environ, signal) == "grpc":
        from femtomp.sinks.otlp_grpc import GrpcTransport

        return GrpcTransport(options, environ, signal)
    from femtomp.sinks.otlp_http import HttpTransport

    return HttpTransport(options, environ, signal)


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
    monotonic : callable
        Seconds, for how long a record has failed.
    draw : callable
        Random number of [0, 1), for the jitter of delays.

    Attributes
    ----------
    wants_more : bool
        Whether only records are left of the batch that may be at fault themselves, so
        that others must be seen to pass or to fail.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        interval_s: float = 0.0,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.interval_s = interval_s
        self.wants_more = False
        self._transport = transport
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._draw = draw
        self._failures = 0
        self._suspects = Suspects()

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Send a batch, in as many requests as its size asks for."""
        suspects = self._suspects
        stopped = self._send_all(batch, suspects.begin(batch, self._monotonic()))
        if stopped is None and suspects.need_a_pass(self._monotonic()):
            stopped = self._try_another(batch)
        if stopped is None:
            stopped = self._send_all(batch, suspects.again())
        if stopped is None:
            suspects.judge(self._monotonic())
        self.wants_more = stopped is None and suspects.only_suspects_are_left
        reason = suspects.reason() if stopped is None else stopped.reason
        pause_s = suspects.pause_s(self._monotonic()) if stopped is None else None
        if pause_s is None:
            answer = stopped or Answer("failed", reason)
            is_left = stopped is not None or self.wants_more
            pause_s = self._delay_s(answer) if is_left else 0.0
        outcome = suspects.outcome(pause_s, reason)
        is_asked = stopped is not None and stopped.delay_s is not None
        if is_asked and isinstance(outcome, RetryAfter):
            return Asked(*outcome)
        return outcome

    def _send_all(self, batch: Sequence[Record], rest: list[Piece]) -> Answer | None:
        """Send pieces, from the last on; return what stopped it before the end."""
        in_a_row = 0
        while rest:
            piece = rest.pop()
            begin, end, since = piece
            answer = self._send(batch[begin:end])
            if answer.kind in ("retry", "misconfigured"):
                return answer
            now = self._monotonic()
            if answer.kind in _SPLIT and end - begin > 1:
                if answer.kind != "too large":
                    since = self._suspects.failing(now)
                middle = (begin + end) // 2
                rest += [Piece(middle, end, since), Piece(begin, middle, since)]
            elif answer.kind in ("exhausted", "failed"):
                self._suspects.suspect(piece, answer, now)
                in_a_row = 0 if self._suspects.others_pass else in_a_row + 1
                if in_a_row == MAX_IN_A_ROW and rest:
                    # Or there are as many bad ones side by side.
                    stopped = self._try_another(batch)
                    if stopped is not None:
                        return stopped
            else:
                self._suspects.settle(piece, answer, now)
                self._failures = in_a_row = 0
        return None

    def _try_another(self, batch: Sequence[Record]) -> Answer | None:
        """Send a record of femtomp's own: return why it was not taken, if it was not.

        A collector that takes it works, and fails with the others for what they are.
        """
        now = self._clock_ns()
        reason = self._suspects.reason()
        tried = Record(
            timestamp=now,
            severity_number=17,
            severity_text="ERROR",
            logger="femtomp",
            body=f"{_TRIED} with another: {reason}",
            attributes={},
            resource=batch[0].resource,
            uid=f"{os.urandom(12).hex()}-tried-0",
            event_name="femtomp.sink.tried",
        )
        answer = self._send([tried])
        if answer.kind != "accepted":
            self._suspects.failed(self._monotonic())
            return answer
        self._suspects.passed(self._monotonic())
        self._failures = 0
        return None

    def _send(self, chunk: Sequence[Record]) -> Answer:
        data = encode_request(chunk, self._clock_ns())
        if len(data) > MAX_REQUEST_BYTES and len(chunk) > 1:
            return _TOO_LARGE
        # One record above the limit is tried: the collector's own may be higher.
        return self._transport.send(data)

    def _delay_s(self, answer: Answer) -> float:
        most = MAX_DELAY_S
        if answer.kind == "misconfigured":
            most = MAX_MISCONFIGURED_DELAY_S
        backoff = min(FIRST_DELAY_S * 2.0**self._failures, most)
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
