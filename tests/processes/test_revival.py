"""Guardian and engine killed together: the master starts others, and nothing is lost."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

import femtomp
from femtomp.errors import StartError
from femtomp.lanes.lock import has_engine, is_orphaned
from tests.processes.harness import (
    SEED,
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

KILLS = 5
WORKERS = 2


@pytest.fixture
def server(tmp_path):
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "app.jsonl"), spool_parent=tmp_path
    ) as server:
        yield server


def pids(server):
    return server._spool.control()[1:3]


def kill_pair(server):
    """Kill guardian and engine, the guardian first, so that nobody starts another."""
    guardian, engine = pids(server)
    os.kill(guardian, signal.SIGKILL)
    os.kill(engine, signal.SIGKILL)
    until(lambda: is_orphaned(server._spool), "guardian and engine are gone")
    return guardian, engine


def log_until(condition, what, log, returned, worker):
    """Log in this process until something has happened."""
    number = returned[worker]

    def again():
        nonlocal number
        log.info("record", extra={"worker": worker, "number": number})
        number += 1
        returned.set(worker, number)
        return condition()

    until(again, what)


def test_a_log_call_of_the_master_starts_another_pair(server, tmp_path):
    """Killed under load again and again, the pair is back at the master's log calls."""
    print("seed", SEED)
    chance = random.Random(SEED)
    returned = Returned(WORKERS + 1)
    path = tmp_path / "app.jsonl"
    with Attached() as log:
        workers = [fork(log_steadily, returned, i, None) for i in range(WORKERS)]
        for _ in range(KILLS):
            until(lambda: path.exists() and path.stat().st_size, "records arrive")
            signal.sigtimedwait((), chance.uniform(0.05, 0.2))
            before = kill_pair(server)
            size = path.stat().st_size
            log_until(
                lambda b=before, s=size: (
                    not set(pids(server)) & set(b) and path.stat().st_size > s
                ),
                "another pair delivers",
                log,
                returned,
                WORKERS,
            )
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert server.flush(60)
        assert server.stats().engine_starts == KILLS + 1
    guardian, engine = pids(server)
    assert server.pid == guardian
    assert server.stop().drained
    until(
        lambda: not is_running(guardian) and not is_running(engine), "both have ended"
    )
    missing, double = missing_and_double(lines(path), returned)
    assert not missing
    assert len(double) <= KILLS * 2048 * 2
    assert not list(tmp_path.glob("femtomp-*")), "the spool is removed"


@pytest.mark.parametrize(
    "ask",
    [
        lambda server: server.stats(),
        lambda server: server.flush(),
        lambda server: server.stop(),
    ],
    ids=["stats", "flush", "stop"],
)
def test_a_call_of_the_server_starts_another_pair(server, tmp_path, ask):
    """A method of the server finds the pair dead, starts another and waits for it."""
    with Attached() as log:
        log.info("before")
        assert server.flush()
        before = kill_pair(server)
        log.info("between")
        ask(server)
        assert not set(pids(server)) & set(before)
    report = server.stop()
    assert report.drained
    assert report.pending == {"file": 0}
    assert [r["body"] for r in lines(tmp_path / "app.jsonl")] == ["before", "between"]


def test_a_waiting_get_starts_another_pair(server, tmp_path):
    """`queue.get` needs no engine, but the sinks do: it sees to one while it waits."""
    with Attached() as log:
        log.info("before")
        assert server.queue.get(timeout=5).body == "before"
        before = kill_pair(server)
        with pytest.raises(queue.Empty):
            server.queue.get(timeout=2)
        until(lambda: not set(pids(server)) & set(before), "another pair serves")


def test_a_flush_that_waits_is_not_left_alone(server, tmp_path):
    """Killed while a flush waits for it, the pair is started again by the flush."""
    os.kill(pids(server)[1], signal.SIGSTOP)
    with Attached() as log:
        log.info("waits")
    done = []
    waiting = threading.Thread(target=lambda: done.append(server.flush(30)))
    waiting.start()
    kill_pair(server)
    waiting.join(30)
    assert done == [True]


def test_a_pair_that_was_told_to_end_stays_ended(tmp_path):
    """A supervisor that SIGTERM ended, with records left, is not brought back."""
    sink = femtomp.OTLPSink("http://127.0.0.1:9")  # discard: nobody listens
    server = femtomp.start_server(sink, spool_parent=tmp_path, grace_s=0.1)
    with Attached() as log:
        log.info("left")
        guardian = server.pid
        os.kill(guardian, signal.SIGTERM)
        until(lambda: not is_running(guardian), "the guardian has ended")
        begun = []
        server._pair._launcher.begin = lambda: begun.append(1)
        log.info("after")
        for look in (server._pair.tend, server._pair.ensure, server.stats):
            server._pair._look_at = 0.0
            look()
    assert not begun
    assert server.stop(0.1).pending["otlp"]


def test_a_forked_child_starts_no_pair(server, tmp_path):
    """Only the master looks after the pair; its children log and leave it dead."""
    with Attached() as log:
        log.info("before")
        kill_pair(server)

        def child():
            server._pair._look_at = 0.0
            for _ in range(100):
                log.info("child")
                server._pair.tend()
                server._pair.ensure()
            assert server._pair._starting is None

        assert os.waitpid(fork(child), 0)[1] == 0
        assert is_orphaned(server._spool)
        assert server.flush(20)
    assert len(lines(tmp_path / "app.jsonl")) == 101


def test_threads_start_one_pair_together(server, tmp_path):
    """Eight threads that find the pair dead at one moment start one other."""
    begun = []
    begin = server._pair._launcher.begin
    server._pair._launcher.begin = lambda: begun.append(1) or begin()
    kill_pair(server)
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        server._pair._look_at = 0.0
        server._pair.tend()
        server.stats()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(begun) == 1
    assert not is_orphaned(server._spool)


def test_a_log_call_does_not_wait_for_the_new_pair(server, tmp_path):
    """The log call that starts a pair has returned long before that is ready."""
    with Attached() as log:
        log.info("before")
        kill_pair(server)
        server._pair._look_at = 0.0
        begun = time.monotonic()
        server._pair.tend()
        took = time.monotonic() - begun
        assert server._pair._starting is not None
        assert not server._pair._starting.wait(0), "it is not ready yet"
        print("a log call that started a pair took", round(took, 4), "s")
        assert server.flush(20)


def test_what_cannot_be_started_raises_in_no_call(server, tmp_path, capfd, monkeypatch):
    """A failing start is said once, tried ever more rarely, and is nobody's exception."""
    tries = []

    def fail():
        tries.append(1)
        raise StartError("no interpreter")

    launcher = server._pair._launcher
    with Attached() as log, monkeypatch.context() as patch:
        patch.setattr(launcher, "begin", fail)
        log.info("before")
        kill_pair(server)
        until(lambda: log.info("x") or tries, "it was tried")
        assert not server.flush(0.2)
        assert server.stats().sinks["file"].pending
        assert "cannot be started again" in capfd.readouterr().err
        assert server._pair._pause_s > 1.0
    assert server.stop().drained


def test_a_log_call_in_a_signal_handler_may_start_the_pair(server, tmp_path):
    """A handler's log call in the middle of a start finds it busy and goes on."""
    launcher = server._pair._launcher
    begin = launcher.begin

    def interrupted():
        signal.raise_signal(signal.SIGUSR1)
        server._pair._look_at = 0.0
        log.info("inside")
        server._pair.tend()
        server._pair.ensure()
        return begin()

    launcher.begin = interrupted
    with Attached() as log:
        before = signal.signal(signal.SIGUSR1, lambda *_: log.info("handler"))
        try:
            log.info("before")
            kill_pair(server)
            log_until(
                lambda: server._pair._starting is not None,
                "a pair is started", log, Returned(1), 0,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert server.flush(20)
    bodies = {r["body"] for r in lines(tmp_path / "app.jsonl")}
    assert {"before", "inside", "handler"} <= bodies


def test_members_of_before_count_for_the_new_pair(tmp_path):
    """The next engine knows the master's workers, though they never logged: it stays."""
    done = run_script(
        """
        import femtomp, os, signal, sys
        server = femtomp.start_server(
            femtomp.FileSink(f"{sys.argv[1]}/a"), spool_parent=sys.argv[1]
        )
        read, write = os.pipe()
        if not os.fork():
            os.close(write)
            os.read(read, 1)
            signal.sigtimedwait((), 2)  # the engine asks for members each half second
            femtomp.worker_init()
            import logging
            logging.info("late")
            os._exit(0)
        before = server._spool.control()[1:3]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        while set(before) & set(server._spool.control()[1:3]):
            server.stats()
        print(*server._spool.control()[1:3], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
        check=False,
    )
    guardian, engine = map(int, done.stdout.split())
    until(
        lambda: not is_running(engine) and not is_running(guardian), "all is over", 40
    )
    assert [r["body"] for r in lines(tmp_path / "a")] == ["late"]


def test_a_start_that_fails_signals_nobody_else(tmp_path):
    """A start that is given up ends its own processes, not the guardian that serves."""
    path = tmp_path / "a"
    with femtomp.start_server(
        femtomp.FileSink(path), spool_parent=tmp_path, grace_s=0
    ) as server:
        guardian, engine = pids(server)
        server._pair._launcher.begin().end()
        second = server._pair._launcher.begin()
        assert second.wait(10)
        with pytest.raises(femtomp.SpoolError, match="in use"):
            second.finish()
        assert is_running(guardian)
        assert is_running(engine)
        assert not is_orphaned(server._spool)


def test_an_interpreter_that_ends_at_once_warns_of_nothing(tmp_path):
    """A log call that starts a pair right before the end leaves no warning and no child."""
    program = (
        "import femtomp, logging, os, signal, sys, time\n"
        "server = femtomp.start_server(femtomp.FileSink(sys.argv[1]))\n"
        "femtomp.worker_init()\n"
        "for pid in server._spool.control()[1:3]: os.kill(pid, signal.SIGKILL)\n"
        "while server._pair._starting is None: logging.info('x'); time.sleep(0.01)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program, tmp_path / "a"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    assert lines(tmp_path / "a")


def test_basic_config_of_a_child_does_not_wait_for_a_pair_that_is_dead(tmp_path):
    """An address whose server nobody serves is no server: it starts its own."""
    program = (
        "import logging, os, sys, femtomp\n"
        "server = femtomp.basic_config(femtomp.FileSink(sys.argv[1]), name='own')\n"
        "logging.info('from the child')\n"
        "sys.exit(not (server.pid and server.stop().drained))\n"
    )
    with femtomp.start_server(femtomp.FileSink(tmp_path / "a")) as server:
        kill_pair(server)
        child = [sys.executable, "-c", program, tmp_path / "b"]
        assert subprocess.run(child, timeout=60).returncode == 0
    assert [r["body"] for r in lines(tmp_path / "b")] == ["from the child"]


@pytest.mark.parametrize("ask", ["log", "stats", "flush", "stop"])
def test_a_stopped_guardian_whose_engine_was_killed_goes_on(server, tmp_path, ask):
    """A look of the master wakes a guardian that somebody has stopped, once there is no
    engine any more: it starts another.
    """
    guardian, engine = pids(server)
    os.kill(guardian, signal.SIGSTOP)
    os.kill(engine, signal.SIGKILL)
    until(lambda: not has_engine(server._spool), "the engine is gone")
    path = tmp_path / "app.jsonl"
    with Attached() as log:
        log.info("one")
        if ask == "log":
            until(lambda: log.info("more") or path.exists(), "another engine delivers")
        elif ask == "stats":
            server.stats()
            until(lambda: path.exists() and lines(path), "another engine delivers")
        elif ask == "flush":
            assert server.flush(20)
        begun = time.monotonic()
        assert server.stop(20).drained
        assert time.monotonic() - begun < 15
    assert lines(path)[0]["body"] == "one"
    assert not is_running(guardian)


def test_a_pair_that_was_stopped_is_ended_in_time(server, tmp_path):
    """stop() wakes a guardian and an engine that somebody has stopped."""
    for pid in pids(server):
        os.kill(pid, signal.SIGSTOP)
    with Attached() as log:
        log.info("one")
    assert server.stop(60).drained
    assert [r["body"] for r in lines(tmp_path / "app.jsonl")] == ["one"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_engine_alone_gets_another_one(server, tmp_path, number):
    """While the master lives, who tells the engine to end, and not its guardian, gets
    another engine; no record is lost or comes twice, and it is no death.
    """
    guardian, engine = pids(server)
    returned = Returned(1)
    with Attached() as log:
        os.kill(engine, number)
        log_until(lambda: pids(server)[1] != engine, "another serves", log, returned, 0)
        log_until(
            lambda: not is_running(engine), "the first has ended", log, returned, 0
        )
        assert server.flush(30)
        assert server.stats().engine_starts == 1
        assert pids(server)[0] == guardian
    assert server.stop().drained
    records = [r for r in lines(tmp_path / "app.jsonl") if "worker" in r["attributes"]]
    assert missing_and_double(records, returned) == ([], [])
