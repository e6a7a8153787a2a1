"""The native protocol, read back by a decoder that is written from its description."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.journald import MAX_FIELDS, datagram
from femtomp.record import Resource, Scope
from tests.codec.any_record import TEXT, VALUES
from tests.records import make

NAME = re.compile(rb"[A-Z][A-Z0-9_]{0,63}")
STANDARD = {
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "LOGGER",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "THREAD_NAME",
    "WORKER_PID",
    "WORKER_NAME",
    "EVENT_TIMESTAMP_USEC",
    "SERVICE_NAME",
    "LOG_RECORD_UID",
}


def decode(data: bytes) -> list[tuple[str, bytes]]:
    """Read one entry as systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes it."""
    fields = []
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline, "the last field has no newline: journald drops it"
        assert line, "an empty line starts another entry"
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, end = rest[8 : 8 + size], rest[8 + size : 9 + size]
            assert (len(value), end) == (size, b"\n")
            rest = rest[9 + size :]
        assert NAME.fullmatch(name), name
        fields.append((name.decode(), value))
        data = rest
    return fields


def fields(identifier="shop", **changes) -> dict[str, list[str]]:
    """Encode a changed record and decode it."""
    found: dict[str, list[str]] = {}
    for name, value in decode(datagram(make(**changes), identifier)):
        found.setdefault(name, []).append(value.decode())
    return found


def test_plain_record_has_its_standard_fields() -> None:
    """Each part of a record is under the journal's name for it."""
    assert fields() == {
        "MESSAGE": ["user 42 logged in"],
        "PRIORITY": ["6"],
        "SYSLOG_IDENTIFIER": ["shop"],
        "SYSLOG_PID": ["812"],
        "WORKER_PID": ["812"],
        "WORKER_NAME": ["worker-1"],
        "SERVICE_NAME": ["shop"],
        "LOGGER": ["shop.cart"],
        "EVENT_TIMESTAMP_USEC": ["1700000000123456"],
        "LOG_RECORD_UID": ["0123456789abcdef01234567-1"],
        "CODE_FILE": ["/srv/shop/cart.py"],
        "CODE_LINE": ["12"],
        "CODE_FUNC": ["login"],
        "THREAD_ID": ["140000000"],
        "THREAD_NAME": ["MainThread"],
        "USER_ID": ["42"],
    }


def test_fields_that_are_sometimes_known() -> None:
    """Span, event, exception and count have fields where a record has them."""
    found = fields(
        trace_id="ab",
        span_id="cd",
        event_name="login",
        dropped_attributes_count=2,
        scope=Scope("lib"),
        attributes={
            "exception.type": "KeyError",
            "exception.message": "'a'",
            "exception.stacktrace": "Traceback:\n  x\n",
            "thread.native_id": 99,
        },
    )
    expected = {
        "TRACE_ID": ["ab"],
        "SPAN_ID": ["cd"],
        "EVENT_NAME": ["login"],
        "DROPPED_ATTRIBUTES_COUNT": ["2"],
        "EXCEPTION_TYPE": ["KeyError"],
        "EXCEPTION_MESSAGE": ["'a'"],
        "EXCEPTION_STACKTRACE": ["Traceback:\n  x\n"],
        "TID": ["99"],
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("numbers", "priority"),
    [
        ((0,), "6"),
        (range(1, 9), "7"),
        (range(9, 13), "6"),
        (range(13, 17), "4"),
        (range(17, 21), "3"),
        (range(21, 25), "2"),
        ((99,), "2"),
        ((-1,), "6"),
    ],
)
def test_every_severity_has_a_priority(numbers, priority) -> None:
    """The mapping to syslog's priorities is total."""
    found = {fields(severity_number=number)["PRIORITY"][0] for number in numbers}
    assert found == {priority}


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("order.id", "ORDER_ID", "v"),
        ("_private", "PRIVATE", "v"),
        ("_PID", "PID", "v"),
        ("2fast", "F_2FAST", "v"),
        ("message", "F_MESSAGE", "v"),
        ("_MESSAGE", "F_MESSAGE", "v"),
        ("Priority", "F_PRIORITY", "v"),
        ("syslog.identifier", "F_SYSLOG_IDENTIFIER", "v"),
        ("code-file", "F_CODE_FILE", "v"),
        ("object_pid", "F_OBJECT_PID", "v"),
        ("extra", "F_EXTRA", "v"),
        ("x" * 100, "X" * 64, "v"),
        ("ключ", "EXTRA", "ключ=v"),
        ("", "EXTRA", "=v"),
        ("__", "EXTRA", "__=v"),
        ("a\nMESSAGE", "A_MESSAGE", "v"),
        ("femtomp.template", "FEMTOMP_TEMPLATE", "v"),
    ],
)
def test_names_of_extras(key, name, value) -> None:
    """Any key becomes a legal name that is neither femtomp's nor journald's own."""
    assert fields(attributes={key: "v"}).get(name) == [value]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, ""),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        (2**70, str(2**70)),
        (b"\x00\xff", "AP8="),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ('"quoted"', '"quoted"'),
        ("\udc80", "\\udc80"),
        (["a\nb"], '["a\\nb"]'),
    ],
)
def test_values_of_extras(value, text) -> None:
    """Values are written plainly, nested ones as JSON."""
    assert fields(attributes={"k": value})["K"] == [text]


def test_keys_that_fall_together_are_both_kept() -> None:
    """Two keys with one name make a field with two values."""
    assert fields(attributes={"a.b": 1, "a-b": 2})["A_B"] == ["1", "2"]


def test_too_many_fields_are_counted() -> None:
    """No entry has more fields than journald takes; what is over is counted."""
    entry = decode(datagram(make(attributes={f"k{n}": n for n in range(1500)}), "x"))
    kept = [name for name, _ in entry if name.startswith("K")]
    assert len(entry) == MAX_FIELDS
    assert entry[-1] == ("DROPPED_FIELDS", b"%d" % (1500 - len(kept)))


@given(
    identifier=TEXT,
    body=VALUES,
    logger=TEXT,
    event_name=TEXT,
    worker=TEXT,
    attributes=st.dictionaries(TEXT, VALUES, max_size=6),
)
def test_no_value_can_forge_a_field(
    identifier, body, logger, event_name, worker, attributes
) -> None:
    """Whatever strings hold, there is one entry with one field for each part."""
    resource = Resource({"femtomp.worker.name": worker})
    record = make(
        body=body,
        logger=logger,
        event_name=event_name,
        attributes=attributes,
        resource=resource,
    )
    entry = decode(datagram(record, identifier))
    names = [name for name, _ in entry]
    assert len(names) == 8 + len(attributes)
    assert all(names.count(name) <= 1 for name in STANDARD)
    escaped = identifier.encode("utf-8", "backslashreplace")
    assert dict(entry)["SYSLOG_IDENTIFIER"] == escaped
    if isinstance(body, str):
        assert dict(entry)["MESSAGE"] == body.encode("utf-8", "backslashreplace")
