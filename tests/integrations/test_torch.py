"""Ranks and loaders' workers, as torchrun and PyTorch start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import femtomp
from femtomp.integrations import torch as femtorch
from tests.components import missing
from tests.examples.pool import ROOT
from tests.integrations.measured import measure, read

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("torch_app.py")
PYTORCH = "PyTorch" if missing("torch") is None else "as PyTorch's"
RUN = [
    sys.executable, "-m", "femtomp", "run", "--sink=file:records", "--",
]  # fmt: skip


def run(tmp_path: Path, command: list[str], **environ: str) -> str:
    """Run a program; return what it printed."""
    (tmp_path / "ledgers").mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LEDGER_DIRECTORY": str(tmp_path / "ledgers"),
            "OMP_NUM_THREADS": "1",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "femtomp: " not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loaders_workers_log(tmp_path, method: str) -> None:
    """Two new workers in each of 20 epochs, of which every other one loses one: all is
    there, as the loader's worker's that it is of.
    """
    # Where each worker imports PyTorch anew, which takes seconds, fewer will do.
    epochs = 20 if method == "fork" or missing("torch") else 4
    command = [sys.executable, str(PROGRAM), method, str(epochs), "65", "None"]
    killed = int(run(tmp_path, [*RUN, *command]).split()[1])
    assert killed == epochs // 2
    records = read(tmp_path / "records")
    row = measure(
        f"`DataLoader` {PYTORCH}, {method}", tmp_path / "ledgers", records, killed
    )
    row.check()
    assert row.records >= epochs * 500
    # The training's own, and two in each epoch.
    assert row.workers == 1 + 2 * epochs
    items = [r["resource"] for r in records if r["body"].startswith("item ")]
    who = {(r["femtomp.worker.name"], r["torch.dataloader.worker.id"]) for r in items}
    assert who == {("loader-0", 0), ("loader-1", 1)}


def ranks(tmp_path: Path, number: int, *arguments: str) -> list[dict]:
    """Run as many ranks as torchrun does, by itself if it is there."""
    if missing("torch") is None:
        run(tmp_path, [
            *RUN, sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={number}", str(PROGRAM), *arguments,
        ])  # fmt: skip
    else:
        # torchrun starts a program for each rank, and tells it so.
        (tmp_path / "launcher.py").write_text(
            "import os, subprocess, sys\n"
            "tell = lambda n: {**os.environ, 'RANK': str(n), 'LOCAL_RANK': str(n),"
            f" 'WORLD_SIZE': '{number}'}}\n"
            "made = [subprocess.Popen([sys.executable, *sys.argv[1:]], env=tell(n))"
            f" for n in range({number})]\n"
            "sys.exit(max(each.wait() for each in made))\n"
        )
        run(tmp_path, [
            *RUN, sys.executable, "launcher.py", str(PROGRAM), *arguments,
        ])  # fmt: skip
    return read(tmp_path / "records")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ranks_are_in_every_record(tmp_path, method: str) -> None:
    """Rank, local rank and world size are numbers; loaders' workers have them too."""
    records = ranks(tmp_path, 3, method, "1", "2", "None")
    row = measure(f"torchrun, {method}", tmp_path / "ledgers", records, 0)
    row.check()
    logged = [r["resource"] for r in records if r["logger"] == "train"]
    assert {
        (r["femtomp.worker.name"], r["process.rank"], r["process.local_rank"])
        for r in logged
    } == {
        (f"rank-{rank}{loader}", rank, rank)
        for rank in range(3)
        for loader in ("", "/loader-0", "/loader-1")
    }
    assert {r["process.world_size"] for r in logged} == {3}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("others", "kept"), [("ERROR", ["trained"]), ("OFF", [])])
def test_rank_0_only(tmp_path, method: str, others: str, kept: list[str]) -> None:
    """`others` is what the other ranks say, and their loaders' workers: nothing, or
    nothing below a level.
    """
    records = ranks(tmp_path, 2, method, "1", "2", others)
    logged = [r for r in records if r["logger"] == "train"]
    of_rank = [
        [r["body"] for r in logged if r["resource"]["process.rank"] == rank]
        for rank in range(2)
    ]
    assert len(of_rank[0]) == 2 + 8 * 2
    assert of_rank[1] == kept


def test_a_rank_without_a_launchers_server_starts_one(tmp_path) -> None:
    """Without `femtomp run` a rank has a server of its own."""
    program = """
import logging
from femtomp.integrations import torch
for _ in range(3):
    torch.install("file:records", name="train")
logging.getLogger("train").info("here")
"""
    run(tmp_path, [sys.executable, "-c", program], RANK="5")
    (record,) = [r for r in read(tmp_path / "records") if r["logger"] == "train"]
    assert record["resource"]["femtomp.worker.name"] == "rank-5"


@pytest.mark.parametrize("others", ["LOUD", 1.5, [], True])
def test_what_is_no_level_is_refused(others) -> None:
    """Bad input is an error at the call."""
    with pytest.raises(femtomp.ConfigError, match="rank 0 only"):
        femtorch.install(others=others)
