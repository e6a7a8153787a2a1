"""The engine stopped (SIGSTOP): log calls do not notice, and nothing is missing after."""

from __future__ import annotations

import os
import signal
import time

from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, engine_of, kill, serving
from tests.torture.worker_kills import JUDGED_CALLS, STALL_LIMIT_US

NAME = "engine stopped (SIGSTOP)"
FULL_S = 60.0
PAUSE_S = 0.0005
# Of the unstalled value; on shared cores the scheduler's share of it varies as much.
MOST, ROOM_US = 3.0, 1000


def run(given: Given) -> list[Outcome]:
    """Time the calls of one worker while the engine runs, and while it stands."""
    each_s = max(0.7, FULL_S * given.scale)
    watch = Watch()
    returned = Returned(2)
    latencies = oracle.Latencies(2, 250_000)
    with serving(given.directory) as server:
        engine = engine_of(server._spool)
        slot = Returned(1)
        for turn in range(2):
            slot.set(0, turn)
            if turn:
                os.kill(engine, signal.SIGSTOP)
            worker = oracle.forked(
                oracle.log_timed, returned, given.seed, turn, latencies, slot, PAUSE_S
            )
            time.sleep(each_s)
            kill(worker)
        os.kill(engine, signal.SIGCONT)
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(server._spool)
    running_us, stopped_us = latencies.us(0, 0.999), latencies.us(1, 0.999)
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        no_duplicates=verdict.duplicates == 0,
        all_flushed=flushed,
        calls_not_slower=stopped_us <= MOST * running_us + ROOM_US
        or (returned[1] < JUDGED_CALLS and stopped_us < STALL_LIMIT_US),
        engine_not_restarted=stats.engine_starts == 1,
    )
    worst = f"p99.9 of the call {stopped_us:.0f} us, running {running_us:.0f} us"
    return [
        Outcome(
            NAME, returned[1], verdict.lost, verdict.duplicates, worst, missed,
            watch.seconds(),
        )
    ]  # fmt: skip
