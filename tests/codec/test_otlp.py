"""Export requests, compared with those of the official encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.otlp import encode_request
from femtomp.record import Resource, Scope
from tests.codec.any_record import RECORDS, TEXT, VALUES
from tests.components import missing, require
from tests.records import RESOURCE, batch, make

if missing("otlp") is None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    from tests.real.otlp import any_value, attributes, decoded

OBSERVED = 1_800_000_000_000_000_000


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


def encode(records):
    """Decode the request of some records with the official classes."""
    return ExportLogsServiceRequest.FromString(encode_request(records, OBSERVED))


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
    if body is None and not has_null():
        pytest.skip("this SDK leaves a body of None out")
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


CLEAN = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 3000)
SCALARS = CLEAN | NUMBERS | st.floats() | st.booleans() | st.binary(max_size=200)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(CLEAN, inner, max_size=4)
    ),
    max_leaves=10,
)
USUAL = st.sampled_from(["code.line.number", "thread.id", "femtomp.template", "k"])
EXPRESSIBLE = st.builds(
    make,
    timestamp=st.integers(0, 2**64 - 1),
    severity_number=st.integers(0, 24),
    severity_text=CLEAN,
    body=NESTED,
    attributes=st.dictionaries(USUAL | CLEAN.filter(bool), NESTED, max_size=5),
    uid=CLEAN.filter(bool),
    trace_id=st.integers(1, 2**128 - 1).map("{:032x}".format),
    span_id=st.integers(1, 2**64 - 1).map("{:016x}".format),
    trace_flags=st.integers(0, 255),
    event_name=st.none() | CLEAN,
    scope=st.just(Scope("lib", "1.2", "http://schema", {"k": "v"})),
)


@given(EXPRESSIBLE)
def test_any_request_equals_the_official_one(record) -> None:
    """Byte by byte: whatever the SDK can say, it would have sent the same."""
    request = encode_request([record], OBSERVED)
    assert request == officially(record).SerializeToString()


@given(RECORDS)
def test_any_request_is_canonical(any_record) -> None:
    """Of any record at all, the official classes read a request and write the same."""
    records = [any_record, make()]
    request = encode_request(records, OBSERVED)
    decoded = ExportLogsServiceRequest.FromString(request)
    assert decoded.SerializeToString() == request
    assert not has_unknown_fields(decoded)
    found = [
        record
        for worker in decoded.resource_logs
        for scope in worker.scope_logs
        for record in scope.log_records
    ]
    assert len(found) == len(records)


def has_unknown_fields(message) -> bool:
    """Tell whether the official classes met what they do not know."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    return len(UnknownFieldSet(message)) > 0


SITE = {
    "code.file.path": "shop.py",
    "code.line.number": 1,
    "code.function.name": "sell",
    "thread.id": 1,
    "thread.name": "main",
    "femtomp.template": "sold %s",
}


@pytest.mark.parametrize("key", SITE)
@pytest.mark.parametrize("others", [{}, SITE])
def test_repeated_values_keep_their_types(key, others) -> None:
    """Values that are equal and of different types are not taken for each other."""
    values = [1, True, 1.0, "1", 0, False, -0.0, 0.0, None, [1], {"a": 1}]
    records = [make(attributes={**others, key: value}) for value in values * 2]
    for _, _, record in decoded(encode(records)):
        found = attributes(record.attributes)
        value = values.pop(0)
        values.append(value)
        assert repr(found[key]) == repr(value)
        assert {**found, key: 0, "log.record.uid": 0} == {
            **others,
            key: 0,
            "log.record.uid": 0,
        }


@pytest.mark.parametrize("text", ["x", "é", "☃"])
@pytest.mark.parametrize("about", [0, 128, 2048, 1 << 14])
def test_sizes_about_a_limit(text, about) -> None:
    """Wherever a size takes one byte more, names and texts arrive as they were."""
    sizes = range(max(about - 24, 0), about + 8)
    given = {
        text * (size // len(text.encode())) + "y" * (size % len(text.encode())): ""
        for size in sizes
    }
    given = {**given, **{f"k{n}": key for n, key in enumerate(given)}}
    given |= {f"{key}:": 3_000_000_000 for key in given if len(key) > 8}
    given |= {f"{key};": 0.5 for key in given if len(key) > 8}
    given.pop("", None)
    (only,) = decoded(encode([make(body=text * about, attributes=given)]))
    found = attributes(only[2].attributes)
    found.pop("log.record.uid")
    assert found == given
    assert any_value(only[2].body) == text * about


def test_integers_about_a_limit() -> None:
    """Integers of any number of bytes arrive as they were."""
    edges = [1 << bits for bits in range(63)]
    given = {f"{n + d}": n + d for n in edges for d in (-1, 0, 1)}
    given |= {f"-{key}": -value for key, value in given.items()}
    (only,) = decoded(encode([make(attributes=given)]))
    found = attributes(only[2].attributes)
    found.pop("log.record.uid")
    assert found == given


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


def has_null() -> bool:
    """Tell whether the SDK sends a body of None as such."""
    from importlib.metadata import version

    return version("opentelemetry-sdk") >= "1.45"


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


@pytest.mark.parametrize(
    "changes",
    [
        {"body": "\udc80"},
        {"logger": "\udc80"},
        {"severity_text": "\udc80"},
        {"event_name": "\udc80"},
        {"more": "\udc80"},
        {"more": ["\udc80", {"\udc80": 1}]},
        {"more": 1 << 64},
        {"more": -(1 << 70)},
        {"more": 1 << 20_000},
        {"more": object()},
    ],
    ids=lambda changes: ascii(next(iter(changes))),
)
def test_unfit_value_changes_no_float(changes) -> None:
    """NaN and infinities stay numbers, whatever else of the record is mended."""
    nan, inf = float("nan"), float("inf")
    given = {"nan": nan, "inf": inf, "in": [inf, -inf, {"deep": nan}], "big": 1e308}
    if "more" in changes:
        given["more"] = changes["more"]
        changes = {}
    changes.setdefault("body", {"nan": nan})
    (only,) = decoded(encode([make(attributes=given, **changes)]))
    found = attributes(only[2].attributes)
    assert str(found["nan"]) == "nan"
    assert (found["inf"], found["big"]) == (inf, 1e308)
    assert str(found["in"]) == "[inf, -inf, {'deep': nan}]"
    if type(changes["body"]) is dict:
        assert str(any_value(only[2].body)) == "{'nan': nan}"


def test_unfit_attribute_of_a_resource_or_scope_changes_no_float() -> None:
    """Nor does what is mended for many records."""
    unfit = {"nan": float("nan"), "s": "\udc80"}
    record = make(scope=Scope("lib", attributes=unfit), resource=Resource(unfit))
    (worker,) = encode([record]).resource_logs
    for held in (worker.resource.attributes, worker.scope_logs[0].scope.attributes):
        assert str(attributes(held)) == "{'nan': nan, 's': '\\\\udc80'}"


def test_logger_that_is_called_like_a_scope_is_not_in_it() -> None:
    """Whatever a logger's name is, its records have that."""
    scope = Scope("lib", "1.2")
    request = encode([make(scope=scope), make(logger=repr(scope))])
    found = [logs.scope.name for logs in request.resource_logs[0].scope_logs]
    assert found == ["lib", repr(scope)]


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
