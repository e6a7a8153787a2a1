"""Secrets are left out of a text, however they are written in it."""

from __future__ import annotations

import pytest

from femtomp.config import OTLPSink
from femtomp.errors import ConfigError
from femtomp.grammar import parse_sink
from femtomp.sinks import secrets


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch):
    monkeypatch.setattr(secrets, "_hidden", set())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("t0p-secret", "header is t0p-secret, refused"),
        ("a b/c", "url http://h/?x=a%20b%2Fc"),
        ("a%20b%2Fc", "url http://h/?x=a b/c"),
        ("line\none", r"bad value 'line\none'"),
        ("Bearer tok3n", "the token tok3n is no token"),
        ("  padded  ", "is padded"),
        ("long-and-short", "long-and-short"),
    ],
)
def test_secret_is_masked_in_every_form(value, text) -> None:
    """Quoted, unquoted, escaped, or without its scheme: nothing of it is left."""
    secrets.hide([value, "long"])
    found = secrets.masked(text)
    assert "***" in found
    for part in (value.split()[-1], value):
        assert part not in found


def test_other_texts_are_left_alone() -> None:
    """What is short enough to be in every text is no secret."""
    secrets.hide(["1", "no", ""])
    assert secrets.masked("no 1 is here") == "no 1 is here"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://ann:pass@h:1/v1/logs", ["ann:pass", "pass"]),
        ("ann:p/a@ss@h:1", ["ann:p/a@ss", "p/a@ss"]),
        ("http://h:1", []),
        ("h:1", []),
        ("", []),
    ],
)
def test_credentials_of_a_url(url, expected) -> None:
    """They are all that stands before the last @ of the host."""
    assert secrets.credentials(url) == expected


@pytest.mark.parametrize(
    "url", ["http://ann:p4ss@h", "ann:p4ss@h:1", "http://ann:p4/s@s@h", "http://p4ss@h"]
)
def test_endpoints_are_shown_without_credentials(url) -> None:
    """A sink's repr and errors about it show the host alone."""
    shown = repr(OTLPSink(url))
    assert "***@h" in shown
    assert "p4" not in shown
    with pytest.raises(ConfigError) as caught:
        parse_sink(f"oltp:{url}")
    assert "p4" not in str(caught.value)
