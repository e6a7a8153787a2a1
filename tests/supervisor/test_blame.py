"""Blame: a record is refused if others went through, a destination that is down waits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.record import Record, Resource
from femtomp.sinks import Delivered, Refused, RetryAfter, Stumbled, Unseen
from femtomp.supervisor import blame as module
from femtomp.supervisor.blame import MAX_DELAY_S, Blame, Down, Failed
from femtomp.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD = Failed("ValueError: bad")


def record(body: object) -> Record:
    return Record(1, 9, "INFO", "shop", body, {}, Resource({}), f"e-{body}")


class Destination:
    """Fails for some records, or for all while it is down."""

    def __init__(self, *bad: object, is_down: bool = False) -> None:
        self.bad = set(bad)
        self.is_down = is_down
        self.kept: list = []
        self.calls = 0

    def write(self, records: Sequence[Record]):
        self.calls += 1
        if self.is_down or any(r.body in self.bad for r in records):
            return BAD
        self.kept += [r.body for r in records]
        return Delivered()


class Asking:
    """A pump's part: asks until all is done with or the destination is down."""

    def __init__(self, destination, *, has_event: bool = True) -> None:
        self.destination = destination
        self.blame = Blame(
            destination.write, lambda _: record("event") if has_event else None
        )
        self.refused: list = []
        self.delays: list[float] = []

    def ask(self, bodies: Sequence[object]) -> list:
        """Return what is left of a batch when the destination is called down."""
        records = [record(body) for body in bodies]
        self.blame.begin()
        while records:
            outcome = self.blame.ask(records, len(records))
            match outcome:
                case Delivered(refused):
                    count = len(records)
                case Refused(reason):
                    count = len(records)
                    refused = {reason: count}
                case RetryAfter(_, _, count, refused):
                    pass
            self.refused += [refused] if refused else []
            records = records[count:]
            if isinstance(outcome, RetryAfter) and outcome.delay_s:
                self.delays.append(outcome.delay_s)
                assert isinstance(outcome, Down)
                break
        return [r.body for r in records]

    def counted(self) -> int:
        return sum(sum(refused.values()) for refused in self.refused)


@pytest.mark.parametrize("bad", [(0,), (50,), (99,), (0, 1, 2), (3, 50, 51, 97)])
def test_records_among_others_are_refused_alone(bad) -> None:
    """Whatever was raised, those that fail again and again while others go through are
    refused, at once; the others arrive in their order, each once.
    """
    asking = Asking(Destination(*bad))
    assert asking.ask(range(100)) == []
    assert asking.destination.kept == [n for n in range(100) if n not in bad]
    assert asking.counted() == len(bad)
    assert asking.delays == []


def test_nothing_is_refused_while_all_fail() -> None:
    """A destination that takes none is down: few calls, longer and longer apart."""
    asking = Asking(Destination(is_down=True))
    for _ in range(12):
        assert asking.ask(range(2048)) == list(range(2048))
    assert asking.counted() == 0
    assert asking.delays[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert asking.delays[-1] == MAX_DELAY_S
    assert asking.destination.calls < 12 * 20


def test_a_destination_that_is_back_gets_all_in_order() -> None:
    """After an outage nothing is missing and nothing was refused."""
    asking = Asking(Destination(is_down=True))
    asking.ask(range(100))
    asking.ask(range(100))
    asking.destination.is_down = False
    assert asking.ask(range(100)) == []
    assert asking.destination.kept == list(range(100))
    assert asking.counted() == 0


@pytest.mark.parametrize("at", [1, 5, 50, 99])
def test_an_outage_in_the_midst_of_a_batch_costs_no_record(at) -> None:
    """A destination that goes down between two parts of a batch is no record's fault."""

    class Partly(Destination):
        def write(self, records):
            self.calls += 1
            room = at - len(self.kept)
            if room <= 0:
                return BAD
            self.kept += [r.body for r in records[:room]]
            return RetryAfter(0.0, "", min(room, len(records)))

    asking = Asking(Partly())
    left = asking.ask(range(100))
    assert left == list(range(at, 100))
    assert asking.counted() == 0


def test_a_lone_record_is_refused_when_an_event_goes_through() -> None:
    """With nothing behind it, femtomp's own event shows whose fault it is, later."""
    asking = Asking(Destination("bad"))
    assert asking.ask(["bad"]) == ["bad"]
    assert asking.counted() == 0
    assert asking.ask(["bad"]) == []
    assert asking.counted() == 1
    assert asking.destination.kept == ["event"]


def test_a_lone_record_waits_for_others_where_no_event_may_go() -> None:
    """A sink above the event's level keeps it until another record goes through."""
    asking = Asking(Destination("bad"), has_event=False)
    for _ in range(3):
        assert asking.ask(["bad"]) == ["bad"]
    assert asking.ask(["bad", "good"]) == []
    assert asking.destination.kept == ["good"]
    assert asking.counted() == 1


def test_many_records_in_a_row_are_gone_through_in_time() -> None:
    """No number of bad records before a good one stops a destination for good."""
    bad = [f"bad-{n}" for n in range(100)]
    asking = Asking(Destination(*bad), has_event=False)
    rounds = 0
    while asking.ask([*bad, "good"]):
        rounds += 1
        assert rounds < 20
    assert asking.destination.kept == ["good"]
    assert asking.counted() == 100


def test_a_record_that_failed_once_is_delivered() -> None:
    """One failure is no proof: what succeeds when it is tried again arrived."""

    class Once(Destination):
        def write(self, records):
            if records[0].body == 0 and self.calls < 2:
                self.calls += 1
                return BAD
            return super().write(records)

    asking = Asking(Once())
    assert asking.ask([0, 1]) == []
    assert sorted(asking.destination.kept) == [0, 1]
    assert asking.counted() == 0


def test_wrong_answers_are_no_records_fault() -> None:
    """What may not be answered means down, after one call."""
    asking = Asking(Destination())
    asking.destination.write = None  # type: ignore[assignment]
    calls = []

    def write(records):
        calls.append(len(records))
        return Failed("write() answered True", is_answer=True)

    asking.blame = Blame(write, lambda _: record("event"))
    assert asking.ask(range(100)) == list(range(100))
    assert calls == [100]
    assert asking.delays == [0.25]


def test_a_slow_failure_is_not_repeated_for_each_record(monkeypatch) -> None:
    """Where each attempt runs into a timeout, as few as possible are made."""
    clock = ManualClock()
    monkeypatch.setattr(module, "time", clock)

    class Slow(Destination):
        def write(self, records):
            clock.sleep(30)
            return super().write(records)

    asking = Asking(Slow(is_down=True))
    asking.ask(range(2048))
    assert asking.destination.calls == 3


def test_records_left_out_prove_nothing() -> None:
    """What a handler leaves out by its level says nothing of its destination: a good
    record among such is kept while it is down.
    """

    def write(records):
        for number, each in enumerate(records):
            if each.body == "real":
                return Stumbled("refused", number, was_taken=False)
        return Unseen()

    asking = Asking(Destination())
    asking.blame = Blame(write, lambda _: record("below"))
    for _ in range(4):
        assert "real" in asking.ask(["below-1", "real", "below-2"])
    assert asking.counted() == 0


def test_waiting_begins_anew_when_somebody_waits() -> None:
    """After `hasten` the delays are short again."""
    asking = Asking(Destination(is_down=True))
    for _ in range(8):
        asking.ask([1, 2])
    asking.blame.hasten()
    asking.ask([1, 2])
    assert asking.delays[-1] == 0.25


@given(st.sets(st.integers(0, 39)), st.integers(1, 40), st.integers(0, 1 << 32))
def test_every_record_is_delivered_or_refused_once(bad, size, seed) -> None:
    """For a destination that works, now and then with an outage: each good record
    arrives, each bad one is refused, none of both twice.
    """
    chance = random.Random(seed)
    destination = Destination(*bad)
    asking = Asking(destination)
    left = list(range(size))
    for _ in range(200):
        if not (left := asking.ask(left)):
            break
        destination.is_down = chance.random() < 0.3
    kept = [body for body in destination.kept if body != "event"]
    assert not left
    assert sorted(kept) == [n for n in range(size) if n not in bad]
    assert asking.counted() == len([n for n in range(size) if n in bad])
