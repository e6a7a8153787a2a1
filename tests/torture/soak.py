"""Hours of a pool whose workers are killed and replaced, and its engine now and then.

What must not grow: memory and descriptors of engine and guardian, files in the spool.
Sampled all the time; the last quarter is held to the second.
"""

from __future__ import annotations

import os
import signal
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psutil

from femtomp.lanes.spool import GUARDIAN
from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned, until
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, engine_of, kill, serving

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool

NAME = "soak"
FULL_S = 3600.0
WORKERS = 8
PAUSE_S = 0.02
# At full scale; in shorter runs everything happens as often a run as would be seen.
KILL_EVERY_S = 5.0
# In the first quarter alone: what an engine piles up is seen in one that lives.
ENGINES = 3
SAMPLE_EVERY_S = 5.0
SAMPLES = 40
# Of the second quarter's median, and what a page, a file or a lane is worth.
GROWTH = 1.10
SLACK = {"rss_kib": 512, "descriptors": 4, "files": 6}
# In shorter runs an interpreter is still warming up.
JUDGED_S = 300.0
BACK_S = 20.0


class Sample(NamedTuple):
    """What engine, guardian and spool take at one moment."""

    seconds: float
    rss_kib: int
    descriptors: int
    files: int

    def line(self) -> str:
        """Give a row of the table."""
        return (
            f"{self.seconds:>8.0f} s {self.rss_kib:>9} KiB {self.descriptors:>6} "
            f"descriptors {self.files:>5} files"
        )


def run(given: Given) -> list[Outcome]:
    """Kill and replace for as long as the scale says."""
    whole_s = max(1.5, FULL_S * given.scale)
    part = min(1.0, whole_s / FULL_S * 20)
    kill_s, engine_s = KILL_EVERY_S * part, whole_s / (4 * ENGINES)
    watch = Watch()
    turns = int(whole_s / kill_s) + WORKERS + 2
    returned = Returned(turns)
    with serving(given.directory) as server:
        spool = server._spool
        samples, kills, engines = _live(
            given, spool, returned, whole_s, (kill_s, engine_s)
        )
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(spool)
    growth = {name: _growth(samples, name) for name in SLACK}
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        all_flushed=flushed,
        engines_as_deaths=stats.engine_starts == engines + 1,
        **{
            f"{name} flat": late <= early * GROWTH + SLACK[name] or whole_s < JUDGED_S
            for name, (early, late) in growth.items()
        },
    )
    worst = (
        f"{whole_s:.0f} s, {engines} engines killed; second and last quarter: "
        + ", ".join(f"{n} {e:.0f}, {late:.0f}" for n, (e, late) in growth.items())
        + f"; {sum(returned.all())} records"
    )
    return [
        Outcome(
            NAME, kills, verdict.lost, verdict.duplicates, worst, missed,
            watch.seconds(), tuple(sample.line() for sample in samples),
        )
    ]  # fmt: skip


def _live(given, spool: Spool, returned: Returned, whole_s: float, every):
    kill_s, engine_s = every
    chance = given.chance(NAME)

    def fork(number: int) -> int:
        return oracle.forked(
            oracle.log_until_killed, returned, given.seed, number, PAUSE_S
        )

    workers = [fork(n) for n in range(WORKERS)]
    begun = time.monotonic()
    next_kill, next_engine, next_sample = kill_s, engine_s / 2, 0.0
    sample_s = min(SAMPLE_EVERY_S, whole_s / SAMPLES)
    samples: list[Sample] = []
    kills = engines = 0
    try:
        while (now := time.monotonic() - begun) < whole_s:
            if now >= next_sample:
                samples.append(_sample(spool, now))
                next_sample = now + sample_s
            if now >= next_kill and WORKERS + kills < returned.workers:
                place = chance.randrange(WORKERS)
                kill(workers[place])
                workers[place] = fork(WORKERS + kills)
                kills += 1
                next_kill = now + kill_s
            if now >= next_engine and now < whole_s / 4:
                dead = engine_of(spool)
                os.kill(dead, signal.SIGKILL)
                until(lambda d=dead: engine_of(spool) != d, "a new engine", BACK_S)
                engines += 1
                next_engine = time.monotonic() - begun + engine_s
            time.sleep(min(0.02, sample_s))
    finally:
        kill(*workers)
    return samples, kills, engines


def _sample(spool: Spool, now: float) -> Sample:
    rss = descriptors = 0
    for pid in (spool.control()[GUARDIAN], engine_of(spool)):
        process = psutil.Process(pid)
        rss += process.memory_info().rss
        descriptors += process.num_fds()
    return Sample(now, rss // 1024, descriptors, len(os.listdir(f"{spool.path}/lanes")))


def _growth(samples: list[Sample], name: str) -> tuple[float, float]:
    values = [getattr(sample, name) for sample in samples]
    quarter = max(1, len(values) // 4)
    return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])
