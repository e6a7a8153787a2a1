"""SIGKILL of a worker at random moments; other workers go on undisturbed."""

from __future__ import annotations

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
BYSTANDERS = 1
PAUSE_S = 0.0005
CALM_S = 4.0
# Beside fork and exit of the killed the bystander waits for the processor too: this
# catches a lock that the dead held, not the scheduler.
STALL_LIMIT_US = 1_000_000


def run(given: Given) -> list[Outcome]:
    """Kill workers, with a bystander whose calls are timed before and meanwhile."""
    kills = given.count(FULL, least=10)
    chance = given.chance(NAME)
    watch = Watch()
    returned = Returned(kills + 2 * BYSTANDERS)
    latencies = oracle.Latencies(2, 4_000_000 // 16)
    with serving(given.directory) as server:
        calm = oracle.forked(
            oracle.log_timed, returned, given.seed, kills, latencies, 0, PAUSE_S
        )
        time.sleep(CALM_S * min(1.0, given.scale * 20))
        kill(calm)
        bystander = oracle.forked(
            oracle.log_timed, returned, given.seed, kills + 1, latencies, 1, PAUSE_S
        )
        for worker in range(kills):
            victim = oracle.forked(
                oracle.log_until_killed, returned, given.seed, worker
            )
            time.sleep(chance.uniform(0, LIFE_S))
            kill(victim)
        kill(bystander)
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(server._spool)
    calm_us, beside_us = latencies.us(0, 0.999), latencies.us(1, 0.999)
    silent = sum(1 for count in returned.all()[:kills] if not count)
    worst = (
        f"other worker's p99.9 {beside_us:.0f} us, alone {calm_us:.0f} us; longest "
        f"{latencies.us(1, 1.0) / 1000:.1f} ms, alone {latencies.us(0, 1.0) / 1000:.1f}; "
        f"{sum(returned.all())} records, {silent} killed before their first"
    )
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        no_duplicates=verdict.duplicates == 0,
        all_flushed=flushed,
        engine_undisturbed=stats.engine_starts == 1,
        no_stall=latencies.us(1, 1.0) < STALL_LIMIT_US,
        bystander_logged=returned[kills + 1] > 0,
    )
    return [
        Outcome(
            NAME,
            kills,
            verdict.lost,
            verdict.duplicates,
            worst,
            missed,
            watch.seconds(),
        )
    ]
