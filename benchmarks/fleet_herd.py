"""What a fleet does to a gateway that comes back: a simulation, event by event.

Each host has femtomp's own retry arithmetic (an `OTLPDriver`, whose transport says what
the gateway would) and a backlog. It has one request on its way at a time, as a pump has:
a batch, then the answer, then the next batch, or the delay that the driver asks for.
The gateway serves requests one after the other, at a cost by request and by record, and
refuses (503) what it would begin to serve only after `MAX_WAIT_S`.

Not simulated: the network, a gateway that gets slower under load, and hosts that are
different from each other. Time is in seconds since the gateway went away.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from femtomp.record import Record, Resource
from femtomp.sinks import RetryAfter
from femtomp.sinks.otlp import FIRST_DELAY_S, MAX_DELAY_S, OTLPDriver
from femtomp.sinks.otlp_answer import Answer
from femtomp.supervisor.pump import MAX_BATCH_RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable

# What waits longer in a gateway is refused instead: well below a sink's 10 s.
MAX_WAIT_S = 2.0
CONNECT_S = 0.001
_BATCH = (
    Record(
        timestamp=0,
        severity_number=9,
        severity_text="INFO",
        logger="herd",
        body="one",
        attributes={},
        resource=Resource({}),
        uid="herd-0",
    ),
)


class Plan(NamedTuple):
    """What is simulated.

    Attributes
    ----------
    rate : float
        Records a second of each host.
    interval_s : float
        Between two requests of a host that has no backlog: what `flush_interval_s` is.
    outage_s : float
        How long the gateway is away.
    request_s, record_s : float
        The gateway's time for a request and for a record, all its cores together.
    fail_s : float
        How long an attempt takes to fail while the gateway is away: nothing where the
        connection is refused, the sink's timeout where nobody answers at all.
    retry_after_s : float or None
        What a proxy in the gateway's place asks for, of all hosts alike.
    kept : int
        Records that a host's quota has room for; what is more makes way.
    """

    hosts: int
    rate: float
    interval_s: float
    outage_s: float
    request_s: float
    record_s: float
    fail_s: float = 0.0
    retry_after_s: float | None = None
    kept: int = 1_000_000
    seed: int = 1

    @property
    def share(self) -> float:
        """Return what one host without a backlog takes of the gateway."""
        return self.request_s / self.interval_s + self.rate * self.record_s


class Herd(NamedTuple):
    """What was seen.

    Attributes
    ----------
    attempts, firsts : Counter
        Requests by second, from the gateway's return on; all, and those of hosts that
        were not served yet.
    first_s : list of float
        When each host was first served, since the gateway's return.
    drained_s : list of float
        When each host had no backlog any more, likewise.
    refused : int
        Requests that the gateway answered with 503.
    delivered, evicted : int
        Records.
    """

    attempts: Counter[int]
    firsts: Counter[int]
    first_s: list[float]
    drained_s: list[float]
    refused: int
    delivered: int
    evicted: int


class Retries(Protocol):
    """Tells how long a host waits behind a failure; None: the request was taken."""

    def after(self, answer: Answer) -> float | None:
        """Learn what became of a request."""


class Femtomp:
    """The sink's driver as it is, with a transport that gives a scripted answer."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._answer = Answer("accepted")
        self._driver = OTLPDriver(self, draw=draw)

    def after(self, answer: Answer) -> float | None:
        """Let the driver write once; a batch of one record will do."""
        self._answer = answer
        outcome = self._driver.write(_BATCH)
        return outcome.delay_s if isinstance(outcome, RetryAfter) else None

    def send(self, _: bytes) -> Answer:
        """Answer as scripted."""
        return self._answer

    def close(self) -> None:
        """Have nothing to close."""


class Drawn:
    """To compare with: the same doubling, and another share of it by chance.

    What a gateway asks for is waited for exactly.
    """

    share = 0.0

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._failures = 0

    def after(self, answer: Answer) -> float | None:
        """Double up to 30 s, and take off a share of that at random."""
        if answer.kind == "accepted":
            self._failures = 0
            return None
        delay = min(FIRST_DELAY_S * 2.0**self._failures, MAX_DELAY_S)
        self._failures = min(self._failures + 1, 10)
        if answer.delay_s is not None:
            return answer.delay_s
        return delay * (1 - self.share * self._draw())


class WithoutJitter(Drawn):
    """Nothing by chance."""


class FullJitter(Drawn):
    """All of it by chance: from nothing to the whole delay."""

    share = 1.0


class _Fleet:
    def __init__(self, plan: Plan, retries: Callable[..., Retries]) -> None:
        chance = random.Random(plan.seed)
        self.plan = plan
        self.retries = [retries(chance.random) for _ in range(plan.hosts)]
        # Each finds out at its next request, and has logged since its last one.
        self.asks = [
            (chance.uniform(0, plan.interval_s), host) for host in range(plan.hosts)
        ]
        self.sent = [0.0] * plan.hosts
        self.free_s = plan.outage_s
        # What hosts without a backlog, which are not simulated on, take of the gateway.
        self.used = 0.0
        self.refused = self.evicted = self.delivered = 0

    def backlog(self, host: int, now: float) -> float:
        """Return the records that a host has and has not delivered; evict some."""
        made = self.plan.rate * now
        missed = int(made - self.sent[host]) - self.plan.kept
        if missed > 0:
            self.evicted += missed
            self.sent[host] += missed
        return made - self.sent[host]

    def serve(self, now: float, records: int) -> float | None:
        """Return when the gateway's answer is there; None if it refuses."""
        if self.free_s - now > MAX_WAIT_S:
            self.refused += 1
            return None
        took = self.plan.request_s + records * self.plan.record_s
        took /= 1 - self.used
        self.free_s = max(self.free_s, now) + took
        return self.free_s


def simulate(plan: Plan, retries: Callable[..., Retries] = Femtomp) -> Herd:
    """Run until every host's backlog is delivered."""
    fleet = _Fleet(plan, retries)
    herd = Herd(Counter(), Counter(), [], [], 0, 0, 0)
    asks, away = fleet.asks, Answer("retry", delay_s=plan.retry_after_s)
    served = [False] * plan.hosts
    heapq.heapify(asks)
    while asks:
        now, host = heapq.heappop(asks)
        if now < plan.outage_s:
            delay = fleet.retries[host].after(away) or 0.0
            heapq.heappush(asks, (now + plan.fail_s + delay, host))
            continue
        since = now - plan.outage_s
        herd.attempts[int(since)] += 1
        herd.firsts[int(since)] += not served[host]
        batch = min(int(fleet.backlog(host, now)), MAX_BATCH_RECORDS)
        done = fleet.serve(now + CONNECT_S, batch)
        if done is None:
            delay = fleet.retries[host].after(Answer("retry")) or 0.0
            heapq.heappush(asks, (now + CONNECT_S + delay, host))
            continue
        fleet.retries[host].after(Answer("accepted"))
        fleet.sent[host] += batch
        fleet.delivered += batch
        if not served[host]:
            served[host] = True
            herd.first_s.append(done - plan.outage_s)
        if fleet.backlog(host, done) < max(plan.rate * plan.interval_s, 1) * 2:
            herd.drained_s.append(done - plan.outage_s)
            fleet.used += plan.share
        else:
            heapq.heappush(asks, (done, host))
    counts = {
        name: getattr(fleet, name) for name in ("refused", "delivered", "evicted")
    }
    return herd._replace(**counts)
