"""The logger of keyword fields: the record that `logging` would have made, and sooner."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime as dt
import logging
import logging.config
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import femtomp
from femtomp.codec.text import json_line
from femtomp.lanes.spool import STATE, State
from femtomp.record import Limits
from femtomp.testing import captured_records
from femtomp.worker import by_record as by_records
from femtomp.worker import channel as channels
from femtomp.worker import logger as loggers
from femtomp.worker.handler import WorkerHandler
from femtomp.worker.logger import Logger
from tests.worker.test_handler import REENTRY, Shop, in_child, run
from tests.worker.test_plain import Raises

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


@pytest.fixture(autouse=True)
def _level_has_no_name():
    """uvicorn, granian and billiard, which other tests import, name level 5 as well."""
    tables = logging._levelToName, logging._nameToLevel
    before = [dict(table) for table in tables]
    name = logging._levelToName.pop(loggers.TRACE, None)
    for each in (name, "TRACE"):
        logging._nameToLevel.pop(each, None)
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.logger.info("the lane is open")
    made.records()
    yield made
    made.close()


@pytest.fixture
def log(shop) -> Logger:
    return Logger(shop.logger, {})


@pytest.fixture
def tree(shop):
    """Loggers of three generations with femtomp's handler on the uppermost."""
    top = logging.getLogger("femtomp-test")
    top.propagate = False
    top.handlers[:] = [shop.handler]
    top.setLevel(1)
    yield top
    logging.disable(logging.NOTSET)
    known = logging.root.manager.loggerDict
    for name in [n for n in known if n.startswith("femtomp-test")]:
        known.pop(name).handlers = []


@pytest.fixture
def made_records(monkeypatch) -> list[str]:
    """Names of the loggers for which a LogRecord is built."""
    made: list[str] = []
    build = logging.LogRecord.__init__

    def init(self, name, *args, **kwargs) -> None:
        made.append(name)
        build(self, name, *args, **kwargs)

    monkeypatch.setattr(logging.LogRecord, "__init__", init)
    return made


def alone(shop, name: str) -> Logger:
    """Give a logger that takes the short way.

    Behind the fixtures: pytest puts handlers on loggers that do not propagate.
    """
    logging.getLogger("femtomp-test").handlers[:] = [shop.handler]
    log = femtomp.get_logger(name)
    assert log._only_handler() is shop.handler
    return log


class Witness(logging.Handler):
    """A handler of somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record) -> None:
        self.seen.append(record)


def line(record) -> bytes:
    return json_line(record._replace(timestamp=0, uid=""))


# -- equal to what logging gives -------------------------------------------------------


class Unhelpful:
    """Has no useful text, but one that is the same each time."""

    def __repr__(self) -> str:
        return "<unhelpful>"


names = st.text("abcdefghij_.é", min_size=1, max_size=8).filter(
    lambda n: n not in STANDARD
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
)
values = st.recursive(
    scalars
    | st.builds(Unhelpful)
    | st.builds(Raises)
    | st.sampled_from([int, len, uuid.UUID(int=7), dt.date(2026, 1, 2), 1 + 2j])
    | st.integers(66_000, 70_000).map("x".__mul__),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=5,
)
fields = st.dictionaries(names, values, max_size=4)
messages = st.sampled_from(
    [
        "plain",
        "100 %",
        "%s",
        "%s and %r",
        "%d",
        "%(a)s",
        "",
        "\udc80",
        7,
        Raises(),
        None,
    ]
)
calls = st.fixed_dictionaries(
    {
        "level": st.sampled_from([1, 5, 10, 20, 25, 30, 40, 50, 99]),
        "message": messages,
        "args": st.lists(values | st.just({"a": 1}), max_size=2),
        "options": st.fixed_dictionaries(
            {},
            optional={
                "exc_info": st.sampled_from([None, False, True, ValueError("no")]),
                "stack_info": st.booleans(),
                "stacklevel": st.integers(1, 90),
            },
        ),
    }
)


def log_both(standard, ours, call, given, context):
    """Log the same twice from one line, inside an exception, and give both records."""
    level, message = call["level"], call["message"]
    args, options = call["args"], call["options"]
    if level == loggers.TRACE:
        options = {k: v for k, v in options.items() if k != "stack_info"}
    try:
        raise KeyError("handled")
    except KeyError:
        with femtomp.log_context(**context):
            # fmt: off
            standard.log(level, message, *args, extra=given, **options); ours.log(level, message, *args, **given, **options)  # noqa: E702
            # fmt: on


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls, given=fields, bound=fields, context=fields)
def test_record_is_that_of_the_standard_logger(
    shop, others, call, given, bound, context
) -> None:
    """Whatever is logged: the JSON record is the one that `logging.Logger` gives, with
    the fields as its `extra`, on the short way and on the long one.
    """
    shop.logger.setLevel(1)
    if others:
        shop.logger.handlers[:] = [shop.handler, Witness()]
    logging.addLevelName(loggers.TRACE, "TRACE")
    try:
        ours = Logger(shop.logger, bound)
        log_both(shop.logger, ours, call, {**bound, **given}, context)
    finally:
        del logging._levelToName[loggers.TRACE], logging._nameToLevel["TRACE"]
    expected, found = shop.records()
    assert line(found) == line(expected)


@pytest.mark.parametrize("number", [127, 128, 129, 1000])
def test_many_fields_are_counted(shop, log, number) -> None:
    """Beyond the limit fields are dropped and counted, as `logging`'s extras are."""
    given = {f"a{n}": n for n in range(number)}
    # fmt: off
    shop.logger.info("x", extra=given); log.info("x", **given)  # noqa: E702
    # fmt: on
    expected, found = shop.records()
    assert line(found) == line(expected)
    assert found.dropped_attributes_count == max(0, number - 128)


@pytest.mark.parametrize(
    ("name", "value"),
    [("logThreads", False), ("_srcfile", None), ("logProcesses", False)],
)
def test_switches_of_logging_are_obeyed(shop, log, monkeypatch, name, value) -> None:
    """What `logging` was told not to find out is not in the record."""
    monkeypatch.setattr(logging, name, value)
    # fmt: off
    shop.logger.info("x", extra={"a": 1}); log.info("x", a=1)  # noqa: E702
    # fmt: on
    expected, found = shop.records()
    assert line(found) == line(expected)


def test_common_call_builds_no_log_record(shop, log, made_records) -> None:
    """Fields, bound fields, arguments and a `stacklevel` need no LogRecord."""
    log.info("one")
    log.bind(a=1).warning("two %s", 2, b=[3], stacklevel=2)
    log.trace("three")
    assert shop.bodies() == ["one", "two 2", "three"]
    assert made_records == []
    shop.logger.info("four")
    assert made_records == ["shop"]


# -- nothing goes blind ----------------------------------------------------------------


def patched(name):
    """Put a method of its own onto logging.Logger, as Sentry and others do."""

    def arrange(tree, witness, monkeypatch) -> None:
        original = getattr(logging.Logger, name)

        def method(self, *args, **kwargs):
            witness.seen.append((self, args))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(logging.Logger, name, method)

    return arrange


def patched_alone(name):
    """Put a method of its own onto one logger."""

    def arrange(tree, witness, monkeypatch) -> None:
        logger = tree.getChild("a.b")
        original = getattr(logger, name)

        def method(*args, **kwargs):
            witness.seen.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(logger, name, method, raising=False)

    return arrange


def factory(tree, witness, monkeypatch) -> None:
    original = logging.getLogRecordFactory()

    def make(*args, **kwargs):
        witness.seen.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(logging, "_logRecordFactory", make)


def see(witness):
    return lambda record: bool(witness.seen.append(record) or True)


ARRANGEMENTS = {
    "handler here": lambda tree, w, _: tree.getChild("a.b").addHandler(w),
    "handler of the parent": lambda tree, w, _: tree.getChild("a").addHandler(w),
    "handler beside femtomp's": lambda tree, w, _: tree.addHandler(w),
    "handlers put there": lambda tree, w, m: m.setattr(
        tree, "handlers", [w, *tree.handlers]
    ),
    "filter of the logger": lambda tree, w, _: tree.getChild("a.b").addFilter(see(w)),
    "filter of the handler": lambda tree, w, _: tree.handlers[0].addFilter(see(w)),
    "record factory": factory,
    "callHandlers": patched("callHandlers"),
    "handle": patched("handle"),
    "makeRecord": patched("makeRecord"),
    "_log": patched("_log"),
    "its own handle": patched_alone("handle"),
    "its own makeRecord": patched_alone("makeRecord"),
}


@pytest.mark.parametrize("arrange", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_whoever_comes_later_sees_the_record(tree, shop, arrange, monkeypatch) -> None:
    """Handlers, filters, factories and patches that come behind the first call see the
    next one, and femtomp's handler has it once.
    """
    log, witness = alone(shop, "femtomp-test.a.b"), Witness()
    try:
        log.info("before", n=1)
        arrange(tree, witness, monkeypatch)
        log.info("behind", n=2)
        assert len(witness.seen) == 1
    finally:
        shop.handler.filters.clear()
    assert [(r.body, r.attributes["n"]) for r in shop.records()] == [
        ("before", 1),
        ("behind", 2),
    ]


def test_patch_from_before_the_import_is_seen() -> None:
    """A `callHandlers` that was there before femtomp sees each record."""
    assert run(
        """
import logging
original, seen = logging.Logger.callHandlers, []
def patched(self, record):
    seen.append(record.getMessage())
    return original(self, record)
logging.Logger.callHandlers = patched
from femtomp.record import Limits
from femtomp.testing import captured_records
import femtomp
with captured_records() as records:
    for n in range(3):
        femtomp.get_logger("shop").info("%d", n)
    print(len(records), seen)
"""
    ).startswith("3 ['0', '1', '2']")


def test_filter_may_change_or_refuse_a_record(tree, shop) -> None:
    """A logger's and a handler's filters see fields as attributes, and are obeyed."""
    log = alone(shop, "femtomp-test")

    def refuse(record) -> bool:
        record.added = record.amount * 2
        return record.amount != 3

    for place in (tree, shop.handler):
        place.addFilter(refuse)
        try:
            for n in (2, 3, 4):
                log.info("x", amount=n)
        finally:
            place.removeFilter(refuse)
        assert [r.attributes["added"] for r in shop.records()] == [4, 8]


def test_null_handlers_are_nobody(tree, shop, made_records) -> None:
    """A library's NullHandler does not make its calls dearer."""
    logging.getLogger("femtomp-test.lib").addHandler(logging.NullHandler())
    alone(shop, "femtomp-test.lib").info("x")
    assert made_records == []
    assert shop.bodies() == ["x"]


def test_two_handlers_of_femtomp_have_it_once(tree, shop) -> None:
    """Two handlers on the chain take a record once in all, as README says."""
    logging.getLogger("femtomp-test.a").addHandler(WorkerHandler(spool=shop.path))
    tree.handlers[:] = [shop.handler]
    femtomp.get_logger("femtomp-test.a").info("x")
    assert shop.bodies() == ["x"]


def test_logger_class_of_the_users(tree, shop) -> None:
    """A logger of the user's own class does as it does for `logging`."""

    class Own(logging.Logger):
        def isEnabledFor(self, level) -> bool:
            return level != 30

        def makeRecord(self, *args, **kwargs):
            record = super().makeRecord(*args, **kwargs)
            record.own = True
            return record

    own = Own("own")
    own.addHandler(shop.handler)
    log = Logger(own, {})
    log.info("kept")
    log.warning("not kept")
    (record,) = shop.records()
    assert record.attributes["own"] is True


def test_caplog_sees_fields(caplog) -> None:
    """With no server a library's calls are those of `logging`: caplog sees all."""
    with caplog.at_level(logging.INFO, logger="lib"):
        femtomp.get_logger("lib").info("sold %s", "tea", price=4.2, name="x")
    (record,) = caplog.records
    assert (record.getMessage(), record.price) == ("sold tea", 4.2)
    assert record.femtomp_fields == {"name": "x"}
    assert record.funcName == "test_caplog_sees_fields"


def test_without_any_handler_the_last_resort_speaks() -> None:
    """With no handler at all warnings go to stderr, as with `logging`, and the fields."""
    code = "import femtomp, sys; sys.stderr = sys.stdout\n"
    code += "femtomp.get_logger('lib').warning('sold %s', 'tea', price=4.2)"
    assert run(code) == "sold tea price=4.2\n"


# -- levels ----------------------------------------------------------------------------


LEVELS = {
    "its level": lambda t, h: t.getChild("a.b").setLevel("WARNING"),
    "a parent's level": lambda t, h: t.setLevel("WARNING"),
    "logging.disable": lambda t, h: logging.disable(logging.INFO),
    "disabled": lambda t, h: setattr(t.getChild("a.b"), "disabled", True),
    "the handler's level": lambda t, h: h.setLevel("WARNING"),
    "propagate": lambda t, h: setattr(t.getChild("a"), "propagate", False),
    "no handler": lambda t, h: t.handlers.clear(),
}


@pytest.mark.parametrize("silence", LEVELS.values(), ids=LEVELS)
def test_what_silences_logging_silences_it(tree, shop, silence, capsys) -> None:
    """Levels, `disable`, `disabled` and `propagate` that change later are obeyed."""
    log = alone(shop, "femtomp-test.a.b")
    log.info("heard")
    silence(tree, shop.handler)
    try:
        log.info("not heard")
    finally:
        shop.handler.setLevel(0)
    assert shop.bodies() == ["heard"]


def test_logger_in_between_is_found(tree, shop) -> None:
    """A parent that comes into being later has its say at once."""
    log = alone(shop, "femtomp-test.x.y")
    log.info("one")
    logging.getLogger("femtomp-test.x").setLevel("ERROR")
    log.info("two")
    logging.getLogger("femtomp-test.x").setLevel("NOTSET")
    logging.getLogger("femtomp-test.x").addHandler(witness := Witness())
    log.info("three")
    assert shop.bodies() == ["one", "three"]
    assert len(witness.seen) == 1


def test_dict_config_again(tree, shop, monkeypatch) -> None:
    """What `dictConfig` takes away and gives is so at the next call."""
    monkeypatch.setenv("FEMTOMP_SPOOL", str(shop.path))
    log = alone(shop, "femtomp-test.c")

    def configure(handlers, level, disable) -> None:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": disable,
                "handlers": {
                    "f": {"class": "femtomp.WorkerHandler"},
                    "w": {"class": "tests.worker.test_logger.Witness"},
                },
                "loggers": {
                    "femtomp-test.c": {
                        "handlers": handlers,
                        "level": level,
                        "propagate": False,
                    }
                }
                if handlers
                else {},
            }
        )

    configure(["f"], "INFO", False)
    log.info("one")
    configure(["f", "w"], "INFO", False)
    log.info("two")
    assert len(logging.getLogger("femtomp-test.c").handlers[1].seen) == 1
    configure(["f"], "ERROR", False)
    log.info("three")
    log.error("four")
    configure([], "", True)
    log.error("five")
    assert shop.bodies() == ["one", "two", "four"]


def test_disabled_level_looks_at_nothing(shop, log) -> None:
    """Below the level no argument is rendered and no lambda called."""
    shop.logger._cache.clear()  # as `getLogger`'s loggers do
    shop.logger.setLevel("ERROR")
    log.info("%s", Raises(), value=lambda: pytest.fail("called"))
    log.log("info", "%s", lambda: pytest.fail("called"))
    assert shop.bodies() == []


def test_levels_by_number_and_name(shop, log, monkeypatch) -> None:
    """Each method has its level; `log` takes numbers and names, and keeps what was said
    at a level that is none.
    """
    shop.logger.setLevel(1)
    for name in ("trace", "debug", "info", "warning", "error", "critical"):
        getattr(log, name)(name)
    for level in (
        5,
        17,
        True,
        "INFO",
        "warning",
        "Trace",
        "notice",
        None,
        2.5,
        Raises(),
    ):
        log.log(level, "x")
    records = shop.records()
    assert records[12].attributes["femtomp.level_error"] == "notice"
    found = [(r.severity_text, r.severity_number) for r in records]
    assert found[:6] == [
        ("TRACE", 1), ("DEBUG", 5), ("INFO", 9), ("WARNING", 13), ("ERROR", 17),
        ("CRITICAL", 21),
    ]  # fmt: skip
    assert found[6:12] == [
        ("TRACE", 1), ("Level 17", 8), ("Level 1", 1), ("INFO", 9), ("WARNING", 13),
        ("TRACE", 1),
    ]  # fmt: skip
    assert found[12:] == [("ERROR", 17)] * 4
    assert "TRACE" not in logging.getLevelNamesMapping()


def test_trace_is_named_for_others_too(shop, log) -> None:
    """A TRACE record says so to other handlers, unless the user named it otherwise."""
    shop.logger.setLevel(1)
    shop.logger.addHandler(witness := Witness())
    log.trace("one %s", 1, a=2)
    try:
        raise ValueError
    except ValueError:
        log.trace("two", exc_info=True, stack_info=True)
    logging.addLevelName(5, "FINE")
    try:
        log.trace("three")
    finally:
        del logging._levelToName[5], logging._nameToLevel["FINE"]
    assert [r.levelname for r in witness.seen] == ["TRACE", "TRACE", "FINE"]
    assert {r.funcName for r in witness.seen} == {"test_trace_is_named_for_others_too"}
    found = shop.records()
    assert [r.severity_text for r in found] == ["TRACE", "TRACE", "FINE"]
    assert found[0].attributes["a"] == 2
    assert found[1].attributes["exception.type"] == "ValueError"
    assert "code.stacktrace" in found[1].attributes


# -- fields ----------------------------------------------------------------------------


def both_ways(shop):
    """Log on the short way, then beside another handler."""
    yield
    shop.logger.addHandler(Witness())
    yield


def test_which_field_wins(shop) -> None:
    """A call's field wins over `extra`, this over a bound one, and that over context."""
    log = Logger(shop.logger, {}).bind(a=1, b=1, c=1)
    for _ in both_ways(shop):
        with femtomp.log_context(a=0, b=0, c=0, d=0):
            log.info("x", a=3, extra={"a": 2, "b": 2})
        (record,) = shop.records()
        assert [record.attributes[k] for k in "abcd"] == [3, 2, 1, 0]


def test_binding_makes_another_logger(shop, log) -> None:
    """`bind`, `unbind` and `new` leave the logger as it is."""
    bound = log.bind(a=1, self=2)
    assert repr(bound) == "<femtomp.Logger shop a self>"
    assert repr(bound.unbind("a", "unknown")) == "<femtomp.Logger shop self>"
    assert repr(bound.new(b=3)) == "<femtomp.Logger shop b>"
    bound.info("x")
    log.info("y")
    one, other = shop.records()
    assert (one.attributes["a"], one.attributes["self"]) == (1, 2)
    assert "a" not in other.attributes


@pytest.mark.parametrize(
    "name", sorted(STANDARD - by_records.RESERVED | {"self", "level", "code.file.path"})
)
def test_field_may_have_any_name(shop, log, name) -> None:
    """Names that a LogRecord has itself are names of fields like others."""
    for _ in both_ways(shop):
        log.info("sold %s", "tea", **{name: "mine"})
        (record,) = shop.records()
        assert record.attributes[name] == "mine"
        assert (record.body, record.logger) == ("sold tea", "shop")


def test_factory_with_attributes_of_the_same_name(shop, log, monkeypatch) -> None:
    """A field wins over what the user's record factory sets, where `extra` fails."""

    def make(*args, **kwargs):
        record = logging.LogRecord(*args, **kwargs)
        record.request = "factory's"
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", make)
    log.info("x", request="mine", other=1)
    (record,) = shop.records()
    assert record.attributes["request"] == "mine"
    assert record.attributes["other"] == 1


def test_key_error_of_a_handler_is_the_callers(shop, log) -> None:
    """A KeyError that a filter of the user's raises is no reason to log again."""
    seen = []

    def refuse(record):
        seen.append(record)
        raise KeyError("mine")

    shop.logger.addFilter(refuse)
    with pytest.raises(KeyError, match="mine"):
        log.info("x")
    assert len(seen) == 1
    assert shop.bodies() == []


def test_lambdas_are_called(shop, log) -> None:
    """A lambda without parameters is called, in this thread, as argument and field;
    other callables never.
    """

    def function():
        pytest.fail("called")

    number = 5
    for _ in both_ways(shop):
        log.info(
            "%s %s", lambda: 1, 2, a=lambda: [3], b=lambda n=number: n, c=lambda x: x,
            d=function, e=Raises, f=lambda *, k: k, g=lambda: 1 / 0,
        )  # fmt: skip
        log.bind(user=lambda: number).info("%s", lambda: "only")
        log.info("%s %s", lambda: 1, 2)
        log.info("x", a=lambda: 1)
        one, two, *others = shop.records()
        assert [r.body for r in others] == ["1 2", "x"]
        assert others[1].attributes["a"] == 1
        assert one.body == "1 2"
        assert (one.attributes["a"], one.attributes["b"]) == ([3], 5)
        for name in "cdef":
            assert one.attributes[name].startswith("<")
        assert one.attributes["g"] == "<lambda: cannot be called: ZeroDivisionError>"
        assert (two.body, two.attributes["user"]) == ("only", 5)


def test_exceptions(shop, log) -> None:
    """`exception`, `exc_info=True`, an exception and a triple say the same."""

    class Falsy(ValueError):
        def __bool__(self) -> bool:
            return False

    try:
        raise Falsy("no")
    except Falsy as exc:
        log.exception("x")
        log.error("x", exc_info=True)
        log.error("x", exc_info=exc)
        log.error("x", exc_info=sys.exc_info())
    log.exception("x", exc_info=None)
    *found, last = shop.records()
    traces = {r.attributes["exception.stacktrace"] for r in found}
    assert len(found) == 4
    assert len(traces) == 1
    assert "exception.type" not in last.attributes
    assert {r.severity_text for r in found} == {"ERROR"}


# -- whence ----------------------------------------------------------------------------


def wrapper(log, **options) -> None:
    log.info("x", stacklevel=2, **options)


def deeper(log, **options) -> None:
    wrapper(log, **options)


def bound(log) -> None:
    log.bind(stacklevel=2).info("x")


def test_caller_is_the_callers_caller(shop, log) -> None:
    """`stacklevel` counts as `logging` counts, bound or given."""
    for _ in both_ways(shop):
        wrapper(log)
        deeper(log)
        deeper(log, stack_info=True)
        bound(log)
        own = "test_caller_is_the_callers_caller"
        found = [r.attributes["code.function.name"] for r in shop.records()]
        assert found == [own, "deeper", "deeper", own]


def test_call_without_a_caller(shop) -> None:
    """Called by C code alone, at exit, it logs."""
    code = """
import atexit, sys, femtomp
handler = femtomp.worker_handler(spool=sys.argv[1])
log = femtomp.get_logger("shop")
import logging
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(1)
log.info("first")
atexit.register(log.info, "last", a=1)
"""
    run(code, str(shop.path))
    assert shop.bodies() == ["first", "last"]


# -- whatever happens ------------------------------------------------------------------


def test_hostile_calls_never_raise(shop, log) -> None:
    """Bad formats, objects, options and exceptions of every kind cost no exception."""
    calls = [
        lambda: log.info("%d", "x"),
        lambda: log.info("%d %d", Raises(), 1),
        lambda: log.info(Raises(), a=Raises()),
        lambda: log.info(None, *range(1000)),
        lambda: log.info("x", stacklevel="x"),
        lambda: log.info("x", stacklevel=-5),
        lambda: log.info("x", exc_info="yes", stack_info="yes"),
        lambda: log.info("x", exc_info=(1, 2)),
        lambda: log.info("x", exc_info=Raises),
        lambda: log.info("x", extra=7),
        lambda: log.info("x", extra=[("a", 1)]),
        lambda: log.info("x", extra={1: 2, None: 3}),
        lambda: log.info("x", big="x" * 10_000_000),
        lambda: log.info("x", **{str(n): n for n in range(1000)}),
        lambda: log.info("x", number=1 << 100_000),
        lambda: log.log(10**30, "x"),
        lambda: log.info("\udc80 %s", "\ud800"),
    ]
    for call in calls:
        call()
        (record,) = shop.records()
        assert record.severity_text


def test_exceptions_for_the_caller_pass(shop, log, monkeypatch) -> None:
    """What a signal handler throws into the append is the caller's to see."""

    def append(payload):
        raise KeyboardInterrupt

    monkeypatch.setattr(shop.handler._channel, "append", append)
    with pytest.raises(KeyboardInterrupt):
        log.info("x")


def test_own_fault_is_said_and_counted(shop, log, monkeypatch, capfd) -> None:
    """A fault of femtomp's own costs the record, with a word and a count."""

    def append(payload):
        raise MemoryError

    monkeypatch.setattr(shop.handler._channel, "append", append)
    log.info("x")
    assert "a record of shop was dropped: MemoryError" in capfd.readouterr().err
    assert shop.handler._channel.dropped == 1


def test_lost_lane_costs_nothing(shop, log) -> None:
    """A record that meets a retired lane is in the next one, and once in each."""
    log.info("one")
    for epoch in shop.lanes():
        channels.owned[epoch].words[2] = 1  # RETIRED
    log.info("two", a=1)
    log.info("three")
    found = shop.records()
    assert sorted(r.body for r in found) == ["one", "three", "two", "two"]
    assert [r.attributes["a"] for r in found if r.body == "two"] == [1, 1]


def test_after_the_server_stopped_it_is_said(shop, log, capfd) -> None:
    """Once the server is stopped, records are lines on stderr."""
    shop.spool.set_control(STATE, State.STOPPED)
    for epoch in shop.lanes():
        channels.owned[epoch].words[2] = 1  # RETIRED
    log.warning("behind %d", 1)
    log.warning("behind %d", 2)
    said = capfd.readouterr().err
    assert said.count("the server was stopped") == 1
    assert "WARNING" in said
    assert "shop: behind 1" in said
    assert "shop: behind 2" in said


def test_log_calls_inside_log_calls(shop, tmp_path) -> None:
    """Signal handlers that log and raise, finalisers and a `__repr__` that log: what
    returned is there, and once.
    """
    code = REENTRY.replace(
        'logger = logging.getLogger("shop")\n'
        "logger.addHandler(femtomp.worker_handler(spool=path))\n"
        "logger.setLevel(1)\n",
        'logger = femtomp.get_logger("shop", bound=1)\n'
        'logging.getLogger("shop").addHandler(femtomp.worker_handler(spool=path))\n'
        "logger.setLevel(1)\n",
    )
    assert "get_logger" in code
    log = tmp_path / "returned"
    assert int(run(code.format(base="TimeoutError"), str(shop.path), str(log))) > 100
    found = [r.body for r in shop.records() if not r.body.startswith("with a")]
    assert set(log.read_text().splitlines()) - set(found) == set()
    assert len(found) == len(set(found))


# -- threads and processes -------------------------------------------------------------


def test_thread_has_its_name(shop, log) -> None:
    """A record says which thread logged it, and by which name at the time."""

    def work() -> None:
        log.info("x")
        threading.current_thread().name = "renamed"
        log.info("x")

    thread = threading.Thread(target=work, name="mine")
    thread.start()
    thread.join()
    one, two = shop.records()
    assert [r.attributes["thread.name"] for r in (one, two)] == ["mine", "renamed"]
    assert one.attributes["thread.id"] == thread.ident


def test_child_that_ran_no_fork_hook(shop, log) -> None:
    """A child that `fork()` made in C, where no hook runs, logs into its own lane."""
    read, write = os.pipe()
    log.info("parent")
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        try:
            log.info("child one")
            log.info("child two")
        finally:
            os.write(write, b"done")
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"done"
    os.waitpid(pid, 0)
    log.info("parent")
    found = [(r.body, r.resource["process.pid"]) for r in shop.records()]
    here = os.getpid()
    assert sorted(found) == [
        ("child one", pid), ("child two", pid), ("parent", here), ("parent", here)
    ]  # fmt: skip
    assert len(shop.lanes()) == 2


def test_lane_is_looked_after(shop, log, made_records) -> None:
    """Once a second a call looks after the lane, as the handler does."""
    way = shop.handler._channel
    looked: list[int] = []
    way.tend = lambda: looked.append(1)
    for _ in range(2):
        way.fresh_until = 0.0
        log.info("x")
        log.info("x")
    assert looked == [1, 1]
    assert len(made_records) == 2
    assert shop.bodies() == ["x"] * 4


def test_forked_child_logs_for_itself(shop, log) -> None:
    """A forked child's first call opens its own lane, and the next ones are short."""

    def child():
        log.info("first")
        with contextlib.ExitStack() as stack:
            patch = pytest.MonkeyPatch()
            stack.callback(patch.undo)
            patch.setattr(loggers, "by_record", lambda *a: os._exit(7))
            log.info("second")
        return os.getpid()

    pid = int(in_child(child))
    found = shop.records()
    assert [r.body for r in found] == ["first", "second"]
    assert {r.resource["process.pid"] for r in found} == {pid}


def spawned(log, path) -> None:
    handler = femtomp.worker_handler(spool=path)
    logging.getLogger("femtomp-spawned").addHandler(handler)
    log.warning("from there", b=2)


def test_logger_travels_with_its_fields(shop) -> None:
    """Pickled, to a spawned process too, it has its name and its fields."""
    log = femtomp.get_logger("femtomp-spawned", a=1)
    copied = pickle.loads(pickle.dumps(log))
    assert repr(copied) == "<femtomp.Logger femtomp-spawned a>"
    assert copied._logger is log._logger
    assert pickle.loads(pickle.dumps(femtomp.get_logger()))._logger is logging.root
    child = multiprocessing.get_context("spawn").Process(
        target=spawned, args=(log, shop.path)
    )
    child.start()
    child.join(60)
    (record,) = shop.records()
    assert (record.attributes["a"], record.attributes["b"]) == (1, 2)


def test_captured_records_see_it() -> None:
    """The fixture for users' tests captures what it logs."""
    with captured_records() as records:
        femtomp.get_logger("shop").info("sold", item="tea")
    assert records[0].attributes["item"] == "tea"


def test_disabled_by_the_environment(shop, monkeypatch, capfd) -> None:
    """FEMTOMP_DISABLED=1 silences it too."""
    monkeypatch.setenv("FEMTOMP_DISABLED", "1")
    logger = logging.Logger("shop")
    logger.addHandler(WorkerHandler(spool=shop.path))
    Logger(logger, {}).error("nothing")
    assert shop.bodies() == []
    assert capfd.readouterr().err == ""


def test_record_in_a_task_is_that_of_the_standard_logger(shop, log) -> None:
    """Inside an asyncio task the records are equal as well, and no LogRecord is built."""

    async def main() -> None:
        # fmt: off
        shop.logger.info("x", extra={"a": 1}); log.info("x", a=1)  # noqa: E702
        # fmt: on

    asyncio.run(main())
    expected, found = (r for r in shop.records() if r.logger == "shop")
    assert line(found) == line(expected)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    call=calls,
    given=fields,
    context=fields,
    limits=st.fixed_dictionaries(
        {},
        optional={
            "attribute_count_limit": st.integers(0, 4),
            "attribute_value_length_limit": st.integers(0, 9),
            "attribute_depth_limit": st.integers(1, 3),
            "body_length_limit": st.integers(0, 9),
        },
    ),
)
def test_record_under_limits_is_that_of_the_standard_logger(
    shop, call, given, context, limits
) -> None:
    """Whatever the server's limits are, both cut the same."""
    shop.logger.setLevel(1)
    shop.handler._channel.limits = Limits.of(limits)
    logging.addLevelName(loggers.TRACE, "TRACE")
    try:
        log_both(shop.logger, Logger(shop.logger, {}), call, given, context)
    finally:
        del logging._levelToName[loggers.TRACE], logging._nameToLevel["TRACE"]
    expected, found = shop.records()
    assert line(found) == line(expected)


# -- without a server ------------------------------------------------------------------


ALONE = """
import logging
import femtomp
log = femtomp.get_logger("shop", till=1)
with femtomp.log_context(request="r 1"):
    log.warning("x", price=3)
log.warning("100%% of %s", "tea", rate="5 %", name="n", password="hunter2")
log.info("below the level of those that nobody handles")
logging.getLogger("shop").warning("as logging does", extra={"price": 3})
logging.basicConfig(format="%(message)s %(price)s")
log.warning("y", price=4)
"""


def test_without_any_handler_the_fields_are_shown() -> None:
    """A program that set nothing up sees fields behind the message, without secrets; a
    handler of its own sees the message as it is, and the fields as attributes.
    """
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60,
        env={k: v for k, v in os.environ.items() if k != "FEMTOMP_SPOOL"}, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines() == [
        'x request="r 1" till=1 price=3',
        '100% of tea till=1 rate="5 %" password=[redacted] name=n',
        "as logging does",
        "y 4",
    ]
