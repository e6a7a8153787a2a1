"""Files that are rotated under load: over all of them no line is missing or torn."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes.spool import REOPENED
from femtomp.sinks import rotated
from tests.processes.harness import (
    SEED,
    Attached,
    Returned,
    fork,
    missing_and_double,
    run_script,
    until,
)

WORKERS = 8
LOAD_S = 5.0


def all_lines(directory) -> list[bytes]:
    """Give the lines of all files of a directory, oldest rotated one first."""
    found = []
    for file in sorted(Path(directory).iterdir()):
        assert not file.name.endswith(".part")
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
        assert not data or data.endswith(b"\n"), file
        found += data.splitlines()
    return found


def records_of(lines) -> list:
    """Parse every line, so that a torn one fails; without femtomp's own events."""
    records = [json.loads(line) for line in lines]
    return [r for r in records if not r.get("event_name", "").startswith("femtomp.")]


def is_compressed(path):
    found = rotated.find(str(path)).values()
    return found and all(endings == {".gz"} for endings in found)


def load(server, path, disturb, *, until_count=4) -> Returned:
    """Have workers log while they are disturbed; return how many calls returned."""
    returned = Returned(WORKERS)
    with logging_workers(returned):
        end = time.monotonic() + LOAD_S
        while time.monotonic() < end or len(rotated.find(str(path))) < until_count:
            signal.sigtimedwait((), 0.05)
            disturb()
            assert time.monotonic() < end + 60
    assert server.flush(60)
    return returned


@contextmanager
def logging_workers(returned):
    """Have workers log, some thousand records a second together, for a block's time."""
    with Attached():
        pids = [fork(log_by_and_by, returned, n) for n in range(returned.workers)]
        try:
            until(lambda: all(returned.all()), "every worker has logged")
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def log_by_and_by(returned, worker):
    """Log for ever, with a moment for the supervisor after every few records."""
    log = logging.getLogger("shop.worker")
    for number in itertools.count():
        log.info("record %d", number, extra={"worker": worker, "number": number})
        returned.set(worker, number + 1)
        if number % 10 == 9:
            signal.sigtimedwait((), 0.01)


@pytest.fixture(name="path")
def _path(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "app.jsonl"


def sink(path, **options):
    return femtomp.FileSink(path, **{"compress": "gzip", **options})


@pytest.mark.parametrize(
    "options", [{"rotate_interval_s": 0.1}, {"rotate_bytes": 100_000}], ids=str
)
def test_rotation_and_moves_lose_tear_and_double_nothing(path, options):
    """Eight workers, a file rotated all the time and moved by somebody else besides."""
    print("seed", SEED)
    chance = random.Random(SEED)
    moved = []

    def move():
        if chance.random() < 0.2:
            name = path.with_name(f"moved.{len(moved)}")
            try:
                path.rename(name)
            except FileNotFoundError:
                return  # in the middle of a rotation
            moved.append(name)

    with femtomp.start_server(sink(path, **options)) as server:
        returned = load(server, path, move)
        until(lambda: is_compressed(path), "all rotated files are compressed")
        assert server.stats().engine_starts == 1
    records = records_of(all_lines(path.parent))
    missing, double = missing_and_double(records, returned)
    assert not missing
    assert not double
    assert moved
    print(
        len(records), "records,", len(moved), "moves", len(list(path.parent.iterdir()))
    )


def test_killed_engines_tear_nothing_while_files_are_rotated(path):
    """Engines killed at any moment of it: nothing missing or torn, a batch twice."""
    print("seed", SEED)
    chance = random.Random(SEED)
    kills = 0

    def kill():
        nonlocal kills
        if chance.random() < 0.15:
            engine = server._spool.control()[2]
            os.kill(engine, signal.SIGKILL)
            kills += 1
            until(lambda: server._spool.control()[2] != engine, "another engine")

    with femtomp.start_server(sink(path, rotate_bytes=100_000)) as server:
        returned = load(server, path, kill)
        until(lambda: is_compressed(path), "all rotated files are compressed")
    lines = all_lines(path.parent)
    records = records_of(lines)
    missing, double = missing_and_double(records, returned)
    print(len(records), "records,", kills, "kills,", len(double), "twice")
    assert kills
    assert not missing
    assert len(double) <= kills * 2048
    uids = {}
    for record in records:
        key = record["attributes"]["worker"], record["attributes"]["number"]
        assert uids.setdefault(key, record["uid"]) == record["uid"]


def test_two_servers_rotate_one_file(path):
    """Two supervisors of one file, as after gunicorn's USR2, lose and tear nothing."""
    source = """
    import sys, logging, femtomp
    path, number = sys.argv[1], int(sys.argv[2])
    options = {"rotate_bytes": 200_000, "compress": "gzip"}
    with femtomp.start_server(femtomp.FileSink(path, **options), name=f"n{number}"):
        femtomp.worker_init()
        for n in range(20_000):
            logging.info("record", extra={"worker": number, "number": n})
    """
    both = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(source), path, str(n)])
        for n in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    returned = Returned(2)
    for n in range(2):
        returned.set(n, 20_000)
    missing, double = missing_and_double(records_of(all_lines(path.parent)), returned)
    assert not missing
    assert not double
    assert len(rotated.find(str(path))) > 20


def test_engine_that_cannot_open_its_file_serves_the_other_sinks(tmp_path):
    """A file that a second engine cannot open has its records wait, alone."""
    directory, other = tmp_path / "gone", tmp_path / "other.jsonl"
    directory.mkdir()
    sinks = [femtomp.FileSink(directory / "a.jsonl"), femtomp.FileSink(other, name="b")]
    with femtomp.start_server(sinks) as server, Attached() as log:
        (directory / "a.jsonl").unlink()
        directory.rmdir()
        engine = server._spool.control()[2]
        os.kill(engine, signal.SIGKILL)
        until(lambda: server._spool.control()[2] != engine, "another engine")
        log.info("one", extra={"worker": 0, "number": 0})
        until(lambda: other.read_bytes().count(b'"one"'), "it is in the other file")
        assert server.stats().sinks["file"].pending
        directory.mkdir()
        assert server.flush(30)
        assert [r["body"] for r in records_of(all_lines(directory))] == ["one"]


def reopen(*args):
    return run_script(
        "import sys; from femtomp.cli import main; sys.exit(main())",
        "reopen", *args, check=False,
    )  # fmt: skip


def test_reopen_command_waits_until_the_old_file_is_final(path):
    """When it returns the moved file gets no line any more, and a new one is there."""
    returned = Returned(2)
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        with logging_workers(returned):
            for number in range(3):
                old = path.with_name(f"app.{number}")
                until(path.exists, "there is a file")
                path.rename(old)
                done = reopen(*[(server.spool.parent,), (server.spool,), ()][number])
                assert done.returncode == 0, done.stderr
                assert path.exists()
                size = old.stat().st_size
                before = sum(returned.all())
                until(lambda b=before: sum(returned.all()) > b + 100, "more records")
                server.flush(1)
                assert old.stat().st_size == size
        assert server.flush(60)
    missing, double = missing_and_double(records_of(all_lines(path.parent)), returned)
    assert not missing
    assert not double


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["guardian", "engine"])
def test_signal_has_an_idle_server_reopen(path, number, whom):
    """A moved file is made anew at the signal, before any record comes."""
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        path.rename(path.with_name("app.1"))
        done = server._spool.control()[REOPENED]
        pid = server.pid if whom == "guardian" else server._spool.control()[2]
        os.kill(pid, number)
        until(path.exists, "the file is there")
        assert server._spool.control()[REOPENED] == done
        assert server.stats().engine_starts == 1


def test_reopen_without_a_server_has_nothing_to_do(tmp_path):
    """Nobody has a file open where no server runs; no directory is an error."""
    assert reopen(tmp_path).returncode == 0
    assert reopen(tmp_path / "none").returncode == 2


def test_reopen_says_who_is_late(path):
    """A server that stands still is named, with status 1."""
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        engine = server._spool.control()[2]
        os.kill(engine, signal.SIGSTOP)
        try:
            done = reopen(server.spool, "--timeout", "0.3")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert done.returncode == 1
        assert str(server.spool) in done.stderr
