"""Nothing that a worker of another user does to files mutes, crashes or holds up root."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes.spool import ENGINE, Spool
from tests.processes.harness import (
    SEED,
    Attached,
    Returned,
    arrived,
    fork,
    lines,
    log_steadily,
    missing_and_double,
    until,
)
from tests.processes.hostile import NOBODY, Hostile, become_nobody, reachable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
# More of them: FEMTOMP_TEST_ROUNDS=200 python -m pytest tests/processes/test_hostile.py
ROUNDS = int(os.environ.get("FEMTOMP_TEST_ROUNDS", "2"))
ROUND_S = 1.5
MIN_ATTACKS = 100
# No call of the master's may take longer, whatever lies in the lanes.
PATIENCE_S = 30.0


@pytest.fixture(name="parent")
def _parent():
    """Give a directory that everybody may pass: pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="femtomp-hostile-", dir="/dev/shm"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def server_of(parent, tmp_path):
    return femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=parent, worker_uid=NOBODY,
        worker_gid=NOBODY, name="hostile",
    )  # fmt: skip


def end(pid):
    """Kill a child and return how it had ended; 0 or SIGKILL: not before."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_engine(server):
    pid = Spool(server.spool).control()[ENGINE]
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is being started


def everything(spool):
    """Give all paths of a spool, and of the descriptors that lead into it."""
    found = [spool]
    for name in ("lanes", "lanes-root", "control", "manifest.json"):
        found.append(spool / name)
        try:
            found += (spool / name).iterdir()
        except OSError:
            continue
    return found + [Path(f"/proc/self/fd/{n}") for n in reachable(spool)]


def lease(path):
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)


def replace(path):
    path.rename(path.with_name("away"))
    path.write_bytes(bytes(4096))


ATTACKS = {
    "truncate": lambda path: os.truncate(path, 0),
    "unlink": lambda path: path.unlink(),
    "rename": lambda path: path.rename(path.with_name("elsewhere")),
    "replace": replace,
    "chmod": lambda path: path.chmod(0o777),
    "chmod to nothing": lambda path: path.chmod(0),
    "lease": lease,
}


def attack(spool, what, ready):
    """Do one thing to all that can be reached, say so, and wait to be killed."""
    become_nobody()
    for path in everything(spool):
        try:
            ATTACKS[what](path)
        except OSError:
            continue
    for descriptor in reachable(spool):
        try:
            os.ftruncate(descriptor, 0)
        except OSError:
            continue
    ready.set(0, 1)
    while True:
        signal.pause()


@pytest.mark.parametrize("what", ATTACKS)
def test_root_logs_on_whatever_a_worker_does_to_files(parent, tmp_path, what):
    """Root's processes are not ended, and all that they log is delivered, although a
    worker does this to all that it can reach while the engine is dead.
    """
    returned, ready = Returned(2), Returned(1)
    with server_of(parent, tmp_path) as server, Attached() as log:
        log.info("0", extra={"worker": 1, "number": 0})
        arbiter = fork(log_steadily, returned, 0, None, "shop")
        until(lambda: returned[0] > 50, "root's other process logs")
        kill_engine(server)
        worker = fork(attack, server.spool, what, ready)
        until(lambda: ready[0], "the worker has done it")
        before = returned[0]
        until(lambda: returned[0] > before + 200, "root's other process logs on")
        for number in range(1, 100):
            log.info("%d", number, extra={"worker": 1, "number": number})
        assert end(arbiter) == -signal.SIGKILL
        returned.set(1, 100)
        until(
            lambda: server.stats().engine_starts > 1 and server.flush(5),
            "everything is delivered",
        )
        end(worker)
        report = server.stop()
    assert report.drained
    missing, _ = missing_and_double(lines(tmp_path / "a"), returned)
    assert missing == []
    assert not list(parent.iterdir())


def good_worker(returned, number):
    become_nobody()
    log_steadily(returned, number, None, "shop")


def ask(server):
    """Call what the master may call; each call returns in time and raises nothing."""
    for call in (
        server.stats, lambda: server.flush(0.2), server.queue.qsize,
    ):  # fmt: skip
        begun = time.monotonic()
        call()
        assert time.monotonic() - begun < PATIENCE_S


def fuzzed(parent, path, seed):
    """Have a hostile worker attack for a while; return what is missing in the end."""
    draw = random.Random(seed)
    returned, attacks = Returned(4), Returned(1)
    with server_of(parent, path) as server, Attached() as log:
        good = [fork(good_worker, returned, number) for number in (2, 3)]
        until(lambda: returned[2] and returned[3], "other workers log")
        spared = tuple({p.name[:24] for p in (server.spool / "lanes").glob("*.own")})
        assert len(spared) == 2
        spared += tuple(f".{epoch}" for epoch in spared)
        arbiter = fork(log_steadily, returned, 0, None, "shop")
        until(lambda: returned[0], "root's other process logs")
        epochs = [p.name[:24] for p in (server.spool / "lanes-root").glob("*.own")]

        def attack():
            log.info("hostile", extra={"worker": 9, "number": 0})
            become_nobody()
            log.info("hostile", extra={"worker": 9, "number": 1})
            Hostile(
                server.spool, seed, (*spared, "space"), epochs,
                count=lambda: attacks.set(0, attacks[0] + 1),
            ).run()  # fmt: skip

        hostile = fork(attack)
        until_s = time.monotonic() + ROUND_S
        number = 0
        while time.monotonic() < until_s:
            if draw.random() < 0.05:
                kill_engine(server)
            if draw.random() < 0.05:
                ask(server)
            log.info("%d", number, extra={"worker": 1, "number": number})
            returned.set(1, number := number + 1)
        ended = [end(pid) for pid in (hostile, arbiter, *good)]
        ask(server)
        until(
            lambda: server.flush(1) or is_all_there(path / "a", returned),
            "everything of the others is delivered",
            PATIENCE_S,
        )
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < PATIENCE_S
    print(f"{attacks[0]} attacks")
    assert ended == [-signal.SIGKILL] * 4, f"ended before: seed {seed}"
    assert attacks[0] > MIN_ATTACKS
    return missing_and_double(lines(path / "a"), returned)[0]


def is_all_there(path, returned):
    if not path.exists() or arrived(path) < sum(returned.all()):
        return False
    return not missing_and_double(lines(path), returned)[0]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_random_attacks_cost_nobody_else_a_record(parent, tmp_path, round_):
    """A worker of another user does random things to all that it can reach but its
    fellows' lanes; the engine is killed and the master asks its server: nobody crashes
    or hangs, and all that others logged is delivered.
    """
    seed = SEED + round_
    print(f"seed {seed}: FEMTOMP_TEST_SEED={seed} FEMTOMP_TEST_ROUNDS=1")
    assert fuzzed(parent, tmp_path, seed) == [], f"seed {seed}"
