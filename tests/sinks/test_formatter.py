"""Formats of the user's own: a `logging.Formatter`, by its path or packed."""

from __future__ import annotations

import enum
import logging
import pickle

import pytest
from hypothesis import given

from femtomp.config import ConsoleSink, FileSink
from femtomp.errors import ConfigError
from femtomp.formats import FORMATS, PackedFormatter
from femtomp.grammar import parse_sink
from femtomp.sinks import lines
from femtomp.sinks.build import build
from femtomp.sinks.formatter import formatter_encoder
from femtomp.sinks.lines import batch_encoder, line_encoder
from tests.codec.any_record import RECORDS
from tests.records import PLAIN, batch, make
from tests.sinks.formatters import Broken, Short

HERE = "tests.sinks.formatters"


def test_table_of_formats_is_one() -> None:
    """Every name that a sink takes has an encoder, and every encoder a name."""
    assert list(lines._ENCODERS) == list(FORMATS)
    assert set(lines._BATCH_ENCODERS) < set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_sinks_take_every_name(name, tmp_path) -> None:
    """Console, file and the grammar know all formats; a file has no terminal."""
    assert ConsoleSink(format=name).format == name
    assert parse_sink(f"console:{name}").format == name
    if name == "auto":
        with pytest.raises(ConfigError, match="must be one of text, json, flat, ecs"):
            FileSink(tmp_path / "f", format=name)
    else:
        assert FileSink(tmp_path / "f", format=name).format == name


def test_member_of_an_enum_is_its_name() -> None:
    """An application's own enum of formats is taken for its texts."""
    form = enum.Enum("Form", {"FLAT": "flat"}, type=str)
    assert type(ConsoleSink(format=form.FLAT).format) is str


@pytest.mark.parametrize("name", FORMATS)
def test_batch_is_the_lines(name) -> None:
    """A batch of any format is its lines, one after the other."""
    encode = line_encoder(name)
    assert batch_encoder(name)(batch(3)) == b"".join(map(encode, batch(3)))
    assert encode(PLAIN).endswith(b"\n")


@pytest.mark.parametrize("value", ["yaml", "", "a..b", ".a", "a.", "a b.c", 7, None])
def test_what_is_no_format_is_refused(value) -> None:
    """The error names the option, what is allowed, and how to give one's own."""
    with pytest.raises(ConfigError) as raised:
        ConsoleSink(format=value)
    text = str(raised.value)
    assert text.startswith("ConsoleSink: format must be one of auto, text, json, flat")
    assert "package.module.callable" in text


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("Short", b"INFO 812 user 42 logged in\n"),
        ("make", b"shop.cart|user 42 logged in\n"),
        ("INSTANCE", b"instance: user 42 logged in\n"),
    ],
)
def test_formatter_by_its_path(path, line) -> None:
    """A class, a function that makes a formatter, and a formatter can be named."""
    assert line_encoder(f"{HERE}.{path}")(PLAIN) == line


def test_formatter_itself_is_packed() -> None:
    """A formatter given as an object goes to the supervisor as bytes, and works there."""
    sink = FileSink("f.log", format=Short("%(levelname)s: %(message)s"))
    assert sink.format.description == f"{HERE}.Short"
    again = pickle.loads(pickle.dumps(sink))
    assert again == sink
    assert line_encoder(again.format)(PLAIN) == b"INFO: user 42 logged in\n"


def test_packed_formatter_is_not_loaded_on_its_way() -> None:
    """Who only carries the options need not be able to import the formatter."""
    sink = ConsoleSink(format=PackedFormatter("shop.Form", b"no pickle at all"))
    assert pickle.loads(pickle.dumps(sink)) == sink
    with pytest.raises(ConfigError, match=r"format=shop\.Form: cannot be loaded"):
        line_encoder(sink.format)


def test_formatter_that_cannot_be_pickled_is_refused_at_once() -> None:
    """The error says what to give instead."""
    formatter = Short()
    formatter.hook = lambda: None
    with pytest.raises(ConfigError, match=r"Short cannot be pickled .* give the path"):
        ConsoleSink(format=formatter)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere.Formatter", "ModuleNotFoundError: No module named 'nowhere'"),
        (f"{HERE}.Missing", "has no attribute 'Missing'"),
        (f"{HERE}.cannot", "OSError: no such colour scheme"),
        ("builtins.dict.fromkeys", "No module named 'builtins.dict'"),
        ("builtins.dict", "a dict has no method `format`"),
    ],
)
def test_formatter_that_cannot_be_loaded_is_a_config_error(path, problem) -> None:
    """`start_server` fails with the path and what was wrong with it."""
    sink = ConsoleSink(format=path)
    with pytest.raises(ConfigError) as raised:
        build(sink, stderr_fd=2, stdout_fd=1, environ={})
    assert f"format={path}: " in str(raised.value)
    assert problem in str(raised.value)


def test_traceback_and_extras_reach_the_formatter() -> None:
    """The formatter has what it would have had in the worker."""
    encode = formatter_encoder(logging.Formatter("%(message)s %(item)s"))
    attributes = {"item": "tea", "exception.stacktrace": "Traceback\nKeyError: 1"}
    assert encode(make(body="x", attributes=attributes)) == (
        b"x tea\nTraceback\nKeyError: 1\n"
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [("raise", "KeyError: 'item'"), ("none", "it returned a NoneType")],
)
def test_record_is_marked_where_its_formatter_fails(body, problem) -> None:
    """A formatter's fault costs the form of one line, not the record, nor the next."""
    encode = formatter_encoder(Broken())
    line = encode(make(body=body)).decode()
    assert f"shop.cart: {body} user_id=42 femtomp.formatter_error=" in line
    assert problem in line
    assert encode(PLAIN) == b"user 42 logged in\n"


def test_surrogates_of_a_formatter_are_escaped() -> None:
    """What is no UTF-8 is written as its escape."""
    assert formatter_encoder(Short("%(message)s"))(make(body="\udc80")) == b"\\udc80\n"


@given(RECORDS)
def test_no_record_makes_a_formatter_fail(record) -> None:
    """Every record can be formatted with all that a format string usually names."""
    form = "%(asctime)s %(levelname)-8s %(process)d %(thread)d %(pathname)s:%(lineno)d %(name)s %(message)s"
    line = formatter_encoder(logging.Formatter(form))(record)
    assert line.endswith(b"\n")
    assert b"femtomp.formatter_error" not in line
