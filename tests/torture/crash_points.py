"""A worker, or an engine, killed at every point where it changes anything.

A worker attaches, logs, rolls segments, calls itself inside an append, ends. An engine
starts, delivers, frees, reaps, stops. Each is killed at its k-th such step, for all k;
again at the same place; and, for engines, while it recovers from that.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

import femtomp
from femtomp.errors import SpoolError
from femtomp.grammar import resolve_sinks
from femtomp.lanes import place, reader, space
from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import Position
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.options import ServerConfig
from femtomp.supervisor import engine as engines
from femtomp.supervisor import guardian, poller, pump
from femtomp.supervisor.guardian import EXIT_DRAINED, Launch
from femtomp.supervisor.stats import open_lanes, read_stats
from tests.lanes.conftest import drain
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import KINDS, left_in
from tests.torture.points import Points

if TYPE_CHECKING:
    from pathlib import Path

    from femtomp.lanes.reader import Lane
    from femtomp.supervisor.stats import ServerStats

RECORDS, ROLLS = 3, 16
SEGMENT_BYTES = 4096
# Each has a cursor of its own in every lane; both are files.
SINKS = ("file", "other")
# No process takes so many steps; a bound for a count that would never end.
MOST = 2000
# An engine that takes longer has stopped.
STUCK_S = 20.0
STDERR = 2


class Made(NamedTuple):
    """A spool without a supervisor, and the rows of workers that log to it."""

    spool: Path
    returned: Returned


def make(directory: Path, kind: str, rows: int) -> Made:
    """Make a spool that looks as if a supervisor served it."""
    spool = place.create(
        directory, "torture", level=logging.INFO, sinks=SINKS,
        master={"pid": 0, "start_ticks": 0, "boot_id": ""}, writer=kind,
    )  # fmt: skip
    spool.set_control(STATE, State.RUNNING)
    path = directory / os.path.basename(spool.path)
    spool.close()
    return Made(path, Returned(rows))


def work(made: Made, seed: int, row: int, at: int, reached: Returned) -> None:
    """Be a worker that dies at its `at`-th point: rows `row` and the next are its."""
    writers.FIRST_BYTES = writers.SEGMENT_BYTES = SEGMENT_BYTES
    log = logging.getLogger(oracle.LOGGER)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    points = Points(at, reached)
    points.install()
    log.addHandler(femtomp.worker_handler(spool=made.spool))
    oracle.log_count(made.returned, seed, row, RECORDS)
    # At the first point of the next append: a call inside a call.
    points.inside = lambda: oracle.log_count(made.returned, seed, row + 1, 1)
    oracle.log_count(made.returned, seed, row, ROLLS)
    logging.shutdown()


def run_workers(given: Given) -> list[Outcome]:
    """Kill workers."""
    return [_run_workers(given, kind) for kind in KINDS]


def _run_workers(given: Given, kind: str) -> Outcome:
    watch = Watch()
    reached = Returned(1)
    probe = make(given.below(f"probe-{kind}"), kind, 2)
    ends = [_ended(oracle.forked(work, probe, given.seed, 0, 0, reached))]
    steps = reached[0]
    chosen = _points(given, steps, f"worker-{kind}", 4)
    # Each place twice in a row.
    made = make(given.below(kind), kind, 4 * len(chosen))
    for index, at in enumerate(chosen):
        for again in range(2):
            row = 4 * index + 2 * again
            end = _ended(oracle.forked(work, made, given.seed, row, at, reached))
            ends.append(end + signal.SIGKILL)
    verdict = oracle.Verdict(given.seed, made.returned).see(_in_order(made.spool))
    corrupt, stopped, stats = _damage(made.spool)
    committed = stats.sinks["file"].committed
    # And an engine makes a clean end of what they left.
    run = Run(given, made, made.spool.parent)
    engine_end = run.engine(0)
    run.close()
    in_file = oracle.Verdict(given.seed, made.returned)
    in_file.see(oracle.in_file(made.spool.parent / f"{SINKS[0]}.jsonl"))
    missed = misses(
        **verdict.faults(),
        **{f"{name} (file)": good for name, good in in_file.faults().items()},
        no_duplicates=verdict.duplicates == 0 and in_file.duplicates == 0,
        every_worker_died_where_it_should=not any(ends),
        nothing_unreadable=corrupt == 0,
        **{
            "returned <= committed": sum(made.returned.all()) <= committed,
            "committed <= started": committed <= stats.started,
        },
        no_stop=not stopped and engine_end == EXIT_DRAINED,
        spool_removed=not made.spool.exists(),
        calls_inside_calls=any(made.returned.all()[1::2]),
    )
    worst = f"of {steps} points, twice in a row; {sum(made.returned.all())} records"
    return Outcome(
        f"worker killed at each point ({kind})", 2 * len(chosen), verdict.lost,
        verdict.duplicates, worst, missed, watch.seconds(),
    )  # fmt: skip


def _points(given: Given, steps: int, salt: str, least: int) -> list[int]:
    places = range(1, min(MOST, steps) + 1)
    count = min(len(places), max(least, round(len(places) * given.scale * 10)))
    return sorted(given.chance(salt).sample(places, count))


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _in_order(path: Path) -> list[oracle.Found]:
    return sorted(left_in(path), key=lambda each: each.uid.rpartition("-")[0])


def _damage(path: Path) -> tuple[int, bool, ServerStats]:
    """Tell how many frames cannot be read, whether reading did not end, and the rest."""
    spool, corrupt, stopped = Spool(path), 0, False
    try:
        stats = read_stats(spool)
        for lane in open_lanes(spool):
            lane.ended = lane.final = True
            _, position, bad = drain(lane)
            corrupt += bad + _holes(lane)
            stopped |= lane.is_behind(lane.normalised(position))
    finally:
        spool.close()
    return corrupt, stopped, stats


def _holes(lane: Lane) -> int:
    """Count the places in mapped segments that are committed and hold no frame."""
    holes, position = 0, Position()
    while True:
        position = lane.normalised(position)
        found = lane.find(*position[:2], position.sequence)
        if found is None:
            return holes
        is_mapped = lane._file(found.number)[1] is not None
        holes += is_mapped and not found.frames
        position = position.behind(found.number, found.after, found.sequence)


# -- engines -----------------------------------------------------------------------------


class Run:
    """Engines, one after the other, on one spool, with files as sinks."""

    def __init__(self, given: Given, made: Made, top: Path) -> None:
        self._given = given
        self._made = made
        sinks = [femtomp.FileSink(top / f"{n}.jsonl", name=n) for n in SINKS]
        self._config = ServerConfig(name="torture", sinks=resolve_sinks(sinks, {}))
        # Open all the time, as the guardian has it.
        self._spool = Spool(made.spool)
        self.reached = Returned(1)
        self.delivered: list[int] | None = None

    def engine(self, at: int) -> int | None:
        """Run an engine until it ends, or dies at a point; None: neither.

        Members leave when all lanes have been reaped.
        """
        read, write = os.pipe()
        self.reached.set(0, 0)
        launch = Launch(
            self._config, str(self._made.spool), {}, -1, read, STDERR, STDERR
        )
        pid = oracle.forked(_be_engine, launch, write, at, self.reached)
        os.close(read)
        deadline = time.monotonic() + STUCK_S
        try:
            while time.monotonic() < deadline:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
                if write >= 0 and self._is_reaped():
                    os.close(write)
                    write = -1
                time.sleep(0.002)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        finally:
            if write >= 0:
                os.close(write)

    def _is_reaped(self) -> bool:
        """Tell whether no lane is left, and note what the statistics say then."""
        try:
            spool = Spool(self._made.spool)
        except SpoolError:
            return False
        try:
            if any(name.endswith(".own") for name in os.listdir(f"{spool.path}/lanes")):
                return False
            stats = read_stats(spool)
            self.delivered = [stats.sinks[name].delivered for name in SINKS]
        finally:
            spool.close()
        return True

    def is_over(self) -> bool:
        """Do what the guardian does when an engine is dead; tell whether it ends."""
        return guardian.is_over(self._spool)

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()


def _be_engine(launch: Launch, write: int, at: int, reached: Returned) -> None:
    os.close(write)
    # A second's waits are for machines with more to do.
    poller.QUIET_S, poller._RESCAN_S = 0.02, 0.01
    poller.BUSY_S = poller.IDLE_S = 0.002
    engines._MEMBERS_CHECK_S, pump.IDLE_S = 0.01, 0.005
    # Several batches of some records.
    reader.CHUNK_BYTES, pump.MAX_BATCH_RECORDS = 2048, 4
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    signal.pthread_sigmask(signal.SIG_SETMASK, guardian._SIGNALS)
    # How much is used is written down again and again, and no promise hangs on it.
    Points(at, reached, ignored=space.NAME).install()
    os._exit(engines.main(launch))


def run_engines(given: Given) -> list[Outcome]:
    """Kill engines: once, twice in a row, and while one recovers."""
    return [_run_engines(given, kind) for kind in given.some(KINDS, "engines")]


def _run_engines(given: Given, kind: str) -> Outcome:
    watch = Watch()
    template = make(given.below(f"template-{kind}"), kind, 4)
    reached = Returned(1)
    for row in (0, 2):
        assert _ended(oracle.forked(work, template, given.seed, row, 0, reached)) == 0
    whole = _case(given, template, f"{kind}-whole", [])
    steps = whole.steps
    chosen = _points(given, steps, f"engine-{kind}", 1)
    plans = [[at] for at in chosen] + [[at, at] for at in chosen]
    chance = given.chance(f"recovery-{kind}")
    plans += [[at, chance.randint(1, steps)] for at in chosen]
    cases = [whole]
    for index, plan in enumerate(plans):
        cases.append(_case(given, template, f"{kind}-{index}", plan))
    missed = tuple(
        sorted({f"{m}, killed at {c.plan}" for c in cases for m in c.missed})
    )
    worst = (
        f"of {steps} points, once, twice in a row, and in recovery; "
        f"{sum(c.deaths for c in cases)} deaths"
    )
    return Outcome(
        f"engine killed at each point ({kind})", len(cases), sum(c.lost for c in cases),
        sum(c.duplicates for c in cases), worst, missed, watch.seconds(),
    )  # fmt: skip


class Case(NamedTuple):
    """What came of one plan of deaths."""

    plan: list[int]
    steps: int
    deaths: int
    lost: int
    duplicates: int
    missed: tuple[str, ...]


def _case(given: Given, template: Made, name: str, plan: list[int]) -> Case:
    top = given.directory / name
    shutil.copytree(template.spool.parent, top)
    made = Made(top / template.spool.name, template.returned)
    run = Run(given, made, top)
    deaths, end = 0, EXIT_DRAINED
    for at in [*plan, 0]:
        if run.is_over():
            break
        end = run.engine(at)
        if end == -signal.SIGKILL:
            deaths += 1
    verdicts = [
        oracle.Verdict(given.seed, made.returned).see(
            oracle.in_file(top / f"{name}.jsonl")
        )
        for name in SINKS
    ]
    found = sum(made.returned.all())
    duplicates = sum(verdict.duplicates for verdict in verdicts)
    missed = misses(
        **{
            f"{fault} ({name})": good
            for name, verdict in zip(SINKS, verdicts, strict=True)
            for fault, good in verdict.faults().items()
        },
        no_stop=end in (EXIT_DRAINED, -signal.SIGKILL) and run.is_over(),
        nothing_left_behind=not made.spool.exists(),
        statistics_count_each_once=run.delivered in (None, [found] * len(SINKS)),
        no_duplicates_without_a_death=deaths > 0 or duplicates == 0,
    )
    run.close()
    shutil.rmtree(top)
    lost = sum(verdict.lost for verdict in verdicts)
    return Case(plan, run.reached[0], deaths, lost, duplicates, missed)
