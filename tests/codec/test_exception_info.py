"""`exc_info` made of a record: what formatters and Sentry read of an exception."""

from __future__ import annotations

import copy
import gc
import json
import logging
import pickle
import sys
import traceback
import weakref

import pytest

from femtomp.codec.exception_info import exc_info
from femtomp.codec.exceptions import ATTRIBUTE, to_value
from femtomp.codec.logrecord import to_log_record
from femtomp.record import Record, Resource
from femtomp.worker.exceptions import take
from tests.records import make


class StockError(Exception):
    """One of the application's own."""


def failing(number: int) -> None:
    if number:
        failing(number - 1)
    raise StockError("no tea")


def raised() -> BaseException:
    try:
        failing(2)
    except StockError as exc:
        exc.add_note("a note")
        return exc
    raise AssertionError


def with_cause() -> BaseException:
    try:
        raise OSError(2, "gone") from raised()
    except OSError as exc:
        return exc


def with_context() -> BaseException:
    try:
        try:
            failing(0)
        except StockError:
            raise KeyError("a")  # noqa: B904 - its context
    except KeyError as exc:
        return exc


def suppressed() -> BaseException:
    try:
        try:
            failing(0)
        except StockError:
            raise ValueError from None
    except ValueError as exc:
        return exc


def group() -> BaseException:
    inner = ExceptionGroup("inner", [raised()])
    try:
        raise ExceptionGroup("outer (of two)", [ValueError("x"), inner])
    except ExceptionGroup as exc:
        return exc


def base_group() -> BaseException:
    return BaseExceptionGroup("all", [KeyboardInterrupt(), ValueError("x")])


def syntax() -> BaseException:
    try:
        compile("a = = 1", "a.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


def unmarked(text: str) -> str:
    """Leave out the marks of positions in a line, of which a record has none."""
    return "\n".join(
        line for line in text.splitlines() if line.strip(" |~^") or not line.strip()
    )


def taken(error: BaseException) -> dict:
    found = take(error)
    assert found is not None
    return {
        ATTRIBUTE: to_value(found.structure),
        "exception.type": found.kind,
        "exception.message": found.message,
        "exception.stacktrace": found.stacktrace,
    }


@pytest.mark.parametrize(
    "make_error",
    [raised, with_cause, with_context, suppressed, group, base_group, syntax],
)
def test_python_shows_it_as_it_was(make_error) -> None:
    """Types, frames, notes, causes and groups are those of the exception itself."""
    error = make_error()
    found = exc_info(taken(error))
    assert found is not None
    shown = "".join(traceback.format_exception(*found))
    wanted = "".join(traceback.format_exception(error))
    assert unmarked(shown) == unmarked(wanted)
    kind, made, trace = found
    assert kind is type(made)
    assert (kind.__name__, kind.__module__) == (
        type(error).__name__,
        type(error).__module__,
    )
    assert made.__traceback__ is trace
    assert str(made) == str(error)


def test_builtin_classes_match() -> None:
    """A handler may ask whether it was a KeyError, or an error at all."""
    for error in (KeyError("a"), SystemExit(3), OSError(2, "gone")):
        found = exc_info(taken(error))
        assert found is not None
        assert issubclass(found[0], type(error))
    found = exc_info(taken(StockError("a")))
    assert found is not None
    assert issubclass(found[0], Exception)


def test_frames_have_file_line_and_function_and_no_variables() -> None:
    """What Sentry reads of a frame is there, and nothing of the engine's own."""
    error = raised()
    found = exc_info(taken(error))
    assert found is not None
    wanted = [
        (f.f_code.co_filename, line, f.f_code.co_qualname, f.f_globals["__name__"])
        for f, line in traceback.walk_tb(error.__traceback__)
    ]
    frames = [*traceback.walk_tb(found[2])]
    assert [
        (f.f_code.co_filename, line, f.f_code.co_qualname, f.f_globals["__name__"])
        for f, line in frames
    ] == wanted
    assert all(f.f_locals == {} and f.f_back is None for f, _ in frames)


def test_nothing_waits_for_the_garbage_collector() -> None:
    """The exception is gone with the last name of it."""
    attributes = taken(with_cause())
    gc.disable()
    try:
        found = exc_info(attributes)
        assert found is not None
        gone = weakref.ref(found[1])
        del found
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "structure",
    [None, 7, {}, {"version": 99}, {"version": 1, "exceptions": [{}]}, {
        "version": 1, "exceptions": [{
            "type": "a\0.\udc80", "message": "m",
            "frames": [{"file": "\0", "line": 1 << 70, "function": ""}],
        }],
    }],
)  # fmt: skip
def test_without_a_structure_there_are_type_and_message(structure) -> None:
    """What cannot be read as an exception costs the frames, and nothing else."""
    found = exc_info(
        {
            "exception.type": "shop.StockError",
            "exception.message": "no tea",
            ATTRIBUTE: structure,
        }
    )
    assert found is not None
    kind, error, trace = found
    assert (kind.__name__, kind.__module__, str(error)) == (
        "StockError", "shop", "no tea",
    )  # fmt: skip
    assert trace is None


@pytest.mark.parametrize("kind", ["", "\0", "\udc80", ".", "a.", "é", "x" * 10_000])
def test_any_type_and_message_make_one(kind) -> None:
    """Names that no class could have raise nothing."""
    attributes = {"exception.type": kind, "exception.message": "\udc80\0"}
    assert (exc_info(attributes) is None) == (not kind)
    structure = {
        "version": 1, "exceptions": [{"type": kind, "message": "", "frames": []}],
    }  # fmt: skip
    assert exc_info({ATTRIBUTE: structure}) is not None


def test_no_exception_is_none() -> None:
    """A record without an exception has no `exc_info`."""
    assert exc_info({}) is None
    assert to_log_record(make()).exc_info is None


def test_message_is_the_template_and_get_message_the_body() -> None:
    """`msg` groups what came of one template, `getMessage()` is what was said."""
    record = make(body="sold tea", attributes={"femtomp.template": "sold %s"})
    made = to_log_record(record)
    assert (made.msg, made.args, made.getMessage()) == ("sold %s", (), "sold tea")
    for copied in (copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert copied.getMessage() == "sold tea"
    assert "sold tea" not in map(str, made.__dict__.values())
    made.msg, made.args = "another %s", ("one",)
    assert made.getMessage() == "another one"


def test_dict_as_the_message_is_itself_and_json() -> None:
    """A formatter that takes dicts as messages gets it, others its JSON text."""
    made = to_log_record(Record(0, 9, "INFO", "a", {"a": [1]}, {}, Resource({})))
    assert made.msg == {"a": [1]}
    assert json.loads(logging.Formatter("%(message)s").format(made)) == {"a": [1]}


def test_formatter_of_ones_own_formats_the_exception() -> None:
    """`formatException` of a formatter gets what it would have got in the worker."""

    class Short(logging.Formatter):
        def format(self, record):
            return self.formatException(record.exc_info)

        def formatException(self, ei):
            return f"{ei[0].__name__}|{ei[1]}|{traceback.extract_tb(ei[2])[-1].name}"

    made = to_log_record(make(attributes=taken(raised())))
    assert Short().format(made) == "StockError|no tea|failing"
    assert sys.exc_info() == (None, None, None)
