"""How a request reaches the collector: the official exporters' transports, one attempt.

In: an export request. Out: an `Answer`. The exporters are built as their makers mean
them to be, so that every OTEL_EXPORTER_OTLP_* variable, TLS, compression and credential
provider counts. Their own `export()` is not used: it wants SDK records, hides what the
collector said, and sleeps between retries of its own. What is used instead is private
to them, so it is looked for at construction, here and nowhere else.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from femtomp.errors import ConfigError
from femtomp.sinks.secrets import credentials, hide, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

HTTP_PATH: Final = "/v1/logs"
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
# gRPC waits up to two minutes before it connects again; the driver has its own delays.
_GRPC_RECONNECT_MS: Final = 1000


class Answer(NamedTuple):
    """What became of one request.

    Attributes
    ----------
    kind : {"accepted", "retry", "too large", "refused"}
        What to do with its records.
    reason : str
        The status, and what the collector said.
    delay_s : float or None
        When the collector wants the retry, if it said so.
    rejected : int
        Of an accepted request, records that the collector did not take.
    """

    kind: Literal["accepted", "retry", "too large", "refused"]
    reason: str = ""
    delay_s: float | None = None
    rejected: int = 0


class Transport(Protocol):
    """One attempt to send a request; waits for no longer than its timeout."""

    def send(self, request: ExportLogsServiceRequest, data: bytes, /) -> Answer:
        """Send a request, which `data` is the serialized form of."""

    def close(self) -> None:
        """Close the connection."""


class _HttpReply(NamedTuple):
    status: int | None
    headers: Mapping[str, str]
    content: bytes
    error: Exception | None = None


class HttpTransport:
    """OTLP over HTTP, protobuf encoded, by `opentelemetry-exporter-otlp-proto-http`.

    Parameters
    ----------
    endpoint : str or None
        Full URL; None leaves it to the environment.
    headers : mapping of str to str or None
        Added to those of the environment.

    Raises
    ------
    ConfigError
        If the URL is none, or the installed exporter has another inside.
    """

    def __init__(self, endpoint: str | None, headers: Mapping[str, str] | None) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        hide([*(headers or {}).values(), *credentials(endpoint or "")])
        self._exporter = OTLPLogExporter(
            endpoint=endpoint, headers=dict(headers) if headers else None
        )
        url = str(getattr(self._exporter, "_endpoint", ""))
        hide([*_values(self._exporter), *credentials(url)])
        if not url.startswith(("http://", "https://")):
            msg = f"OTLPSink: endpoint must begin with http:// or https://, not {url!r}"
            raise ConfigError(msg)
        self._post = _http_post(self._exporter)

    def send(self, _request: ExportLogsServiceRequest, data: bytes) -> Answer:
        """Post the data once (twice if a kept connection turns out to be stale)."""
        reply = self._post(data)
        if reply.error is not None:
            # requests' own errors are OSErrors; those about a URL or a header that
            # cannot be used are ValueErrors too, and no retry will mend them.
            lasting = isinstance(reply.error, ValueError)
            lasting = lasting or not isinstance(reply.error, OSError)
            return Answer("refused" if lasting else "retry", _cut(repr(reply.error)))
        status = reply.status or 0
        is_protobuf = "protobuf" in reply.headers.get("content-type", "")
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's classes
            return _accepted(reply.content if is_protobuf else b"")
        reason = _cut(f"HTTP {status} {_http_message(reply.content, is_protobuf)}")
        if status == _HTTP_TOO_LARGE:
            return Answer("too large", reason)
        if status in _HTTP_RETRYABLE:
            delay = retry_after_s(reply.headers.get("retry-after"), time.time())
            return Answer("retry", reason, delay)
        return Answer("refused", reason)

    def close(self) -> None:
        """Close the session."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _http_post(exporter: Any) -> Callable[[bytes], _HttpReply]:
    client = getattr(exporter, "_client", None)
    if client is not None and hasattr(client, "_submit"):  # since 1.45

        def submit(data: bytes) -> _HttpReply:
            result = client._submit(client._compress(data), client._timeout)  # noqa: SLF001
            if result.error is not None:
                return _HttpReply(None, {}, b"", result.error)
            return _HttpReply(result.status_code, result.headers(), result.content())

        return submit
    if hasattr(exporter, "_export"):  # before

        def export(data: bytes) -> _HttpReply:
            try:
                response = exporter._export(data, exporter._timeout)  # noqa: SLF001
            except (OSError, ValueError) as exc:
                return _HttpReply(None, {}, b"", exc)
            return _HttpReply(response.status_code, response.headers, response.content)

        return export
    raise ConfigError(_unknown_exporter("opentelemetry-exporter-otlp-proto-http"))


class GrpcTransport:
    """OTLP over gRPC, by `opentelemetry-exporter-otlp-proto-grpc`.

    Parameters
    ----------
    endpoint : str or None
        host:port or URL; None leaves it to the environment. As the specification has
        it, without a scheme TLS is used unless OTEL_EXPORTER_OTLP_INSECURE is "true".
    headers : mapping of str to str or None
        Metadata; given, they replace those of the environment.

    Raises
    ------
    ConfigError
        If the installed exporter has another inside.
    """

    def __init__(self, endpoint: str | None, headers: Mapping[str, str] | None) -> None:
        from grpc import RpcError
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        hide((headers or {}).values())
        if credentials(endpoint or ""):
            msg = (
                "OTLPSink: gRPC knows no credentials in an endpoint: take what is "
                "before the @ out of it, and use headers="
            )
            raise ConfigError(msg)
        options: Any = (("grpc.max_reconnect_backoff_ms", _GRPC_RECONNECT_MS),)
        self._rpc_error: type[Exception] = RpcError
        self._exporter: Any = OTLPLogExporter(
            endpoint=endpoint,
            # gRPC refuses capital letters in names of metadata.
            headers={k.lower(): v for k, v in headers.items()} if headers else None,
            channel_options=options,
        )
        hide(_values(self._exporter))
        client = getattr(self._exporter, "_client", None)
        known = all(hasattr(self._exporter, name) for name in ("_headers", "_timeout"))
        if not known or not hasattr(client, "Export"):
            name = "opentelemetry-exporter-otlp-proto-grpc"
            raise ConfigError(_unknown_exporter(name))

    def send(self, request: ExportLogsServiceRequest, _data: bytes) -> Answer:
        """Call Export once."""
        exporter = self._exporter
        try:
            response = exporter._client.Export(  # noqa: SLF001
                request=request,
                metadata=exporter._headers,  # noqa: SLF001
                timeout=exporter._timeout,  # noqa: SLF001
            )
        except self._rpc_error as exc:
            return _grpc_failure(exc)
        except ValueError as exc:  # metadata that gRPC will not send
            return Answer("refused", _cut(repr(exc)))
        return _partial(response)

    def close(self) -> None:
        """Close the channel."""
        self._exporter.shutdown()


def _grpc_failure(error: Any) -> Answer:
    code = error.code().name
    reason = _cut(f"gRPC {code} {error.details()}")
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in (error.details() or ""):
        return Answer("too large", reason)
    if code in _GRPC_RETRYABLE:
        return Answer("retry", reason, _grpc_delay_s(error.trailing_metadata()))
    return Answer("refused", reason)


def _grpc_delay_s(metadata: Any) -> float | None:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            details = Status.FromString(value).details
        except DecodeError:
            return None
        info = RetryInfo()
        if any(detail.Unpack(info) for detail in details):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
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


def _accepted(content: bytes) -> Answer:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceResponse,
    )

    try:
        return _partial(ExportLogsServiceResponse.FromString(content))
    except DecodeError:
        return Answer("accepted")


def _partial(response: Any) -> Answer:
    partial = response.partial_success
    reason = _cut(f"rejected by the collector: {partial.error_message}")
    return Answer("accepted", reason, None, max(partial.rejected_log_records, 0))


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


def _values(exporter: Any) -> list[str]:
    """Return the values of the headers, those of the environment included."""
    headers = getattr(exporter, "_headers", None) or {}
    pairs = headers.items() if hasattr(headers, "items") else headers
    return [str(value) for _, value in pairs]


def _unknown_exporter(package: str) -> str:
    from importlib.metadata import version

    return (
        f"OTLPSink cannot use {package} {version(package)}: it has changed inside; "
        "install the version that femtomp was tested with (1.45) or a newer femtomp"
    )
