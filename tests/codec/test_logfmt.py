"""Logfmt, read back by a reader of this test's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from femtomp.codec.flat import flat_fields
from femtomp.codec.logfmt import logfmt_line
from femtomp.codec.values import as_text, clean
from tests.codec.any_record import RECORDS, one_line
from tests.records import PLAIN, make

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def read(line: bytes) -> list[tuple[str, str | None]]:
    """Read logfmt as the grammar of its first readers says, a character at a time."""
    text = one_line(line)
    pairs, at = [], 0
    while at < len(text):
        start = at
        while at < len(text) and text[at] > " " and text[at] not in '="':
            at += 1
        key = text[start:at]
        assert key
        assert text[at] == "="
        value, at = read_value(text, at + 1)
        pairs.append((key, value))
        if at < len(text):
            assert text[at] == " "
            at += 1
            assert at < len(text)
    return pairs


def read_value(text: str, at: int) -> tuple[str | None, int]:
    """Read one value, quoted or bare; give it and the position behind it."""
    if text[at : at + 1] != '"':
        end = at
        while end < len(text) and text[end] > " " and text[end] not in '="':
            end += 1
        word = text[at:end]
        return (None if word == "null" else word), end
    found, at = "", at + 1
    while text[at] != '"':
        if text[at] != "\\":
            found += text[at]
            at += 1
        elif text[at + 1] == "u":
            found += chr(int(text[at + 2 : at + 6], 16))
            at += 6
        else:
            found += ESCAPES[text[at + 1]]
            at += 2
    return found, at + 1


def test_plain_record() -> None:
    """Keys and order are those of the flat format; what has a space is quoted."""
    assert logfmt_line(PLAIN).decode() == (
        "timestamp=2023-11-14T22:13:20.123456789Z level=INFO "
        'message="user 42 logged in" logger=shop.cart service=shop pid=812 '
        "worker=worker-1 user_id=42 caller=/srv/shop/cart.py:12 "
        "uid=0123456789abcdef01234567-1\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("word", "word"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("one\r\n\ttwo", '"one\\r\\n\\ttwo"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x9b\u2028\u202e", '"\\u009b\\u2028\\u202e"'),
        ("C:\\new", "C:\\new"),
        ("C:\\new dir", '"C:\\\\new dir"'),
        ("größer", "größer"),
        ("a\u00a0b", '"a\u00a0b"'),
        ("null", '"null"'),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        (b"\x00\xff", '"AP8="'),
        ([1, "a"], '"[1,\\"a\\"]"'),
        ("\udc80", "\\udc80"),
    ],
)
def test_value_is_a_word_or_quoted(value, shown) -> None:
    """What is no plain word is quoted and escaped."""
    line = logfmt_line(make(attributes={"k": value})).decode()
    assert f" k={shown} uid=" in line


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a b", "a_b"),
        ('a="b', "a__b"),
        ("a\nb", "a_b"),
        ("", "_"),
        ("\x9b\u2028", "__"),
        ("größe", "größe"),
        ("http.method", "http.method"),
    ],
)
def test_key_is_made_fit(key, shown) -> None:
    """What logfmt does not allow in a key is an underscore."""
    assert f" {shown}=1 uid=" in logfmt_line(make(attributes={key: 1})).decode()


def test_keys_that_fall_together_are_all_kept() -> None:
    """Two keys that become one get different names, as does one of the line's own."""
    fields = {"a b": 1, "a_b": 2, "a=b": 3, "level": 4}
    assert read(logfmt_line(make(attributes=fields)))[7:-1] == [
        ("a_b", "1"),
        ("a_b_", "2"),
        ("a_b__", "3"),
        ("level_", "4"),
    ]


def test_traceback_is_in_one_line() -> None:
    """An exception's lines are escaped, and read back."""
    trace = "Traceback (most recent call last):\n  x\nKeyError: 'a'"
    pairs = dict(read(logfmt_line(make(attributes={"exception.stacktrace": trace}))))
    assert pairs["exception"] == trace


@given(RECORDS)
def test_any_record_reads_back(record) -> None:
    """One record is one line, with every pair of the flat format and its value."""
    pairs = read(logfmt_line(record))
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys)
    meant = flat_fields(clean(record))
    assert [value for _, value in pairs] == [
        None if value is None else as_text(value) for value in meant.values()
    ]


def test_list_reads_back_as_json() -> None:
    """A list or dict is the JSON text that the other formats have."""
    value = {"a": [1, 'x "y"', None, "\n"]}
    pairs = dict(read(logfmt_line(make(attributes={"k": value}))))
    assert json.loads(pairs["k"]) == value
