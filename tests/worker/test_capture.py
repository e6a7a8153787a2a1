"""Capture: any log call becomes a record that can be read, and changes nothing."""

from __future__ import annotations

import collections
import contextvars
import copy
import enum
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import femtomp
from femtomp.codec import text, wire
from femtomp.record import (
    MAX_ATTRIBUTES,
    MAX_PAYLOAD_BYTES,
    Limits,
    Record,
    Resource,
    Scope,
)
from femtomp.worker import context
from femtomp.worker.capture import from_log_record, from_record
from tests.worker.test_plain import HOSTILE, Raises, Str, assert_plain

ROOT = str(Path(__file__).resolve().parents[2])
PID = os.getpid()
RESOURCE = Resource({"process.pid": PID})


def make(msg="hello", args=(), level=20, exc_info=None, **values) -> logging.LogRecord:
    """Give a LogRecord with extras or changed attributes."""
    made = logging.LogRecord("shop", level, "/app.py", 7, msg, (), exc_info, "f")
    # A single mapping is taken as the arguments; not by LogRecord itself, which stumbles
    # over hostile ones.
    single = type(args) is tuple and len(args) == 1 and type(args[0]) is dict
    made.args = args[0] if single else args
    made.__dict__.update(values)
    return made


def load(payload: bytes, seen: list | None = None) -> Record:
    """Read a payload as the engine does."""

    def of_process(pid: int, name: str) -> Resource:
        if seen is not None:
            seen.append((pid, name))
        return Resource({"process.pid": pid, "femtomp.worker.name": name})

    return wire.to_record(wire.decode(payload), "e-0", RESOURCE, of_process)  # type: ignore[arg-type]


def captured(record: logging.LogRecord) -> Record:
    """Capture and read, and check that the LogRecord is what it was."""
    before = dict(record.__dict__)
    order = list(record.__dict__)
    payload = from_log_record(record, PID)
    assert list(record.__dict__) == order
    assert all(record.__dict__[name] is value for name, value in before.items())
    assert len(payload) <= MAX_PAYLOAD_BYTES
    found = load(payload)
    for name, value in found.attributes.items():
        # The common path takes what logging sets, and whole numbers, as they are.
        if type(value) is not int and not name.startswith(("code.", "thread.")):
            assert_plain(value)
    return found


def test_common_record_has_all_that_the_call_knew() -> None:
    """A plain call gives time, level, logger, text, template, code, thread, extras."""
    before = time.time_ns()
    record = make(
        "sold %d to %s", (3, "you"), user_id=7, item="tea", price=1.5, ok=True
    )
    found = captured(record)
    assert before <= found.timestamp <= time.time_ns()
    assert found.severity_number == 9
    assert found.severity_text == "INFO"
    assert found.logger == "shop"
    assert found.body == "sold 3 to you"
    assert found.attributes == {
        "code.file.path": "/app.py",
        "code.line.number": 7,
        "code.function.name": "f",
        "thread.id": threading.get_ident(),
        "thread.name": "MainThread",
        "femtomp.template": "sold %d to %s",
        "user_id": 7,
        "item": "tea",
        "price": 1.5,
        "ok": True,
    }
    assert found.resource is RESOURCE
    assert (found.trace_id, found.span_id, found.trace_flags) == (None, None, None)


def test_message_without_arguments_is_not_formatted() -> None:
    """A message without arguments is the body as it is, and no template."""
    found = captured(make("100% {sure} %s"))
    assert found.body == "100% {sure} %s"
    assert "femtomp.template" not in found.attributes


MESSAGES = [
    ("%s", ("a",)),
    ("%(a)s %(b)d", ({"a": 1, "b": 2},)),
    ("%s %s", ("a", [1, 2])),
    ("%5.2f|%-5s|%%", (1.234, "x")),
    ("%r", (b"\xff",)),
    ("\udc80 %s", ("\ud800",)),
    ("%s", ("\0",)),
    (5, ()),
    (None, ()),
    (["%s"], ()),
    (Str("safe %s"), ("x",)),
    ("%s", (Str("safe"),)),
    (ValueError("as a message"), ()),
    ("", ()),
    ("x" * 100_000, ()),
]


@pytest.mark.parametrize(("msg", "args"), MESSAGES, ids=lambda v: repr(v)[:20])
def test_body_is_get_message(msg, args) -> None:
    """The body is exactly what `getMessage()` gives, whatever message and arguments."""
    record = make(msg, args)
    found = captured(record)
    assert found.body == record.getMessage()
    assert type(found.body) is str
    assert "femtomp.format_error" not in found.attributes


@pytest.mark.parametrize(
    ("msg", "body"),
    [
        ({"order": 7, "of": (1, {"a": b"b"})}, {"order": 7, "of": [1, {"a": b"b"}]}),
        ({}, {}),
        ({1: None}, {"1": None}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
    ],
)
def test_dict_without_arguments_is_the_body_itself(msg, body) -> None:
    """A dict that was logged alone is the body, in plain types, and no template."""
    for found in (captured(make(msg)), captured(make(msg, extra=[1]))):
        assert found.body == body
        assert type(found.body) is dict
        assert "femtomp.template" not in found.attributes
    line = json.loads(text.json_line(captured(make({"a": [1]}))))
    assert line["body"] == {"a": [1]}


class SaysIt(dict):
    def __str__(self) -> str:
        return "in its own words"


class Said(logging.LogRecord):
    def getMessage(self) -> str:
        return "in its own words"


def test_dict_with_arguments_or_words_of_its_own_is_a_text() -> None:
    """Arguments, a class's own text and a record's own message make a text of it."""
    assert captured(make({"a": "%s"}, ("b",))).body == "{'a': 'b'}"
    assert captured(make(SaysIt(a=1))).body == "in its own words"
    own = Said("shop", 20, "/app.py", 7, {"a": 1}, (), None)
    assert captured(own).body == "in its own words"


def test_limits_hold_for_a_body_that_is_a_dict() -> None:
    """Depth and length are those of attributes and bodies; what was cut is said."""
    limits = Limits(body_length=3, attribute_depth=2, harmless_bytes=3)
    payload = from_log_record(make({"a": {"b": {"c": 1}}, "d": "abcdef"}), PID, limits)
    found = load(payload)
    assert found.body["d"] == "abc"
    assert found.body["a"]["b"].startswith("<di")
    assert found.attributes["femtomp.truncated"] == {"body": 6}
    huge = captured(make({"a": "x" * (MAX_PAYLOAD_BYTES + 1)}))
    assert "femtomp: truncated" in huge.body["a"]


FORMAT_ERRORS = [
    ("%d", ("not a number",)),
    ("%s %s", ("one",)),
    ("no place", ("one",)),
    ("%", ("one",)),
    ("%(a)s", ("no mapping",)),
    ("%(a)s", ({"b": 1},)),
    ("%c", (-1,)),
    ("%s", (Raises(),)),
    (Raises(), ("x",)),
    (Raises(), ()),
    ("%d", (1 << 100_000,)),
]


@pytest.mark.parametrize(("msg", "args"), FORMAT_ERRORS, ids=range(len(FORMAT_ERRORS)))
def test_format_errors_are_marked_and_keep_the_text(msg, args) -> None:
    """What cannot be formatted is kept as message and arguments, with the reason."""
    found = captured(make(msg, args, extra=1))
    problem = found.attributes["femtomp.format_error"]
    assert problem.partition(":")[0].endswith(("Error", "OverflowError"))
    if type(msg) is str:
        assert found.body.startswith(msg)
    assert found.attributes["extra"] == 1


def test_arguments_are_rendered_at_the_call() -> None:
    """What a list or dict holds at the call is recorded, whatever comes later."""
    value = [1]
    payload = from_log_record(make("%s", (value,), data=value), PID)
    value.append(2)
    found = load(payload)
    assert found.body == "[1]"
    assert found.attributes["data"] == [1]


# Their str() never ends, in logging's own handlers neither.
ENDLESS_TEXT = {"wide", "endless list"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_never_raise(name) -> None:
    """As extra, argument, message and exception, no object makes a call fail."""
    value = HOSTILE[name]()
    found = captured(make("text", (), before=1, value=value, behind=2))
    assert found.body == "text"
    assert found.attributes["before"] == 1
    assert found.attributes["behind"] == 2
    assert "value" in found.attributes
    if name not in ENDLESS_TEXT:
        captured(make("%s", (value,)))
        captured(make(value))
        captured(make(exc_info=(ValueError, ValueError(value), None)))


def test_hostile_values_can_be_written_by_a_sink() -> None:
    """What was captured of hostile values is a line of JSON in the end."""
    for name, value in HOSTILE.items():
        assert text.json_line(captured(make(value=value(), name2=name)))


@pytest.mark.parametrize(
    "value", [(), (1,), (1, 2), (1, 2, 3, 4), (None, None, None), "text", 5, [], {}]
)
def test_odd_exc_info_never_raises(value) -> None:
    """`exc_info` of any other shape than logging's does not cost the record."""
    record = make()
    record.exc_info = value
    found = captured(record)
    assert found.body == "hello"
    assert "exception.type" not in found.attributes


CHANGES = [
    {"name": None},
    {"name": 5},
    {"name": Str("shop")},
    {"levelno": None, "levelname": None},
    {"levelno": "INFO"},
    {"levelno": True},
    {"levelno": 1 << 70},
    {"levelno": 20.5},
    {"levelname": 5},
    {"levelname": b"INFO"},
    {"msg": None, "args": None},
    {"args": 5},
    {"args": [1]},
    {"pathname": None, "lineno": None, "funcName": None},
    {"pathname": Raises(), "lineno": "x", "funcName": 5},
    {"thread": None, "threadName": None},
    {"thread": 1 << 70, "threadName": Raises()},
    {"created": None},
    {"process": None},
    {"process": "1"},
    {"process": 4242, "created": None},
    {"process": 4242, "created": "yesterday"},
    {"process": 4242, "created": float("nan")},
    {"process": 4242, "created": float("inf")},
    {"process": 4242, "created": -1e300},
    {"process": 4242, "processName": Raises()},
    {"process": [], "processName": []},
    {"process": Raises()},
    {"stack_info": Raises()},
    {"stack_info": 5},
    {"exc_text": 5},
    {"exc_text": Raises()},
    {"message": "formatted before", "asctime": "now"},
    {"extra one": 1, "": 2, "\n": 3, "k" * 10_000: 4},
    {"big": 1 << 5000},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: ",".join(c)[:30])
def test_odd_attributes_never_raise(changes) -> None:
    """A LogRecord whose attributes are not what logging makes them is still kept."""
    found = captured(make(**changes))
    assert type(found.logger) is str
    assert type(found.severity_text) is str
    assert 0 <= found.severity_number <= 24
    assert 0 <= found.timestamp < 1 << 63
    assert "message" not in found.attributes
    assert "asctime" not in found.attributes
    assert all(type(k) is str for k in found.attributes)


@pytest.mark.parametrize("key", [1, None, (1, 2), b"x", Str("s"), 1.5, True])
def test_attribute_names_are_text(key) -> None:
    """A key of another type becomes text, however plain the value is."""
    record = make()
    record.__dict__[key] = "value"
    assert captured(record).attributes[str(key)] == "value"


@pytest.mark.parametrize("extras", [{}, {"extra": 1, "other": 2}])
@pytest.mark.parametrize(
    "name", sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
)
def test_record_that_lacks_an_attribute_is_kept(name, extras) -> None:
    """A record that was unpickled from elsewhere may lack what this Python adds."""
    record = make("text", (), **extras)
    del record.__dict__[name]
    found = load(from_log_record(record, PID))
    assert {k: v for k, v in found.attributes.items() if "." not in k} == extras
    assert type(found.body) is str


def test_made_up_record_is_kept() -> None:
    """What `makeLogRecord` makes of a received dict, with hardly anything in it."""
    found = captured(logging.makeLogRecord({"msg": "received", "tenant": "x"}))
    assert found.body == "received"
    assert found.attributes["tenant"] == "x"
    assert found.logger == ""


class Levels(enum.IntEnum):
    NOTICE = 25


def test_level_of_an_enumeration_keeps_its_severity() -> None:
    """A level that is a member of an IntEnum counts as its number."""
    found = captured(make(level=Levels.NOTICE, levelname="NOTICE"))
    assert (found.severity_number, found.severity_text) == (12, "NOTICE")


class _FactoryRecord(logging.LogRecord):
    def __init__(self, *args, **kwargs) -> None:
        self.tenant = "set before the rest"
        super().__init__(*args, **kwargs)
        self.behind = "set behind the rest"


class _BraceRecord(logging.LogRecord):
    def getMessage(self):
        return str(self.msg).format(*self.args)


class _NoStrRecord(logging.LogRecord):
    def getMessage(self):
        return 5


@pytest.mark.parametrize(
    ("factory", "body", "extras"),
    [
        (
            _FactoryRecord,
            "{} hello",
            {"tenant": "set before the rest", "behind": "set behind the rest"},
        ),
        (_BraceRecord, "you hello", {}),
        (_NoStrRecord, "{} hello ['you']", {}),
    ],
)
def test_records_of_other_classes(factory, body, extras) -> None:
    """Record factories' attributes and messages are kept, wherever they set them."""
    args = () if factory is _FactoryRecord else ("you",)
    record = factory("shop", 20, "/app.py", 7, "{} hello", args, None, "sell")
    found = captured(record)
    assert found.body == body
    mine = {k: v for k, v in found.attributes.items() if "." not in k}
    assert mine == extras


def test_record_factory_that_was_set_before_the_import() -> None:
    """What a record factory adds is an attribute, also where it was set before femtomp
    was imported, as logging's cookbook shows it.
    """
    code = f"""
import sys, logging, os
sys.path.insert(0, {ROOT!r})
old = logging.getLogRecordFactory()
def factory(*args, **kwargs):
    record = old(*args, **kwargs)
    record.tenant = "x"
    return record
logging.setLogRecordFactory(factory)
from femtomp.worker.capture import from_log_record
from femtomp.codec import wire
extra = {{"k": 1}}
record = logging.getLogger("a").makeRecord("a", 20, "f", 1, "m", (), None, "f", extra)
print(wire.decode(from_log_record(record, os.getpid()))[12])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{'tenant': 'x', 'k': 1}", done.stderr


def test_many_attributes_are_counted() -> None:
    """Of more than 128 extras the first 128 are kept, and the others counted."""
    found = captured(make(**{f"a{n}": n for n in range(200)}))
    mine = [k for k in found.attributes if k.startswith("a")]
    assert len(mine) == MAX_ATTRIBUTES
    assert found.dropped_attributes_count == 72


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129])
def test_attributes_up_to_the_limit_are_all_kept(count) -> None:
    """At the limit nothing is dropped, above it exactly what is too many."""
    found = captured(make(**{f"a{n}": n for n in range(count)}))
    assert sum(k.startswith("a") for k in found.attributes) == min(count, 128)
    assert found.dropped_attributes_count == max(0, count - 128)


@pytest.mark.parametrize(
    "values",
    [
        {"msg": "x" * 10_000_000},
        {"big": "x" * 10_000_000},
        {"big": b"x" * 10_000_000},
        {"many": ["x" * 50_000] * 1000},
        {"exc_text": "x" * 10_000_000},
        {"stack_info": "x" * 10_000_000},
        {"msg": "\U0001f600" * 3_000_000, "big": "\udc80" * 3_000_000},
    ],
    ids=",".join,
)
def test_large_records_are_cut_and_marked(values) -> None:
    """A record above 4 MiB is cut to below it, and says so."""
    payload = from_log_record(make(**values), PID)
    assert 10_000 < len(payload) <= MAX_PAYLOAD_BYTES
    assert b"femtomp: truncated" in payload
    assert load(payload).logger == "shop"


# -- exceptions ------------------------------------------------------------------------


def raised(make_error) -> tuple:
    try:
        make_error()
    except BaseException:
        return sys.exc_info()
    raise AssertionError


def _with_cause():
    try:
        raise KeyError("inner")
    except KeyError as exc:
        error = ValueError("outer")
        error.add_note("a note")
        raise error from exc


def test_exception_with_cause_and_notes() -> None:
    """Type, message and the whole stack trace, cause and notes included, are kept."""
    found = captured(make(exc_info=raised(_with_cause)))
    assert found.attributes["exception.type"] == "ValueError"
    assert found.attributes["exception.message"] == "outer"
    stack = found.attributes["exception.stacktrace"]
    assert "KeyError: 'inner'" in stack
    assert "direct cause" in stack
    assert stack.endswith("ValueError: outer\na note")
    assert "_with_cause" in stack


def test_exception_type_is_named_with_its_module() -> None:
    """A class that is no builtin is named with module and qualified name."""

    class Local(Exception):
        pass

    found = captured(make(exc_info=(Local, Local("x"), None)))
    assert found.attributes["exception.type"] == f"{__name__}.{Local.__qualname__}"


class _RaisingStr(Exception):
    def __str__(self):
        raise RuntimeError("hostile")


class _RaisingNotes(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("hostile")


class _LyingMeta(type):
    def __getattribute__(cls, name):
        if name in ("__module__", "__qualname__", "__name__"):
            raise RuntimeError("hostile")
        return super().__getattribute__(name)


def _of_lying_meta() -> Exception:
    # Not in the module: the test runner looks at every class there.
    return _LyingMeta("_OfLyingMeta", (Exception,), {})("x")


def _group():
    raise ExceptionGroup("many", [ValueError(1), ExceptionGroup("g", [KeyError(2)])])


def _cyclic():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def _recursion():
    def again():
        again()

    again()


def _throw(error):
    raise error


@pytest.mark.parametrize(
    ("make_error", "kind"),
    [
        (lambda: _throw(_RaisingStr()), "_RaisingStr"),
        (lambda: _throw(_RaisingNotes("x")), "_RaisingNotes"),
        (lambda: _throw(_of_lying_meta()), "_OfLyingMeta"),
        (_group, "ExceptionGroup"),
        (_cyclic, "ValueError"),
        (_recursion, "RecursionError"),
        (lambda: _throw(KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: _throw(SystemExit(Raises())), "SystemExit"),
        (lambda: compile("a b", "\udc80", "exec"), "SyntaxError"),
        (lambda: _throw(UnicodeDecodeError("x", b"\xff", 0, 1, "r")), "Unicode"),
    ],
    ids=range(10),
)
def test_hostile_exceptions_never_raise(make_error, kind) -> None:
    """Whatever an exception does when it is looked at, the record is kept, with its
    type.
    """
    found = captured(make("failed", exc_info=raised(make_error)))
    assert found.body == "failed"
    assert kind in found.attributes["exception.type"]
    assert type(found.attributes["exception.message"]) is str
    assert type(found.attributes["exception.stacktrace"]) is str


def test_exc_info_without_an_exception_adds_nothing() -> None:
    """`exc_info=True` outside of an `except` gives no exception attributes."""
    found = captured(make(exc_info=(None, None, None)))
    assert not [k for k in found.attributes if k.startswith("exception")]


def test_text_of_an_exception_alone_is_kept() -> None:
    """A record that was prepared for a queue has the text alone."""
    found = captured(make(exc_text="Traceback ..."))
    assert found.attributes["exception.stacktrace"] == "Traceback ..."


def test_stack_info_is_kept() -> None:
    """`stack_info=True` gives the stack as an attribute."""
    found = captured(make(stack_info="Stack (most recent call last): ..."))
    assert found.attributes["code.stacktrace"].startswith("Stack")


# -- other processes, context and spans ------------------------------------------------


def test_record_of_another_process_keeps_its_own() -> None:
    """A record that came through a stock queue keeps process, name and time."""
    record = make(process=4242, processName="far-1", created=1_700_000_000.25, k=1)
    seen: list = []
    found = load(from_log_record(record, PID), seen)
    assert seen == [(4242, "far-1")]
    assert found.timestamp == 1_700_000_000_250_000_000
    assert found.resource["process.pid"] == 4242
    assert found.attributes["k"] == 1


def test_context_fields_are_added_and_the_call_wins() -> None:
    """Fields of `log_context` are attributes; inner blocks and extras win over them."""
    with femtomp.log_context(request="r1", user=1):
        with femtomp.log_context(user=2, deep={"a": (1,)}):
            one = captured(make(user=3))
            other = captured(make("%s", (1,), exc_info=raised(_with_cause)))
        third = captured(make())
    mine = lambda r: {k: v for k, v in r.attributes.items() if "." not in k}
    assert mine(one) == {"request": "r1", "user": 3, "deep": {"a": [1]}}
    assert mine(other) == {"request": "r1", "user": 2, "deep": {"a": [1]}}
    assert mine(third) == {"request": "r1", "user": 1}
    assert mine(captured(make())) == {}


def test_context_fields_are_of_their_thread_and_task() -> None:
    """Another thread sees none of them, a copied context all."""
    with femtomp.log_context(request="r1"):
        copied = contextvars.copy_context()
        found: list = []
        thread = threading.Thread(target=lambda: found.append(captured(make())))
        thread.start()
        thread.join()
    assert "request" not in found[0].attributes
    inside = copied.run(lambda: captured(make()))
    assert inside.attributes["request"] == "r1"


def test_values_of_the_context_are_taken_when_bound() -> None:
    """What is bound is plain at once: it does not change later, and never raises."""
    value = [1]
    with femtomp.log_context(value=value, hostile=Raises()):
        value.append(2)
        found = captured(make())
    assert found.attributes["value"] == [1]
    assert found.attributes["hostile"].startswith("<Raises")


def test_ids_of_the_active_span_are_taken() -> None:
    """Inside a span a record has its trace, span and flags; outside none."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("work") as span:
        common = captured(make())
        careful = captured(make(exc_info=raised(_with_cause)))
    own = span.get_span_context()
    for found in (common, careful):
        assert found.trace_id == trace.format_trace_id(own.trace_id)
        assert found.span_id == trace.format_span_id(own.span_id)
        assert found.trace_flags == own.trace_flags
    assert captured(make()).trace_id is None


class _BrokenSpan(trace.NonRecordingSpan):
    def get_span_context(self):
        raise RuntimeError("hostile")


@pytest.mark.parametrize("how", ["raises", "none"])
def test_broken_tracing_does_not_cost_the_record(how, monkeypatch) -> None:
    """A span whose context cannot be had leaves the record without ids."""
    span = _BrokenSpan(trace.INVALID_SPAN_CONTEXT)
    if how == "none":
        monkeypatch.setattr(_BrokenSpan, "get_span_context", lambda _: None)
    with trace.use_span(span):
        found = captured(make())
    assert (found.body, found.trace_id) == ("hello", None)


def test_fields_and_span_are_forgotten_in_a_forked_child() -> None:
    """A forked child begins without its parent's fields and span."""
    tracer = TracerProvider().get_tracer("test")
    read, write = os.pipe()
    with (
        femtomp.log_context(request="r1"),
        tracer.start_as_current_span("work"),
    ):
        pid = os.fork()
        if not pid:
            context.reset_after_fork()
            found = load(from_log_record(make(), os.getpid()))
            os.write(
                write, repr((found.attributes.get("request"), found.trace_id)).encode()
            )
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"(None, None)"
    os.waitpid(pid, 0)


# -- records put into the queue --------------------------------------------------------


def test_record_survives_the_queue() -> None:
    """A Record that is put comes out with every field, but for uid and resource."""
    record = Record(
        5, 18, "ERROR2", "lib", {"a": [1, None]}, {"k": b"v"}, Resource({}), "u",
        "0" * 31 + "1", "0" * 15 + "2", 1, "event",
        Scope("lib", "1.0", "https://schema", {"x": 1}), 3,
    )  # fmt: skip
    found = load(from_record(record, PID))
    assert found == record._replace(uid="e-0", resource=RESOURCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": "x"},
        {"severity_number": float("inf")},
        {"severity_number": None},
        {"severity_number": 99},
        {"trace_id": "zz", "span_id": "1"},
        {"trace_id": "1" * 40, "span_id": "1"},
        {"trace_id": "0" * 32, "span_id": "0" * 16},
        {"trace_id": 5, "span_id": 7},
        {"trace_flags": "x", "trace_id": "1", "span_id": "1"},
        {"event_name": Raises()},
        {"dropped_attributes_count": -1},
        {"dropped_attributes_count": None},
        {"body": Raises()},
        {"logger": None, "severity_text": None},
        {"resource": Resource({"process.pid": "x"})},
        {"resource": Resource({"process.pid": 42, "femtomp.worker.name": Raises()})},
        {"attributes": {Raises(): Raises()}},
    ],
    ids=",".join,
)
def test_odd_records_are_kept(changes) -> None:
    """A Record with fields of other types is kept, as sound as it can be made."""
    base = Record(5, 9, "INFO", "lib", "x", {}, Resource({}))
    found = load(from_record(base._replace(**changes), PID))
    assert 0 <= found.severity_number <= 24
    assert found.dropped_attributes_count >= 0
    assert found.trace_id is None or len(found.trace_id) == 32


# -- any values ------------------------------------------------------------------------

# Too slow to be made often; or too hostile for the test runner's own looks at it.
SLOW = {
    "a million levels",
    "deep dataclass",
    "deep deque",
    "long repr",
    "looked at",
    "raises __class__",
}
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters()),
        st.binary(),
        st.datetimes(),
        st.decimals(),
        st.complex_numbers(),
        st.sampled_from(sorted(HOSTILE.keys() - SLOW - ENDLESS_TEXT)).map(
            lambda name: HOSTILE[name]()
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(), inner, max_size=3),
        st.tuples(inner),
    ),
    max_leaves=8,
)
STANDARD = sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)


@given(st.dictionaries(st.text() | st.sampled_from(STANDARD), ANYTHING, max_size=5))
def test_any_attributes_never_raise(values) -> None:
    """Any value of any attribute of a LogRecord gives a record that can be read."""
    captured(make(**{"plain": 1, **values}))


@given(
    st.text(st.characters()),
    st.lists(ANYTHING, max_size=3).map(tuple),
)
def test_any_message_never_raises(msg, args) -> None:
    """The body is `getMessage()` where there is one, and always a str."""
    record = make(msg, args)
    found = captured(record)
    try:
        expected = record.getMessage()
    except Exception:
        assert found.attributes["femtomp.format_error"]
    else:
        assert found.body == expected or "0x" in expected or "object at" in expected


def test_deep_copy_is_what_it_was() -> None:
    """Nothing inside the LogRecord's values is changed either."""
    values = {"a": [1, {"b": 2}], "args": ([1], {"k": 1}), "c": {"d"}}
    record = make("%s %s", **values)
    before = copy.deepcopy(record.__dict__)
    captured(record)
    assert record.__dict__ == before


# -- what other handlers see -----------------------------------------------------------


class _Listing(logging.Handler):
    """Notes what a handler of the user's sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def emit(self, record):
        self.seen.append((dict(record.__dict__), self.format(record)))


@pytest.mark.parametrize("first", ["femtomp", "other"])
def test_other_handlers_see_what_they_always_saw(first) -> None:
    """Before or behind femtomp's, a handler formats the same record, exception and all."""
    log, alone = logging.Logger("shop"), logging.Logger("shop")
    other, reference = _Listing(), _Listing()
    alone.addHandler(reference)
    taken: list = []

    class Taking(logging.Handler):
        def emit(self, record):
            taken.append(from_log_record(record, PID))

    for handler in (Taking(), other) if first == "femtomp" else (other, Taking()):
        log.addHandler(handler)
    value = {"list": [1], "lock": threading.Lock()}
    for logger in (log, alone):
        try:
            raise ValueError("x" * 10)
        except ValueError:
            logger.exception(
                "failed %s", value, extra={"value": value}, stack_info=True
            )
    ((mine, text_of_mine),), ((theirs, text_of_theirs),) = other.seen, reference.seen
    assert mine.keys() == theirs.keys()
    assert mine["value"] is value
    assert mine["exc_info"][1].__traceback__ is mine["exc_info"][2]
    lines = [text.splitlines() for text in (text_of_mine, text_of_theirs)]
    assert lines[0] == lines[1]
    assert len(taken) == 1
    assert load(taken[0]).attributes["exception.message"] == "x" * 10


def test_exception_that_a_signal_handler_throws_costs_no_body() -> None:
    """What failed once for a reason that is not the record's is rendered exactly."""
    thrown = [TimeoutError(), TimeoutError()]

    class Late:
        def __str__(self) -> str:
            if thrown:
                raise thrown.pop()
            return "well"

    record = logging.LogRecord("a", 20, "p", 1, "%s", (Late(),), None)
    fields = wire.decode(from_log_record(record, os.getpid()))
    assert fields[5] == "well"
    assert thrown == []


def test_uvicorns_coloured_message_is_left_out() -> None:
    """`color_message` is the message once more, for uvicorn's formatter; an extra of that
    name in anybody else's record is an extra.
    """
    extra = {"color_message": "\x1b[36m%d\x1b[0m", "n": 1}
    for name, kept in (("uvicorn.error", False), ("uvicorn", False), ("shop", True)):
        record = logging.LogRecord(name, 20, "p", 1, "x", (), None)
        record.__dict__.update(extra)
        assert ("color_message" in load_of(record)) == kept
        assert load_of(record)["n"] == 1


def load_of(record: logging.LogRecord) -> dict:
    return load(from_log_record(record, os.getpid())).attributes


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("\x1b[1;32mINFO\x1b[0m", "INFO"),
        ("\x1b[38;5;196m ERROR \x1b[m", "ERROR"),
        ("\x1b]8;;http://x\x07WARN\x1b]8;;\x1b\\", "WARN"),
        ("\x1b[KNOTE", "NOTE"),
        ("INFO ", "INFO "),
    ],
)
def test_a_level_name_has_no_colours(name, clean) -> None:
    """Programs that colour the names of levels have them plain in every sink."""
    record = logging.LogRecord("a", 20, "p", 1, "x", (), None)
    record.levelname = name
    assert load(from_log_record(record, os.getpid())).severity_text == clean
