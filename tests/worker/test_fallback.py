"""Where there is no lane a record is a line on stderr, and the log call returns."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest

import femtomp
from femtomp.worker.channel import say


def test_a_record_amid_the_import_of_redaction_does_not_raise(
    monkeypatch, capfd
) -> None:
    """A signal handler may log while the interrupted call imports what leaves secrets
    out: its record is said without its words, which may be secrets.
    """
    unfinished = ModuleType("femtomp.codec.secret_keys")
    monkeypatch.setitem(sys.modules, "femtomp.codec.secret_keys", unfinished)
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    log = logging.Logger("shop")
    log.addHandler(femtomp.worker_handler(missing="stderr"))
    log.error("the password=%s", "hunter2")
    assert capfd.readouterr().err == "ERROR shop: [redacted]\n"


HOSTILE = "bob\n2026-12-01 CRITICAL 1 root: forged\x1b[2J\x1b]0;t\x07\u202e\u2028\r\x85\x9b31m"


@pytest.mark.parametrize("way", ["argument", "logger", "exception", "formatter"])
def test_no_value_forges_a_line_or_drives_the_terminal(monkeypatch, capfd, way) -> None:
    """Controls, ANSI and bidi are shown as escapes, and further lines are indented."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    log = logging.Logger(HOSTILE if way == "logger" else "shop")
    handler = femtomp.WorkerHandler(missing="stderr")
    log.addHandler(handler)
    if way == "formatter":
        handler.setFormatter(logging.Formatter("\x1b[31m%(message)s"))
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
