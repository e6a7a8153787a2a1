"""How a request reaches the collector: the official exporters' transports, one attempt.

In: a serialized request. Out: an `Answer`. The exporters are built as their makers mean
them to be, so that every OTEL_EXPORTER_OTLP_* variable, TLS, compression and credential
provider counts. Their own `export()` is not used: it wants SDK records, hides what the
collector said, and sleeps between retries of its own. What is used instead is private
to them, so it is looked for at construction, here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import time
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from femtomp.errors import ConfigError
from femtomp.sinks.otlp_http import (
    Poster,
    header_values,
    known_timeout_s,
    unknown_exporter,
)
from femtomp.sinks.otlp_tls import check_files, files_meant
from femtomp.sinks.secrets import credentials, hide, masked

if TYPE_CHECKING:
    from femtomp.config import OTLPSink

Signal: TypeAlias = Literal["logs", "metrics"]
HTTP_PATHS: Final[dict[str, str]] = {"logs": "/v1/logs", "metrics": "/v1/metrics"}
MAX_REASON_CHARS: Final = 200
# https://opentelemetry.io/docs/specs/otlp/#failures-1
_HTTP_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_HTTP_TOO_LARGE: Final = 413
# https://opentelemetry.io/docs/specs/otlp/#failures
_GRPC_RETRYABLE: Final = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)
_GRPC_SIZE_CODES: Final = ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE")
_GRPC_SIZE_WORDS: Final = ("larger than", "too large", "maximum size", "message size")
_GRPC_METHODS: Final[dict[str, str]] = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_PACKAGE: Final = "opentelemetry.exporter.otlp.proto"
_EXPORTERS: Final = {
    "logs": ("_log_exporter", "OTLPLogExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}
_GRPC_PACKAGE: Final = "opentelemetry-exporter-otlp-proto-grpc"
# gRPC waits up to two minutes before it connects again; the driver has its own delays.
_GRPC_RECONNECT_MS: Final = 1000

# In the supervisor a note on stderr, at most one in ten seconds.
_log: Final = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What became of one request.

    Attributes
    ----------
    kind : {"accepted", "retry", "too large", "exhausted", "refused"}
        What to do with its records. "exhausted": too many for the collector, now or
        ever; it did not say which.
    reason : str
        The status, and what the collector said.
    delay_s : float or None
        When the collector wants the retry, if it said so.
    rejected : int
        Of an accepted request, records that the collector did not take.
    """

    kind: Literal["accepted", "retry", "too large", "exhausted", "refused"]
    reason: str = ""
    delay_s: float | None = None
    rejected: int = 0


class Transport(Protocol):
    """One attempt to send a request; waits for no longer than its timeout."""

    def send(self, data: bytes, /) -> Answer:
        """Send a serialized request."""

    def close(self) -> None:
        """Close the connection."""


class HttpTransport:
    """OTLP over HTTP, protobuf encoded, by `opentelemetry-exporter-otlp-proto-http`.

    Parameters
    ----------
    options : OTLPSink
        What it does not give is left to the environment.
    endpoint : str or None
        Full URL; None leaves it to the environment.
    signal : {"logs", "metrics"}
        Whose variables count.

    Raises
    ------
    ConfigError
        If the URL or a header cannot be used, or the installed exporter has another
        inside.
    """

    def __init__(
        self, options: OTLPSink, endpoint: str | None, signal: Signal = "logs"
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http import Compression

        hide([*(options.headers or {}).values(), *credentials(endpoint or "")])
        wanted = options.compression
        self._exporter: Any = _exporter(
            "http",
            signal,
            endpoint=endpoint,
            headers=dict(options.headers) if options.headers else None,
            certificate_file=_path(options.certificate_file),
            client_key_file=_path(options.client_key_file),
            client_certificate_file=_path(options.client_certificate_file),
            timeout=options.timeout_s,
            compression=None if wanted is None else Compression(wanted),
        )
        url = str(getattr(self._exporter, "_endpoint", ""))
        hide([*header_values(self._exporter), *credentials(url)])
        if not url.startswith(("http://", "https://")):
            msg = f"OTLPSink: endpoint must begin with http:// or https://, not {url!r}"
            raise ConfigError(msg)
        self._poster = Poster(self._exporter, url)

    def send(self, data: bytes) -> Answer:
        """Post the data once (twice if a kept connection turns out to be stale)."""
        reply = self._poster.post(data)
        if isinstance(reply, Exception):
            # requests' own errors are OSErrors; those about a URL or a header that
            # cannot be used are ValueErrors too, and no retry will mend them.
            lasting = isinstance(reply, ValueError) or not isinstance(reply, OSError)
            return Answer("refused" if lasting else "retry", _cut(repr(reply)))
        status = reply.status
        is_protobuf = "protobuf" in reply.headers.get("content-type", "")
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's classes
            if reply.is_cut_off:
                return Answer("retry", f"HTTP {status}, but the reply was cut off")
            return _accepted(reply.content, is_expected=is_protobuf)
        reason = _cut(f"HTTP {status} {_http_message(reply.content, is_protobuf)}")
        if status == _HTTP_TOO_LARGE:
            return Answer("too large", reason)
        if status in _HTTP_RETRYABLE:
            delay = retry_after_s(reply.headers.get("retry-after"), time.time())
            return Answer("retry", reason, delay)
        return Answer("refused", reason)

    def close(self) -> None:
        """Close the session."""
        self._exporter.shutdown()


class GrpcTransport:
    """OTLP over gRPC, by `opentelemetry-exporter-otlp-proto-grpc`.

    Its channel is used for bytes: the request is encoded once, and a reply that cannot
    be read does not undo that the collector said OK.

    Parameters
    ----------
    options : OTLPSink
        What it does not give is left to the environment. As the specification has it,
        an endpoint without a scheme is used with TLS unless OTEL_EXPORTER_OTLP_INSECURE
        is "true". Headers replace those of the environment.
    signal : {"logs", "metrics"}
        What is exported, and whose variables count.

    Raises
    ------
    ConfigError
        If the installed exporter has another inside.
    """

    def __init__(self, options: OTLPSink, signal: Signal = "logs") -> None:
        from grpc import Compression, RpcError

        headers = options.headers or {}
        hide(headers.values())
        if credentials(options.endpoint or ""):
            msg = (
                "OTLPSink: gRPC knows no credentials in an endpoint: take what is "
                "before the @ out of it, and use headers="
            )
            raise ConfigError(msg)
        channel_options: Any = (("grpc.max_reconnect_backoff_ms", _GRPC_RECONNECT_MS),)
        kinds = {"gzip": Compression.Gzip, "deflate": Compression.Deflate}
        wanted = options.compression
        self._rpc_error: type[Exception] = RpcError
        self._exporter: Any = _exporter(
            "grpc",
            signal,
            endpoint=options.endpoint,
            credentials=_grpc_credentials(options),
            # gRPC refuses capital letters in names of metadata.
            headers={k.lower(): v for k, v in headers.items()} or None,
            timeout=options.timeout_s,
            compression=wanted and kinds.get(wanted, Compression.NoCompression),
            channel_options=channel_options,
        )
        hide(header_values(self._exporter))
        channel: Any = getattr(self._exporter, "_channel", None)
        known = all(hasattr(self._exporter, name) for name in ("_headers", "_timeout"))
        if not known or not hasattr(channel, "unary_unary"):
            raise unknown_exporter(_GRPC_PACKAGE)
        known_timeout_s(self._exporter._timeout)  # noqa: SLF001
        if not getattr(self._exporter, "_insecure", False):
            check_files(*files_meant(options, os.environ, signal))
        self._export: Any = channel.unary_unary(_GRPC_METHODS[signal])

    def send(self, data: bytes) -> Answer:
        """Call Export once."""
        exporter = self._exporter
        try:
            reply = self._export(
                data,
                metadata=exporter._headers,  # noqa: SLF001
                timeout=exporter._timeout,  # noqa: SLF001
            )
        except self._rpc_error as exc:
            return _grpc_failure(exc)
        except ValueError as exc:  # metadata that gRPC will not send
            return Answer("refused", _cut(repr(exc)))
        return _accepted(reply, is_expected=True)

    def close(self) -> None:
        """Close the channel."""
        self._exporter.shutdown()


def _exporter(protocol: Literal["http", "grpc"], signal: Signal, **options: Any) -> Any:
    module, name = _EXPORTERS[signal]
    make = getattr(import_module(f"{_PACKAGE}.{protocol}.{module}"), name)
    try:
        return make(**options)
    except Exception as exc:  # whatever their makers raise for a variable
        msg = f"OTLPSink: an option or an OTEL_* variable cannot be used: {exc}"
        raise ConfigError(msg) from exc


def _grpc_credentials(options: OTLPSink) -> Any:
    """Return the credentials that the options' files make; None if they name none."""
    if options.certificate_file is None and options.client_certificate_file is None:
        return None
    from grpc import ssl_channel_credentials

    return ssl_channel_credentials(
        _content(options.certificate_file),
        _content(options.client_key_file),
        _content(options.client_certificate_file),
    )


def _path(path: Path | str | None) -> str | None:
    return None if path is None else str(path)


def _content(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        msg = f"OTLPSink: {path} cannot be read: {exc.strerror}"
        raise ConfigError(msg) from exc


def _grpc_failure(error: Any) -> Answer:
    code, details = error.code().name, error.details() or ""
    reason = _cut(f"gRPC {code} {details}")
    lower = details.lower()
    # What servers say of a message above their limit; tonic's code is OUT_OF_RANGE.
    if code in _GRPC_SIZE_CODES and any(words in lower for words in _GRPC_SIZE_WORDS):
        return Answer("too large", reason)
    if code not in _GRPC_RETRYABLE:
        return Answer("refused", reason)
    delay = _grpc_delay_s(error.trailing_metadata())
    if code == "RESOURCE_EXHAUSTED" and delay is None:
        # Only a RetryInfo says that it will pass: it may be the request itself.
        return Answer("exhausted", reason)
    return Answer("retry", reason, delay)


def _grpc_delay_s(metadata: Any) -> float | None:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            details = Status.FromString(value).details
            info = RetryInfo()
            if any(detail.Unpack(info) for detail in details):
                delay = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return max(float(delay), 0.0)
        except DecodeError:
            return None
    return None


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Read an HTTP Retry-After header, seconds or date.

    Parameters
    ----------
    value : str or None
        The header.
    now_s : float
        Seconds since the epoch, for a date.

    Returns
    -------
    float or None
        Seconds, 0 or more; None if there is none or it cannot be read.

    Examples
    --------
    >>> retry_after_s("7", 0.0), retry_after_s("soon", 0.0)
    (7.0, None)
    >>> retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 50.0)
    10.0
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - now_s, 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _accepted(content: bytes, *, is_expected: bool) -> Answer:
    """Read what came with a success; the records are delivered, whatever it is.

    On the wire the answer to metrics is the same message.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceResponse,
    )

    try:
        response = ExportLogsServiceResponse.FromString(content)
    except DecodeError:
        is_expected = False
        response = ExportLogsServiceResponse()
    if content and not is_expected:
        _log.warning("the collector's reply is no OTLP: is it a collector?")
        return Answer("accepted")
    partial = response.partial_success
    rejected = max(partial.rejected_log_records, 0)
    message = _cut(partial.error_message)
    if message and not rejected:
        _log.warning("the collector took all records, and says: %s", message)
    return Answer("accepted", f"rejected by the collector: {message}", None, rejected)


def _http_message(content: bytes, is_protobuf: bool) -> str:  # noqa: FBT001
    from google.protobuf.message import DecodeError
    from google.rpc.status_pb2 import Status

    if is_protobuf:
        try:
            return str(Status.FromString(content).message)
        except DecodeError:
            return ""
    return content[: 4 * MAX_REASON_CHARS].decode("utf-8", "replace")


def _cut(text: str) -> str:
    # What a collector says ends up in statistics and on terminals: one short line.
    # It may quote a header of the request.
    text = masked(text)[:MAX_REASON_CHARS]
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.strip()
