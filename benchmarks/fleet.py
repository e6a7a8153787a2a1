"""What a gateway of many hosts must take, and what happens when it is away.

`python -m benchmarks.fleet`: measures what a record costs on this machine (bytes in a
lane, bytes in OTLP, a Collector's CPU time if one is named), and reckons from that. The
herd is simulated with femtomp's own retries (`benchmarks.fleet_herd`). Every table says
what it assumes; docs/fleet.md explains them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.fleet_herd import Femtomp, FullJitter, Plan, WithoutJitter, simulate
from benchmarks.fleet_measure import Bytes, Cost, measure_bytes, measure_collector
from femtomp.sinks.otlp import MAX_DELAY_S
from femtomp.supervisor.pump import MAX_BATCH_RECORDS
from femtomp.supervisor.room import SHORT_AT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Of a Collector 0.152 on one AMD EPYC core, where none is measured.
USUAL = Cost(request_s=300e-6, record_s=5.6e-6)
HOSTS = (100, 1_000, 10_000)
INTERVALS_S = (0.2, 1.0, 5.0)
OUTAGES_S = (20.0, 60.0, 600.0)
TIMEOUT_S = 10.0
QUOTAS_MIB = (64, 256, 1024)
RATES = (10, 100, 1_000)
POLICIES = (
    ("femtomp", Femtomp), ("without jitter", WithoutJitter), ("all jitter", FullJitter),
)  # fmt: skip
AWAY = (
    ("refuses connections", 0.0, None),
    ("answers nothing", TIMEOUT_S, None),
    ("proxy: Retry-After: 30", 0.0, 30.0),
)


class Load(NamedTuple):
    """What arrives at a gateway, a second."""

    records: float
    megabytes: float
    requests: float
    cores: float


def load(hosts: int, rate: float, interval_s: float, size: Bytes, cost: Cost) -> Load:
    """Reckon what hosts send that have no backlog.

    A host sends a request an interval if it has at least one record then: of a rate
    below that, one a record.

    Examples
    --------
    >>> load(10_000, 100, 1, Bytes(260, 400, 40), Cost(0.0003, 0.000005))
    Load(records=1000000, megabytes=400.0, requests=10000.0, cores=8.0)
    """
    records = hosts * rate
    requests = hosts * min(rate, 1 / interval_s)
    cores = requests * cost.request_s + records * cost.record_s
    return Load(records, records * size.otlp / 1e6, requests, round(cores, 3))


def covered_s(quota_bytes: float, rate: float, lane_bytes: float) -> float:
    """Tell how long an outage a host's quota outlasts before its oldest records go.

    Examples
    --------
    >>> covered_s(1024 * 1024 * 1024, 100, 262.144)
    30720.0
    """
    part, whole = SHORT_AT
    return quota_bytes * part / whole / (rate * lane_bytes)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        cells = (f"{x:,.3g}" if isinstance(x, float) and x < 100 else x for x in row)
        shown = (f"{x:,.0f}" if isinstance(x, (float, int)) else x for x in cells)
        print(f"| {' | '.join(map(str, shown))} |", flush=True)


def show_load(rate: float, size: Bytes, cost: Cost) -> None:
    """Print what a gateway must take."""
    table(
        f"Steady load, {rate:g} records a second of each host:",
        ("hosts", "flush_interval_s", "records/s", "MB/s", "requests/s", "cores"),
        (
            (hosts, interval_s, *load(hosts, rate, interval_s, size, cost))
            for hosts in HOSTS
            for interval_s in INTERVALS_S
        ),
    )


def show_herd(given: argparse.Namespace, cost: Cost) -> None:
    """Print what hosts do that were all away, with femtomp's retries and others'."""
    plan = plan_of(given, cost)
    even = plan.hosts / MAX_DELAY_S
    table(
        f"{plan.hosts:,} hosts, {plan.rate:g} records a second each, a gateway with room "
        f"for {given.headroom:g} times that; spread evenly over {MAX_DELAY_S:g} s, "
        f"{even:,.0f} hosts would come back a second:",
        ("the gateway", "for s", "retries", "most hosts/s", "503s", "half heard s",
         "all heard s", "no backlog s"),
        (row(plan, *away, outage_s, *policy)
         for away in AWAY for outage_s in OUTAGES_S for policy in POLICIES),
    )  # fmt: skip


def plan_of(given: argparse.Namespace, cost: Cost) -> Plan:
    """Size the gateway for the load and the headroom."""
    size = Bytes(0, 0, 0)
    cores = load(given.hosts, given.rate, given.interval, size, cost).cores
    return Plan(
        given.hosts, given.rate, given.interval, 0.0,
        cost.request_s / cores / given.headroom, cost.record_s / cores / given.headroom,
        seed=given.seed,
    )  # fmt: skip


def row(
    plan: Plan, away: str, fail_s: float, retry_after_s: float | None, outage_s: float,
    name: str, policy: type,
) -> tuple[object, ...]:  # fmt: skip
    """Simulate one case."""
    plan = plan._replace(outage_s=outage_s, fail_s=fail_s, retry_after_s=retry_after_s)
    herd = simulate(plan, policy)
    return (
        away, outage_s, name, max(herd.firsts.values()), herd.refused,
        statistics.median(herd.first_s), max(herd.first_s), max(herd.drained_s),
    )  # fmt: skip


def show_quota(size: Bytes) -> None:
    """Print how long an outage may be."""
    table(
        f"Hours that a host's quota outlasts, at {size.lane:.0f} bytes a record:",
        ("spool_quota_bytes", *(f"{rate:,} records/s" for rate in RATES)),
        (
            (f"{mib:,} MiB",
             *(covered_s(mib * 1024 * 1024, rate, size.lane) / 3600 for rate in RATES))
            for mib in QUOTAS_MIB
        ),
    )  # fmt: skip
    table(
        "Seconds until the backlog of an outage of 600 s is gone, by the room for records:",
        ("room", *(f"{times:g} times the load" for times in (1.25, 1.5, 2, 3))),
        [("s", *(600 / (times - 1) for times in (1.25, 1.5, 2, 3)))],
    )


def main() -> int:
    """Measure, reckon, simulate, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--hosts", type=int, default=10_000, help="in the simulation")
    parser.add_argument("--rate", type=float, default=100.0, help="of each host")
    parser.add_argument("--interval", type=float, default=1.0, help="flush_interval_s")
    parser.add_argument("--headroom", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--collector", metavar="PATH", default=os.environ.get("OTELCOL"),
        help="whose CPU time is measured; $OTELCOL if not given",
    )  # fmt: skip
    given = parser.parse_args()
    size, bodies = measure_bytes()
    program = given.collector
    cost = measure_collector(program, bodies) if program else USUAL
    whose = "measured" if program else "assumed; --collector PATH measures it"
    print(
        f"A record: {size.lane:.0f} bytes in a lane, {size.otlp:.0f} in OTLP, "
        f"{size.gzipped:.0f} by gzip (these are all alike).\n"
        f"A Collector's CPU time ({whose}): {cost.request_s * 1e6:.0f} us a request, "
        f"{cost.record_s * 1e6:.1f} us a record.\n"
        f"What a crash of the gateway may bring twice: {MAX_BATCH_RECORDS:,} records of "
        f"each host whose request it had."
    )
    show_load(given.rate, size, cost)
    show_herd(given, cost)
    show_quota(size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
