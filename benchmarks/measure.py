"""One round of one peer, in a process of its own: master, workers, services, figures.

`python -m benchmarks.measure PLAN`, a `Plan` as JSON; prints a `Round` as JSON. Each
round has a new interpreter as its master, so that no peer meets what another one left
behind. The workers are `multiprocessing` children, forked before the clock starts; they
wait until all of them are ready, log, and end as such children do.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter_ns

from benchmarks import peers

# user_id is worker * _STRIDE + index: who logged a line, and in which order.
_STRIDE = 1_000_000_000
_PATHS = ("/cart", "/cart/checkout", "/products/8812", "/login", "/account/orders")


@dataclass(frozen=True)
class Plan:
    """What a round is to do.

    Attributes
    ----------
    peer : str
    workers : int
    records : int
        Of each worker.
    rate : float
        Records a second of each worker; 0 for as fast as it can.
    pause_s : float
        With no records at all: how long the workers stay.
    directory : str
        Where the file is written.
    """

    peer: str
    workers: int = 4
    records: int = 10_000
    rate: float = 0.0
    pause_s: float = 0.0
    directory: str = ""


@dataclass(frozen=True)
class Round:
    """What a round showed. CPU times are in microseconds of all CPUs together."""

    peer: str
    logged: int
    lost: int
    duplicated: int
    disordered: int
    damaged: int
    duration_s: float
    wall_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cpu_workers_us: float
    cpu_services_us: float
    cpu_master_us: float
    cpu_start_us: float
    file_bytes: int
    python: str = field(default_factory=lambda: sys.version.split()[0])

    @property
    def is_sound(self) -> bool:
        """Whether the figures count: every line is there, once, whole and in order."""
        return not (self.lost or self.duplicated or self.disordered or self.damaged)

    @property
    def cpu_us(self) -> float:
        """CPU time of the whole arrangement, its start excluded."""
        return self.cpu_workers_us + self.cpu_services_us + self.cpu_master_us


def run(plan: Plan) -> Round:
    """Do one round in this process."""
    directory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=plan.directory or None))
    try:
        return _run(plan, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(plan: Plan, directory: Path) -> Round:
    target = directory / "app.jsonl"
    peer = peers.make(plan.peer)
    peer.start(target)
    pool = _Pool(plan, peer, directory)
    peer.forked()
    services_before = peer.services_cpu_ns()
    master_before = time.process_time_ns()
    begun, begun_at = time.monotonic(), time.time_ns()
    workers_us = pool.run()
    peer.finish()
    wall_s = time.monotonic() - begun
    master_us = (time.process_time_ns() - master_before) / 1000
    services_us = (peer.services_cpu_ns() - services_before) / 1000
    peer.stop()
    # When the last line was written, by the file system's own clock (it ticks every 1
    # to 4 ms): nobody has to look for it meanwhile, which would cost CPU time.
    status = target.stat() if target.exists() else None
    written = (status.st_mtime_ns - begun_at) / 1e9 if status else 0.0
    calls = pool.calls()
    return Round(
        peer=plan.peer,
        logged=len(calls),
        **_judged(target, plan),
        duration_s=max(written, 1e-9),
        wall_s=wall_s,
        p50_us=_percentile(calls, 0.5),
        p99_us=_percentile(calls, 0.99),
        p999_us=_percentile(calls, 0.999),
        max_us=_percentile(calls, 1.0),
        cpu_workers_us=workers_us,
        cpu_services_us=services_us,
        cpu_master_us=master_us,
        cpu_start_us=services_before / 1000,
        file_bytes=status.st_size if status else 0,
    )


class _Pool:
    """The workers, ready and waiting."""

    def __init__(self, plan: Plan, peer: peers.Peer, directory: Path) -> None:
        self._directory = directory
        self._count = plan.workers
        go, self._go = os.pipe()
        ready, told = os.pipe()
        fork = multiprocessing.get_context("fork")
        self._workers = [
            fork.Process(target=self._work, args=(plan, peer, number, go, told))
            for number in range(plan.workers)
        ]
        for worker in self._workers:
            worker.start()
        os.close(go)
        os.close(told)
        waiting = plan.workers
        while waiting:
            answers = os.read(ready, waiting)
            if not answers:
                raise RuntimeError("a worker ended before it was ready")
            waiting -= len(answers)
        os.close(ready)

    def _work(
        self, plan: Plan, peer: peers.Peer, number: int, go: int, told: int
    ) -> None:
        os.close(self._go)
        peer.set_up_worker()
        os.write(told, b".")
        os.read(go, 1)  # until the master has closed its end
        if plan.records:
            took = _log_paced(plan, number) if plan.rate else _log(plan, number)
            (self._directory / f"{number}.calls").write_bytes(took.tobytes())
        else:
            time.sleep(plan.pause_s)

    def run(self) -> float:
        """Let the workers go; return their CPU time once they have ended."""
        os.close(self._go)
        total = 0.0
        for worker in self._workers:
            _, status, usage = os.wait4(worker.pid, 0)
            if status:
                raise RuntimeError(f"a worker ended with status {status}")
            total += usage.ru_utime + usage.ru_stime
        return total * 1e6

    def calls(self) -> array[int]:
        """Return how long each log call took, in ns, sorted."""
        calls: array[int] = array("q")
        for number in range(self._count):
            found = self._directory / f"{number}.calls"
            if found.exists():
                calls.frombytes(found.read_bytes())
        return array("q", sorted(calls))


def _log(plan: Plan, number: int) -> array[int]:
    log = logging.getLogger("shop.checkout")
    took = array("q", bytes(8 * plan.records))
    first = number * _STRIDE
    for index in range(plan.records):
        path = _PATHS[index % 5]
        extra = {"user_id": first + index, "path": path}
        begun = perf_counter_ns()
        log.info("request %s finished in %d us", path, index, extra=extra)
        took[index] = perf_counter_ns() - begun
    return took


def _log_paced(plan: Plan, number: int) -> array[int]:
    log = logging.getLogger("shop.checkout")
    took = array("q", bytes(8 * plan.records))
    first = number * _STRIDE
    # Not all workers at the same moment.
    due = time.monotonic() + number / (plan.workers * plan.rate)
    for index in range(plan.records):
        path = _PATHS[index % 5]
        extra = {"user_id": first + index, "path": path}
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        due += 1 / plan.rate
        begun = perf_counter_ns()
        log.info("request %s finished in %d us", path, index, extra=extra)
        took[index] = perf_counter_ns() - begun
    return took


def _percentile(ordered: array[int], share: float) -> float:
    """Return the smallest call that `share` of all are not longer than, in us."""
    if not ordered:
        return 0.0
    place = max(0, -int(-share * len(ordered) // 1) - 1)
    return ordered[place] / 1000


def _judged(target: Path, plan: Plan) -> dict[str, int]:
    """Compare the file's lines with what was logged, worker by worker."""
    damaged = duplicated = disordered = 0
    seen: list[set[int]] = [set() for _ in range(plan.workers)]
    last = [-1] * plan.workers
    lines = target.read_bytes().splitlines() if target.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
            attributes = record["attributes"]
            if "event_name" in record:
                continue  # femtomp's own, one a worker
            number, index = divmod(attributes["user_id"], _STRIDE)
            path = _PATHS[index % 5]
            whole = (
                record["body"] == f"request {path} finished in {index} us"
                and attributes["path"] == path
            )
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            damaged += 1
            continue
        duplicated += index in seen[number]
        disordered += index < last[number]
        seen[number].add(index)
        last[number] = index
    return {
        "lost": plan.workers * plan.records - sum(map(len, seen)),
        "duplicated": duplicated,
        "disordered": disordered,
        "damaged": damaged,
    }


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.loads(sys.argv[1]))))))
