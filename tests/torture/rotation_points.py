"""A file sink killed at every point where it rotates, compresses, deletes or writes.

One process writes batches as a pump does: what it was not told is delivered comes again
from the next one. It is killed at its k-th step, for all k, and again at the same place.
The housekeeper works in the same thread here, so that steps have an order.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING

from femtomp.config import FileSink
from femtomp.sinks import Delivered, housekeeping, rotated
from femtomp.sinks.file import open_driver
from tests.processes.harness import Returned
from tests.records import batch
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.points import Points

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCHES, IN_BATCH = 5, 3
# A batch fills a file and begins the next one.
ROTATE_BYTES = 1024
CASES = {
    "plain": {},
    "compressed": {"compress": "gzip"},
    "deleted": {"compress": "gzip", "keep_files": 2, "fsync": "batch"},
}


class Housekeeper:
    """Does at once what the thread would do by and by."""

    def __init__(self, options: FileSink) -> None:
        self._options = options

    def start(self) -> None:
        self.wake()

    def wake(self) -> None:
        housekeeping.tidy(self._options, lambda: False)

    def make_room(self) -> None:
        housekeeping.delete_surplus(self._options)

    def close(self) -> None:
        """Nothing runs."""


def _work(options: FileSink, done: Returned, at: int, reached: Returned) -> None:
    """Write what is left of the batches; die at a point."""
    housekeeping.Housekeeper = Housekeeper
    Points(at, reached).install()
    driver = open_driver(options)
    for number in range(done[0], BATCHES):
        records = [
            record._replace(body=number * IN_BATCH + n, uid=f"{number}-{n}")
            for n, record in enumerate(batch(IN_BATCH))
        ]
        assert driver.write(records) == Delivered()
        done.set(0, number + 1)
    driver.close()
    # As the next start would.
    housekeeping.tidy(options, lambda: False)


def run(given: Given) -> list[Outcome]:
    """Kill file sinks: at each point, once and twice in a row."""
    return [_run(given, name) for name in given.some(list(CASES), "rotation")]


def _run(given: Given, name: str) -> Outcome:
    watch = Watch()
    more = CASES[name]
    whole, steps = _found(given.below(f"{name}-whole"), [], more)
    missed = set(_missed(whole, 0, more))
    chosen = range(1, steps + 1)
    if given.scale < 1:
        count = max(4, round(steps * given.scale * 10))
        chosen = given.chance(name).sample(chosen, min(steps, count))
    twice = 0
    plans = [plan for at in chosen for plan in ([at], [at, at])]
    for plan in plans:
        place = given.below(f"{name}-{plan}")
        try:
            found, _ = _found(place, plan, more)
        except AssertionError as exc:
            missed.add(f"{exc}, killed at {plan}")
            continue
        twice += len(found) - len(set(found))
        missed |= {f"{m}, killed at {plan}" for m in _missed(found, len(plan), more)}
        shutil.rmtree(place)
    worst = f"of {steps} points, once and twice in a row"
    return Outcome(
        f"file sink killed at each point ({name})", len(plans), len(missed), twice,
        worst, tuple(sorted(missed)), watch.seconds(),
    )  # fmt: skip


def _found(directory: Path, plan: list[int], more: dict) -> tuple[list[int], int]:
    """Run until the end with these deaths; give the lines found, and the steps."""
    options = FileSink(directory / "app.jsonl", rotate_bytes=ROTATE_BYTES, **more)
    done, reached = Returned(1), Returned(1)
    for at in [*plan, 0]:
        reached.set(0, 0)
        pid = oracle.forked(_work, options, done, at, reached)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in ((0, -9) if at else (0,)), f"ended with {status}"
    return [body for bodies in _bodies(options.path) for body in bodies], reached[0]


def _bodies(path: Path) -> Iterator[list[int]]:
    """Give what each file holds, oldest first; none may be half or there twice."""
    names = {path.name}
    for stamp, endings in sorted(rotated.find(str(path)).items()):
        assert endings in ({rotated.PLAIN}, {rotated.PACKED}), f"files left: {endings}"
        name = f"{path.name}.{stamp}{''.join(endings)}"
        names.add(name)
        data = path.with_name(name).read_bytes()
        yield _parsed(gzip.decompress(data) if rotated.PACKED in endings else data)
    assert set(os.listdir(path.parent)) == names, "other files left"
    yield _parsed(path.read_bytes())


def _parsed(data: bytes) -> list[int]:
    assert data.endswith(b"\n"), "a line is torn"
    return [json.loads(line)["body"] for line in data.splitlines()]


def _missed(found: list[int], deaths: int, more: dict) -> tuple[str, ...]:
    first = min(found) if "keep_files" in more else 0
    # What comes again comes behind what was there.
    falls = sum(b <= a for a, b in itertools.pairwise(found))
    return misses(
        none_missing=sorted(set(found)) == list(range(first, BATCHES * IN_BATCH)),
        at_most_a_batch_twice=len(found) - len(set(found)) <= deaths * IN_BATCH,
        in_order=falls <= deaths,
    )
