"""Reminders: once a minute, on stderr, what is down or loses records."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

import pytest

from femtomp.lanes.cursor import Counters, Cursor
from femtomp.supervisor import reminders as module
from femtomp.supervisor.news import Outage
from femtomp.supervisor.reminders import INTERVAL_S, Reminders
from femtomp.testing import ManualClock

if TYPE_CHECKING:
    from tests.supervisor.conftest import Pool


class Watched:
    """One sink over one lane, and a clock."""

    def __init__(self, pool: Pool, clock) -> None:
        self.pool, self.clock = pool, clock
        self.outage = Outage("sink", None)
        self.counts = {"evicted": 0, "refused": 0}
        self.losses = types.SimpleNamespace(
            causes={}, of_sink=lambda _: dict(self.counts)
        )
        self.called_at: float | None = None
        self.reminders = Reminders()

    def look(self, after_s: float = 2.0) -> None:
        self.clock.advance(after_s)
        pumps = [
            types.SimpleNamespace(
                sink="sink", outage=self.outage, called_at=self.called_at
            )
        ]
        self.reminders.look(pumps, self.losses, self.pool.members)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module, "note", lambda _, text: lines.append(text))
    return lines


@pytest.fixture
def watched(pool, monkeypatch) -> Watched:
    clock = ManualClock()
    for name in ("monotonic", "time"):
        monkeypatch.setattr(module.time, name, getattr(clock, name))
    return Watched(pool, clock)


def test_what_is_down_is_said_each_minute(watched, said) -> None:
    """With since when, the last cause, and how many records wait."""
    worker = watched.pool.worker()
    for n in range(5):
        watched.pool.log(worker, n)
    watched.pool.look()
    (member,) = watched.pool.members.values()
    member.cursors.cursors["sink"] = Cursor(counters=Counters(delivered=2))
    watched.look()
    watched.outage.begin("refused", watched.clock.monotonic())
    since = module.time.strftime(
        "%Y-%m-%d %H:%M:%S", module.time.localtime(watched.clock.time())
    )
    watched.look(INTERVAL_S / 2)
    assert said == []
    watched.outage.begin("http://a:1: connection refused", watched.clock.monotonic())
    watched.look(INTERVAL_S / 2)
    assert said == [
        (
            f"sink is down since {since}: http://a:1: connection refused; about 3 records "
            "wait for it"
        )
    ]
    watched.look()
    watched.look(INTERVAL_S)
    assert len(said) == 2
    watched.outage.end(watched.clock.monotonic())
    watched.look(INTERVAL_S)
    assert len(said) == 2


def test_a_driver_that_does_not_return_is_down(watched, said) -> None:
    """It is said after a minute, and then each minute, though its pump cannot."""
    watched.called_at = watched.clock.monotonic()
    watched.look(INTERVAL_S / 2)
    assert not watched.outage.is_on
    watched.look(INTERVAL_S / 2)
    assert watched.outage.is_on
    assert len(said) == 1
    assert "its write() has not returned" in said[0]
    watched.look()
    watched.look(INTERVAL_S)
    assert len(said) == 2


def test_losses_are_said_once_a_minute_with_their_cause(watched, said) -> None:
    """The first at once, later ones together; with the count, by reason, and in all."""
    watched.counts["refused"] = 7  # said by the engine before this one
    watched.look()
    assert said == []
    watched.counts["refused"] = 9
    watched.losses.causes["sink"] = "no such table"
    watched.look()
    assert "sink lost 2 records since" in said[0]
    assert said[0].endswith(": 2 refused (no such table); 9 in all")
    watched.counts["refused"] = 10
    watched.look()
    watched.counts["evicted"] = 3
    watched.look()
    assert len(said) == 1
    watched.look(INTERVAL_S)
    assert said[1].endswith(": 3 evicted, 1 refused (no such table); 13 in all")
    watched.look(INTERVAL_S)
    assert len(said) == 2
