"""pytest and pytest-xdist with live sinks: real controllers, workers and crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from tests.components import require
from tests.examples.pool import ROOT
from tests.integrations.measured import measure, read

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from pathlib import Path

MANY = """
import logging, os, signal
import pytest

@pytest.mark.parametrize("number", range(40))
def test_many(number):
    for each in range(275):
        logging.getLogger("app").info("record %d", each)
    if number % 4 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
"""

SOME = """
import logging, os, pathlib, threading, time
import femtomp

log = logging.getLogger("app")

def test_live():
    log.warning("first")
    deadline = time.monotonic() + 20
    while "first" not in pathlib.Path("records").read_text():
        assert time.monotonic() < deadline

def test_caplog(caplog, capsys):
    log.info("too low")
    log.warning("is %s", "seen")
    assert caplog.record_tuples == [("app", logging.WARNING, "is seen")]
    assert "test.case.name" not in vars(caplog.records[0])
    with caplog.at_level("DEBUG"):
        log.debug("low")
    assert caplog.messages == ["is seen", "low"]
    assert logging.getLogger().level == logging.WARNING
    assert capsys.readouterr() == ("", "")

def test_threads_and_children():
    thread = threading.Thread(target=log.warning, args=("in a thread",))
    thread.start()
    thread.join()
    pid = os.fork()
    if not pid:
        log.warning("in a child")
        os._exit(0)
    os.waitpid(pid, 0)

def test_that_configures_logging_anew():
    logging.basicConfig(force=True)

def test_that_uses_femtomp_itself():
    logging.getLogger().addHandler(femtomp.worker_handler())
    femtomp.worker_init()
    log.warning("once")
    femtomp.get_logger("app").warning("by femtomp")
    log.info("pytest's level is the test's to change")
"""
CONFTEST = "from tests.integrations import noted\n"
# Run from a tree, it is not installed; and no plugin may be named twice.
_IS_INSTALLED = entry_points(group="pytest11", name="femtomp")
_PLUGIN = [] if _IS_INSTALLED else ["-p", "femtomp.pytest_plugin"]
NOTHING = "def test_nothing(): pass\n"


def run(tmp_path: Path, content: str, *arguments: str):
    """Run pytest on a test file in a directory of its own."""
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "records").touch()
    (tmp_path / "test_it.py").write_text(content)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *_PLUGIN, *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LEDGER_DIRECTORY": str(tmp_path / "ledgers"),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_workers_that_crash_lose_nothing(tmp_path) -> None:
    """10,000 records and 10 dead workers: all is there, by worker and by test."""
    require("xdist")
    done = run(tmp_path, MANY, "-n4", "--log-level=INFO", "--femtomp-sink=file:records")
    assert "10 failed, 30 passed" in done.stdout, done.stdout
    records = read(tmp_path / "records")
    row = measure("pytest-xdist", tmp_path / "ledgers", records, 10)
    row.check()
    assert row.records >= 10_000
    logged = [r for r in records if r["logger"] == "app"]
    tests = {r["attributes"]["test.case.name"] for r in logged}
    assert tests == {f"test_it.py::test_many[{number}]" for number in range(40)}
    names = {
        (r["resource"]["femtomp.worker.name"], r["resource"]["pytest.worker.id"])
        for r in logged
    }
    # Four, and one for each that died, but for what was left to do.
    assert names >= {(f"gw{number}", f"gw{number}") for number in range(4)}
    assert len(names) == row.workers
    assert len({r["resource"]["process.pid"] for r in logged}) == row.workers


def check(tmp_path, worker: str) -> None:
    records = read(tmp_path / "records")
    measure(f"pytest, {worker}", tmp_path / "ledgers", records, 0).check()
    found = {r["body"]: r for r in records if r["logger"] == "app"}
    tests = {
        "first": "test_live",
        "is seen": "test_caplog",
        "low": "test_caplog",
        "in a thread": "test_threads_and_children",
        "in a child": "test_threads_and_children",
        "once": "test_that_uses_femtomp_itself",
        "by femtomp": "test_that_uses_femtomp_itself",
        "pytest's level is the test's to change": "test_that_uses_femtomp_itself",
    }
    assert {
        body: r["attributes"]["test.case.name"].partition("::")[2]
        for body, r in found.items()
    } == tests
    assert len([r for r in records if r["logger"] == "app"]) == len(tests)
    for body, record in found.items():
        assert record["resource"]["pytest.worker.id"] == worker
        is_child = body == "in a child"
        assert (record["resource"]["femtomp.worker.name"] == worker) is not is_child


def test_tests_notice_nothing(tmp_path) -> None:
    """Levels, caplog and capsys are as without; threads and children are the test's."""
    require("xdist")
    done = run(tmp_path, SOME, "-n1", "--femtomp-sink=file:records")
    assert "5 passed" in done.stdout, done.stdout
    check(tmp_path, "gw0")


def test_one_process_is_enough(tmp_path) -> None:
    """Without pytest-xdist there is one process, and the same records."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nfemtomp_sinks = file:records\n")
    done = run(tmp_path, SOME, "-p", "no:xdist")
    assert "5 passed" in done.stdout, done.stdout
    check(tmp_path, "master")


def test_the_console_is_the_terminal(tmp_path) -> None:
    """The console sink writes to pytest's stderr, not to what pytest captures."""
    done = run(
        tmp_path, SOME.replace("test_live", "live"), "--femtomp-sink=console:json"
    )
    assert "4 passed" in done.stdout, done.stdout
    assert '"body":"in a child"' in done.stderr.replace(" ", "").replace(
        "inachild", "in a child"
    )


def test_a_bad_sink_is_a_usage_error(tmp_path) -> None:
    """It is said in one line, before any test runs."""
    done = run(tmp_path, NOTHING, "--femtomp-sink=nowhere")
    assert done.returncode == 4
    assert "ERROR: --femtomp-sink: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_sinks_there_is_no_server(tmp_path) -> None:
    """The plugin alone starts nothing and says nothing."""
    done = run(
        tmp_path, "import os\ndef test(): assert 'FEMTOMP_SPOOL' not in os.environ"
    )
    assert "1 passed" in done.stdout, done.stdout
    assert (tmp_path / "records").read_text() == ""
