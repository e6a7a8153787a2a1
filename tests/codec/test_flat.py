"""Flat JSON: everything on one level, nothing overwritten."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.flat import flat_line, flat_lines
from femtomp.record import Resource
from tests.codec.any_record import RECORDS, one_line
from tests.codec.test_text import expected, refuse_constant
from tests.records import PLAIN, make


def pairs(line: bytes) -> list:
    """Read the keys and values of a line, equal keys too."""
    return json.loads(
        one_line(line), object_pairs_hook=list, parse_constant=refuse_constant
    )


def test_plain_record() -> None:
    """What every record has comes first, the record's own fields after it."""
    assert pairs(flat_line(PLAIN)) == [
        ("timestamp", "2023-11-14T22:13:20.123456789Z"),
        ("level", "INFO"),
        ("message", "user 42 logged in"),
        ("logger", "shop.cart"),
        ("service", "shop"),
        ("pid", 812),
        ("worker", "worker-1"),
        ("user_id", 42),
        ("caller", "/srv/shop/cart.py:12"),
        ("uid", PLAIN.uid),
    ]


def test_everything_that_a_record_may_have() -> None:
    """Span, event, exception and stack have names without dots."""
    record = make(
        attributes={
            "exception.type": "KeyError",
            "exception.message": "'tea'",
            "exception.stacktrace": "Traceback\n  x\nKeyError: 'tea'",
            "code.stacktrace": "Stack\n  y",
            "femtomp.template": "sold %s",
        },
        trace_id="0a" * 16,
        span_id="0b" * 8,
        event_name="sale",
        dropped_attributes_count=2,
    )
    assert pairs(flat_line(record))[7:] == [
        ("trace_id", "0a" * 16),
        ("span_id", "0b" * 8),
        ("event", "sale"),
        ("exception_type", "KeyError"),
        ("exception_message", "'tea'"),
        ("exception", "Traceback\n  x\nKeyError: 'tea'"),
        ("stack", "Stack\n  y"),
        ("dropped_attributes_count", 2),
        ("uid", PLAIN.uid),
    ]


def test_field_whose_name_is_taken_is_kept_under_another() -> None:
    """Fields never replace what the line says itself, nor each other."""
    fields = {"level": 1, "level_": 2, "uid": 3, "message": 4, "pid": 5, "caller": 6}
    line = pairs(flat_line(make(attributes={**fields, "code.file.path": "a.py"})))
    assert dict(line[7:]) == {
        "level_": 2,
        "level__": 1,
        "uid_": 3,
        "message_": 4,
        "pid_": 5,
        "caller_": 6,
        "caller": "a.py",
        "uid": PLAIN.uid,
    }


def test_field_may_have_a_name_that_the_record_does_not_use() -> None:
    """An application that passes its own trace id finds it where others have theirs."""
    assert ("trace_id", "mine") in pairs(
        flat_line(make(attributes={"trace_id": "mine"}))
    )


def test_what_the_server_was_told_stands_beside_the_service() -> None:
    """Attributes of `resource=` are in every line; a field yields to them."""
    resource = Resource({
        "service.name": "shop", "region": "eu", "level": 1, "host.name": "web-1",
        "service.instance.id": "7c1e",
    })  # fmt: skip
    line = pairs(flat_line(make(resource=resource, attributes={"region": "mine"})))
    assert line[4:] == [
        ("service", "shop"),
        ("region", "eu"),
        ("level_", 1),
        ("region_", "mine"),
        ("uid", PLAIN.uid),
    ]


def test_message_is_a_text() -> None:
    """A body of the Logs API that is no text becomes one, as readers want it."""
    assert ("message", '{"a":[1]}') in pairs(flat_line(make(body={"a": [1]})))


LEFT_OUT = {"code.function.name", "femtomp.template", "thread.id", "thread.name"}


@given(RECORDS)
def test_any_record_is_one_object_with_every_field_once(record) -> None:
    """No record is refused, no key is there twice, and no field's value is lost."""
    line = flat_line(record)
    keys = [key for key, _ in pairs(line)]
    assert len(set(keys)) == len(keys)
    values = list(json.loads(line).values())
    for key, value in record.attributes.items():
        if key not in LEFT_OUT and not key.startswith("code."):
            assert expected(value) in values


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_batch_is_the_lines(batch) -> None:
    """A batch is encoded as its records are."""
    assert flat_lines(batch) == b"".join(map(flat_line, batch))
