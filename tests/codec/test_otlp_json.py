"""OTLP/JSON, read by protobuf's own reader and compared with the protobuf message."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given

from femtomp.codec.otlp import encode_request
from femtomp.codec.otlp_json import otlp_json_line
from femtomp.record import Resource, Scope
from tests.codec.any_record import RECORDS, one_line
from tests.codec.test_text import refuse_constant
from tests.components import missing, require
from tests.records import PLAIN, make

if missing("otlp") is None:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


def read(line: bytes):
    """Read one line as protobuf's JSON, but for the ids, which OTLP has in hex."""
    document = json.loads(one_line(line), parse_constant=refuse_constant)
    for resource in document["resourceLogs"]:
        for scope in resource["scopeLogs"]:
            for record in scope["logRecords"]:
                for key in {"traceId", "spanId"} & set(record):
                    data = bytes.fromhex(record[key])
                    record[key] = base64.b64encode(data).decode()
    return json_format.ParseDict(document, ExportLogsServiceRequest())


def as_protobuf(record):
    """Give the message that the OTLP sink sends, observed when it was logged."""
    observed = min(max(record.timestamp, 0), (1 << 64) - 1)
    return ExportLogsServiceRequest.FromString(encode_request([record], observed))


FULL = make(
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    trace_flags=1,
    event_name="login",
    scope=Scope("lib", "1.2", "http://schema", {"k": "v"}),
    dropped_attributes_count=3,
)


def test_line_has_the_forms_of_otlp() -> None:
    """Ids are hexadecimal, enums numbers, 64 bit integers texts, keys in camelCase."""
    (logs,) = json.loads(otlp_json_line(FULL))["resourceLogs"]
    (scope_logs,) = logs["scopeLogs"]
    assert list(logs) == ["resource", "scopeLogs"]
    assert scope_logs["scope"] == {
        "name": "lib",
        "version": "1.2",
        "attributes": [{"key": "k", "value": {"stringValue": "v"}}],
    }
    assert scope_logs["schemaUrl"] == "http://schema"
    (record,) = scope_logs["logRecords"]
    attributes = record.pop("attributes")
    assert record == {
        "timeUnixNano": "1700000000123456789",
        "observedTimeUnixNano": "1700000000123456789",
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"stringValue": "user 42 logged in"},
        "droppedAttributesCount": 3,
        "flags": 1,
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "eventName": "login",
    }
    assert {"key": "user_id", "value": {"intValue": "42"}} in attributes
    assert attributes[-1] == {
        "key": "log.record.uid",
        "value": {"stringValue": PLAIN.uid},
    }


@pytest.mark.parametrize("record", [PLAIN, FULL], ids=["plain", "full"])
def test_line_is_the_message_of_the_otlp_sink(record) -> None:
    """Read back, a line is exactly what a collector would have been sent."""
    assert read(otlp_json_line(record)) == as_protobuf(record)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", {"stringValue": "a"}),
        ("", {"stringValue": ""}),
        (True, {"boolValue": True}),
        (-(1 << 63), {"intValue": "-9223372036854775808"}),
        (1 << 63, {"stringValue": "9223372036854775808"}),
        (1.5, {"doubleValue": 1.5}),
        (float("nan"), {"doubleValue": "NaN"}),
        (float("-inf"), {"doubleValue": "-Infinity"}),
        (None, {}),
        (b"\x00\xff", {"bytesValue": "AP8="}),
        ([1, None], {"arrayValue": {"values": [{"intValue": "1"}, {}]}}),
        ({"a": []}, {"kvlistValue": {"values": [
            {"key": "a", "value": {"arrayValue": {"values": []}}}]}}),
    ],
)  # fmt: skip
def test_each_kind_of_value(value, shown) -> None:
    """Every value has the form of OTLP/JSON, and reads back as the sink's."""
    record = make(body=value, attributes={"k": value})
    (logs,) = json.loads(otlp_json_line(record))["resourceLogs"]
    assert logs["scopeLogs"][0]["logRecords"][0]["body"] == shown
    assert repr(read(otlp_json_line(record))) == repr(as_protobuf(record))


@pytest.mark.parametrize("trace_id", ["", "0a", "x" * 32, "0a" * 17, "0A" * 16])
def test_id_that_is_none_is_left_out(trace_id) -> None:
    """A reader refuses a whole line for one wrong id: it is as if there were none."""
    record = make(trace_id=trace_id)
    assert read(otlp_json_line(record)) == as_protobuf(record)


def test_resources_and_scopes_are_cleaned_alone() -> None:
    """What cannot be said in one place changes nothing in the others."""
    record = make(
        attributes={"nan": float("inf")},
        resource=Resource({"a": "\udc80", "n": 1 << 64}),
        scope=Scope("s\udc80", attributes={"b": "\udc80"}),
    )
    assert read(otlp_json_line(record)) == as_protobuf(record)


def test_resource_is_the_whole_one() -> None:
    """A collector's file says of each worker what the collector is told."""
    (logs,) = read(otlp_json_line(PLAIN)).resource_logs
    assert len(logs.resource.attributes) == len(PLAIN.resource)


@given(RECORDS)
def test_any_record_reads_back_as_the_sinks_message(record) -> None:
    """No record is refused, and each is the message that the OTLP sink makes of it."""
    # Lanes give every record an id of ASCII and a worker; the sink relies on it.
    record = record._replace(
        uid=record.uid.encode("utf-8", "backslashreplace").decode(),
        resource=record.resource or PLAIN.resource,
    )
    # By their text: NaN is not equal to itself.
    assert repr(read(otlp_json_line(record))) == repr(as_protobuf(record))


@given(RECORDS)
def test_any_record_is_one_line(record) -> None:
    """No reader takes one line for two, whatever the record's id."""
    one_line(otlp_json_line(record))


@pytest.mark.parametrize("unfit", ["\udc80", 1 << 64], ids=ascii)
def test_unfit_value_changes_no_float(unfit) -> None:
    """NaN and infinities stay numbers, whatever else of the record is mended."""
    nan, inf = float("nan"), float("inf")
    given = {"unfit": unfit, "nan": nan, "in": [inf, {"deep": -inf}]}
    record = make(attributes=given, scope=Scope("lib", attributes=given))
    scope = read(otlp_json_line(record)).resource_logs[0].scope_logs[0]
    for held in (scope.log_records[0].attributes, scope.scope.attributes):
        found = {pair.key: pair.value for pair in held}
        assert str(found["nan"].double_value) == "nan"
        assert found["nan"].WhichOneof("value") == "double_value"
        one, two = found["in"].array_value.values
        assert one.double_value == inf
        assert two.kvlist_value.values[0].value.double_value == -inf
