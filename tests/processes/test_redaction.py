"""Secrets that were logged are in no sink, and those that are hidden are nowhere."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes.lock import is_orphaned
from femtomp.lanes.spool import Spool
from tests.cli.processes import run
from tests.processes.harness import Attached, fork, lines, until
from tests.processes.test_life import supervisors

SECRET = "s3cr3t-that-was-logged"
HIDDEN = "h1dden-known-value"


def log_secrets(log) -> int:
    """Log a secret in each way that there is; return how many records that made."""
    log.info("password=%s", SECRET)
    log.info("token %s for ann", f"with spaces {SECRET}")
    log.info("%(api_key)s", {"api_key": SECRET})
    log.info(f"{{'secret': '{SECRET}'}}")
    log.info("field", extra={"userPassword": SECRET})
    log.info("nested", extra={"request": {"headers": {"Set-Cookie": SECRET}}})
    log.info("known", extra={"a": HIDDEN})
    log.info(f"in a URL: https://h/?q={HIDDEN}")
    try:
        raise ValueError(f"cannot log in with password={SECRET}")
    except ValueError:
        log.exception("failed")
    log.info("stack", stack_info=True, extra={"Authorization": f"Bearer {SECRET}"})
    return 10


def test_no_secret_is_in_any_sink(tmp_path, capfd):
    """JSON and text, of the master and of a forked worker: everything arrives, without
    the secrets, and says how many were left out.
    """
    text = femtomp.FileSink(tmp_path / "text", format="text")
    json_lines = femtomp.FileSink(tmp_path / "json")
    rules = femtomp.Redaction(values=[HIDDEN])
    with (
        femtomp.start_server(
            [text, json_lines, "console"], spool_parent=tmp_path, redact=rules
        ) as server,
        Attached() as log,
    ):
        count = log_secrets(log)
        pid = fork(log_secrets, log)
        assert os.waitpid(pid, 0)[1] == 0
        for pid in supervisors(tmp_path):
            for name in ("cmdline", "environ"):
                assert HIDDEN.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        for path in server.spool.glob("*.json"):
            assert HIDDEN not in path.read_text()
        assert HIDDEN not in repr(server)
    output = (tmp_path / "text").read_text() + (tmp_path / "json").read_text()
    output += "".join(capfd.readouterr())
    assert SECRET not in output
    assert HIDDEN not in output
    records = lines(tmp_path / "json")
    assert len(records) == 2 * count
    assert all(r["attributes"]["femtomp.redacted"] >= 1 for r in records)


def test_redaction_can_be_off(tmp_path):
    """With `redact=False` records are delivered as they were logged."""
    with (
        femtomp.start_server(
            f"file:{tmp_path}/out", spool_parent=tmp_path, redact=False
        ),
        Attached() as log,
    ):
        log.info("password=%s", SECRET)
    (record,) = lines(tmp_path / "out")
    assert record["body"] == f"password={SECRET}"
    assert "femtomp.redacted" not in record["attributes"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keys": "password"}, "keys must be several strings"),
        ({"keys": [7]}, "keys must hold strings, not a int"),
        ({"keys": 7}, "keys must be several strings"),
        ({"patterns": ["no-such"]}, "patterns must be one of all, private_key"),
        ({"patterns": "jwt"}, "patterns must be several strings"),
        ({"patterns": [re.compile(b"a")]}, "is for bytes"),
        ({"values": HIDDEN}, "values must be several strings, not a str"),
        ({"values": [HIDDEN.encode()]}, "values must hold strings, not a bytes"),
        ({"values": {HIDDEN: 1}}, "values must be several strings, not a dict"),
        ({"values": [HIDDEN, "h1d"]}, r"values\[1\] is too short"),
        ({"values": ["redacted"]}, r"values\[0\]"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(options, problem):
    """The error says which option it is, and never a value that is to be hidden."""
    with pytest.raises(femtomp.ConfigError, match=problem) as caught:
        femtomp.Redaction(**options)
    assert "h1d" not in str(caught.value)


def test_the_option_takes_rules_only():
    """Anything else than rules or a bool is refused, and not shown."""
    with pytest.raises(femtomp.ConfigError, match="redact must be") as caught:
        femtomp.start_server(redact=[HIDDEN])
    assert HIDDEN not in str(caught.value)


def test_a_repr_shows_no_value():
    """Neither rules nor the configuration that holds them show a known value."""
    rules = femtomp.Redaction(values=[HIDDEN], patterns="all")
    assert HIDDEN not in repr(rules)
    assert "1 hidden" in repr(rules)
    assert "jwt" in repr(rules)


def test_the_line_on_stderr_is_redacted(tmp_path, capfd):
    """A record that finds no server any more is a line on stderr, without its secret."""
    with femtomp.start_server(f"file:{tmp_path}/out", spool_parent=tmp_path):
        handler = femtomp.worker_handler()
    log = logging.Logger("shop")
    log.addHandler(handler)
    log.warning("password=%s of ann", SECRET)
    said = capfd.readouterr().err
    assert "password=[redacted] of ann" in said
    assert SECRET not in said


def test_what_the_supervisor_says_shows_no_known_value(tmp_path, capfd, monkeypatch):
    """A user's filter that fails on a known value is quoted on stderr without it."""
    (tmp_path / "users_filter.py").write_text(
        "def wanted(record):\n    raise ValueError(record.body)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sink = femtomp.FileSink(tmp_path / "out", filter="users_filter.wanted")
    rules = femtomp.Redaction(values=[HIDDEN])
    with (
        femtomp.start_server(sink, spool_parent=tmp_path, redact=rules),
        Attached() as log,
    ):
        log.info("it is %s", HIDDEN)
    (record,) = lines(tmp_path / "out")
    assert record["body"] == "it is [redacted]"
    said = capfd.readouterr().err
    assert "users_filter.wanted" in said
    assert HIDDEN not in said


@pytest.mark.parametrize(("flags", "is_shown"), [((), False), (("--no-redact",), True)])
def test_a_recovery_redacts_unless_told(tmp_path, flags, is_shown):
    """Standard keys and all patterns are left out of what a killed server left."""

    def be_master():
        server = femtomp.start_server(f"file:{tmp_path}/own", spool_parent=tmp_path)
        pair = server._spool.control()[1:3]
        os.kill(pair[1], signal.SIGSTOP)
        with Attached() as log:
            log.info("password=%s", SECRET)
            log.info("Bearer %s", SECRET)
        for pid in (*pair, os.getpid()):
            os.kill(pid, signal.SIGKILL)

    os.waitpid(fork(be_master), 0)
    (path,) = tmp_path.glob("femtomp-*")
    spool = Spool(path)
    until(lambda: is_orphaned(spool), "the pair is gone")
    spool.close()
    out = tmp_path / "out"
    done = run("recover", path, "--sink", f"file:{out}", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(lines(out)) == 2
    assert (SECRET in out.read_text()) is is_shown
