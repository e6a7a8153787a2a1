"""Any handler as a sink: faithful LogRecords, and failures that are outcomes."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import socket

import pytest

import femtomp
from femtomp.config import HandlerSink
from femtomp.errors import ConfigError, StartError
from femtomp.record import Record, Resource
from femtomp.sinks import Delivered, Stumbled, Unseen
from femtomp.sinks.handler import _Handler, open_driver
from tests.codec.test_logrecord import carried
from tests.processes.harness import Attached, fork, until
from tests.sinks.handlers import Scripted

WORKER = Resource({"process.pid": 7, "femtomp.worker.name": "w-1"})
HERE = "tests.sinks.handlers"


def record(body: str, level: int = 20) -> Record:
    name = logging.getLevelName(level)
    severity = {10: 5, 20: 9, 30: 13, 40: 17}[level]
    return Record(1_700_000_000_123_456_789, severity, name, "shop", body, {}, WORKER)


def test_handler_gets_what_the_worker_logged() -> None:
    """Name, level, process, time and extras are those of the log call."""
    handler = Scripted({})
    extra = record("sold")._replace(attributes={"item": "tea", "code.line.number": 9})
    assert _Handler(handler).write([extra]) == Delivered()
    (got,) = handler.kept
    assert (got.name, got.levelno, got.process) == ("shop", 20, 7)
    assert (got.processName, got.lineno, got.item) == ("w-1", 9, "tea")
    assert got.created == pytest.approx(1_700_000_000.123456)
    assert handler.flushed == 1


@pytest.mark.parametrize("aloud", [True, False])
@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("no such item"), "ValueError: no such item"),
        (OSError(errno.EMSGSIZE, "too long"), "OSError: [Errno 90] too long"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
    ],
)
def test_a_failing_record_is_named(aloud, error, problem, capfd) -> None:
    """What a handler raises, or hides in `handleError`, is said of that record, whatever
    its class; those before it are done with, and nothing is printed.
    """
    aloud = aloud or not isinstance(error, Exception)
    handler = Scripted({"b": [error]}, aloud=aloud)
    driver = _Handler(handler)
    batch = [record(b) for b in "abc"]
    assert driver.write(batch) == Stumbled(problem, 1)
    assert driver.write(batch[1:]) == Delivered()
    assert [r.getMessage() for r in handler.kept] == ["a", "b", "c"]
    assert capfd.readouterr().err == ""


def test_what_a_handler_leaves_out_says_nothing_of_its_destination() -> None:
    """Records below the handler's level are done with, and prove nothing."""
    handler = Scripted({"c": [ValueError("bad")]})
    handler.setLevel("WARNING")
    driver = _Handler(handler)
    batch = [record("a", 10), record("b", 20), record("c", 30)]
    assert isinstance(driver.write(batch[:2]), Unseen)
    assert driver.write(batch) == Stumbled("ValueError: bad", 2, was_taken=False)


def test_the_handlers_own_level_and_filters_hold() -> None:
    """A handler decides for itself, as it does on a logger."""
    handler = Scripted({})
    handler.setLevel("WARNING")
    handler.addFilter(lambda r: r.getMessage() != "c")
    batch = [record("a", 10), record("b", 30), record("c", 40), record("d", 40)]
    assert _Handler(handler).write(batch) == Delivered()
    assert [r.getMessage() for r in handler.kept] == ["b", "d"]


def test_close_closes_the_handler() -> None:
    """What the handler kept back is its own to deliver when it is closed."""
    handler = Scripted({})
    _Handler(handler).close()
    assert handler.closed


@pytest.mark.parametrize(
    ("factory", "args", "words"),
    [
        ("no.such.module", {}, "ModuleNotFoundError"),
        (f"{HERE}.missing", {}, "AttributeError"),
        (f"{HERE}.broken", {}, "no such server"),
        (f"{HERE}.nothing", {}, "no logging.Handler"),
        (f"{HERE}.Lines", {"nowhere": 1}, "unexpected keyword"),
    ],
)
def test_what_cannot_be_made_is_an_error_that_says_why(factory, args, words) -> None:
    """Path, arguments and result are checked when the supervisor builds the sink."""
    with pytest.raises(ConfigError, match=words):
        open_driver(HandlerSink(factory, args=args))


@pytest.mark.parametrize(
    ("factory", "args", "words"),
    [
        ("nodots", {}, "path of a callable"),
        (logging.StreamHandler, {}, "path of a callable"),
        ("a.b", {"f": lambda: 1}, "pickled"),
        ("a.b", 3, "keyword arguments"),
    ],
)
def test_options_are_checked_in_the_master(factory, args, words) -> None:
    """What cannot travel to the supervisor is refused at construction."""
    with pytest.raises(ConfigError, match=words):
        HandlerSink(factory, args=args)


def test_arguments_are_never_shown() -> None:
    """Passwords of mail servers and tokens are arguments: no repr has them."""
    sink = HandlerSink("a.b", args={"credentials": ("ann", "hunter2-secret")})
    assert "hunter2" not in repr(sink)
    assert pickle.loads(pickle.dumps(sink)) == sink


def test_syslog_of_a_whole_pool(tmp_path) -> None:
    """Records of master and forked worker reach a syslog socket, with their levels."""
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(path)
        log.setblocking(False)
        sink = HandlerSink("logging.handlers.SysLogHandler", args={"address": path})
        with femtomp.start_server(sink, spool_parent=tmp_path) as server:
            with Attached() as logger:
                logger.error("from %s", "master")
                os.waitpid(fork(lambda: logger.warning("from worker")), 0)
            assert server.flush()
            stats = server.stats().sinks["handler"]
        # The events that the workers started came first.
        got = [log.recv(4096) for _ in range(stats.delivered + 2)]
    assert b"<11>from master\0" in got
    assert b"<12>from worker\0" in got
    assert stats.refused == 0


def test_a_sink_of_ones_own(tmp_path) -> None:
    """Any object with `write` and `close` is a sink, by the path of what makes it."""
    out = tmp_path / "out.txt"
    sink = HandlerSink(f"{HERE}.Lines", args={"path": str(out)}, name="mine")
    with femtomp.start_server(sink, spool_parent=tmp_path) as server:
        with Attached() as logger:
            logger.info("mine")
        assert server.flush()
        until(lambda: "mine\n" in out.read_text(), "it is written")


def test_a_handler_that_cannot_be_made_fails_the_start(tmp_path) -> None:
    """`start_server` raises the supervisor's own words, without a secret."""
    sink = HandlerSink(f"{HERE}.Lines", args={"password": "hunter2-secret"})
    with pytest.raises((ConfigError, StartError), match="password") as caught:
        femtomp.start_server(sink, spool_parent=tmp_path)
    assert "hunter2" not in str(caught.value)


def test_sentry_gets_types_frames_and_one_issue_for_a_template() -> None:
    """Sentry's handler reads the exception and the template of what workers logged."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    from sentry_sdk.integrations.logging import EventHandler
    from sentry_sdk.transport import Transport

    sent = []

    class Kept(Transport):
        def capture_envelope(self, envelope):
            sent.extend(item.payload.json for item in envelope.items)

    logger = logging.Logger("shop")
    kept = Scripted({})
    logger.addHandler(kept)
    for item in ("tea", "milk"):
        try:
            raise LookupError(item)
        except LookupError:
            logger.exception("cannot sell %s", item)
    records = [carried(each) for each in kept.kept]
    with sentry_sdk.isolation_scope():
        client = sentry_sdk.Client(
            dsn="http://k@127.0.0.1:9/1", transport=Kept, default_integrations=False
        )
        with sentry_sdk.new_scope() as scope:
            scope.set_client(client)
            assert _Handler(EventHandler()).write(records) == Delivered()
        client.close()
    events = [event for event in sent if "exception" in event]
    assert [event["logentry"]["message"] for event in events] == ["cannot sell %s"] * 2
    assert [event["logentry"]["formatted"] for event in events] == [
        "cannot sell tea",
        "cannot sell milk",
    ]
    for event, item in zip(events, ("tea", "milk"), strict=True):
        (found,) = event["exception"]["values"]
        assert (found["type"], found["value"]) == ("LookupError", item)
        (frame,) = found["stacktrace"]["frames"]
        assert frame["function"].endswith("one_issue_for_a_template")
        assert frame["abs_path"] == __file__
