"""Where there is no lane a record is a line on stderr, and the log call returns."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import femtomp


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
