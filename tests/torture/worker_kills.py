"""SIGKILL of a worker at random moments; other workers go on undisturbed."""

from __future__ import annotations

import os
import time

from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, kill, serving

NAME = "worker killed"
FULL = 10_000
# A worker's life: from its fork, through the making of its lane, to some hundred calls.
LIFE_S = 0.012
PAUSE_S = 0.0005
# Workers that end by themselves in between, a block of them and a block of kills.
BLOCKS = 10
# Beside fork and exit of the killed the bystander waits for the processor too: this
# catches a lock that the dead held, not the scheduler.
STALL_LIMIT_US = 1_000_000
# Of the value without kills; on shared cores the scheduler's share of it varies as much.
MOST, ROOM_US = 3.0, 2000
# Of fewer calls the 99.9th in a hundred is the longest, which is the scheduler's.
JUDGED_CALLS = 10_000
WITHOUT, WITH = 0, 1


def run(given: Given) -> list[Outcome]:
    """Kill workers, beside one whose calls are timed with kills and without."""
    kills = given.count(FULL, least=10)
    watch = Watch()
    # Those that are killed, those that end by themselves, and the bystander.
    returned = Returned(2 * kills + 1)
    latencies = oracle.Latencies(2, 4_000_000 // 16)
    with serving(given.directory) as server:
        slot = Returned(1)
        bystander = oracle.forked(
            oracle.log_timed, returned, given.seed, 2 * kills, latencies, slot, PAUSE_S
        )
        _kill_all(given, returned, kills, slot)
        kill(bystander)
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(server._spool)
    calm_us, beside_us = latencies.us(WITHOUT, 0.999), latencies.us(WITH, 0.999)
    silent = sum(1 for count in returned.all()[:kills] if not count)
    worst = (
        f"other worker's p99.9 {beside_us:.0f} us, without kills {calm_us:.0f} us; "
        f"longest {latencies.us(WITH, 1.0) / 1000:.1f} ms, without "
        f"{latencies.us(WITHOUT, 1.0) / 1000:.1f}; {sum(returned.all())} records, "
        f"{silent} killed before their first"
    )
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        no_duplicates=verdict.duplicates == 0,
        all_flushed=flushed,
        engine_undisturbed=stats.engine_starts == 1,
        no_stall=latencies.us(WITH, 1.0) < STALL_LIMIT_US,
        calls_not_slower=beside_us <= MOST * calm_us + ROOM_US
        or returned[2 * kills] < JUDGED_CALLS,
        bystander_logged=returned[2 * kills] > 0,
    )
    return [
        Outcome(
            NAME, kills, verdict.lost, verdict.duplicates, worst, missed,
            watch.seconds(),
        )
    ]  # fmt: skip


def _kill_all(given: Given, returned: Returned, kills: int, slot: Returned) -> None:
    """Kill a block of workers, let a block end by itself, and so on."""
    chance = given.chance(NAME)
    block = max(1, kills // BLOCKS)
    for worker in range(kills):
        slot.set(0, WITH)
        victim = oracle.forked(oracle.log_until_killed, returned, given.seed, worker)
        time.sleep(chance.uniform(0, LIFE_S))
        kill(victim)
        if worker % block == block - 1 or worker == kills - 1:
            slot.set(0, WITHOUT)
            for other in range(worker // block * block, worker + 1):
                life_s = chance.uniform(0, LIFE_S)
                os.waitpid(
                    oracle.forked(
                        oracle.log_for, returned, given.seed, kills + other, life_s
                    ),
                    0,
                )
