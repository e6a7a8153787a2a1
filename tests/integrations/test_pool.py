"""Pools of the standard library and joblib: bare tasks log, by every start method."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import femtomp
from femtomp.integrations import pool
from tests.components import require
from tests.examples.pool import ROOT
from tests.integrations.measured import measure, read

PROGRAM = Path(__file__).with_name("pool_app.py")
METHODS = ("fork", "spawn", "forkserver")
# kind -> what its processes are called, and how many records there are at least
KINDS = {"processes": 10_000, "pool": 10_000, "executor": 10_000, "manager": 10_000}


def run(tmp_path: Path, kind: str, method: str):
    """Run a pool; return its row and its tasks' records."""
    (tmp_path / "ledgers").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::DeprecationWarning:femtomp",
            PROGRAM,
            kind,
            method,
        ],
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
    assert done.returncode == 0, done.stderr
    records = read(tmp_path / "records")
    name = f"{kind}, {method}" if kind != "joblib" else "joblib (loky)"
    row = measure(name, tmp_path / "ledgers", records, int(done.stdout))
    row.check()
    assert "femtomp" not in done.stderr
    return row, [r for r in records if r["body"].startswith("task ")]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_bare_tasks_log(tmp_path, kind: str, method: str) -> None:
    """With `install()` in the master and nothing in the workers, all that returned is
    delivered, once, as its process's; whoever dies, and however old the fork server.
    """
    row, tasks = run(tmp_path, kind, method)
    assert len(tasks) >= KINDS[kind]
    assert row.workers > 2
    start = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[method]
    names = {record["resource"]["femtomp.worker.name"] for record in tasks}
    assert all(name.startswith(start) for name in names), names


@pytest.mark.parametrize("method", METHODS)
def test_children_of_children_log(tmp_path, method: str) -> None:
    """A grandchild has the server too, with an identity of its own."""
    _, tasks = run(tmp_path, "nested", method)
    assert len(tasks) == 11
    assert len({r["resource"]["process.pid"] for r in tasks}) == 2
    assert len({r["resource"]["service.instance.id"] for r in tasks}) == 2


def test_joblib_workers_log(tmp_path) -> None:
    """Workers of loky, which are reused and die: nothing lost."""
    require("loky")
    row, tasks = run(tmp_path, "joblib", "spawn")
    assert (row.kills, row.records >= 10_000) == (10, True)
    assert len(tasks) == row.records
    assert all(
        r["resource"]["femtomp.worker.name"].startswith("LokyProcess-") for r in tasks
    )


TASKS = """
import logging, multiprocessing, sys
import femtomp

def task(body):
    logging.getLogger("tasks").info(body)

def greet(name):
    logging.getLogger("tasks").info("initialised %s", name)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with femtomp.start_server("file:records", name="pools"):
        with femtomp.ProcessPoolExecutor(1, context, greet, ("you",)) as pool:
            with femtomp.log_context(request="r1").traced(header):
                pool.submit(task, "inside").result()
                list(pool.map(task, ["mapped"]))
            pool.submit(task, "outside").result()
"""


@pytest.mark.parametrize("method", METHODS)
def test_tasks_carry_context(tmp_path, method: str) -> None:
    """A task has the fields and the trace of its submission; the next has neither."""
    (tmp_path / "program.py").write_text(TASKS)
    subprocess.run(
        [sys.executable, "program.py", method],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    records = {r["body"]: r for r in read(tmp_path / "records")}
    assert records.keys() > {"initialised you", "inside", "mapped", "outside"}
    for body in ("inside", "mapped"):
        assert records[body]["attributes"]["request"] == "r1"
        assert records[body]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "request" not in records["outside"]["attributes"]
    assert "trace_id" not in records["outside"]


AGAIN = """
import logging, os
import femtomp
from femtomp.integrations import pool, torch

log = logging.getLogger("tasks")

def install():
    for _ in range(3):
        pool.install()
        torch.install()
        femtomp.worker_init()
        logging.getLogger().addHandler(femtomp.worker_handler())
        handlers = logging.getLogger().handlers
        assert [type(each) for each in handlers] == [femtomp.WorkerHandler], handlers

def child(name, *then):
    pid = os.fork()
    if not pid:
        install()
        log.info(name)
        if then:
            child(*then)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

if __name__ == "__main__":
    with femtomp.start_server("file:records", name="pools"):
        install()
        log.info("before")
        child("child", "grandchild")
        install()
        log.info("after")
"""


def test_installed_three_times_it_is_one_handler(tmp_path) -> None:
    """Before and after forks, by several integrations: one handler, one copy."""
    (tmp_path / "program.py").write_text(AGAIN)
    subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    records = [r for r in read(tmp_path / "records") if r["logger"] == "tasks"]
    bodies = sorted(r["body"] for r in records)
    assert bodies == ["after", "before", "child", "grandchild"]
    assert len({r["resource"]["process.pid"] for r in records}) == 3


LATER = """
import logging, multiprocessing
import femtomp
from femtomp.integrations import pool

def child(name):
    logging.getLogger("tasks").info(name)
    if name == "child":
        run("grandchild")

def run(name):
    process = multiprocessing.get_context("METHOD").Process(target=child, args=(name,))
    process.start()
    process.join()

if __name__ == "__main__":
    with femtomp.start_server("file:first", name="pools"):
        pool.install()
        pool.install()
        run("before")
    with femtomp.start_server("file:records", name="pools"):
        run("child")
        logging.getLogger("tasks").info("master")
"""


@pytest.mark.parametrize("method", METHODS)
def test_children_log_to_the_server_of_their_time(tmp_path, method: str) -> None:
    """Where another server follows, later children log to that, and so do theirs."""
    (tmp_path / "program.py").write_text(LATER.replace("METHOD", method))
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.stderr == b""
    first, later = (
        [r["body"] for r in read(tmp_path / name) if r["logger"] == "tasks"]
        for name in ("first", "records")
    )
    assert (first, sorted(later)) == (["before"], ["child", "grandchild", "master"])


def test_without_a_server_it_is_an_error_at_once(monkeypatch) -> None:
    """`install()` says what to call first; an executor works without logging."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    with pytest.raises(femtomp.NoServerError, match="start_server"):
        pool.install()
    with femtomp.ProcessPoolExecutor(1) as executor:
        assert executor.submit(abs, -3).result() == 3


def test_what_cannot_be_called_is_refused() -> None:
    """Bad input is an error at the call, not in a worker."""
    with pytest.raises(TypeError, match="with_context"):
        femtomp.with_context(3)
    with pytest.raises(TypeError, match="initializer"):
        femtomp.ProcessPoolExecutor(1, initializer=3)
