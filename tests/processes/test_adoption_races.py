"""A spool has one master, whoever wants it at the same time and whatever it looks like."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes.lock import is_orphaned
from femtomp.lanes.spool import Spool
from tests.processes.harness import (
    SEED,
    Attached,
    fork,
    lines,
    missing_and_double,
    run_script,
    until,
)
from tests.processes.orphan import Orphan

STARTERS = 5
SPREADS_S = (0.0, 0.002, 0.05)
ROOT = Path(__file__).parents[2]


def spools(tmp_path):
    return sorted(str(path) for path in tmp_path.glob("femtomp-*"))


def start_and_log(tmp_path, number, delay_s, ends):
    """Start a server after a delay, say which spool it has, log once, stop."""
    go, told = ends[0], ends[3]
    os.close(ends[1])  # the test may fail: then its end says so
    os.read(go, 1)
    signal.sigtimedwait((), delay_s)
    sink = femtomp.FileSink(tmp_path / f"{number}.jsonl", name="file")
    server = femtomp.start_server(sink, name="shop", spool_parent=tmp_path)
    os.write(told, f"{os.getpid()} {server.spool}\n".encode())
    os.close(told)
    os.read(go, 1)
    with Attached() as log:
        log.info("mine", extra={"worker": 1, "number": number})
    assert server.stop(30).drained


def race(tmp_path, chance, spread_s):
    """Let many start at about the same time; return {pid: its spool}, checked."""
    ends = (*os.pipe(), *os.pipe())
    starters = [
        fork(start_and_log, tmp_path, number, chance.uniform(0, spread_s), ends)
        for number in range(STARTERS)
    ]
    os.close(ends[3])
    os.write(ends[1], b"x" * STARTERS)
    found = {}
    try:
        with os.fdopen(ends[2]) as told:
            for _ in starters:
                pid, _, path = told.readline().strip().partition(" ")
                found[int(pid)] = path
        for pid, path in found.items():
            manifest = json.loads(Path(path, "manifest.json").read_text())
            assert manifest["master"]["pid"] == pid, "each spool says whose it is"
    finally:
        os.close(ends[1])
        os.close(ends[0])
        statuses = [os.waitpid(pid, 0)[1] for pid in starters]
    assert statuses == [0] * STARTERS
    return found


def test_many_want_one_orphan(tmp_path):
    """Of many masters that start at once one has the orphan, and no record is there twice."""
    print("seed", SEED)
    chance = random.Random(SEED)
    for spread_s in SPREADS_S:
        orphan = Orphan(tmp_path, femtomp.FileSink(tmp_path / "old"))
        orphan.kill_worker()
        found = race(tmp_path, chance, spread_s)
        assert len(set(found.values())) == STARTERS, "no spool has two masters"
        assert str(orphan.path) in found.values()
        records = [r for file in tmp_path.glob("*.jsonl") for r in lines(file)]
        orphan.returned.set(1, STARTERS)
        assert missing_and_double(records, orphan.returned) == ([], [])
        assert spools(tmp_path) == []
        for file in tmp_path.glob("*.jsonl"):
            file.unlink()


STARTER = """
import femtomp, sys
server = femtomp.start_server(
    femtomp.FileSink(f"{sys.argv[1]}/b"), name="shop", spool_parent=sys.argv[1]
)
print(server.spool)
server.stop()
"""


def start_unseen(tmp_path, spool):
    """Start a server of the same name that cannot see the first one's master."""
    container = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*container, "true"]).returncode:
        pytest.skip("no pid namespace can be made here")
    done = subprocess.run(
        [*container, sys.executable, "-c", textwrap.dedent(STARTER), str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.strip()


def start_after_a_reboot(tmp_path, spool):
    """Start a server of the same name for which the first one's master is of the past."""
    file = spool / "manifest.json"
    before = file.read_text()
    manifest = json.loads(before)
    manifest["master"]["boot_id"] = "another"
    file.write_text(json.dumps(manifest))
    done = run_script(STARTER, tmp_path)
    file.write_text(before)
    return done.stdout.strip()


@pytest.mark.parametrize("start", [start_unseen, start_after_a_reboot])
@pytest.mark.parametrize("is_adopted", [False, True])
def test_the_masters_lock_decides(tmp_path, start, is_adopted):
    """A master that cannot be seen keeps its spool by its lock while no pair lives."""
    path = tmp_path / "a"
    if is_adopted:
        Orphan(tmp_path, femtomp.FileSink(path)).kill_worker()
    with femtomp.start_server(
        femtomp.FileSink(path), name="shop", spool_parent=tmp_path
    ) as server:
        with Attached() as log:
            log.info("before")
            spool = Spool(server.spool)
            for pid in spool.control()[1:3]:
                os.kill(pid, signal.SIGKILL)
            until(lambda: is_orphaned(spool), "only the master is left")
            assert start(tmp_path, server.spool) != str(server.spool)
            spool.close()
            log.info("after")
        assert server.stop().drained
    # Those of the lane that was adopted may come between.
    bodies = [record["body"] for record in lines(path)]
    assert [b for b in bodies if not b.startswith("record")] == ["before", "after"]
    assert not (tmp_path / "b").exists() or not lines(tmp_path / "b")


@pytest.mark.parametrize("spared", ["guardian", "engine"])
@pytest.mark.parametrize("name", ["shop", "other"])
def test_half_a_pair_is_no_orphan(tmp_path, spared, name):
    """A spool whose guardian or engine lives is not left behind, master dead or not."""
    path = tmp_path / "a"
    orphan = Orphan(tmp_path, femtomp.FileSink(path), name=name, spared=spared)
    orphan.kill_worker()
    try:
        done = run_script(STARTER, tmp_path)
        assert done.stdout.strip() != str(orphan.path)
        assert done.stderr == "", "nothing of it is said to be left"
    finally:
        orphan.kill_spared()
    with femtomp.start_server(
        femtomp.FileSink(path), name=name, spool_parent=tmp_path
    ) as server:
        assert server.spool == orphan.path
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
