r"""Records as OTLP/JSON, one export request a line, as the Collector's files have them.

In: a `Record`. Out: one line with an ExportLogsServiceRequest of that one record; the
Collector's otlpjsonfile receiver reads such a file, and its file exporter writes one::

    {"resourceLogs":[{"resource":{"attributes":[...]},"scopeLogs":[{"scope":{...},
     "logRecords":[{"timeUnixNano":"1700000000123456789","severityNumber":9,...}]}]}]}\n

It is protobuf's JSON with the exceptions of OTLP: ids are hexadecimal, enums numbers,
64 bit integers strings. The message is the one that `codec/otlp.py` makes; the observed
time is the record's, as for all that an SDK makes itself. Needs no protobuf.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding and
https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import msgspec

from femtomp.codec.resources import ByResource
from femtomp.codec.values import REFUSED, clean, encode_line
from femtomp.record import Record, Resource, Scope, scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import AnyValue

UID_KEY: Final = "log.record.uid"
_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")
_INT64: Final = 1 << 63
_UINT32_MAX: Final = (1 << 32) - 1
_UINT64_MAX: Final = (1 << 64) - 1


def otlp_json_line(record: Record) -> bytes:
    r"""Encode a record as one ExportLogsServiceRequest and a newline.

    Examples
    --------
    >>> record = Record(5, 9, "INFO", "shop", "hi", {"n": 1}, Resource({"a": "b"}))
    >>> print(otlp_json_line(record).decode())  # doctest: +ELLIPSIS
    {"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"stringValue":"b"}}]},...
    """
    try:
        return encode_line(_request(record))
    except REFUSED:
        return encode_line(_request(clean(record, keep_floats=True)))


def _request(record: Record) -> dict[str, Any]:
    scope = record.scope or Scope(record.logger)
    logs: dict[str, Any] = {
        "scope": _scope(scope),
        "logRecords": [_log_record(record)],
    }
    if scope.schema_url:
        logs["schemaUrl"] = _text(scope.schema_url)
    resource = {"attributes": _resources.get(record.resource)}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [logs]}]}


def _log_record(record: Record) -> dict[str, Any]:
    time = _nanoseconds(record.timestamp)
    seen = record.observed_timestamp
    attributes = _pairs(record.attributes)
    made: dict[str, Any] = {
        "timeUnixNano": time,
        "observedTimeUnixNano": time if seen is None else _nanoseconds(seen),
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "body": _value(record.body),
        "attributes": attributes,
    }
    if record.uid:
        attributes.append({"key": UID_KEY, "value": {"stringValue": record.uid}})
    if record.dropped_attributes_count:
        dropped = min(record.dropped_attributes_count, _UINT32_MAX)
        made["droppedAttributesCount"] = dropped
    if record.trace_flags is not None:
        made["flags"] = record.trace_flags & _UINT32_MAX
    if _is_id(record.trace_id, _TRACE_ID_DIGITS):
        made["traceId"] = record.trace_id
    if _is_id(record.span_id, _SPAN_ID_DIGITS):
        made["spanId"] = record.span_id
    if record.event_name is not None:
        made["eventName"] = record.event_name
    return made


def _nanoseconds(time: int) -> str:
    return str(min(max(time, 0), _UINT64_MAX))


def _is_id(text: str | None, digits: int) -> bool:
    # A reader refuses the whole line for one id of another size.
    return text is not None and len(text) == digits and _HEXADECIMAL.issuperset(text)


def _pairs(attributes: Mapping[str, AnyValue]) -> list[dict[str, Any]]:
    pairs = []
    for key, value in attributes.items():
        if type(key) is not str:
            msg = f"a key is a {type(key).__name__}"
            raise TypeError(msg)
        pairs.append({"key": key, "value": _value(value)})
    return pairs


def _value(value: AnyValue) -> dict[str, Any]:
    kind = type(value)
    if kind is str:
        return {"stringValue": value}
    if kind is int:
        if not -_INT64 <= value < _INT64:
            msg = "an integer beyond 64 bits"
            raise ValueError(msg)
        return {"intValue": str(value)}
    if value is None:
        return {}  # there, and empty: how OTLP says null
    if kind is bool:
        return {"boolValue": value}
    if kind is float:
        return {"doubleValue": value if value - value == 0.0 else _float_name(value)}
    if kind is bytes:
        return {"bytesValue": b64encode(value).decode()}
    if kind is list:
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    if kind is dict:
        return {"kvlistValue": {"values": _pairs(value)}}
    msg = f"not a plain type: {kind.__name__}"
    raise TypeError(msg)


def _float_name(value: float) -> str:
    if value != value:  # noqa: PLR0124 - the definition of NaN
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _scope(scope: Scope) -> dict[str, Any]:
    made: dict[str, Any] = {"name": _text(scope.name)}
    if scope.version:
        made["version"] = _text(scope.version)
    if scope.attributes:
        made["attributes"] = _encoded_pairs(scope.attributes)
    return made


def _encoded_pairs(attributes: Mapping[str, AnyValue]) -> msgspec.Raw:
    # By itself: what has to be cleaned here changes nothing in the record.
    try:
        return msgspec.Raw(encode_line(_pairs(attributes))[:-1])
    except REFUSED:
        holder = Record(0, 0, "", "", None, dict(attributes), Resource({}))
        attributes = scrubbed(holder, keep_floats=True).attributes
        return msgspec.Raw(encode_line(_pairs(attributes))[:-1])


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


_resources: Final = ByResource(_encoded_pairs)
