"""JSON lines and lines for people."""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.resources import MAX_RESOURCES, ByResource
from femtomp.codec.text import json_line, text_line
from femtomp.codec.values import json_value
from femtomp.record import Resource, Scope
from tests.codec.any_record import DANGEROUS, RECORDS, TEXT, VALUES
from tests.records import BRIEF, PLAIN, make


def expected(value):
    """Say what a value is to be in JSON, by the design's rules, naively."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [expected(item) for item in value]
    return {expected(key): expected(item) for key, item in value.items()}


def refuse_constant(name):
    """Fail on what is no JSON, though Python reads it."""
    raise AssertionError(name)


def parse(line: bytes) -> dict:
    """Read one line of strict JSON."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line, parse_constant=refuse_constant)


def test_plain_record_has_the_designed_keys_in_order() -> None:
    """A record without a span has no trace keys, and what is absent is left out."""
    line = parse(json_line(PLAIN))
    assert list(line.items()) == [
        ("timestamp", "2023-11-14T22:13:20.123456789Z"),
        ("severity_text", "INFO"),
        ("severity_number", 9),
        ("logger", "shop.cart"),
        ("body", "user 42 logged in"),
        ("attributes", PLAIN.attributes),
        ("resource", BRIEF),
        ("uid", PLAIN.uid),
    ]


def test_full_record_has_every_key() -> None:
    """Trace, event, scope and count stand where they are known."""
    record = make(
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        trace_flags=0,
        event_name="login",
        scope=Scope("lib", "1.2"),
        dropped_attributes_count=3,
    )
    line = parse(json_line(record))
    assert list(line)[7:] == [
        "trace_id",
        "span_id",
        "trace_flags",
        "event_name",
        "scope",
        "dropped_attributes_count",
        "uid",
    ]
    assert line["trace_flags"] == 0
    assert line["scope"] == {"name": "lib", "version": "1.2"}


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (999_999_999, "1970-01-01T00:00:00.999999999Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20.000000000Z"),
        (2**80, "9999-12-31T23:59:59."),
        (-1, "1970-01-01T00:00:00."),
    ],
)
def test_timestamp_is_rfc_3339_with_nanoseconds(timestamp, text) -> None:
    """Any timestamp becomes a date that readers take, however wrong it was."""
    line = parse(json_line(make(timestamp=timestamp)))
    assert line["timestamp"].startswith(text)
    assert len(line["timestamp"]) == 30


@given(body=VALUES, attributes=st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_value_is_strict_json(body, attributes) -> None:
    """Every value that a record can hold is written by the design's rules."""
    line = parse(json_line(make(body=body, attributes=attributes)))
    assert line["body"] == expected(body)
    assert line["attributes"] == expected(attributes)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        ("\udc80", "\\udc80"),
        (b"\x00\xff", "AP8="),
    ],
)
def test_what_json_cannot_say_is_a_string(value, shown) -> None:
    """Unfit numbers, surrogates and bytes are strings, however deep they are."""
    pairs = {"k": value, "list": [value], "dict": {"k": {"k": value}}}
    line = parse(json_line(make(body=value, attributes=pairs)))
    assert line["body"] == shown
    assert line["attributes"] == {
        "k": shown,
        "list": [shown],
        "dict": {"k": {"k": shown}},
    }


def test_unknown_types_and_cycles_are_written_somehow() -> None:
    """What should not be in a record costs its own form, never the line."""
    cycle: dict = {}
    cycle["self"] = cycle
    odd = {"object": object(), "cycle": cycle, "set": {1}, "key": {None: 1}}
    line = parse(json_line(make(attributes=odd)))
    assert line["attributes"]["object"].startswith("<object object")
    assert line["attributes"]["key"] == {"None": 1}


def test_unfit_scope_and_resource_are_cleaned() -> None:
    """A lone surrogate is escaped in the places that scrubbed() leaves alone, too."""
    resource = Resource({"a": "\udc80", "n": math.nan})
    line = parse(json_line(make(resource=resource, scope=Scope("s\udc80"))))
    assert line["resource"] == {"a": "\\udc80", "n": "NaN"}
    assert line["scope"] == {"name": "s\\udc80"}


def test_number_of_a_scope_that_json_cannot_say_is_a_string() -> None:
    """A scope's attributes follow the rules of the record's."""
    line = parse(json_line(make(scope=Scope("lib", attributes={"n": math.nan}))))
    assert line["scope"] == {"name": "lib", "attributes": {"n": "NaN"}}


def test_resources_are_told_apart_by_identity() -> None:
    """Two workers with equal ids in turn never get each other's resource."""
    for number in range(2 * MAX_RESOURCES + 1):
        line = parse(json_line(make(resource=Resource({"n": number}))))
        assert line["resource"] == {"n": number}


def test_resource_is_encoded_once() -> None:
    """What was made of a resource is made once while it is kept."""
    calls = []
    table = ByResource(calls.append)
    resource = Resource({})
    table.get(resource)
    table.get(resource)
    assert calls == [resource]


def test_json_value_is_json() -> None:
    """Single values follow the same rules as those of a record."""
    assert json_value([1, "a\udc80", 2**64]) == f'[1,"a\\\\udc80","{2**64}"]'


def text(**changes) -> str:
    """Format a record without colour, without its time."""
    return text_line(make(**changes), colour=False).decode()[24:]


def test_text_line_shows_who_said_what() -> None:
    """Level, worker, logger, body and own fields are on one line."""
    expected = "INFO     worker-1[812]        shop.cart: user 42 logged in user_id=42\n"
    assert text() == expected


def test_text_line_begins_with_local_time() -> None:
    """The time is that of the reader's zone, with milliseconds."""
    moment = datetime.fromtimestamp(1_700_000_000)  # noqa: DTZ006 - local on purpose
    moment = moment.strftime("%Y-%m-%d %H:%M:%S")
    assert text_line(PLAIN, colour=False).decode().startswith(f"{moment}.123 INFO")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("word", "word"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x9b31m", '"\\x9b31m"'),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        ([1, "a"], '[1,"a"]'),
    ],
)
def test_field_values_cannot_look_like_other_fields(value, shown) -> None:
    """What is not one plain word is quoted."""
    assert text(attributes={"k": value}).endswith(f"logged in k={shown}\n")


def test_traceback_and_body_lines_are_indented() -> None:
    """Newlines make continuation lines, which no record's first line resembles."""
    attributes = {
        "n": 1,
        "exception.type": "KeyError",
        "exception.stacktrace": "Traceback:\n  x\nKeyError: 1\n",
    }
    lines = text(body="one\r\ntwo", attributes=attributes).splitlines()
    assert lines[0].endswith("shop.cart: one")
    assert lines[1:] == [
        "    two",
        "    n=1",
        "    Traceback:",
        "      x",
        "    KeyError: 1",
    ]


def test_exception_without_stacktrace_is_shown_as_fields() -> None:
    """Type and message of an exception are fields where there is no traceback."""
    attributes = {"exception.type": "KeyError", "exception.message": "'a'"}
    assert text(attributes=attributes).endswith(
        "exception.type=KeyError exception.message='a'\n"
    )


@given(
    name=TEXT,
    logger=TEXT,
    body=TEXT,
    attributes=st.dictionaries(TEXT, VALUES),
    key=TEXT,
)
def test_nothing_drives_the_terminal(name, logger, body, attributes, key) -> None:
    """No string of a record ends the line, moves the cursor or reorders text."""
    worker = Resource({"femtomp.worker.name": name, "process.pid": key})
    record = make(logger=logger, body=body, attributes=attributes, resource=worker)
    line = text_line(record, colour=False).decode()
    first, *others = line.removesuffix("\n").split("\n")
    assert first[:4].isdecimal()
    assert all(other.startswith("    ") for other in others)
    dangerous = {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066}
    assert not dangerous & {ord(c) for c in first.replace("\t", "")}


def test_messages_begin_in_one_column() -> None:
    """Workers of usual names take the same room, so do levels."""
    columns = {
        text(
            severity_text=level,
            resource=Resource({"femtomp.worker.name": name, "process.pid": pid}),
        ).index("shop.cart")
        for level, name, pid in (
            ("INFO", "w", 1),
            ("CRITICAL", "ForkProcess-12", 3999),
            ("WARNING", "MainProcess", 4_194_303),
        )
    }
    assert columns == {30}


def test_stack_of_a_call_is_shown() -> None:
    """A stack that the call asked for is below its line, as an exception's is."""
    attributes = {"code.stacktrace": "Stack (most recent call last):\n  x"}
    assert text(body="one", attributes=attributes).splitlines()[1:] == [
        "    Stack (most recent call last):",
        "      x",
    ]


def test_fields_that_look_like_standard_ones_are_shown() -> None:
    """Only what stands elsewhere, or says the same at every line, is left out."""
    attributes = {"code.review": 1, "thread.name": "T", "exception.count": 2}
    line = text(body="one", attributes=attributes, dropped_attributes_count=3)
    assert line.endswith(
        "one code.review=1 exception.count=2 dropped_attributes_count=3\n"
    )


SGR = re.compile("\x1b\\[[0-9;]*m")


@given(RECORDS)
def test_colour_is_only_added(record) -> None:
    """The coloured line is the plain one with ANSI sequences, of any record."""
    coloured = text_line(record, colour=True).decode()
    assert coloured != (plain := text_line(record, colour=False).decode())
    assert SGR.sub("", coloured) == plain


def test_what_is_coloured() -> None:
    """Time, level, keys and what was raised stand out; colour always ends."""
    attributes = {
        "n": 1,
        "exception.type": "shop.Error",
        "exception.stacktrace": "Traceback:\n  x\nshop.Error: no\n  tea",
    }
    line = text_line(make(severity_number=17, attributes=attributes), colour=True)
    assert line.startswith(b"\x1b[2m2023-11-1")
    assert b"\x1b[31mINFO    \x1b[0m worker-1" in line
    assert b"\x1b[36mn\x1b[0m=1\n" in line
    assert b"\n      x\n    \x1b[31mshop.Error: no\x1b[0m\n      tea\n" in line


@given(RECORDS)
def test_text_of_any_record_begins_one_line(record) -> None:
    """Whatever a record holds, it has one line that begins as a record does."""
    first, *others = text_line(record, colour=False).decode().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", first)
    assert all(other.startswith("    ") for other in others)
    assert not DANGEROUS - {"\t"} & set("".join(others))
