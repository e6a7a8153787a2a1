"""Elastic Common Schema, by the rules of the specification of ECS logging.

`SPECIFIED` is spec/spec.json of https://github.com/elastic/ecs-logging (version 1.0):
which keys there are, of which type, which of them begin the line, and whether their
dots may be nesting.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.ecs import ecs_line, ecs_lines
from femtomp.record import Resource
from tests.codec.any_record import RECORDS, one_line
from tests.codec.test_text import refuse_constant
from tests.records import BRIEF, PLAIN, make

# name: (type, required, index, nesting allowed)
SPECIFIED = {
    "@timestamp": ("datetime", True, 0, True),
    "log.level": ("string", True, 1, False),
    "message": ("string", True, 2, True),
    "ecs.version": ("string", True, None, True),
    "labels": ("object", False, None, True),
    "trace.id": ("string", False, None, True),
    "transaction.id": ("string", False, None, True),
    "service.name": ("string", False, None, True),
    "event.dataset": ("string", False, None, True),
}
LABEL_KEY = re.compile(r"[^.*\\]*")
# The types of Elasticsearch's mapping for what the encoder may write beside them.
NUMBERS = re.compile(
    r"process\.(parent\.)?pid|process\.thread\.id|log\.origin\.file\.line"
    r"|.*\.(bytes|port|status_code)|event\.(duration|severity|sequence)"
)


def unique(pairs: list) -> dict:
    """Make an object of its pairs, if no key is there twice."""
    assert not [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
    return dict(pairs)


def read(line: bytes) -> dict:
    """Read a line, if it keeps to the specification."""
    document = json.loads(
        one_line(line), object_pairs_hook=unique, parse_constant=refuse_constant
    )
    assert list(document)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    for name, (kind, required, index, _) in SPECIFIED.items():
        assert name in document or not required
        if name not in document:
            continue
        assert index is None or list(document)[index] == name
        is_object = isinstance(document[name], dict)
        assert is_object if kind == "object" else isinstance(document[name], str)
    moment = document["@timestamp"]
    assert datetime.strptime(f"{moment[:19]}{moment[-1]}", "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007 - the Z says it
    for key, value in document.get("labels", {}).items():
        assert LABEL_KEY.fullmatch(key)
        assert key.strip()
        assert isinstance(value, str)
    return document


def check_mapping(document: dict) -> None:
    """Check that Elasticsearch can index a document: one type for each name."""
    for name, value in document.items():
        if name == "labels":
            continue
        if name == "numeric_labels":
            assert all(type(v) in {int, float} for v in value.values())
        elif NUMBERS.fullmatch(name):
            assert type(value) is int, name
        else:
            assert isinstance(value, str), name
        # An object cannot have a value of its own: no name goes on where another ends.
        assert not [other for other in document if other.startswith(f"{name}.")]


def test_plain_record() -> None:
    """What a record has stands where ECS has it; its number is a numeric label."""
    assert list(read(ecs_line(PLAIN)).items()) == [
        ("@timestamp", "2023-11-14T22:13:20.123456789Z"),
        ("log.level", "INFO"),
        ("message", "user 42 logged in"),
        ("ecs.version", "9.0.0"),
        ("log.logger", "shop.cart"),
        ("service.name", "shop"),
        ("service.node.name", "7c1e"),
        ("process.pid", 812),
        ("host.name", "web-1"),
        ("process.name", "worker-1"),
        ("event.dataset", "shop.log"),
        ("event.id", PLAIN.uid),
        ("log.origin.file.name", "/srv/shop/cart.py"),
        ("log.origin.file.line", 12),
        ("log.origin.function", "login"),
        ("process.thread.id", 140_000_000),
        ("process.thread.name", "MainThread"),
        ("numeric_labels", {"user_id": 42}),
    ]


def test_span_event_and_exception() -> None:
    """Trace, span, event and error stand where ECS has them."""
    record = make(
        attributes={
            "exception.type": "KeyError",
            "exception.message": "'tea'",
            "exception.stacktrace": "Traceback",
        },
        trace_id="0a" * 16,
        span_id="0b" * 8,
        event_name="sale",
    )
    document = read(ecs_line(record))
    assert {k: v for k, v in document.items() if k not in read(ecs_line(PLAIN))} == {
        "trace.id": "0a" * 16,
        "span.id": "0b" * 8,
        "event.action": "sale",
        "error.type": "KeyError",
        "error.message": "'tea'",
        "error.stack_trace": "Traceback",
    }


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("tea", "tea"),
        ("", ""),
        (True, "true"),
        (None, "null"),
        ([1, "a"], '[1,"a"]'),
        ({"a": {"b": 1}}, '{"a":{"b":1}}'),
        (b"\x00", "AA=="),
        (float("nan"), "NaN"),
        (1 << 64, str(1 << 64)),
    ],
)
def test_labels_are_texts(value, label) -> None:
    """Whatever is no number is a label, and a text: one type for each name."""
    assert read(ecs_line(make(attributes={"k": value})))["labels"] == {"k": label}


@pytest.mark.parametrize("value", [1, -3, 0.5, 1 << 62])
def test_numbers_stay_numbers(value) -> None:
    """Numbers can be searched by range."""
    document = read(ecs_line(make(attributes={"a.b": value})))
    assert document["numeric_labels"] == {"a_b": value}


def test_label_keys_have_no_dots() -> None:
    """Keys are sanitised as specified; those that fall together are all kept."""
    fields = {"a.b": "1", "a*b": "2", "a\\b": "3", "a_b_": "4"}
    assert read(ecs_line(make(attributes=fields)))["labels"] == {
        "a_b": "1",
        "a_b_": "2",
        "a_b__": "3",
        "a_b___": "4",
    }


@pytest.mark.parametrize("key", ["", " ", "\t\n"])
def test_label_has_a_name(key) -> None:
    """Elasticsearch refuses a whole document for a blank name: it is an underscore."""
    assert read(ecs_line(make(attributes={key: "x"})))["labels"] == {"_": "x"}


def test_field_of_ecs_takes_its_own_place() -> None:
    """What OpenTelemetry and ECS call alike is found where ECS has it."""
    fields = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/cart",
        "user.id": "42",
        "transaction.id": "00f067aa0ba902b7",
    }
    document = read(ecs_line(make(attributes=fields)))
    assert {key: document[key] for key in fields} == fields
    assert "labels" not in document


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        # Elasticsearch has objects of these names: a value of one would be refused.
        ("user", "ann", {"labels": {"user": "ann"}}),
        ("http", "x", {"labels": {"http": "x"}}),
        ("http.request", "x", {"labels": {"http_request": "x"}}),
        # Of another type than the mapping's.
        ("http.response.status_code", "200", {"labels": {"http_response_status_code": "200"}}),
        ("user.id", 42, {"numeric_labels": {"user_id": 42}}),
        ("http.response.status_code", True, {"labels": {"http_response_status_code": "true"}}),
        # Ours, and no user's.
        ("message", "x", {"labels": {"message": "x"}}),
        ("log.level", "x", {"labels": {"log_level": "x"}}),
        ("labels", "x", {"labels": {"labels": "x"}}),
        ("process.pid", 1, {"numeric_labels": {"process_pid": 1}}),
        ("@timestamp", "x", {"labels": {"@timestamp": "x"}}),
    ],
)  # fmt: skip
def test_field_that_would_clash_is_a_label(key, value, where) -> None:
    """What the mapping would refuse, or what is the line's own, is kept as a label."""
    document = read(ecs_line(make(attributes={key: value})))
    labels = {k: document[k] for k in ("labels", "numeric_labels") if k in document}
    assert labels == where
    check_mapping(document)


def test_resource_goes_the_same_way() -> None:
    """Attributes of `resource=` take their own places, or are labels of every line."""
    own = {"service.version": "1.2", "region": "eu", "shard": 3}
    resource = Resource({**BRIEF, "deployment.environment.name": "prod", **own})
    document = read(ecs_line(make(resource=resource, attributes={"region": "mine"})))
    assert document["service.version"] == "1.2"
    assert document["service.environment"] == "prod"
    assert document["labels"] == {"region": "eu", "region_": "mine"}
    assert document["numeric_labels"] == {"shard": 3}


def test_stack_of_a_call_without_exception() -> None:
    """A stack that was asked for is the stack trace; an exception's comes first."""
    stack = {"code.stacktrace": "Stack"}
    assert read(ecs_line(make(attributes=stack)))["error.stack_trace"] == "Stack"
    both = {"exception.stacktrace": "Traceback", **stack}
    document = read(ecs_line(make(attributes=both)))
    assert document["error.stack_trace"] == "Traceback"
    assert document["labels"] == {"code_stacktrace": "Stack"}


@given(RECORDS)
def test_any_record_keeps_to_the_specification(record) -> None:
    """No record is refused by us or by Elasticsearch, and every field is there."""
    document = read(ecs_line(record))
    check_mapping(document)
    placed = [key for key in record.attributes if key != "femtomp.template"]
    labels = [*document.get("labels", ()), *document.get("numeric_labels", ())]
    fixed = [key for key in document if key not in {"labels", "numeric_labels"}]
    others = (
        bool(record.uid) + len(record.resource) + bool(record.dropped_attributes_count)
    )
    others += sum(
        v is not None for v in (record.trace_id, record.span_id, record.event_name)
    )
    others += 5 + ("event.dataset" in document)
    assert len(labels) + len(fixed) == len(placed) + others


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_batch_is_the_lines(batch) -> None:
    """A batch is encoded as its records are."""
    assert ecs_lines(batch) == b"".join(map(ecs_line, batch))
