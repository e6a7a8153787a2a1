"""Eight hosts and one Collector that is stopped, killed, slowed, halted and cut off."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.components import require
from tests.processes.harness import SEED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.real.fleet import Arrived, Fleet

HOSTS, WORKERS = 8, 4
# Records a second of each worker.
RATE = 25
# Records that a host has made in 5 s: by then its sink has waited in vain for an answer.
WAITING = 5 * RATE * WORKERS
# An answer of the backend, where it is slow; the sinks wait for 4 s.
SLOW_S = 0.4
# As long as a request may have been on its way when a fault began.
ON_ITS_WAY_NS = 5_000_000_000


class Window(NamedTuple):
    """A time in which answers to hosts were lost: what they had sent may come twice."""

    what: str
    hosts: frozenset[int]
    begin_ns: int
    end_ns: int

    def explains(self, copies: Sequence[Arrived]) -> bool:
        """Tell whether a record that came so often may have, because of this."""
        return (
            copies[0].host in self.hosts
            and self.begin_ns - ON_ITS_WAY_NS <= copies[0].time_ns <= self.end_ns
            and self.begin_ns <= copies[1].time_ns
            and copies[-1].time_ns <= self.end_ns
        )


class Faults:
    """What is done to the Collector, and when answers were lost by it."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet, self._gateway = fleet, fleet.gateway
        self._chance = chance
        self.windows: list[Window] = []

    def stop(self) -> None:
        """It ends in good order, is away until all hosts wait, and comes back."""
        begun = time.monotonic_ns()
        self._gateway.stop()
        self._fleet.until_waiting(range(HOSTS), WAITING)
        self._gateway.start()
        if self._gateway.kind == "otelcol":
            self._recovered("stopped and started", range(HOSTS))
        else:  # Python's gRPC server ends without the answers that it owes
            self._lost_answers("stopped and started", range(HOSTS), begun)

    def kill(self) -> None:
        """It is killed while most hosts wait for its answer, and comes back at once."""
        self._gateway.slow(SLOW_S)
        self._fleet.until_heard(range(HOSTS))
        self._pause(SLOW_S)
        begun = time.monotonic_ns()
        self._gateway.kill()
        self._gateway.start()
        self._gateway.slow(0)
        self._lost_answers("killed", range(HOSTS), begun)

    def slow(self) -> None:
        """Each of its answers takes long, but less than a sink waits."""
        self._gateway.slow(SLOW_S)
        for _ in range(3):
            self._fleet.until_heard(range(HOSTS))
        self._gateway.slow(0)
        self._recovered("slowed", range(HOSTS))

    def halt(self) -> None:
        """It stands still for longer than a sink waits."""
        begun = time.monotonic_ns()
        self._gateway.pause()
        self._fleet.until_waiting(range(HOSTS), WAITING)
        self._gateway.pause(signal.SIGCONT)
        self._lost_answers("halted", range(HOSTS), begun)

    def cut(self) -> None:
        """Half of the hosts are cut off, at random; the others notice nothing."""
        hosts = self._chance.sample(range(HOSTS), HOSTS // 2)
        self._pause(0.3)
        begun = time.monotonic_ns()
        for host in hosts:
            self._gateway.cable(host, "down")
        self._fleet.until_waiting(hosts, WAITING)
        self._fleet.until_heard(set(range(HOSTS)) - set(hosts))
        for host in hosts:
            self._gateway.cable(host, "up")
        self._lost_answers("cut off", hosts, begun)

    def _pause(self, most_s: float) -> None:
        signal.sigtimedwait((), self._chance.uniform(0, most_s))

    def _recovered(self, what: str, hosts: Iterable[int]) -> None:
        seconds = self._fleet.until_heard(hosts)
        print(f"{what}: all heard again after {seconds:.1f} s")

    def _lost_answers(self, what: str, hosts: Iterable[int], begun_ns: int) -> None:
        self._recovered(what, hosts)
        ended = time.monotonic_ns()
        self.windows.append(Window(what, frozenset(hosts), begun_ns, ended))


def copies_by_uid(arrived: Iterable[Arrived]) -> dict[str, list[Arrived]]:
    """Gather what came of each record, in the order of time."""
    found = defaultdict(list)
    for one in sorted(arrived):
        found[one.uid].append(one)
    return found


def check_doubles(found: dict[str, list[Arrived]], windows: list[Window]) -> None:
    """Check that what came twice was on its way when answers were lost: a batch a host."""
    requests = defaultdict(set)
    records = Counter()
    for copies in found.values():
        if len(copies) == 1:
            continue
        first = copies[0]
        reasons = [window for window in windows if window.explains(copies)]
        assert reasons, f"twice, and no answer was lost: {copies}"
        requests[reasons[0].what, first.host].add(first.request)
        records[reasons[0].what] += 1
    for window in windows:
        hosts = sum(bool(requests[window.what, host]) for host in range(HOSTS))
        print(f"{window.what}: {records[window.what]} records twice, of {hosts} hosts")
    assert all(len(batches) <= 1 for batches in requests.values()), requests


@pytest.mark.slow
@pytest.mark.xdist_group("fleet")
def test_a_fleet_loses_nothing_and_doubles_only_what_was_unanswered(tmp_path) -> None:
    """Whatever happens to the Collector, all that the hosts' workers logged arrives;
    twice only what was in a batch whose answer was lost, one a host and fault.
    """
    require("otlp")
    require("netns")
    from tests.real.fleet import Fleet

    print("seed", SEED)
    links = set(os.listdir("/sys/class/net"))
    with Fleet(tmp_path, HOSTS, WORKERS, RATE) as fleet:
        print("collector:", fleet.gateway.kind)
        fleet.until_heard(range(HOSTS))
        faults = Faults(fleet, random.Random(SEED))
        for fault in (faults.stop, faults.kill, faults.slow, faults.halt, faults.cut):
            fault()
        rested = fleet.all_say("rest")
        ended = fleet.all_say("end")
        found = copies_by_uid(fleet.gateway.arrived())
    assert set(os.listdir("/sys/class/net")) == links
    assert all(status == 0 for host in rested for status in host["statuses"])
    check_doubles(found, faults.windows)
    check_all_arrived(found, [host["returned"] for host in rested])
    check_accounts(ended)


def check_all_arrived(found: dict[str, list[Arrived]], returned: list) -> None:
    """Check that each record is there under a uid of its own, and says where it is from."""
    keys = Counter(copies[0].key for copies in found.values())
    wanted = {
        (host, worker, number)
        for host, workers in enumerate(returned)
        for worker, count in enumerate(workers)
        for number in range(count)
    }
    assert set(keys) == wanted
    assert set(keys.values()) == {1}
    for copies in found.values():
        assert {one.key for one in copies} == {copies[0].key}
        assert copies[0].name == f"host-{copies[0].host}"
    print(len(wanted), "records, all arrived")


def check_accounts(ended: list[dict]) -> None:
    """Check that every host says the same: all delivered, nothing lost, no engine died."""
    for host in ended:
        assert host["flushed"]
        assert host["drained"]
        assert host["lost"] == host["dropped"] == 0
        assert host["committed"] == host["delivered"]
        assert host["engine_starts"] == 1
