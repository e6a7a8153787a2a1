"""Log calls inside log calls: from a fast timer that also throws, from finalisers.

A call may begin between any two instructions of another: in a signal handler, in
`__del__`, in a callback of the collector, in a `__repr__`. And an exception may be
thrown into it there. Each source of calls, at each depth, numbers its own records.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, KINDS, serving

if TYPE_CHECKING:
    from pathlib import Path

NAME = "calls inside calls"
FULL = 1_000_000
TIMER_S = 1 / 5000
SOURCES = ("main", "timer", "finaliser", "collector", "repr")
DEPTH = 4
# So that a collection, with its finalisers and callbacks, falls into every few calls.
COLLECT_AFTER = 200


class Thrown(BaseException):
    """Thrown by the timer's handler into whatever runs."""


class Sources:
    """Where calls come from in one worker, each with its own row of numbers."""

    def __init__(self, returned: Returned, given: Given) -> None:
        self._log = logging.getLogger(oracle.LOGGER)
        self._returned = returned
        self._seed = given.seed
        self._chance = given.chance(NAME)
        self._depth = 0
        # At each depth, whether what runs there is ready for an exception.
        self._ready = [False] * (DEPTH + 1)
        self._counts = [itertools.count() for _ in range(returned.workers)]
        self._done: list[set[int]] = [set() for _ in self._counts]
        self.ended = False

    def say(self, source: str, extra: object = "") -> None:
        """Log one record, unless calls are as deep as they are counted."""
        depth = self._depth
        if depth >= DEPTH or self.ended:
            return
        row = SOURCES.index(source) * DEPTH + depth
        number = next(self._counts[row])
        self._depth = depth + 1
        try:
            try:
                self._ready[depth] = True
                self._log.info(
                    "%s",
                    oracle.text_of(self._seed, row, number),
                    extra={"worker": row, "number": number, "extra": extra},
                )
            finally:
                self._ready[depth] = False
        except Thrown:
            return
        finally:
            self._depth = depth
        self._done[row].add(number)
        self._returned.set(row, number + 1)

    def on_timer(self, *_: object) -> None:
        """Log, and throw into the call that was interrupted, now and then."""
        below = self._depth - 1
        self.say("timer")
        if below >= 0 and self._ready[below] and self._chance.random() < 0.2:
            self._ready[below] = False
            raise Thrown

    def on_collection(self, phase: str, _: object) -> None:
        """Log in the collector's callback."""
        if phase == "start":
            self.say("collector")

    def end(self) -> list[tuple[int, int]]:
        """Say no more; return (row, number) of the calls that did not return.

        Of a finaliser that an exception ended before its call, too.
        """
        self.ended = True
        for row, count in enumerate(self._counts):
            self._returned.set(row, next(count))
        return [
            (row, number)
            for row, done in enumerate(self._done)
            for number in range(self._returned[row])
            if number not in done
        ]


class Garbage:
    """A cycle, which the collector finds at a moment of its own; it logs then."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._self = self

    def __del__(self) -> None:
        self._sources.say("finaliser")


class Talkative:
    """A value whose rendering logs."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __repr__(self) -> str:
        self._sources.say("repr")
        return "talkative"


def run(given: Given) -> list[Outcome]:
    """Log from all sources at once, with each writer."""
    return [_run(given, kind) for kind in KINDS]


def _run(given: Given, kind: str) -> Outcome:
    directory = given.below(kind)
    calls = given.count(FULL // 2, least=500)
    watch = Watch()
    returned = Returned(len(SOURCES) * DEPTH)
    with serving(directory, kind=kind) as server:
        pid = oracle.forked(_work, returned, given, calls, directory / "thrown.json")
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        flushed = server.flush(FLUSH_S)
        verdict = oracle.Verdict(given.seed, returned)
        if ended == 0:
            thrown = json.loads((directory / "thrown.json").read_text())
            verdict.excused = {(row, number) for row, number in thrown}
        uids = set()
        for each in oracle.in_file(directory / "app.jsonl"):
            uids.add(each.uid)
            verdict.see([each])
        stats = read_stats(server._spool)
    counts = returned.all()
    missed = misses(
        **verdict.faults(),
        no_duplicates=verdict.duplicates == 0,
        no_sequence_twice=len(uids) == verdict.found,
        nothing_unreadable=stats.sinks["file"].corrupt == 0,
        delivered_is_found=stats.sinks["file"].delivered == verdict.found,
        nothing_dropped=not any(stats.dropped.values()),
        all_begun_are_counted=verdict.found <= stats.started,
        all_flushed=flushed,
        worker_ended_well=ended == 0,
        every_source_spoke=all(
            any(counts[n * DEPTH : (n + 1) * DEPTH]) for n in range(len(SOURCES))
        ),
    )
    inner = sum(counts) - counts[0]
    worst = (
        f"{inner} of the calls inside others, {len(verdict.excused)} thrown out of; "
        f"{verdict.found - len(uids)} repeated sequences"
    )
    return Outcome(
        f"{NAME} ({kind})", sum(counts), verdict.lost, verdict.duplicates, worst,
        missed, watch.seconds(),
    )  # fmt: skip


def _work(returned: Returned, given: Given, calls: int, path: Path) -> None:
    sys.unraisablehook = lambda _: None  # thrown into a finaliser: it is said there
    random.seed(given.seed)
    sources = Sources(returned, given)
    signal.signal(signal.SIGALRM, sources.on_timer)
    gc.callbacks.append(sources.on_collection)
    gc.set_threshold(COLLECT_AFTER)
    signal.setitimer(signal.ITIMER_REAL, TIMER_S, TIMER_S)
    talkative = Talkative(sources)
    turn = 0
    while sum(returned.all()) < calls:
        for _ in range(50):
            turn += 1
            Garbage(sources)
            sources.say("main", talkative if turn % 5 == 0 else turn)
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    path.write_text(json.dumps(sources.end()))
