"""Where there is no lane a record is a line on stderr, and the log call returns."""

from __future__ import annotations

import logging
import os
import sys
from types import ModuleType

import pytest

import femtomp
from femtomp.worker import fallback
from femtomp.worker.channel import say
from tests.processes.harness import run_script
from tests.worker.test_plain import Raises


@pytest.fixture
def log(monkeypatch) -> logging.Logger:
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    made = logging.Logger("shop")
    made.addHandler(femtomp.worker_handler(missing="stderr"))
    return made


def test_a_record_amid_the_import_of_redaction(monkeypatch, capfd, log) -> None:
    """A handler that a signal handler makes while the interrupted call imports what
    leaves secrets out says a record's own text, and none of its arguments.
    """
    unfinished = ModuleType("femtomp.codec.secret_keys")
    monkeypatch.setitem(sys.modules, "femtomp.codec.secret_keys", unfinished)
    monkeypatch.setattr(fallback, "_redact", [])
    log.addHandler(femtomp.worker_handler(missing="stderr"))
    log.error("the password=%s", "hunter2")
    said = capfd.readouterr().err
    assert said.endswith(" shop: the password=%s\n")


def test_secrets_are_left_out_and_fields_are_shown(capfd, log) -> None:
    """Fields stand behind the message, those of secret keys without their values."""
    fields = {"price": 3, "item": "green tea", "password": "hunter2", "l": [1, None]}
    with femtomp.log_context(till=7):
        log.warning("sold, token=%s", "abc", extra=fields)
    said = capfd.readouterr().err
    assert said.endswith(
        " shop: sold, token=[redacted] till=7 price=3 "
        'item="green tea" password=[redacted] l=[1, null]\n'
    )


def test_the_exception_and_the_stack_follow(capfd, log) -> None:
    """A traceback is said as `logging` says it, and the LogRecord is left as it was."""
    seen = []
    log.handlers.insert(0, handler := logging.NullHandler())
    handler.handle = seen.append
    try:
        int("x")
    except ValueError:
        log.exception("failed", stack_info=True)
    said = capfd.readouterr().err
    assert "Traceback (most recent call last):" in said
    assert "ValueError: invalid literal" in said
    assert "Stack (most recent call last):" in said
    assert seen[0].exc_text is None
    assert "message" not in vars(seen[0])


@pytest.mark.parametrize("lacks", ["created", "process", "name", "levelname", "msg"])
@pytest.mark.parametrize("value", [Raises, None, "x", float("nan"), 1e300, -1])
def test_a_record_of_any_shape_is_said(capfd, log, lacks, value) -> None:
    """Whatever is wrong with a record's attributes, or missing, there is a line of it."""
    record = logging.makeLogRecord({"msg": "received", "levelno": 40})
    if value is None:
        record.__dict__.pop(lacks)
    else:
        record.__dict__[lacks] = Raises() if value is Raises else value
    log.handlers[0].handle(record)
    said = capfd.readouterr().err
    assert said.endswith("\n")
    assert "received" in said or lacks == "msg"


AT_THE_END = r"""
import sys, types
kept, front, order = sys.argv[1:]

def application():
    app = sys.modules["app"] = types.ModuleType("app")
    exec('''
import logging
class Container:
    def __init__(self, log):
        self.log = log
    def __del__(self):
        try:
            raise ValueError("boom")
        except ValueError:
            self.log.warning("stopping %s", "c1", exc_info=True)
''', app.__dict__)
    return app

if order == "before":
    app = application()
import logging
import femtomp
if order == "after":
    app = application()
femtomp.worker_init()
log = logging.getLogger("app") if front == "logging" else femtomp.get_logger("app")
made = app.Container(log)
if kept == "module":
    app.container = made
elif kept == "cycle":
    app.container, made.me = made, made
elif kept == "class":
    app.Container.container = made
elif kept == "builtins":
    import builtins
    builtins.container = made
elif kept == "thread":
    import threading
    app.local = threading.local()
    app.local.container = made
if kept != "main":
    del made
del app
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("front", ["logging", "femtomp"])
@pytest.mark.parametrize(
    "kept", ["module", "main", "cycle", "class", "builtins", "thread"]
)
def test_an_object_that_logs_at_the_end_of_the_interpreter(kept, front, order) -> None:
    """A `__del__` that logs when nothing can be imported any more has its message on
    stderr, and no exception.
    """
    done = run_script(AT_THE_END, kept, front, order, env={"FEMTOMP_SPOOL": ""}).stderr
    assert " app: stopping c1" in done
    assert "ValueError: boom" in done
    assert "ignored" not in done
    assert "redacted" not in done


IN_A_LANE = r"""
import os, sys, types
app = sys.modules["app"] = types.ModuleType("app")
exec('''
import logging
class Container:
    def __del__(self):
        logging.getLogger("app").warning("stopping %s", "c1")
container = Container()
''', app.__dict__)
del app
import femtomp
femtomp.worker_init()
"""


def test_the_first_record_is_one_of_the_interpreters_end(tmp_path) -> None:
    """A process whose only record is that of a `__del__` at its end has it in its lane."""
    with femtomp.start_server(f"file:{tmp_path}/records") as server:
        done = run_script(IN_A_LANE, env={"FEMTOMP_SPOOL": str(server.spool)})
        assert done.stderr == ""
        assert server.stop().drained
    assert '"body":"stopping c1"' in (tmp_path / "records").read_text()


IN_A_CHROOT = """
import logging, os, sys
import femtomp
log = logging.getLogger("shop")
log.addHandler(femtomp.worker_handler(missing="stderr"))
os.chroot(sys.argv[1])
os.chdir("/")
log.error("disk %s is on fire", "sda")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot is root's")
def test_a_record_in_a_chroot(tmp_path) -> None:
    """Where no module can be found any more, a record's message is said all the same."""
    done = run_script(IN_A_CHROOT, tmp_path, env={"FEMTOMP_SPOOL": "/nowhere"})
    assert "ERROR" in done.stderr
    assert "shop: disk sda is on fire\n" in done.stderr


HOSTILE = "bob\n2026-12-01 CRITICAL 1 root: forged\x1b[2J\x1b]0;t\x07\u202e\u2028\r\x85\x9b31m"


@pytest.mark.parametrize("way", ["argument", "logger", "exception"])
def test_no_value_forges_a_line_or_drives_the_terminal(monkeypatch, capfd, way) -> None:
    """Controls, ANSI and bidi are shown as escapes, and further lines are indented."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    log = logging.Logger(HOSTILE if way == "logger" else "shop")
    handler = femtomp.WorkerHandler(missing="stderr")
    log.addHandler(handler)
    if way == "exception":
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
    else:
        log.error("user %s logged in", HOSTILE)
    said = capfd.readouterr().err
    first, *others = said.rstrip("\n").split("\n")
    assert others
    assert all(line.startswith("    ") for line in others)
    assert all(line.isprintable() for line in (first, *others))
    assert r"\x1b[2J\x1b]0;t\x07\u202e\u2028\x0d\x85\x9b31m" in said


def test_words_of_its_own_are_one_line(capfd) -> None:
    """A path or an error with a line's end in it begins no line of its own."""
    say("cannot log to /spool\nfemtomp: all is well\x1b[2J")
    said = capfd.readouterr().err
    assert said == "femtomp: cannot log to /spool\\x0afemtomp: all is well\\x1b[2J\n"
