"""What the line formats share."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.text import json_line, json_lines
from femtomp.codec.values import as_text, free_name, level_name
from tests.codec.any_record import DANGEROUS, RECORDS, one_line
from tests.codec.test_text import parse
from tests.records import make


@given(RECORDS)
def test_json_line_of_any_record_is_one_line(record) -> None:
    """No record is refused, and no reader takes one line of JSON for two."""
    one_line(json_line(record))


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_batch_is_the_lines(batch) -> None:
    """A batch is encoded as its records are."""
    assert json_lines(batch) == b"".join(map(json_line, batch))


@pytest.mark.parametrize("character", sorted(DANGEROUS))
def test_control_is_escaped_and_kept(character) -> None:
    """A control reads back as it was, however harmless its line is."""
    key = f"k{character}"
    line = json_line(make(body=f"a{character}é", attributes={key: [character]}))
    assert json.loads(one_line(line))["body"] == f"a{character}é"
    assert parse(line)["attributes"] == {key: [character]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (b"x", "eA=="),
        (float("nan"), "NaN"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": [1]}, '{"a":[1]}'),
        (["\udc80"], '["\\\\udc80"]'),
    ],
)
def test_value_as_text(value, text) -> None:
    """A text stands as it is, other values as JSON without quotation marks."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("text", "number", "name"),
    [
        ("NOTICE", 12, "NOTICE"),
        ("", 0, "NOTSET"),
        ("", 1, "TRACE"),
        ("", 4, "TRACE"),
        ("", 5, "DEBUG"),
        ("", 9, "INFO"),
        ("", 13, "WARN"),
        ("", 20, "ERROR"),
        ("", 24, "FATAL"),
    ],
)
def test_level_has_a_name(text, number, name) -> None:
    """A record of the Logs API without a level's name has OpenTelemetry's."""
    assert level_name(make(severity_text=text, severity_number=number)) == name


def test_free_name_is_in_no_table() -> None:
    """Underscores are added until a name is free everywhere."""
    assert free_name("a", {"a", "b"}, {"a_"}) == "a__"
