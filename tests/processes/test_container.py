"""The end of a container: PID 1 takes every other process with it.

A PID namespace of our own is what a container is here: SIGTERM to its first process
alone, as `docker stop` sends it, and all others are killed the moment it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.components import require, unshare_command
from tests.processes.harness import lines, until

# PID 1 starts the server and two workers; told to end, it tells them, waits, and ends
# by `sys.exit`, or is killed at once as after docker's grace.
MASTER = """
import femtomp, logging, os, signal, sys
path, sink = sys.argv[1:]
sinks = [femtomp.FileSink(path)]
if sink == "dead":
    sinks.append(femtomp.OTLPSink("http://127.0.0.1:9"))
assert os.getpid() == 1
server = femtomp.start_server(sinks, name="pid1")
femtomp.worker_init()
told = []
def serve(number):
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    logging.info("ready %d", number)
    while not told:
        signal.sigtimedwait((), 0.02)
    for n in range(500):
        logging.info("last %d %d", number, n)
    os._exit(0)
workers = []
for number in range(2):
    pid = os.fork()
    if pid == 0:
        serve(number)
    workers.append(pid)
def end(*_):
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    for pid in workers:
        os.waitpid(pid, 0)
    logging.info("master ends")
    if sink == "dead":
        print(repr(server.stop(timeout=1)))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    signal.sigtimedwait((), 1)
"""
SAID = sorted(
    [f"ready {n}" for n in range(2)]
    + [f"last {n} {m}" for n in range(2) for m in range(500)]
    + ["master ends"]
)


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Give a function that runs the master as PID 1, ready to be told to end."""
    require("tmpfs")  # namespaces, that is
    monkeypatch.setenv("FEMTOMP_SPOOL_PARENT", str(tmp_path))
    started = []

    def run(sink: str):
        path = tmp_path / "app.jsonl"
        apart = ["--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            [*unshare_command(), *apart, sys.executable, "-c", MASTER, path, sink],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        until(
            lambda: (
                path.exists() and sum("ready" in r["body"] for r in lines(path)) > 1
            ),
            "both workers are served",
        )
        return process, path

    yield run
    for process in started:
        process.kill()
        process.communicate()


def first_of(process) -> int:
    """Give the pid, as seen from outside, of the namespace's first process."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        return int(children.read().split()[0])


def test_the_end_of_pid_one_loses_nothing(container, tmp_path):
    """What master and workers say until the end is delivered by the master's atexit:
    the supervisor does not outlive PID 1.
    """
    process, path = container("well")
    os.kill(first_of(process), signal.SIGTERM)
    assert process.wait(30) == 0
    assert sorted(r["body"] for r in lines(path)) == SAID
    assert not list(tmp_path.glob("femtomp-*")), "the spool is removed"


def test_what_pid_one_cannot_deliver_is_recovered(container, tmp_path):
    """With a dead sink the report counts what is left, and the spool, on a volume,
    gives it to `femtomp recover` after the container's end.
    """
    process, path = container("dead")
    os.kill(first_of(process), signal.SIGTERM)
    report = process.communicate(timeout=30)[0]
    assert "drained=False" in report
    assert "'otlp': 1003" in report
    assert sorted(r["body"] for r in lines(path)) == SAID
    (spool,) = tmp_path.glob("femtomp-*")
    assert recovered(spool) == SAID


def test_pid_one_killed_leaves_all_to_recover(container, tmp_path):
    """SIGKILL takes master, workers and supervisor at once; the volume keeps the rest."""
    process, _ = container("dead")
    os.kill(first_of(process), signal.SIGKILL)
    process.wait(30)
    (spool,) = tmp_path.glob("femtomp-*")
    assert recovered(spool) == ["ready 0", "ready 1"]


def recovered(spool) -> list[str]:
    """Deliver a spool by hand, from outside the namespace; give the bodies that came."""
    command = [sys.executable, "-m", "femtomp", "recover", spool, "--sink"]
    done = subprocess.run(
        [*command, "console:json"], capture_output=True, text=True, timeout=60
    )
    found = [json.loads(s) for s in done.stderr.splitlines() if s.startswith("{")]
    return sorted(r["body"] for r in found if r["logger"] == "root")
