"""Signals that end a whole pool: what its processes still say is delivered."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import femtomp
from femtomp.errors import FemtompError
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.supervisor.launch import Launcher, launch
from tests.processes.harness import (
    Attached,
    Returned,
    fork,
    is_running,
    lines,
    log_steadily,
    missing_and_double,
    run_script,
    until,
)

# A master with three workers; each says its last words a second and a half after
# SIGTERM. `daemon` makes it a daemon first, as python-daemon and others do.
POOL = """
import femtomp, logging, os, signal, sys, time
path, daemon = sys.argv[1], sys.argv[2] == "daemon"
server = femtomp.start_server(femtomp.FileSink(path))
engine = server._spool.control()[2]
if daemon:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(3, 1024)
femtomp.worker_init()
logging.info("master")
stopped = []
for number in range(3):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        logging.info("ready %d", number)
        while not stopped:
            signal.sigtimedwait((), 0.02)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            signal.sigtimedwait((), 0.02)
        logging.info("last %d", number)
        os._exit(0)
out = os.open(path + ".pids", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(out, f"{os.getpgid(0)} {os.getpid()} {server.pid} {engine}\\n".encode())
os.close(out)
while True:
    signal.pause()
"""


def ready(path):
    """Tell whether all three workers' first words have been delivered."""
    return path.exists() and sum("ready" in r["body"] for r in lines(path)) == 3


def bodies(path):
    return sorted(r["body"] for r in lines(path))


ALL = sorted(["master", *(f"{w} {n}" for w in ("ready", "last") for n in range(3))])


@pytest.mark.parametrize("kind", ["plain", "daemon"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_last_words_after_a_signal_to_all_are_delivered(tmp_path, kind, number):
    """The supervisor, told to end with its pool, waits for what the workers still say."""
    path = tmp_path / "app.jsonl"
    started = subprocess.Popen(
        [sys.executable, "-c", POOL, path, kind],
        start_new_session=True,
        env={**os.environ, "FEMTOMP_SPOOL_PARENT": str(tmp_path)},
    )
    told = tmp_path / "app.jsonl.pids"
    until(lambda: told.exists() and told.read_text().endswith("\n"), "the pool is up")
    group, master, guardian, engine = map(int, told.read_text().split())
    until(lambda: ready(path), "the workers' first words are delivered")
    os.kill(guardian, number)
    os.kill(engine, number)
    os.killpg(group, signal.SIGTERM)
    started.wait(20)
    until(lambda: not is_running(engine), "the engine has ended")
    until(lambda: not is_running(guardian), "the guardian has ended")
    assert not is_running(master)
    assert bodies(path) == ALL
    assert not list(tmp_path.glob("femtomp-*")), "the spool is removed"


def test_the_grace_is_bounded(tmp_path, capfd):
    """A worker that does not end delays the supervisor by `grace_s` and no more."""
    path = tmp_path / "app.jsonl"
    server = femtomp.start_server(
        femtomp.FileSink(path), grace_s=3.0, spool_parent=tmp_path
    )
    returned = Returned(1)
    with Attached() as log:
        log.info("here", extra={"worker": 0, "number": 0})
        assert server.flush()
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        os.waitpid(fork(log_steadily, returned, 0, 200), 0)
        assert time.monotonic() - begun < 3.0, "the machine is too slow for this test"
        until(lambda: not is_running(server.pid), "the guardian has ended")
        assert 2.9 < time.monotonic() - begun < 15
        log.info("too late")
    assert "too late" in capfd.readouterr().err
    # It is in the lane as well: the writer looks after its append, see `writer`.
    report = server.stop()
    assert (report.pending, report.spool) == ({"file": 1}, server.spool)
    assert missing_and_double(lines(path), returned)[0] == []


def test_stop_does_not_wait_for_the_grace(tmp_path):
    """stop() in the middle of a grace ends it: it says that nothing more comes."""
    server = femtomp.start_server(femtomp.FileSink(tmp_path / "a"), grace_s=60)
    with Attached() as log:
        log.info("one")
        os.kill(server.pid, signal.SIGTERM)
        log.info("two")
        begun = time.monotonic()
        assert server.stop().drained
    assert time.monotonic() - begun < 30
    assert bodies(tmp_path / "a") == ["one", "two"]


def test_an_engine_that_dies_within_the_grace_is_replaced(tmp_path):
    """What is logged after a SIGTERM and the engine's death is delivered all the same."""
    server = femtomp.start_server(femtomp.FileSink(tmp_path / "a"), grace_s=3)
    engine = server._spool.control()[2]
    with Attached() as log:
        log.info("one")
        os.kill(server.pid, signal.SIGTERM)
        os.kill(engine, signal.SIGKILL)
        until(lambda: server._spool.control()[2] != engine, "there is another engine")
        assert server._spool.control()[STATE] == State.RUNNING
        log.info("two")
        until(lambda: not is_running(server.pid), "the guardian has ended")
    assert set(bodies(tmp_path / "a")) == {"one", "two"}
    assert server.stop().drained


def test_a_worker_does_not_wait_for_a_black_hole(tmp_path):
    """With a collector that never answers a worker ends at once after its last call."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        sink = femtomp.OTLPSink(f"http://127.0.0.1:{port}")
        server = femtomp.start_server(sink, spool_parent=tmp_path)
        read, write = os.pipe()

        def work():
            logging.getLogger("shop").info("last")
            os.write(write, b"x")

        with Attached():
            pid = fork(work)
            assert os.read(read, 1) == b"x"
            begun = time.monotonic()
            os.waitpid(pid, 0)
            # A wait would be one of the sink's timeouts: 10 s. Below 100 ms it is where
            # the machine does nothing else: see docs/reliability.md.
            assert time.monotonic() - begun < 2
        report = server.stop(timeout=0.5)
        os.close(read)
        os.close(write)
    assert report.pending == {"otlp": 1}
    assert report.spool == server.spool


def test_what_a_signal_leaves_behind_is_named(tmp_path, capfd, monkeypatch):
    """An engine that ends by signal with records left says how many, and where."""
    # Read by the guardian and its engine, which are fresh interpreters.
    short = tmp_path / "short"
    short.mkdir()
    (short / "sitecustomize.py").write_text(
        "import femtomp.supervisor.guardian as g\ng.SIGNAL_DEADLINE_S = 0.3\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{short}:{os.environ.get('PYTHONPATH', '')}")
    sink = femtomp.OTLPSink("http://127.0.0.1:9")  # discard: nobody listens
    server = femtomp.start_server(sink, spool_parent=tmp_path, grace_s=0.2)
    with Attached() as log:
        for number in range(7):
            log.info("kept %d", number)
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: not is_running(server.pid), "the guardian has ended")
    assert f"records are left in {server.spool}: 7 for otlp" in capfd.readouterr().err
    report = server.stop()
    assert report.pending == {"otlp": 7}
    assert report.spool == server.spool


def test_a_second_supervisor_of_a_spool_is_refused(tmp_path):
    """Who serves a spool keeps it: another supervisor fails to start, and says why."""
    path = tmp_path / "a"
    with femtomp.start_server(femtomp.FileSink(path), spool_parent=tmp_path) as server:
        config = femtomp.options.ServerConfig(
            name="shop",
            sinks=femtomp.grammar.resolve_sinks(femtomp.FileSink(path), {}),
        )
        spool = Spool(server.spool)
        launcher = Launcher(config, spool)
        guardian = spool.control()[1]
        with pytest.raises(FemtompError, match="in use: the guardian"):
            launch(launcher)
        os.kill(guardian, signal.SIGKILL)
        until(lambda: not is_running(guardian), "the guardian is gone")
        with pytest.raises(FemtompError, match="in use: the engine"):
            launch(launcher)
        launcher.close()
        spool.close()
        with Attached() as log:
            log.info("served")
        assert server.flush()
        assert server.stop().drained
    assert bodies(path) == ["served"]


def test_a_restarted_engine_writes_nothing_of_its_own(tmp_path):
    """A later engine tells nobody that it is ready: its descriptors are others' now."""
    # In a process of its own: there the start-up pipe has a number that a file gets.
    run_script(
        """
        import femtomp, logging, os, signal, sys
        paths = [f"{sys.argv[1]}/{number}" for number in range(6)]
        with femtomp.start_server([femtomp.FileSink(path) for path in paths]) as server:
            engine = server._spool.control()[2]
            os.kill(engine, signal.SIGKILL)
            while server._spool.control()[2] == engine:
                signal.sigtimedwait((), 0.01)
            femtomp.worker_init()
            logging.info("after")
        """,
        tmp_path,
    )
    assert [bodies(tmp_path / f"{number}") for number in range(6)] == [["after"]] * 6
