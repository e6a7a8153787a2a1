"""Dask: real clusters on this machine, nannies, workers that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.components import require
from tests.examples.pool import ROOT
from tests.integrations.measured import measure, read

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("dask_app.py")


@pytest.fixture(autouse=True)
def _dask():
    require("dask")


def run(tmp_path: Path, *arguments: str) -> tuple[list[dict], int]:
    """Run the computation; return its records, and how many workers were killed."""
    (tmp_path / "ledgers").mkdir()
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LEDGER_DIRECTORY": str(tmp_path / "ledgers"),
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "femtomp" not in done.stderr, done.stderr
    return read(tmp_path / "records"), len(list(tmp_path.glob("died-*")))


def test_workers_that_nannies_replace_lose_nothing(tmp_path) -> None:
    """10 workers killed amid a task: all is there, with the task's key, from one
    server in the nannies' process.
    """
    records, killed = run(tmp_path)
    row = measure("Dask, nannies", tmp_path / "ledgers", records, killed)
    row.check()
    assert (row.kills, row.records >= 10_000) == (10, True)
    logged = [r for r in records if r["logger"] == "app"]
    names = {r["resource"]["femtomp.worker.name"] for r in logged}
    assert names == {"w0", "w1"}
    assert all(r["resource"]["dask.worker.address"][:6] == "tcp://" for r in logged)
    for record in logged:
        number = int(record["body"].split()[1].rstrip(":"))
        key = record["attributes"]["dask.task.key"]
        assert key.startswith("work-" if number < 30 else f"last-{number}")
    keys = {r["attributes"]["dask.task.key"] for r in logged}
    assert len(keys) == 40
    # No task's key on what is of no task.
    assert not [
        r
        for r in records
        if r["logger"] != "app" and "dask.task.key" in r["attributes"]
    ]


def test_workers_in_threads_log(tmp_path) -> None:
    """Without processes there is one: its server, and the tasks' keys."""
    records, _ = run(tmp_path, "--processes=0")
    row = measure("Dask, threads", tmp_path / "ledgers", records, 0)
    row.check()
    logged = [r for r in records if r["logger"] == "app"]
    assert len(logged) == 30 * 250
    assert len({r["attributes"]["dask.task.key"] for r in logged}) == 30
