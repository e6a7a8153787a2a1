"""Export requests, compared with those of the official encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.record import Resource, Scope
from tests.codec.any_record import TEXT, VALUES
from tests.components import missing, require
from tests.records import RESOURCE, batch, make

if missing("otlp") is None:
    from femtomp.codec.otlp import export_request
    from tests.real.otlp import any_value, attributes, decoded

OBSERVED = 1_800_000_000_000_000_000


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


def encode(records):
    """Build a request and send it through its serialized form."""
    request = export_request(records, OBSERVED)
    return type(request).FromString(request.SerializeToString())


def officially(record):
    """Encode a record with the SDK's encoder."""
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource as SdkResource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    span = SpanContext(
        int(record.trace_id, 16),
        int(record.span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(record.trace_flags),
    )
    log_record = LogRecord(
        timestamp=record.timestamp,
        observed_timestamp=OBSERVED,
        context=set_span_in_context(NonRecordingSpan(span)),
        severity_text=record.severity_text,
        severity_number=SeverityNumber(record.severity_number),
        body=record.body,
        attributes={**record.attributes, "log.record.uid": record.uid},
        event_name=record.event_name,
    )
    scope = InstrumentationScope("lib", "1.2", "http://schema", {"k": "v"})
    resource = SdkResource(dict(record.resource))
    return encode_logs([ReadableLogRecord(log_record, resource, scope)])


@pytest.mark.parametrize(
    "body", ["text", "", None, True, -3, 1.5, b"\x00\xff", [1, "a", None], {"a": {}}]
)
def test_request_equals_the_official_one(body) -> None:
    """For what the SDK can say, both encoders build the same message."""
    record = make(
        body=body,
        attributes={"s": "x", "i": 1, "f": 0.5, "b": False, "l": ["a", "b"]},
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        trace_flags=1,
        event_name="login",
        scope=Scope("lib", "1.2", "http://schema", {"k": "v"}),
    )
    assert encode([record]) == officially(record)


@given(body=VALUES, pairs=st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_value_survives(body, pairs) -> None:
    """What protobuf can carry arrives as it was; the rest as a string."""
    (only,) = decoded(encode([make(body=body, attributes=pairs)]))
    found = attributes(only[2].attributes)
    assert found.pop("log.record.uid") == make().uid
    clean = make(body=body, attributes=pairs)
    if fits(body) and fits(pairs):
        assert repr(any_value(only[2].body)) == repr(clean.body)
        assert repr(found) == repr(clean.attributes)
    else:
        assert len(found) <= len(pairs)


def fits(value) -> bool:
    """Tell whether protobuf can carry a value as it is."""
    if isinstance(value, str):
        return not any(0xD800 <= ord(c) < 0xE000 for c in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, list):
        return all(map(fits, value))
    if isinstance(value, dict):
        return all(fits(k) and fits(v) for k, v in value.items())
    return True


def test_mended_record_holds_nothing_twice() -> None:
    """What was written before the unfit value was met is not there a second time."""
    record = make(body=["a"], attributes={"first": [1], "unfit": 2**70})
    (only,) = decoded(encode([record]))
    assert any_value(only[2].body) == ["a"]
    assert [pair.key for pair in only[2].attributes] == [
        "first",
        "unfit",
        "log.record.uid",
    ]


def test_records_are_grouped_by_worker_and_scope() -> None:
    """Each worker is one ResourceLogs; in it each logger or scope is one ScopeLogs."""
    other = Resource(dict(RESOURCE))
    records = [
        make(body=1),
        make(body=2, logger="b"),
        make(body=3, resource=other),
        make(body=4),
        make(body=5, scope=Scope("lib", attributes={"k": 1})),
        make(body=6, scope=Scope("lib", attributes={"k": 2})),
        make(body=7, scope=Scope("lib", attributes={"k": 1})),
    ]
    found = [
        [
            (scope.scope.name, [any_value(r.body) for r in scope.log_records])
            for scope in worker.scope_logs
        ]
        for worker in encode(records).resource_logs
    ]
    assert found == [
        [("shop.cart", [1, 4]), ("b", [2]), ("lib", [5, 7]), ("lib", [6])],
        [("shop.cart", [3])],
    ]


def test_resource_is_complete() -> None:
    """A collector gets all attributes of the resource, not the brief."""
    (resource, _, _) = decoded(encode([make()]))[0]
    assert resource == dict(RESOURCE)


def test_times_and_count() -> None:
    """Both times and the count of dropped attributes are the record's."""
    (only,) = decoded(encode([make(timestamp=7, dropped_attributes_count=3)]))
    record = only[2]
    assert record.time_unix_nano == 7
    assert record.observed_time_unix_nano == OBSERVED
    assert record.dropped_attributes_count == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_id": "xyz", "span_id": "12"},
        {"timestamp": -5},
        {"timestamp": 2**70},
        {"trace_flags": 2**40},
        {"dropped_attributes_count": 2**40},
        {"attributes": {"o": object()}},
        {"logger": "a\udc80", "severity_text": "\udc80", "event_name": "\udc80"},
        {"scope": Scope("\udc80", "\udc80", "\udc80", {"\udc80": 2**70})},
        {"resource": Resource({"\udc80": "\udc80", "n": 2**70})},
    ],
)
def test_odd_records_cost_no_other(changes) -> None:
    """What a collector would refuse is mended or left out, and its batch goes on."""
    found = decoded(encode([*batch(2), make(**changes)]))
    assert len(found) == 3
    assert len(found[-1][2].trace_id) in {0, 16}
    assert len(found[-1][2].span_id) in {0, 8}
