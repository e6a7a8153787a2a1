"""A spool's file system without room for another file: what is there is delivered."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.components import require, unshare_command
from tests.processes.harness import lines

SMALL = """
import femtomp, logging, os, pathlib, signal, subprocess, sys, time
place = pathlib.Path(sys.argv[1])
spools = place / "spools"
mount = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=64", "tmp", spools]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
spools.mkdir()
subprocess.run(mount, check=True)
def make_room():
    for filler in list(spools.glob("filler*"))[1:]:
        filler.unlink()
def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        signal.sigtimedwait((), 0.01)
"""
# Twelve workers have logged while the engine was stopped; then there is no inode left
# for their cursors.
FULL = """
server = femtomp.start_server(
    femtomp.FileSink(place / "app.jsonl"), name="full", spool_parent=spools
)
femtomp.worker_init()
guardian, engine = server._spool.control()[1:3]
os.kill(guardian, signal.SIGSTOP)
os.kill(engine, signal.SIGSTOP)
for worker in range(12):
    if os.fork() == 0:
        for number in range(5):
            logging.info("record", extra={"worker": worker, "number": number})
        os._exit(0)
    os.wait()
try:
    for number in range(64):
        (spools / f"filler{number}").touch()
except OSError:
    pass
"""


def run(program: str, directory) -> subprocess.CompletedProcess[str]:
    require("tmpfs")
    return subprocess.run(
        [*unshare_command(), sys.executable, "-c", SMALL + program, directory],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )


def numbers(path) -> list[tuple[int, int]]:
    found = [r["attributes"] for r in lines(path)]
    return sorted((a["worker"], a["number"]) for a in found)


ALL = [(worker, number) for worker in range(12) for number in range(5)]


def test_recover_counts_lanes_without_room_as_left(tmp_path):
    """Where lanes can get no cursor `femtomp recover` ends, with 1, says how many there
    are, why, and what helps; when there is room again it delivers them once.
    """
    done = run(
        "if os.fork() == 0:\n"
        + textwrap.indent(FULL, "    ")
        + """
    for pid in (guardian, engine, os.getpid()):
        os.kill(pid, signal.SIGKILL)
os.wait()
import json
command = [sys.executable, "-m", "femtomp", "recover", spools]
command += ["--sink", f"file:{place / 'app.jsonl'}"]
said = []
for _ in range(2):
    done = subprocess.run(command, capture_output=True, text=True)
    said.append((done.returncode, done.stderr))
    make_room()
print(json.dumps(said))
""",
        tmp_path,
    )
    (first, said), (second, _) = json.loads(done.stdout)
    assert first == 1
    assert "60 pending" in said
    assert "12 of the lanes cannot be opened now: No space left on device" in said
    assert "make room" in said
    assert "open files" not in said
    assert second == 0
    assert numbers(tmp_path / "app.jsonl") == ALL


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
def test_an_engine_goes_on_without_cursors(tmp_path, dies):
    """A live engine delivers what it can write no cursor for, and says so; when there is
    room again its cursors are written. Only if it dies before that, records come twice.
    """
    done = run(
        FULL
        + f"""
os.kill(guardian, signal.SIGCONT)
os.kill(engine, signal.SIGCONT)
path = place / "app.jsonl"
wait_for(lambda: path.exists() and path.read_text().count('"record"') == 60)
if {dies}:
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: path.read_text().count('"record"') == 120)
make_room()
assert server.flush(20)
assert server.stop().drained
""",
        tmp_path,
    )
    assert numbers(tmp_path / "app.jsonl") == sorted(ALL * (1 + dies))
    assert "without a cursor" in done.stderr
