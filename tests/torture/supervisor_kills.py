"""Guardian and engine killed, one after the other, together, or with all the rest.

No supervisor is left then, so what is not in the file must be in the lanes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import femtomp
from femtomp.lanes.spool import GUARDIAN, Spool
from femtomp.supervisor.pump import MAX_BATCH_RECORDS
from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Attached, Returned, fork, until
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, engine_of, kill, left_in, remove

if TYPE_CHECKING:
    from pathlib import Path

FULL = 300
WORKERS = 2
BURST, PAUSE_S = 10, 0.002
GRACE_S = 0.02
SERVER = "torture"


def run(given: Given) -> list[Outcome]:
    """Kill in three ways."""
    return [
        _run(given, "guardian, then its engine killed", _guardian_then_engine),
        _run(given, "guardian and engine killed", _both),
        _run(given, "everything killed at once", _everything),
        _run_delivered(given, "everything at once, then adopted", _adopt),
        _run_delivered(given, "everything at once, then recovered", _recover),
    ]


def _guardian_then_engine(chance, guardian, engine, workers, master) -> None:
    kill(guardian)
    time.sleep(chance.uniform(0, 0.1))
    kill(engine)
    time.sleep(GRACE_S)  # workers log on, into lanes that nobody reads
    kill(*workers, master)


def _both(chance, guardian, engine, workers, master) -> None:
    kill(guardian, engine)
    time.sleep(GRACE_S)
    kill(*workers, master)


def _everything(chance, guardian, engine, workers, master) -> None:
    kill(master, *workers, guardian, engine)


def _run(given: Given, name: str, kill_all) -> Outcome:
    rounds = given.count(FULL)
    watch = Watch()
    lost = duplicates = records = pending = 0
    missed: tuple[str, ...] = ()
    for turn in range(rounds):
        directory = given.below(f"{kill_all.__name__}{turn}")
        chance = given.chance(f"{name}{turn}")
        returned = Returned(WORKERS)
        spool = _killed(given, directory, chance, returned, kill_all)
        file_only = oracle.Verdict(given.seed, returned)
        file_only.see(oracle.in_file(directory / "app.jsonl"))
        whole = oracle.Verdict(given.seed, returned)
        whole.see(sorted(left_in(spool), key=lambda each: each.uid.rpartition("-")[0]))
        in_lanes = whole.found
        whole.see(oracle.in_file(directory / "app.jsonl"))
        lost += whole.lost
        duplicates += file_only.duplicates
        records += sum(returned.all())
        stats = _stats(spool)
        pending += stats.sinks["file"].pending
        of_sink = stats.sinks["file"]
        missed += misses(
            **{**whole.faults(), "order_within_a_lane": file_only.disordered == 0},
            no_duplicate_in_the_file=file_only.duplicates == 0,
            returned_is_committed=sum(returned.all()) <= of_sink.committed,
            committed_was_started=of_sink.committed <= stats.started,
            delivered_is_in_the_file=of_sink.delivered <= file_only.found,
            lanes_hold_what_is_pending=in_lanes >= of_sink.pending,
            one_batch_at_most_is_not_counted=file_only.found - of_sink.delivered
            <= 4096,
        )
        remove(directory)
    worst = f"{records} records, {pending} of them read from the lanes afterwards"
    return Outcome(
        name, rounds, lost, duplicates, worst, tuple(sorted(set(missed))),
        watch.seconds(),
    )  # fmt: skip


def _adopt(directory: Path, path: str) -> bool:
    sink = femtomp.FileSink(directory / "app.jsonl")
    with femtomp.start_server(sink, spool_parent=directory, name=SERVER) as server:
        assert str(server.spool) == path, "another spool was made"
        return server.flush(FLUSH_S)


def _recover(directory: Path, path: str) -> bool:
    # As it was logged: random digits may look like a card number.
    command = [sys.executable, "-m", "femtomp", "recover", path, "--no-redact"]
    command += ["--sink", f"file:{directory / 'app.jsonl'}"]
    return (
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode == 0
    )


def _run_delivered(given: Given, name: str, deliver) -> Outcome:
    """Kill everything; then something delivers what was left."""
    rounds = given.count(FULL)
    watch = Watch()
    lost = duplicates = records = 0
    missed: tuple[str, ...] = ()
    for turn in range(rounds):
        directory = given.below(f"{deliver.__name__}{turn}")
        returned = Returned(WORKERS)
        chance = given.chance(f"{name}{turn}")
        path = _killed(given, directory, chance, returned, _everything)
        delivered = deliver(directory, path)
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(directory / "app.jsonl"))
        lost += verdict.lost
        duplicates += verdict.duplicates
        records += sum(returned.all())
        missed += misses(
            **verdict.faults(),
            at_most_a_batch_twice=verdict.duplicates <= MAX_BATCH_RECORDS,
            all_delivered=delivered,
            the_spool_is_gone=not os.path.exists(path),
        )
        remove(directory)
    return Outcome(
        name, rounds, lost, duplicates, f"{records} records",
        tuple(sorted(set(missed))), watch.seconds(),
    )  # fmt: skip


def _killed(given: Given, directory, chance, returned, kill_all):
    """Run a pool in a master of its own, kill, and return the spool's path."""
    read, write = os.pipe()

    def master() -> None:
        sink = femtomp.FileSink(directory / "app.jsonl")
        server = femtomp.start_server(sink, spool_parent=directory, name=SERVER)
        with Attached(oracle.LOGGER):
            pids = [
                fork(oracle.log_until_killed, returned, given.seed, w, PAUSE_S, BURST)
                for w in range(WORKERS)
            ]
        words = [str(server.spool), *map(str, pids)]
        os.write(write, "\t".join(words).encode())
        while True:
            time.sleep(60)

    pid = fork(master)
    # One write, well below what a pipe takes whole; its other end lives on in workers.
    path, *workers = os.read(read, 4096).decode().split("\t")
    os.close(write)
    os.close(read)
    spool = Spool(path)
    until(lambda: all(returned.all()), "all workers log")
    time.sleep(chance.uniform(0, 0.15))
    guardian, engine = spool.control()[GUARDIAN], engine_of(spool)
    kill_all(chance, guardian, engine, [int(each) for each in workers], pid)
    spool.close()
    return path


def _stats(path):
    spool = Spool(path)
    try:
        return read_stats(spool)
    finally:
        spool.close()
