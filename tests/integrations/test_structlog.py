"""structlog in front: its events arrive as records, with their callers."""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import threading

import pytest

structlog = pytest.importorskip("structlog")

from femtomp.integrations.structlog import LoggerFactory, processor  # noqa: E402
from femtomp.testing import captured_records  # noqa: E402


@pytest.fixture(params=["filtering", "stdlib", "generic"], autouse=True)
def _configured(request):
    wrapper = {
        "filtering": structlog.make_filtering_bound_logger(0),
        "stdlib": structlog.stdlib.BoundLogger,
        "generic": structlog.BoundLogger,
    }[request.param]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, processor],
        logger_factory=LoggerFactory(),
        wrapper_class=wrapper,
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def records():
    with captured_records() as captured:
        yield captured


def here() -> int:
    return sys._getframe(1).f_lineno


def test_event_is_a_record_with_fields_and_caller(records) -> None:
    """Event, level, name, fields with their types, and where it was logged."""
    log = structlog.get_logger("shop").bind(till=3, name="bob")
    for name in ("debug", "info", "warning", "error", "critical"):
        line = here() + 1
        getattr(log, name)("sold", price=4.2, tags=["a", {"b": None}])
        record = records[-1]
        assert (record.severity_text, record.logger) == (name.upper(), "shop")
        assert record.body == "sold"
        attributes = record.attributes
        assert attributes["code.file.path"] == __file__
        assert attributes["code.line.number"] == line
        assert attributes["code.function.name"] == (
            "test_event_is_a_record_with_fields_and_caller"
        )
        assert (attributes["till"], attributes["name"]) == (3, "bob")
        assert attributes["price"] == 4.2
        assert attributes["tags"] == ["a", {"b": None}]
        assert "event" not in attributes
        assert "stacklevel" not in attributes
    assert len(records) == 5


def test_values_of_any_kind_arrive(records) -> None:
    """An event that is no text, no event, names of LogRecord's: all arrive."""
    log = structlog.get_logger("shop")
    log.info({"a": 1})
    log.info("100 %", msg=1, args=(2,), level="mine", logger=len)
    assert [r.body for r in records] == [{"a": 1}, "100 %"]
    attributes = records[1].attributes
    assert (attributes["msg"], attributes["args"]) == (1, [2])
    assert attributes["level"] == "mine"


def test_positional_arguments(records, request) -> None:
    """Positional arguments fill the event."""
    if "generic" in request.node.name:
        pytest.skip("structlog.BoundLogger takes none")
    structlog.get_logger("shop").info("sold %s for %d", "tea", 4, extra_one=1)
    assert records[0].body == "sold tea for 4"
    assert records[0].attributes["extra_one"] == 1


def test_exceptions(records) -> None:
    """`exception` and `exc_info` carry the exception, and the right caller."""
    log = structlog.get_logger("shop")
    try:
        raise LookupError("gone")
    except LookupError as exc:
        lines = [here() + n for n in (1, 2, 3)]
        log.exception("a", exc_info=True)
        log.error("b", exc_info=True)
        log.warning("c", exc_info=exc, stack_info=True)
    for record, line in zip(records, lines, strict=True):
        assert record.attributes["exception.type"] == "LookupError"
        assert "test_exceptions" in record.attributes["exception.stacktrace"]
        assert record.attributes["code.line.number"] == line
    last_line = records[2].attributes["code.stacktrace"].splitlines()[-1]
    assert "log.warning(" in last_line


def test_contextvars_and_threads(records) -> None:
    """Variables of structlog's context are fields of the thread that bound them."""
    log = structlog.get_logger("shop")
    structlog.contextvars.bind_contextvars(request="r1")

    def work() -> None:
        with structlog.contextvars.bound_contextvars(request="r2"):
            log.info("there")

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    log.info("here", request="mine")
    log.info("here")
    assert [r.attributes["request"] for r in records] == ["r2", "mine", "r1"]
    assert records[0].attributes["thread.name"] == "other"


def test_async_methods_know_who_awaits_them(records, request) -> None:
    """`ainfo` logs in another thread, and the record says who called it, and where."""
    if "generic" in request.node.name:
        pytest.skip("structlog.BoundLogger has none")
    log = structlog.get_logger("shop")

    async def caller() -> int:
        await log.ainfo("awaited", a=1)
        return here() - 1

    line = asyncio.run(caller())
    (record,) = [r for r in records if r.logger == "shop"]
    assert record.attributes["code.line.number"] == line
    assert record.attributes["code.function.name"] == "caller"
    assert record.attributes["code.file.path"] == __file__
    assert record.attributes["thread.name"] == threading.current_thread().name
    assert record.attributes["thread.id"] == threading.get_ident()
    assert record.attributes["a"] == 1


def test_levels_are_of_logging(records) -> None:
    """`logging`'s level of that name decides, also in `filter_by_level`."""
    processors = [structlog.stdlib.filter_by_level, processor]
    logging.getLogger("shop.quiet").setLevel("ERROR")
    try:
        for chain in (processors, [processor]):
            structlog.configure(processors=chain)
            log = structlog.get_logger("shop.quiet")
            log.info("no")
            log.error("yes")
    finally:
        logging.getLogger("shop.quiet").setLevel("NOTSET")
    assert [r.body for r in records] == ["yes", "yes"]


def test_logger_without_a_name_has_its_modules(records) -> None:
    """Without a name the calling module's is taken, as structlog's own factory does."""
    structlog.get_logger().info("x")
    assert records[0].logger == __name__


def test_other_handlers_see_the_events(records, caplog) -> None:
    """A handler beside femtomp's sees message, fields and caller."""
    with caplog.at_level("INFO"):
        structlog.get_logger("shop").info("sold", price=4.2)
    (seen,) = [r for r in caplog.records if r.name == "shop"]
    assert (seen.getMessage(), seen.price) == ("sold", 4.2)
    assert seen.funcName == "test_other_handlers_see_the_events"


def test_factory_and_loggers_can_be_pickled(records) -> None:
    """A bound logger travels to other processes."""
    log = structlog.get_logger("shop").bind(a=1)
    assert isinstance(pickle.loads(pickle.dumps(LoggerFactory())), LoggerFactory)
    pickle.loads(pickle.dumps(log)).info("x")
    assert records[0].attributes["a"] == 1
