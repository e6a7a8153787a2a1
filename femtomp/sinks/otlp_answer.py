"""What a collector's reply says of the records that were sent.

In: an HTTP reply, or a gRPC code with its details. Out: an `Answer`. Only what is said
of the records refuses them; what is said of the request's way (who sends it, where to)
is a matter of configuration, and the records wait for it to be mended.

https://opentelemetry.io/docs/specs/otlp/#failures
"""

from __future__ import annotations

import logging
import time
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from femtomp.sinks.secrets import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.sinks.otlp_settings import Signal

Kind: TypeAlias = Literal[
    "accepted", "retry", "misconfigured", "too large", "exhausted", "failed", "refused"
]
MAX_REASON_CHARS: Final = 200
# What a reply may take when it is unpacked.
_MAX_UNPACKED_BYTES: Final = 64 * 1024
# https://opentelemetry.io/docs/specs/otlp/#failures-1
_HTTP_RETRYABLE: Final = frozenset({429, 502, 503, 504})
# Of who sends, and where to. A proxy says 407, a network that wants a login 511.
_HTTP_MISCONFIGURED: Final = frozenset({401, 403, 404, 407, 511})
_HTTP_BAD_RECORDS: Final = 400
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
_GRPC_MISCONFIGURED: Final = frozenset(
    {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"}
)
_GRPC_SIZE_CODES: Final = ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE")
_GRPC_SIZE_WORDS: Final = ("larger than", "too large", "maximum size", "message size")

# In the supervisor a note on stderr, at most one in ten seconds.
_log: Final = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What became of one request.

    Attributes
    ----------
    kind : str
        What to do with its records:

        - "accepted": they are delivered;
        - "retry": send them again later;
        - "misconfigured": the same, but nothing changes before somebody mends it;
        - "too large": send fewer at a time;
        - "exhausted": too many for the collector, now or ever; it did not say which;
        - "failed": something went wrong there, by the records or not;
        - "refused": the collector will never take them.
    reason : str
        The status, and what the collector said.
    delay_s : float or None
        When the collector wants the retry, if it said so.
    rejected : int
        Of an accepted request, records that the collector did not take.
    """

    kind: Kind
    reason: str = ""
    delay_s: float | None = None
    rejected: int = 0

    @classmethod
    def of(cls, kind: Kind, reason: str, delay_s: float | None = None) -> Answer:
        """Return an answer whose reason is one short line without secrets."""
        return cls(kind, one_line(reason), delay_s)


class HttpReply(NamedTuple):
    """What a server answered.

    Attributes
    ----------
    headers : mapping of str to str
        By lower-case names.
    content : bytes
        The body, or its beginning.
    is_whole : bool
        False: the connection ended, the time was up, or there was too much of it.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    is_whole: bool


def of_http(reply: HttpReply, signal: Signal, address: str = "") -> Answer:
    """Judge a reply over HTTP.

    Parameters
    ----------
    reply : HttpReply
    signal : {"logs", "metrics"}
        Whose response a success brings.
    address : str
        The collector's, for the reason.
    """
    status = reply.status
    media = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    content = _unpacked(reply)
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's classes
        if not reply.is_whole:
            return Answer("retry", f"HTTP {status}, but the reply was cut off")
        return _of_success(status, media, content, signal)
    reason = f"HTTP {status} {_message(media, content or b'')}"
    if status == _HTTP_BAD_RECORDS:
        return Answer.of("refused", reason)
    if status == _HTTP_TOO_LARGE:
        return Answer.of("too large", reason)
    if status in _HTTP_RETRYABLE:
        delay = retry_after_s(reply.headers.get("retry-after"), time.time())
        return Answer.of("retry", reason, delay)
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's classes
        to = reply.headers.get("location", "nowhere")
        words = f"HTTP {status}: {address} redirects to {to}, which is not followed"
        return Answer.of("misconfigured", words)
    if status in _HTTP_MISCONFIGURED:
        return Answer.of("misconfigured", reason)
    return Answer.of("failed", reason)


def of_grpc(code: str, details: str, trailing: Any) -> Answer:
    """Judge a gRPC code other than OK, its details and trailing metadata."""
    reason = f"gRPC {code} {details}"
    lower = details.lower()
    # What servers say of a message above their limit; tonic's code is OUT_OF_RANGE.
    if code in _GRPC_SIZE_CODES and any(words in lower for words in _GRPC_SIZE_WORDS):
        return Answer.of("too large", reason)
    if code == "INVALID_ARGUMENT":
        return Answer.of("refused", reason)
    if code in _GRPC_MISCONFIGURED:
        return Answer.of("misconfigured", reason)
    if code not in _GRPC_RETRYABLE:
        return Answer.of("failed", reason)
    delay = _grpc_delay_s(trailing)
    if code == "RESOURCE_EXHAUSTED" and delay is None:
        # Only a RetryInfo says that it will pass: it may be the request itself.
        return Answer.of("exhausted", reason)
    return Answer.of("retry", reason, delay)


def of_response(content: bytes, signal: Signal, said: str) -> Answer:
    """Judge the message that comes with a success, protobuf encoded.

    On the wire the answer to metrics is the same message as that to logs. `said` is the
    status that came with it.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        response = _response_class(signal).FromString(content)
    except DecodeError:
        return _no_otlp(said, content)
    return _of_message(response)


def _of_success(
    status: int, media: str, content: bytes | None, signal: Signal
) -> Answer:
    said = f"HTTP {status}"
    if content is None:
        return _no_otlp(said, b"its encoding cannot be undone")
    # A response without anything to say is empty; what calls itself a web page is none.
    if status == 204 or (not content and media != "text/html"):  # noqa: PLR2004
        return Answer("accepted")
    if not media or "protobuf" in media:
        return of_response(content, signal, said)
    if media == "application/json":
        return _of_json(content, signal, said)
    return _no_otlp(said, content, media)


def _of_json(content: bytes, signal: Signal, said: str) -> Answer:
    """Judge a response in JSON, which some servers send whatever they were asked in."""
    from google.protobuf.json_format import (  # type: ignore[import-untyped]
        Parse,
        ParseError,
    )

    try:
        response = Parse(content, _response_class(signal)())
    except (ParseError, ValueError, RecursionError):
        return _no_otlp(said, content, "application/json")
    return _of_message(response)


def _response_class(signal: Signal) -> Any:
    if signal == "metrics":
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceResponse,
        )

        return ExportMetricsServiceResponse
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceResponse,
    )

    return ExportLogsServiceResponse


def _of_message(response: Any) -> Answer:
    partial = response.partial_success
    of_logs = getattr(partial, "rejected_log_records", 0)
    rejected = max(of_logs or getattr(partial, "rejected_data_points", 0), 0)
    message = one_line(partial.error_message)
    if message and not rejected:
        _log.warning("the collector took all records, and says: %s", message)
    return Answer("accepted", f"rejected by the collector: {message}", None, rejected)


def _no_otlp(said: str, content: bytes, media: str = "") -> Answer:
    kind = f" ({media})" if media else ""
    quoted = content[:MAX_REASON_CHARS].decode("utf-8", "replace")
    return Answer.of(
        "retry", f"{said}, but the reply is no OTLP{kind}: is it a collector? {quoted}"
    )


def _unpacked(reply: HttpReply) -> bytes | None:
    """Undo the encoding that was not asked for; None if it is none that is known."""
    encoding = reply.headers.get("content-encoding", "identity").strip().lower()
    if encoding in {"", "identity"} or not reply.content:
        return reply.content
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return None
    try:
        # 32: gzip or zlib, whichever it is.
        unpack = zlib.decompressobj(32 + zlib.MAX_WBITS)
        return unpack.decompress(reply.content, _MAX_UNPACKED_BYTES)
    except zlib.error:
        return None


def _message(media: str, content: bytes) -> str:
    from google.protobuf.message import DecodeError
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    if "protobuf" in media:
        try:
            return str(Status.FromString(content).message)
        except DecodeError:
            return ""
    return content[: 4 * MAX_REASON_CHARS].decode("utf-8", "replace")


def _grpc_delay_s(metadata: Any) -> float | None:
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status

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


def in_words(exc: Exception) -> str:
    """Say what went wrong with a connection.

    Examples
    --------
    >>> in_words(ConnectionRefusedError(111, "Connection refused"))
    'connection refused'
    """
    import ssl

    if isinstance(exc, ssl.SSLError):
        return str(exc)
    text = (getattr(exc, "strerror", None) or str(exc)) or type(exc).__name__
    return text[:1].lower() + text[1:]


def one_line(text: str) -> str:
    """Return the beginning of a text, in one line and without secrets.

    What a collector says ends up in statistics and on terminals, and may quote a header
    of the request.
    """
    text = masked(text)[:MAX_REASON_CHARS]
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.strip()
