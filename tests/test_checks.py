"""A level is taken by number and by any name that somebody may know it by."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import femtomp
import femtomp.testing
from femtomp.checks import level_or_none, number_of_level
from femtomp.config import level_number
from femtomp.options import check_options
from femtomp.worker.sender import from_mapping

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def names(monkeypatch):
    """Give `logging` names of levels, and take them back."""
    for table in ("_levelToName", "_nameToLevel"):
        monkeypatch.setattr(logging, table, getattr(logging, table).copy())
    return logging.addLevelName


@pytest.mark.parametrize("name", ["TRACE", "trace", " Trace "])
def test_trace_needs_no_name_in_logging(name) -> None:
    """TRACE is 5, as in loguru and uvicorn, and OpenTelemetry's TRACE."""
    assert "TRACE" not in logging.getLevelNamesMapping()
    assert number_of_level(name) == level_number(name) == 5
    assert level_or_none("SUCCESS") == 25


def test_names_that_were_added(names) -> None:
    """A name that the application has given to a level wins, in any case."""
    names(7, "TRACE")
    names(35, "Notable")
    assert number_of_level("trace") == 7
    assert number_of_level("Notable") == number_of_level("NOTABLE") == 35


@pytest.mark.parametrize("level", ["chatty", "", None, 1.5, True, [], b"INFO"])
def test_what_is_no_level(level) -> None:
    """Anything else is an error that names the levels there are."""
    with pytest.raises(femtomp.ConfigError, match="TRACE") as raised:
        number_of_level(level)
    assert repr(level) in str(raised.value)


def test_wherever_a_level_is_taken(monkeypatch) -> None:
    """Sinks, filters by logger, handlers, loggers, queues and options take TRACE."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    sink = femtomp.ConsoleSink(level="TRACE", filter={"lib": "TRACE"})
    assert sink.level == 5
    check_options({"levels": {"lib": "TRACE"}})
    handler = femtomp.WorkerHandler("TRACE", missing="ignore")
    assert handler.level == 5
    handler.setLevel("SUCCESS")
    assert handler.level == 25
    assert femtomp.worker_handler("TRACE", missing="ignore").level == 5
    log = femtomp.get_logger("femtomp-test.levels")
    log.setLevel("TRACE")
    assert log.getEffectiveLevel() == 5
    log.setLevel(0)
    assert from_mapping({"severity_text": "TRACE"}).severity_number == 1
    with femtomp.testing.captured_records("TRACE", logger="femtomp-test.l") as records:
        log = femtomp.get_logger("femtomp-test.l")
        log.log("TRACE", "low")
        log.log(4, "too low")
    assert [record.body for record in records] == ["low"]


SERVER = """
import logging, femtomp
with femtomp.start_server("file:records", level="TRACE") as server:
    femtomp.worker_init()
    assert logging.getLogger().level == 5
    femtomp.get_logger("a").trace("low")
    server.set_level("a", "ERROR")
    femtomp.get_logger("a").info("not heard")
    server.set_level("a", "trace")
    femtomp.get_logger("a").trace("low again")
femtomp.worker_init("TRACE")
assert logging.getLogger().level == 5
print(open("records").read().count('"severity_text":"TRACE"'))
"""


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_server_at_trace(tmp_path, by) -> None:
    """`level="TRACE"` of a server, or FEMTOMP_LEVEL, reaches its workers."""
    source, environ = SERVER, {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    if by == "environment":
        source = source.replace(', level="TRACE")', ")")
        environ["FEMTOMP_LEVEL"] = "TRACE"
    command = [sys.executable, "-c", source]
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr
