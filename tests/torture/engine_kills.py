"""SIGKILL of the engine while workers log: the next one goes on at the cursors."""

from __future__ import annotations

import os
import signal
import time

from femtomp.supervisor.pump import MAX_BATCH_RECORDS
from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned, until
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, engine_of, kill, serving, starts_of

NAME = "engine killed"
FULL = 1_000
WORKERS = 2
BURST, PAUSE_S = 20, 0.04
# The guardian waits longer before each restart of an engine that lived for less than a
# second: the moments lie behind that, but for every tenth, which is killed at once.
STEADY_S = 1.02
# So few that their waits do not add up.
SHORT = 4
# From one engine's death to the next one's first look, on cores that are shared.
BACK_S = 20.0


def run(given: Given) -> list[Outcome]:
    """Kill engines; count what came twice after each death."""
    return [_run(given, NAME, given.count(FULL, least=2), bare=False)]


def run_bare(given: Given) -> list[Outcome]:
    """Do it once in a process that has nothing open: descriptor numbers are low."""
    return [_run(given, f"{NAME}, low descriptors", 1, bare=True)]


def _run(given: Given, name: str, kills: int, *, bare: bool) -> Outcome:
    chance = given.chance(name)
    watch = Watch()
    returned = Returned(WORKERS)
    longest = 0.0
    with serving(given.directory, bare=bare) as server:
        workers = [
            oracle.forked(
                oracle.log_until_killed, returned, given.seed, w, PAUSE_S, BURST
            )
            for w in range(WORKERS)
        ]
        spool = server._spool
        dead = 0
        for turn in range(kills):
            until(lambda d=dead: engine_of(spool) != d, "a new engine", BACK_S)
            dead, starts = engine_of(spool), starts_of(spool)
            soon = turn % 10 == 9 or kills < SHORT
            time.sleep(chance.uniform(0, 0.05) + (0 if soon else STEADY_S))
            begun = time.monotonic()
            os.kill(dead, signal.SIGKILL)
            until(lambda s=starts: starts_of(spool) > s, "it is restarted", BACK_S)
            longest = max(longest, time.monotonic() - begun)
        # The last engine has work to show as well, before all is read.
        until(lambda: engine_of(spool) != dead, "a new engine", BACK_S)
        before = returned.all()
        until(lambda: returned[0] > before[0] + 2 * BURST, "the workers log on")
        kill(*workers)
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        stats = read_stats(spool)
    missed = misses(
        **verdict.faults(),
        **oracle.conserves(stats, verdict, returned),
        at_most_a_batch_twice_a_death=verdict.duplicates <= kills * MAX_BATCH_RECORDS,
        all_flushed=flushed,
        as_many_engines_as_deaths=stats.engine_starts == kills + 1,
    )
    worst = f"restarted after at most {longest:.2f} s; {sum(returned.all())} records"
    return Outcome(
        name, kills, verdict.lost, verdict.duplicates, worst, missed, watch.seconds()
    )
