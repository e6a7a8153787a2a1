"""Pumps: from lanes to a destination, nothing passed over and nothing tried for ever."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.codec import wire
from femtomp.lanes.cursor import Counters, read_cursors, sink_key
from femtomp.sinks import Asked, Delivered, Paced, Refused, RetryAfter
from femtomp.supervisor import blame
from femtomp.supervisor import pump as module
from femtomp.supervisor.news import News
from femtomp.supervisor.pump import Pump
from femtomp.testing import CollectingSink, FailingSink, ManualClock, wait_until
from tests.supervisor.conftest import Pool


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "time", ManualClock())
    monkeypatch.setattr(module, "IDLE_S", 0.01)


class Running:
    """A pump over a pool's lanes."""

    def __init__(self, pool: Pool, sink, severity: int = 9) -> None:
        self.pool = pool
        self.sink = sink
        self.pump = Pump("sink", severity, lambda: sink, pool.members)
        self.pump.start()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.pump.finish()
        self.pump.join(10)
        assert not self.pump.is_alive()

    def drain(self) -> None:
        """Wait until every lane's cursor is at its end."""
        self.pool.look()
        self.pump.wake.set()
        wait_until(lambda: all(m.is_drained() for m in self.pool.members.values()))


def counters(pool: Pool) -> Counters:
    """Give the sum over all lanes, from the files."""
    total = Counters()
    for epoch in pool.members:
        cursor = read_cursors(pool.directory, epoch).get(sink_key("sink"))
        if cursor is not None:
            total = total.plus(cursor.counters)
    return total


EVENTS = ("femtomp.worker.started", "femtomp.sink.tried")


def bodies(sink) -> list:
    return [r.body for r in sink.records if r.event_name not in EVENTS]


class Opened(CollectingSink):
    """A destination that can be opened anew, and says how often it was."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.problem: OSError | None = None
        self.writing = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def write(self, batch):
        self.writing.set()
        self.may_go_on.wait(10)
        return super().write(batch)

    def reopen(self) -> None:
        self.times += 1
        if self.problem is not None:
            raise self.problem


def test_destination_is_reopened_behind_the_batch_in_hand(pool) -> None:
    """Reopening waits for a write that has begun, and is not said before it is done."""
    with Running(pool, Opened()) as running:
        sink, pump = running.sink, running.pump
        sink.may_go_on.clear()
        pool.log(pool.worker(), 0)
        running.pool.look()
        pump.wake.set()
        assert sink.writing.wait(10)
        pump.reopen()
        assert pump.is_reopening
        assert sink.times == 0
        sink.may_go_on.set()
        wait_until(lambda: not pump.is_reopening)
        assert sink.times == 1


class Gone(CollectingSink):
    """A destination that goes away for good."""

    gone_for_good = ""

    def write(self, batch):
        return (
            Refused(self.gone_for_good) if self.gone_for_good else super().write(batch)
        )


def test_a_destination_that_has_gone_is_told_once_and_holds_nothing(pool) -> None:
    """What comes for it is refused, and the sinks hear once that it has gone."""
    news = News(["sink", "other"], {})
    sink = Gone()
    pump = Pump("sink", 9, lambda: sink, pool.members, news=news)
    pump.start()
    writer = pool.worker()
    for number in range(3):
        if number == 1:
            sink.gone_for_good = "the reader has gone"
        pool.log(writer, number)
        pool.look()
        pump.wake.set()
        wait_until(lambda: all(m.is_drained() for m in pool.members.values()))
    wait_until(lambda: not news.of("sink", 0))
    pump.finish()
    pump.join(10)
    assert counters(pool) == Counters(delivered=1, refused=2)
    assert bodies(sink) == [0]
    told = [record.body for record in news.of("other", 0)]
    assert told == [
        "sink sink has ended: the reader has gone; its records are refused from now on"
    ]
    assert not pump.is_stalled


def test_a_destination_that_was_down_and_has_gone_has_not_recovered(pool) -> None:
    """A sink that ends in an outage is not said to take records again."""
    news = News(["sink", "other"], {})

    class Ending(Gone):
        def write(self, batch):
            if not self.gone_for_good:
                self.gone_for_good = "the reader has gone"
                return RetryAfter(5.0, "it is full")
            return super().write(batch)

    pump = Pump("sink", 9, Ending, pool.members, news=news)
    pump.outage.begin("it is full", 0.0)
    pump.start()
    pool.log(pool.worker(), 1)
    pool.look()
    pump.wake.set()
    wait_until(lambda: all(m.is_drained() for m in pool.members.values()))
    pump.finish()
    pump.join(10)
    told = [record.event_name for record in news.of("other", 0)]
    assert told == ["femtomp.sink.down", "femtomp.sink.ended"]
    assert not pump.is_stalled


def test_destination_that_cannot_be_reopened_is_written_to_on(pool) -> None:
    """An error of reopening is said and ends nothing."""
    with Running(pool, Opened()) as running:
        running.sink.problem = OSError(errno.EACCES, "Permission denied")
        running.pump.reopen()
        wait_until(lambda: not running.pump.is_reopening)
        pool.log(pool.worker(), 1)
        running.drain()
        assert bodies(running.sink) == [1]


def test_destination_without_files_is_not_waited_for(pool) -> None:
    """Who can reopen nothing holds nobody up."""
    with Running(pool, CollectingSink()) as running:
        running.pump.reopen()
        assert not running.pump.is_reopening


def test_records_are_delivered_once_and_counted(pool) -> None:
    """What lies in two lanes arrives once, by time, and the cursors say so."""
    one, two = pool.worker(), pool.worker("mmap")
    for n in range(50):
        pool.log(one if n % 2 else two, n, time=n)
    with Running(pool, CollectingSink()) as running:
        running.drain()
        assert bodies(running.sink) == list(range(50))
        for n in range(50, 60):
            pool.log(two, n)
        running.drain()
    assert bodies(running.sink) == list(range(60))
    assert counters(pool) == Counters(delivered=60)
    assert running.sink.closed


def test_each_worker_is_announced_once(pool) -> None:
    """Before a lane's first record comes the event that says whose it is, once."""
    pool.log(pool.worker(), "a")
    with Running(pool, CollectingSink()) as running:
        running.drain()
        pool.log(pool.writers[0], "b")
        running.drain()
    names = [r.event_name or r.body for r in running.sink.records]
    assert names == ["femtomp.worker.started", "a", "b"]
    assert running.sink.records[0].attributes["process.pid"] == os.getpid()
    again = CollectingSink()
    pool.restart()
    pool.log(pool.writers[0], "c")
    with Running(pool, again) as running:
        running.drain()
    assert [r.body for r in again.records] == ["c"]


def test_lower_severities_are_filtered_and_counted(pool) -> None:
    """What is below the sink's level is not handed over, and is counted."""
    worker = pool.worker()
    for n in range(10):
        pool.log(worker, n, level=10 if n % 2 else 40)
    with Running(pool, CollectingSink(), severity=17) as running:
        running.drain()
    assert bodies(running.sink) == [0, 2, 4, 6, 8]
    assert counters(pool) == Counters(delivered=5, filtered=5)


def test_announcement_has_a_level_too(pool) -> None:
    """A sink for errors is not told that a worker started."""
    pool.log(pool.worker(), "failed", level=40)
    with Running(pool, CollectingSink(), severity=17) as running:
        running.drain()
    assert [r.body for r in running.sink.records] == ["failed"]


def test_undecodable_record_is_counted_and_passed(pool) -> None:
    """A payload that is no record costs nothing else."""
    worker = pool.worker()
    pool.log(worker, "a")
    assert worker.append(b"no pickle")
    pool.log(worker, "b", process=([], "unhashable"))
    pool.log(worker, "c", severity=float("inf"))
    pool.log(worker, "d")
    with Running(pool, CollectingSink()) as running:
        running.drain()
    assert bodies(running.sink) == ["a", "d"]
    assert counters(pool) == Counters(delivered=2, corrupt=3)


def test_refused_batch_is_counted_and_passed(pool) -> None:
    """A batch that will never be taken is counted as refused; the next one is not."""
    worker = pool.worker()
    for n in range(5):
        pool.log(worker, n)
    with Running(pool, FailingSink([Refused("never")])) as running:
        running.drain()
        pool.log(worker, "later")
        running.drain()
    assert bodies(running.sink) == ["later"]
    assert counters(pool) == Counters(delivered=1, refused=5)


def test_partly_refused_batch(pool) -> None:
    """Records that a delivered batch's destination refused are counted apart."""
    worker = pool.worker()
    for n in range(5):
        pool.log(worker, n)
    with Running(pool, FailingSink([Delivered({"too old": 2})])) as running:
        running.drain()
    assert counters(pool) == Counters(delivered=3, refused=2)


def test_busy_destination_gets_everything_in_order(pool) -> None:
    """After retries, with and without a part accepted, each record came once."""
    script = [
        RetryAfter(1.0, "busy"),
        RetryAfter(0.5, "slow", accepted=3),
        RetryAfter(0.0, "", accepted=1, refused={"bad": 1}),
        RetryAfter(2.0, "busy"),
    ]
    worker = pool.worker()
    for n in range(20):
        pool.log(worker, n)
    with Running(pool, FailingSink(script)) as running:
        running.drain()
    assert bodies(running.sink) == list(range(20))
    assert counters(pool) == Counters(delivered=19, refused=1)


def test_cursor_stands_behind_what_was_accepted(pool) -> None:
    """While a destination is busy, the file's cursor is behind what it took already."""
    stop = threading.Event()

    class Busy(CollectingSink):
        def _outcome(self, batch):
            if stop.is_set():
                return Delivered()
            taken = not self.records
            return RetryAfter(0.01, "busy", accepted=4 if taken else 0)

    worker = pool.worker()
    for n in range(10):
        pool.log(worker, n)
    pool.look()
    with Running(pool, Busy()) as running:
        wait_until(lambda: counters(pool).delivered == 3)
        # An engine that goes on from the files begins where this one stands.
        wait_until(lambda: len(running.sink.batches) > 3)
        assert counters(pool) == Counters(delivered=3)
        stop.set()
        running.drain()
    assert bodies(running.sink) == list(range(10))
    assert counters(pool) == Counters(delivered=10)


class Poisoned(CollectingSink):
    """A driver that some records break."""

    def __init__(self, *poison) -> None:
        super().__init__()
        self.poison = poison

    def _outcome(self, batch):
        if any(record.body in self.poison for record in batch):
            raise ValueError("cannot write that")
        return Delivered()


@pytest.mark.parametrize("poison", [(0,), (63,), (7, 8), (0, 31, 63), tuple(range(64))])
def test_record_that_breaks_the_driver_is_found(pool, poison) -> None:
    """Records that a driver raises for are refused alone; all others are delivered."""
    worker = pool.worker()
    for n in range(64):
        pool.log(worker, n)
    with Running(pool, Poisoned(*poison)) as running:
        running.drain()
    assert bodies(running.sink) == [n for n in range(64) if n not in poison]
    assert counters(pool) == Counters(delivered=64 - len(poison), refused=len(poison))


@pytest.mark.parametrize(
    "answer", [True, 3, Delivered, Delivered(3), (), RetryAfter(0.0), RetryAfter(-1)]
)
def test_wrong_answers_keep_the_records_without_a_storm(
    pool, answer, monkeypatch
) -> None:
    """What is no outcome, or a delay of 0 again and again, costs no record and no
    processor; it is said with the sink's name.
    """
    answers = [answer]
    said: list[str] = []
    monkeypatch.setattr(module, "note", lambda _, text: said.append(text))

    class Wrong(CollectingSink):
        def _outcome(self, _):
            return answers[0]

    pool.log(pool.worker(), "kept")
    with Running(pool, sink := Wrong()) as running:
        pool.look()
        wait_until(lambda: running.pump.flow.retries >= 3)
        assert len(sink.batches) <= 4 * running.pump.flow.retries + 4
        assert counters(pool) == Counters()
        answers[0] = None
        running.pump.hurry()
        running.drain()
    assert counters(pool) == Counters(delivered=1)
    if not isinstance(answer, RetryAfter) or answer.delay_s < 0:
        assert "sink cannot take records now: write() answered" in said[0]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt, GeneratorExit])
def test_no_exception_ends_a_pump(pool, error) -> None:
    """SystemExit and the like, of one record, cost that record alone."""

    class Exits(CollectingSink):
        def _outcome(self, batch):
            if any(record.body == 1 for record in batch):
                raise error
            return Delivered()

        def reopen(self) -> None:
            raise error

        def close(self) -> None:
            raise error

    worker = pool.worker()
    for n in range(3):
        pool.log(worker, n)
    with Running(pool, Exits()) as running:
        running.drain()
        running.pump.reopen()
        wait_until(lambda: not running.pump.is_reopening)
    assert bodies(running.sink) == [0, 2]
    assert counters(pool) == Counters(delivered=2, refused=1)


@pytest.mark.parametrize("answer", [RetryAfter(1000.0, "ask me then"), OSError("gone")])
def test_hurry_cuts_a_wait_short_for_one_more_try(pool, answer, monkeypatch) -> None:
    """A destination that is waited for is asked once more when somebody waits."""
    monkeypatch.setattr(blame, "FIRST_DELAY_S", 1000.0)
    monkeypatch.setattr(blame, "MAX_DELAY_S", 1000.0)

    class Gone(CollectingSink):
        is_back = False

        def _outcome(self, _):
            if not self.is_back and isinstance(answer, Exception):
                raise answer
            return None if self.is_back else answer

    pool.log(pool.worker(), "a")
    with Running(pool, sink := Gone()) as running:
        pool.look()
        for tries in range(1, 4):
            wait_until(lambda n=tries: running.pump.flow.retries >= n)
            tried = len(sink.batches)
            sink.is_back = tries == 3
            running.pump.hurry()
            wait_until(lambda n=tried: len(sink.batches) > n)
        running.drain()
    assert bodies(sink) == ["a"]


def test_a_delay_that_the_destination_named_is_cut_by_the_end_alone(pool) -> None:
    """A flush does not storm a destination that said when to come; the end tries it."""
    pool.log(pool.worker(), "a")
    with Running(pool, sink := FailingSink([Asked(1000.0, "busy")])) as running:
        pool.look()
        wait_until(lambda: running.pump.is_waiting)
        running.pump.flush()
        running.pump.wake.set()
        assert running.pump.is_waiting
        assert len(sink.batches) == 1
        running.pump.hurry()
        running.drain()
    assert bodies(sink) == ["a"]


def test_a_destination_that_takes_nothing_for_long_is_down(pool, monkeypatch) -> None:
    """However short its delays are, it is said after five seconds."""
    clock = module.time
    took = threading.Event()

    class Busy(CollectingSink):
        def _outcome(self, _):
            clock.advance(1.0)
            return Delivered() if took.is_set() else RetryAfter(0.01, "busy")

    pool.log(pool.worker(), "a")
    with Running(pool, sink := Busy()) as running:
        pool.look()
        wait_until(lambda: running.pump.is_stalled)
        assert len(sink.batches) >= 5
        took.set()
        running.drain()
        assert not running.pump.is_stalled


def test_a_driver_that_paces_itself_is_not_down(pool) -> None:
    """Who waits for a budget of its own has no destination that is down."""
    clock = module.time

    class Slow(CollectingSink):
        def _outcome(self, _):
            clock.advance(2.0)
            return Paced(0.01) if len(self.batches) < 10 else Delivered()

    pool.log(pool.worker(), "a")
    with Running(pool, sink := Slow()) as running:
        running.drain()
    assert len(sink.batches) >= 10
    assert running.pump.outage.since_s == 0.0


def test_batches_are_bounded_by_bytes(pool, monkeypatch) -> None:
    """Of many lanes no more payload is collected than a batch may have, none is handed
    over at once that is more than a part may have, and a larger record goes alone.
    """
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 40_000)
    monkeypatch.setattr(module, "MAX_PART_BYTES", 10_000)
    collected: list[int] = []

    real = Pump._deliver

    def deliver(self, driver, batch):
        collected.append(sum(len(r.body) for r in batch.records if not r.event_name))
        return real(self, driver, batch)

    monkeypatch.setattr(Pump, "_deliver", deliver)

    class Sink(CollectingSink):
        def _outcome(self, batch):
            lengths.append([len(r.body) for r in batch])
            return Delivered()

    lengths: list[list[int]] = []
    for size in (100, 3_000, 9_000, 30_000, 70_000):
        worker = pool.worker("mmap" if size == 100 else "write")
        for _ in range(8):
            pool.log(worker, "x" * size, time=size)
            worker.append_side(wire.encode((
                1, size, 20, "L", "shop", "s" * size, None, "/a", 1, "f", 1, "t", None,
                None,
            )))  # fmt: skip
    with Running(pool, sink := Sink()) as running:
        running.drain()
    assert counters(pool) == Counters(delivered=80)
    assert len([r for r in sink.records if r.event_name is None]) == 80
    assert all(sum(part) <= 10_000 or len(part) <= 2 for part in lengths)
    assert all(size <= 40_000 or 70_000 <= size < 71_000 for size in collected)
    assert len(collected) < 40


def test_driver_that_cannot_be_built_is_told(pool) -> None:
    """What the builder raises is the pump's failure, and its thread ends."""

    def build():
        raise OSError("no such place")

    pump = Pump("sink", 0, build, pool.members)
    pump.start()
    assert pump.built.wait(10)
    pump.join(10)
    assert str(pump.failure) == "no such place"


def test_cursor_that_cannot_be_written_stops_nothing(pool, monkeypatch) -> None:
    """On a full disk delivery goes on from memory; a restart repeats, and loses none."""
    worker = pool.worker()
    for n in range(5):
        pool.log(worker, n)
    pool.look()
    real, full = os.pwrite, [True]

    def pwrite(*arguments):
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with Running(pool, CollectingSink()) as running:
        running.drain()
        pool.log(worker, 5)
        running.drain()
    assert bodies(running.sink) == list(range(6))
    full[0] = False
    assert counters(pool) == Counters()
    pool.restart()
    with Running(pool, CollectingSink()) as running:
        running.drain()
    assert bodies(running.sink) == list(range(6))
    assert counters(pool) == Counters(delivered=6)


def test_no_lane_starves_another(pool, monkeypatch) -> None:
    """Beside lanes that are always full, a quiet lane's record is soon delivered."""
    monkeypatch.setattr(module, "MAX_BATCH_RECORDS", 10)
    loud = [pool.worker() for _ in range(3)]
    quiet = pool.worker()
    for worker in loud:
        for n in range(2000):
            pool.log(worker, n)
    pool.log(quiet, "quiet")
    with Running(pool, CollectingSink()) as running:
        running.drain()
    place = bodies(running.sink).index("quiet")
    assert place < sum(running.sink.batches[:5])


def test_finish_ends_a_pump_that_waits_for_its_destination(pool) -> None:
    """A pump whose destination never takes anything ends when it is told to, and what
    was not taken is still to come.
    """

    class Never(CollectingSink):
        def _outcome(self, batch):
            return RetryAfter(0.01, "never")

    pool.log(pool.worker(), "a")
    with Running(pool, Never()) as running:
        pool.look()
        wait_until(lambda: len(running.sink.batches) > 2)
    assert counters(pool) == Counters()
    pool.restart()
    with Running(pool, CollectingSink()) as running:
        running.drain()
    assert bodies(running.sink) == ["a"]


OUTCOMES = st.one_of(
    st.just("delivered"),
    st.just("refused"),
    st.just("raise"),
    st.tuples(st.integers(0, 5), st.integers(0, 2)),
)


class Scripted(CollectingSink):
    """A driver that does what was drawn, and keeps what it was given to keep."""

    def __init__(self, script) -> None:
        super().__init__()
        self.script = list(script)
        self.refused = 0

    def _outcome(self, batch):
        step = self.script.pop(0) if self.script else "delivered"
        if step == "raise":
            raise ValueError("drawn")
        if step == "refused":
            self.refused += len(batch)
            return Refused("drawn")
        if step == "delivered":
            return Delivered()
        accepted = min(step[0], len(batch))
        refused = min(step[1], accepted)
        self.refused += refused
        return RetryAfter(0.0, "drawn", accepted, {"drawn": refused})


@settings(max_examples=40, deadline=None)
@given(st.lists(OUTCOMES, max_size=12), st.lists(st.integers(1, 9), max_size=4))
def test_every_record_is_delivered_or_counted_once(
    tmp_path_factory, script, sizes
) -> None:
    """Whatever a destination answers, in the end every record is counted exactly once,
    as delivered or refused, and none is handed over after it was taken.
    """
    pool = Pool(tmp_path_factory.mktemp("pool"))
    try:
        for size in sizes:
            worker = pool.worker()
            for n in range(size):
                pool.log(worker, f"{id(worker)}-{n}", time=n)
        with Running(pool, sink := Scripted(script)) as running:
            running.drain()
        total = counters(pool)
        assert total.delivered + total.refused == sum(sizes)
        assert total.refused <= sink.refused + script.count("raise")
        found = [r.uid for r in sink.records]
        assert len(found) == len(set(found))
    finally:
        pool.close()
