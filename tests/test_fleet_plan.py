"""The plan of a fleet, small: its arithmetic, and what the simulation keeps to."""

from __future__ import annotations

import pytest

from tests.components import require

# A tenth of a millisecond a request, and 5 us a record; 50 hosts use a part of that.
PLAN = {
    "hosts": 50, "rate": 20.0, "interval_s": 1.0, "outage_s": 60.0,
    "request_s": 1e-4, "record_s": 5e-6,
}  # fmt: skip


def simulated(retries: str = "Femtomp", **changed):
    require("otlp")
    from benchmarks import fleet_herd

    plan = fleet_herd.Plan(**{**PLAN, **changed})
    return fleet_herd.simulate(plan, getattr(fleet_herd, retries))


def test_load_and_quota_are_reckoned() -> None:
    """A thousand hosts by hand; a gibibyte holds 805306 kB before the oldest goes."""
    require("otlp")
    from benchmarks.fleet import covered_s, load
    from benchmarks.fleet_measure import Bytes, Cost

    found = load(1000, 50, 0.2, Bytes(250, 400, 40), Cost(3e-4, 5e-6))
    assert found == (50_000, 20.0, 5_000, 1.75)
    # Below a record an interval there is a request a record.
    assert load(1000, 2, 0.2, Bytes(250, 400, 40), Cost(3e-4, 5e-6)).requests == 2000
    assert covered_s(1024**3, 100, 250) == pytest.approx(32212.25, abs=0.1)


def test_every_host_is_heard_and_nothing_is_lost() -> None:
    """All that was logged until a host's backlog was gone is delivered, within a batch."""
    herd = simulated()
    assert len(herd.first_s) == len(herd.drained_s) == 50
    assert herd.evicted == 0
    logged = sum(20 * (60 + drained) for drained in herd.drained_s)
    assert logged - 50 * 2 * 20 <= herd.delivered <= logged


def test_a_quota_that_is_too_small_evicts() -> None:
    """What a host has no room for is counted, and the rest is delivered."""
    herd = simulated(kept=500)
    assert herd.evicted >= 50 * (20 * 60 - 500) * 0.99
    assert herd.delivered <= 50 * 2.2 * 500


@pytest.mark.parametrize("asked", [None, 30.0])
def test_the_driver_spreads_a_herd(asked) -> None:
    """Hosts that failed together come back by and by; without jitter all at once."""
    plan = {"hosts": 500, "retry_after_s": asked, "outage_s": 100.0}
    ours, none = (simulated(name, **plan) for name in ("Femtomp", "WithoutJitter"))
    assert max(none.firsts.values()) == 500
    assert max(ours.firsts.values()) < 150


def test_a_gateway_that_is_overrun_refuses_and_gets_all_later() -> None:
    """What would wait too long gets 503 and comes again."""
    plan = {"hosts": 1000, "rate": 1.0, "outage_s": 600.0}
    herd = simulated("WithoutJitter", **plan)
    assert herd.refused > 0
    assert len(herd.drained_s) == 1000
    assert herd.delivered >= 1000 * 600
