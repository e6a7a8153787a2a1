"""Ray: a real node on this machine, whose workers are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.components import require
from tests.examples.pool import ROOT
from tests.integrations.measured import measure, read

PROGRAM = Path(__file__).with_name("ray_app.py")


def test_workers_that_ray_replaces_lose_nothing(tmp_path) -> None:
    """10 workers killed amid a task: all is there, by worker, task and actor."""
    require("ray")
    (tmp_path / "ledgers").mkdir()
    done = subprocess.run(
        [sys.executable, PROGRAM],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LEDGER_DIRECTORY": str(tmp_path / "ledgers"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "femtomp:" not in done.stderr, done.stderr
    records = read(tmp_path / "records")
    killed = len(list(tmp_path.glob("died-*")))
    row = measure("Ray", tmp_path / "ledgers", records, killed)
    row.check()
    assert (row.kills, row.records >= 10_000) == (10, True)
    logged = [r for r in records if r["logger"] == "app"]
    for record in logged:
        who = record["resource"]
        assert who["femtomp.worker.name"] == f"ray-{who['ray.worker.id'][:8]}"
    # A task that was tried again is the same task.
    assert len({r["attributes"]["ray.task.id"] for r in logged}) == 41
    actors = [r for r in logged if "ray.actor.id" in r["attributes"]]
    assert [r["body"] for r in actors] == ["in an actor"]
