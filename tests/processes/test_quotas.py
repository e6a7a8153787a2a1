"""Quotas: what a spool takes stays below its limits, and what has no room is counted."""

from __future__ import annotations

import logging
import os
import queue
import signal
import time
from collections import Counter

import pytest

import femtomp
from femtomp.lanes.space import read_space
from tests.processes.harness import Attached, fork, lines, until

QUOTA = 2 * 1024 * 1024
DEAD = "http://127.0.0.1:9/v1/logs"  # nobody listens on the discard port


def taken(server):
    """Return how many bytes the spool's files take on the disk."""
    total = 0
    for path in (server.spool / "lanes").iterdir():
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass  # freed a moment ago
    return total


def start(tmp_path, *, dead=True, **options):
    sinks = [femtomp.FileSink(tmp_path / "app.jsonl")]
    if dead:
        sinks.append(femtomp.OTLPSink(DEAD))
    options = {"spool_quota_bytes": QUOTA, "linger_s": 0.0, **options}
    return femtomp.start_server(sinks, spool_parent=tmp_path, **options)


def log(count, level=logging.INFO, first=0):
    logger = logging.getLogger("shop")
    for number in range(first, first + count):
        logger.log(level, "record", extra={"number": number, "padding": "x" * 400})


def log_at_ease(rounds, size):
    """Log no faster than a healthy sink delivers: what it misses would be its own."""
    for number in range(rounds):
        log(size, first=number * size)
        signal.sigtimedwait((), 0.05)


def in_a_worker(work, *args):
    with Attached():
        assert os.waitpid(fork(work, *args), 0)[1] == 0


def numbers(tmp_path):
    return [r["attributes"]["number"] for r in lines(tmp_path / "app.jsonl")]


def check_law(stats):
    """Every committed record is somewhere, and every begun one committed or dropped."""
    committed = {name: sink.committed for name, sink in stats.sinks.items()}
    assert len(set(committed.values())) == 1, committed
    assert committed["file"] + sum(stats.dropped.values()) == stats.started


@pytest.mark.parametrize("limit", ["spool_quota_bytes", "lane_quota_bytes"])
def test_a_dead_sink_loses_its_oldest_and_no_other_any(tmp_path, limit):
    """With `drop_old` the healthy sink gets everything, the dead one counts what it
    misses, and no log call drops anything.
    """
    quotas = {"spool_quota_bytes": 64 * QUOTA, limit: QUOTA}
    with start(tmp_path, **quotas) as server:
        in_a_worker(log_at_ease, 40, 500)
        until(lambda: server.stats().sinks["file"].pending == 0, "the file has all")
        until(lambda: taken(server) <= QUOTA, "room was made")
        stats = server.stats()
        check_law(stats)
        assert not any(stats.dropped.values())
        assert numbers(tmp_path) == list(range(20_000))
        dead = stats.sinks["otlp"]
        assert dead.evicted > 10_000
        assert dead.evicted + dead.pending == stats.started == 20_000
        assert stats.sinks["file"].evicted == 0
        server.stop(0.1)


def test_new_records_are_dropped_where_told_to(tmp_path):
    """With `drop_new` the slowest sink decides for all; errors have an eighth more."""

    def work():
        log(20_000)
        log(100, logging.ERROR, first=20_000)

    with start(tmp_path, overflow="drop_new") as server:
        in_a_worker(work)
        until(lambda: server.stats().sinks["file"].pending == 0, "the file has all")
        stats = server.stats()
        check_law(stats)
        found = numbers(tmp_path)
        assert stats.dropped["quota"] == 20_100 - len(found) > 10_000
        assert stats.dropped_by_level["INFO"] == stats.dropped["quota"]
        assert found[-100:] == list(range(20_000, 20_100))
        assert stats.sinks["otlp"].evicted == 0
        assert taken(server) <= QUOTA
        server.stop(0.1)


def test_callers_wait_for_room_where_told_to(tmp_path):
    """With `block` a fast logger waits for the sink instead of dropping."""
    with start(tmp_path, dead=False, overflow="block", block_s=20.0) as server:
        in_a_worker(log, 20_000)
        assert server.flush(30)
        stats = server.stats()
        check_law(stats)
        assert not any(stats.dropped.values())
        assert numbers(tmp_path) == list(range(20_000))


def test_a_full_queue_says_so(tmp_path):
    """With `block` a put into a lane that stays full raises `queue.Full`, counted."""
    with start(tmp_path, overflow="block", block_s=0.05) as server:
        assert not server.queue.full()
        item = {"body": "record", "number": 0, "padding": "x" * 100_000}
        with pytest.raises(queue.Full):  # noqa: PT012 - the one that is too many
            for _ in range(100):
                server.queue.put(item)
        assert server.queue.full()
        until(lambda: server.stats().sinks["file"].pending == 0, "the file has all")
        stats = server.stats()
        check_law(stats)
        assert stats.dropped["quota"] == 1
        server.stop(0.1)


def test_a_stopped_engine_costs_records_but_no_caller(tmp_path):
    """With the engine stopped the quota holds, what is dropped is counted, and all that
    is kept is delivered once it goes on.
    """
    with start(tmp_path, dead=False) as server:
        engine = server._spool.control()[2]
        os.kill(engine, signal.SIGSTOP)
        in_a_worker(log, 20_000)
        assert taken(server) <= QUOTA
        # Nobody asks for room any more: the request of a dropped record is old soon.
        asked_ns = read_space(server._spool.lanes).asked_ns
        until(lambda: time.monotonic_ns() > asked_ns + 1e9, "a second has passed")
        os.kill(engine, signal.SIGCONT)
        assert server.flush(30)
        stats = server.stats()
        check_law(stats)
        found = numbers(tmp_path)
        assert found == list(range(len(found))), "the oldest were kept, in order"
        assert stats.dropped["quota"] == 20_000 - len(found) > 10_000
        assert stats.started == 20_000


def test_a_noisy_worker_does_not_cost_the_others_theirs(tmp_path):
    """Where room is made, the lane that holds most gives: quiet ones keep theirs."""

    def quiet():
        log(20, first=1_000_000)
        signal.sigwait([signal.SIGTERM])

    with start(tmp_path, dead=True) as server:
        with Attached():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            pid = fork(quiet)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            until(lambda: server.stats().started >= 20, "the quiet one has logged")
            assert os.waitpid(fork(log, 20_000), 0)[1] == 0
        lane = next(lane for lane in server.stats().lanes if lane.pid == pid)
        assert lane.sinks["otlp"].evicted == 0
        assert lane.sinks["otlp"].pending == 20
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        server.stop(0.1)


def test_many_idle_workers_fit_a_small_shm(tmp_path):
    """100 workers that logged a line each, and wait, fit a fifth of half of 64 MB."""

    def work(number):
        log(1, first=number)
        signal.sigwait([signal.SIGTERM])

    share = 32 * 1024 * 1024 // 5
    with start(tmp_path, dead=False, spool_quota_bytes=share) as server:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        with Attached():
            pids = [fork(work, number) for number in range(100)]
        try:
            until(lambda: server.stats().started == 100, "all have logged", 60)
            assert server.flush(30)
            assert not any(server.stats().dropped.values())
            assert taken(server) <= share * 7 // 8
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            for pid in pids:
                os.waitpid(pid, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    assert sorted(numbers(tmp_path)) == list(range(100))


def test_short_lived_workers_stay_inside_while_no_engine_works(tmp_path, capfd):
    """Workers that come and go while the engine is stopped never exceed the quota; each
    record is delivered later, or counted and said on stderr.
    """
    with start(tmp_path, dead=False) as server:
        engine = server._spool.control()[2]
        os.kill(engine, signal.SIGSTOP)
        most = 0
        with Attached():
            for number in range(150):
                assert os.waitpid(fork(log, 1, logging.INFO, number), 0)[1] == 0
                most = max(most, taken(server))
        assert most <= QUOTA
        os.kill(engine, signal.SIGCONT)
        assert server.flush(30)
        stats = server.stats()
        check_law(stats)
        found = numbers(tmp_path)
        assert Counter(found).most_common(1)[0][1] == 1
        assert stats.started == 150
        assert stats.dropped["quota"] == 150 - len(found) > 0
        assert stats.dropped_by_level["INFO"] == stats.dropped["quota"]
    said = capfd.readouterr().err
    assert "quota" in said
