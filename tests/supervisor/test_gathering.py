"""A sink that gathers records waits for few of them, and for no longer than it must."""

from __future__ import annotations

import pytest

from femtomp.sinks import Delivered, RetryAfter
from femtomp.supervisor import pump as module
from femtomp.testing import CollectingSink, ManualClock, wait_until
from tests.supervisor.test_pump import Running, bodies


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    # Time stands still: whatever waits for the interval waits for ever.
    monkeypatch.setattr(module, "time", ManualClock())
    monkeypatch.setattr(module, "IDLE_S", 0.01)


class Gatherer(CollectingSink):
    """A destination that wants large batches."""

    interval_s = 60.0


def gathering(pool):
    """Start a pump that has written one record and waits for more."""
    running = Running(pool, Gatherer())
    worker = pool.worker()
    pool.log(worker, "first")
    pool.look()
    running.pump.wake.set()
    wait_until(lambda: running.pump.is_waiting)
    assert bodies(running.sink) == ["first"]
    return running, worker


def test_few_records_wait_until_somebody_waits_for_them(pool) -> None:
    """A flush ends the waiting, and what comes long after it is gathered again."""
    running, worker = gathering(pool)
    with running:
        pool.log(worker, "second")
        pool.look()
        assert running.pump.is_waiting
        running.pump.flush()
        wait_until(lambda: bodies(running.sink) == ["first", "second"])
        wait_until(lambda: not running.pump._hurried.is_set())
        pool.log(worker, "third")
        pool.look()
        running.pump.wake.set()
        wait_until(lambda: running.pump.is_waiting)
        pool.log(worker, "fourth")
        pool.look()
        assert bodies(running.sink) == ["first", "second", "third"]
        assert running.pump.is_waiting


def test_enough_for_a_batch_is_not_waited_with(pool) -> None:
    """What fills a batch is written although the interval is not over."""
    running, worker = gathering(pool)
    with running:
        for n in range(6000):
            pool.log(worker, n)
        pool.look()
        wait_until(lambda: len(bodies(running.sink)) > 4000)


def test_segment_that_follows_is_not_waited_for(pool) -> None:
    """A batch that is small because a segment ended is followed by the next at once."""
    worker = pool.worker("mmap")
    count = 0
    pool.look()
    (member,) = pool.members.values()
    while len(member.lane.segments) < 2:
        pool.log(worker, count, padding="x" * 200)
        count += 1
        pool.look()
    with Running(pool, Gatherer()) as running:
        wait_until(lambda: len(bodies(running.sink)) == count)
    assert count < module.SMALL_BATCH_RECORDS


def test_end_waits_for_nothing(pool) -> None:
    """A pump that is to end gathers no more."""
    running, worker = gathering(pool)
    with running:
        running.pump.hurry()
        for n in range(3):
            pool.log(worker, n)
            running.drain()
        assert bodies(running.sink) == ["first", 0, 1, 2]


def test_destination_that_wants_more_sees_what_was_logged_meanwhile(pool) -> None:
    """The records that it has not taken come again, with others."""

    class Comparing(CollectingSink):
        wants_more = True

        def _outcome(self, batch):
            logged = [r for r in batch if r.body in {"a", "b"}]
            return RetryAfter(0.01, "alone") if len(logged) < 2 else Delivered()

    worker = pool.worker()
    pool.log(worker, "a")
    with Running(pool, Comparing()) as running:
        pool.look()
        running.pump.wake.set()
        wait_until(lambda: len(running.sink.batches) > 2)
        pool.log(worker, "b")
        running.drain()
    assert bodies(running.sink)[-2:] == ["a", "b"]
