"""Forks while other threads are in the middle of log calls: no child hangs."""

from __future__ import annotations

import logging
import os
import select
import threading
import time

from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, kill, serving

NAME = "forks while 8 threads log"
FULL = 10_000
THREADS = 8
RECORDS = 3
# A child logs three records; it has to wait for the processor, never for a lock.
HANG_S = 30.0
AT_ONCE = 4
PAUSE_S = 0.0005


def run(given: Given) -> list[Outcome]:
    """Fork children that log, out of a process whose threads log all the time."""
    forks = given.count(FULL, least=20)
    watch = Watch()
    returned = Returned(forks + THREADS)
    stop = threading.Event()
    with serving(given.directory) as server:
        threads = [
            threading.Thread(
                target=_log_until, args=(returned, given.seed, forks + n, stop)
            )
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        try:
            hangs, failed, longest = _fork_all(given, returned, forks)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(server._spool)
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        no_duplicates=verdict.duplicates == 0,
        no_hangs=hangs == 0,
        every_child_logged_and_ended=failed == 0,
        all_flushed=flushed,
    )
    worst = (
        f"{hangs} hangs; longest child {longest * 1000:.0f} ms; "
        f"{sum(returned.all()[forks:])} records of the threads"
    )
    return [
        Outcome(
            NAME,
            forks,
            verdict.lost,
            verdict.duplicates,
            worst,
            missed,
            watch.seconds(),
        )
    ]


def _log_until(returned, seed, worker, stop) -> None:
    log = logging.getLogger(oracle.LOGGER)
    number = 0
    while not stop.is_set():
        oracle.log_one(log, seed, worker, number)
        number += 1
        returned.set(worker, number)
        time.sleep(PAUSE_S)


def _fork_all(given, returned, forks) -> tuple[int, int, float]:
    hangs = failed = 0
    longest = 0.0
    running: dict[int, tuple[int, float]] = {}
    for worker in range(forks):
        begun = time.monotonic()
        pid = oracle.forked(oracle.log_count, returned, given.seed, worker, RECORDS)
        running[pid] = os.pidfd_open(pid), begun
        while len(running) >= (AT_ONCE if worker < forks - 1 else 1):
            oldest = next(iter(running))
            pidfd, begun = running.pop(oldest)
            left = max(0.0, begun + HANG_S - time.monotonic())
            if select.select([pidfd], [], [], left)[0]:
                failed += os.waitpid(oldest, 0)[1] != 0
            else:
                hangs += 1
                kill(oldest)
            longest = max(longest, time.monotonic() - begun)
            os.close(pidfd)
    return hangs, failed, longest
