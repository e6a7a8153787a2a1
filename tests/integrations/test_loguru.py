"""loguru in front: its messages arrive as records, and those of `logging` by it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading

import pytest

import femtomp
from femtomp.testing import captured_records
from tests.worker.test_handler import in_child

loguru = pytest.importorskip("loguru")

from femtomp.integrations.loguru import InterceptHandler, sink  # noqa: E402

logger = loguru.logger


@pytest.fixture
def records():
    with captured_records() as captured:
        yield captured


@pytest.fixture(autouse=True)
def _added():
    logger.remove()
    logger.add(sink, format="{message}", level=0, catch=False)
    yield
    logger.remove()
    logger.configure(extra={}, patcher=None)


@pytest.fixture
def intercepted():
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [InterceptHandler()]
    yield
    root.handlers[:] = before


def here() -> int:
    return sys._getframe(1).f_lineno


def test_message_is_a_record_with_fields_and_caller(records) -> None:
    """Message, extras with their types, and where it was logged."""
    line = here() + 1
    logger.bind(name="bob", tags={"a": [1, None]}).info(
        "sold {} for {price}", "tea", price=4.2
    )
    (record,) = records
    assert record.body == "sold tea for 4.2"
    assert record.logger == __name__
    attributes = record.attributes
    assert attributes["code.file.path"] == __file__
    assert attributes["code.line.number"] == line
    assert attributes["code.function.name"] == (
        "test_message_is_a_record_with_fields_and_caller"
    )
    assert (attributes["name"], attributes["price"]) == ("bob", 4.2)
    assert attributes["tags"] == {"a": [1, None]}
    assert attributes["thread.name"] == threading.current_thread().name
    assert attributes["thread.id"] == threading.get_ident()


def test_levels_of_loguru(records) -> None:
    """Levels of loguru keep names and numbers, custom ones too."""
    with contextlib.suppress(ValueError):
        logger.level("NOTICE", no=33)
    for name in ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"):
        logger.log(name, "x")
    logger.log("NOTICE", "x")
    logger.log(17, "x")
    found = [(r.severity_text, r.severity_number) for r in records]
    assert found == [
        ("TRACE", 1), ("DEBUG", 5), ("INFO", 9), ("SUCCESS", 12), ("WARNING", 13),
        ("ERROR", 17), ("CRITICAL", 21), ("NOTICE", 16), ("Level 17", 8),
    ]  # fmt: skip


def test_exceptions(records) -> None:
    """`exception`, `opt(exception=...)` and `catch` carry the exception."""

    @logger.catch
    def fails() -> None:
        raise LookupError("gone")

    try:
        raise LookupError("gone")
    except LookupError as exc:
        caught = exc
        logger.exception("a")
    logger.opt(exception=caught).error("b")
    fails()
    assert len(records) == 3
    for record in records:
        assert record.attributes["exception.type"] == "LookupError"
        assert record.attributes["exception.message"] == "gone"
        assert "raise LookupError" in record.attributes["exception.stacktrace"]
    assert records[0].body == "a"


def test_options(records) -> None:
    """Lazy arguments, depth, colours, patches, contexts and raw messages."""
    logger.opt(lazy=True).info("lazy {}", lambda: 4)

    def inner() -> None:
        logger.opt(depth=1).info("depth")

    inner()
    logger.opt(colors=True).info("<red>red</red>")
    logger.patch(lambda r: r["extra"].update(patched=1)).info("patched")
    with logger.contextualize(request="r1"):
        logger.info("context")
    logger.opt(raw=True).info("raw")
    logger.info("{braces} of no arguments")
    logger.configure(extra={"everywhere": 2})
    logger.info("configured")
    found = {r.body: r.attributes for r in records}
    assert list(found) == [
        "lazy 4", "depth", "red", "patched", "context", "raw",
        "{braces} of no arguments", "configured",
    ]  # fmt: skip
    assert found["depth"]["code.function.name"] == "test_options"
    assert found["patched"]["patched"] == 1
    assert found["context"]["request"] == "r1"
    assert found["configured"]["everywhere"] == 2


def test_context_of_femtomp_too(records) -> None:
    """`log_context` adds its fields, and loguru's own win."""
    with femtomp.log_context(a=1, b=1):
        logger.bind(b=2).info("x")
    assert (records[0].attributes["a"], records[0].attributes["b"]) == (1, 2)


def test_queue_of_loguru_keeps_the_thread(records) -> None:
    """With `enqueue`, which is not advised, a record still says which thread logged."""
    logger.remove()
    logger.add(sink, format="{message}", enqueue=True)
    logger.info("x")
    logger.remove()
    attributes = records[0].attributes
    assert attributes["thread.id"] == threading.get_ident()
    assert attributes["thread.name"] == threading.current_thread().name


def test_level_of_the_sink(records) -> None:
    """What loguru is not to hand over is not there."""
    logger.remove()
    logger.add(sink, format="{message}", level="ERROR")
    logger.info("no")
    logger.error("yes")
    assert [r.body for r in records] == ["yes"]


def test_forked_child(records) -> None:
    """A forked child's messages are its own process's records."""
    pid = int(in_child(lambda: logger.info("child") or os.getpid()))
    assert records[0].resource["process.pid"] == pid


def test_without_a_server_it_is_said(monkeypatch, capfd) -> None:
    """Without a server messages are lines on stderr, and no error of loguru's."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    logger.warning("alone")
    said = capfd.readouterr().err
    assert said.endswith(f"WARNING {os.getpid()} {__name__}: alone\n")
    assert "Logging error" not in said


def test_logging_by_loguru(records, intercepted) -> None:
    """`logging`'s records by way of loguru arrive once, with their caller, exception and
    extras.
    """
    line = here() + 1
    logging.getLogger("lib").warning("sold {} %s", "tea", extra={"price": 4.2})
    try:
        raise LookupError("gone")
    except LookupError:
        logging.getLogger("lib").exception("bad")
    logging.getLogger("lib").log(33, "custom")
    femtomp.get_logger("lib").error("ours", name="bob", a=1)
    one, two, three, four = records
    assert (one.body, one.logger, one.severity_text) == (
        "sold {} tea",
        "lib",
        "WARNING",
    )
    assert one.attributes["code.line.number"] == line
    assert one.attributes["code.file.path"] == __file__
    assert one.attributes["code.function.name"] == "test_logging_by_loguru"
    assert one.attributes["price"] == 4.2
    assert two.attributes["exception.type"] == "LookupError"
    assert three.severity_number == 16
    assert four.attributes["code.function.name"] == "test_logging_by_loguru"
    assert (four.attributes["name"], four.attributes["a"]) == ("bob", 1)


@pytest.fixture
def lib():
    """A logger that only loguru hears: pytest's own handler raises at format errors."""
    made = logging.Logger("lib")
    made.addHandler(InterceptHandler())
    return made


def test_format_error_by_way_of_loguru(records, lib) -> None:
    """A record that cannot be formatted is handed on with its parts and the reason, and
    nothing is raised at who logged it, as with `logging`'s own handlers.
    """
    lib.warning("bad %d", "x", extra={"price": 4.2})
    lib.warning("too many", 1)
    lib.warning("%(missing)s", {"a": 1})
    assert [record.body for record in records] == [
        "bad %d ['x']", "too many [1]", "%(missing)s {'a': 1}",
    ]  # fmt: skip
    for record, kind in zip(
        records, ("TypeError", "TypeError", "KeyError"), strict=True
    ):
        assert record.attributes["femtomp.format_error"].startswith(kind)
    assert records[0].attributes["price"] == 4.2


def test_a_record_without_a_place_by_way_of_loguru(records, lib) -> None:
    """A record made elsewhere, whose path is none, is no error either."""
    lib.handle(logging.makeLogRecord({"msg": "odd", "levelno": 40, "pathname": None}))
    assert [record.body for record in records] == ["odd"]


def test_the_servers_level_counts(tmp_path, monkeypatch) -> None:
    """Messages below the server's level, or below the one that it gave to the logger,
    are not taken, whatever the sink's own level is.
    """
    with femtomp.start_server(
        f"file:{tmp_path}/records", level="INFO", levels={"tests.noisy": "ERROR"}
    ) as server:
        named = logger.patch(lambda r: r.update(name=r["extra"]["name"]))
        cart, noisy = named.bind(name="tests.cart"), named.bind(name="tests.noisy.lib")
        cart.debug("1 below")
        cart.info("2 kept")
        noisy.warning("3 below")
        noisy.error("4 kept")
        server.set_level("tests.cart", "TRACE")
        cart.trace("5 kept")
        noisy.warning("6 below")
        server.set_level("tests.cart", None)
        cart.debug("7 below")
        server.set_level("", "ERROR")
        cart.info("8 below")
        assert server.stop().drained
    text = (tmp_path / "records").read_text()
    assert [n for n in range(1, 9) if f'"{n} ' in text] == [2, 4, 5]


def test_thrown_in_by_a_signal_handler(records) -> None:
    """What a signal handler throws into the sink reaches who logged."""

    class LimitError(Exception):
        pass

    class Struck:
        def __repr__(self) -> str:
            signal.raise_signal(signal.SIGUSR1)
            return "not struck"

    def limit(_number, _frame) -> None:
        raise LimitError

    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with pytest.raises(LimitError):
            logger.bind(value=Struck()).info("x")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert list(records) == []
