"""What is said of losses and restarts: all of it, once, and not more often than told."""

from __future__ import annotations

import itertools
import os
import signal
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.lanes import place
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Counters, Cursor
from femtomp.lanes.spool import ENGINE_ENDED, ENGINE_STARTS, GUARDIAN
from femtomp.sinks import Refused, RetryAfter
from femtomp.supervisor import losses as module
from femtomp.supervisor import pump
from femtomp.supervisor.losses import Losses
from femtomp.supervisor.news import News
from femtomp.supervisor.pump import Pump
from femtomp.supervisor.totals import Totals
from femtomp.testing import CollectingSink, FailingSink, ManualClock, wait_until
from tests.supervisor.conftest import Pool

SINKS = ("a", "b")


@pytest.fixture(name="clock", autouse=True)
def _clock(monkeypatch):
    clock = ManualClock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def spool(tmp_path):
    made = place.create(tmp_path, "shop", level=20, sinks=SINKS, master={"pid": 1})
    made.set_control(ENGINE_STARTS, 1)
    made.set_control(GUARDIAN, 4711)
    yield made
    made.close()


@pytest.fixture
def pool(spool):
    made = Pool(f"{spool.path}/lanes", SINKS)
    made.worker()
    made.look()
    yield made
    made.close()


def lose(pool: Pool, sink: str, **counts) -> None:
    """Add to what a sink has lost in the first lane."""
    member = next(iter(pool.members.values()))
    cursor = member.cursors.cursors[sink] or Cursor()
    counters = cursor.counters.plus(Counters(**counts))
    member.cursors.commit(sink, cursor._replace(counters=counters))


def restart(spool, number: int, news: News | None = None) -> Losses:
    spool.set_control(ENGINE_STARTS, spool.control()[ENGINE_STARTS] + 1)
    spool.set_control(ENGINE_ENDED, number + 1)
    return Losses(spool, {"service.name": "shop"}, news=news)


def said(
    losses: Losses, pool: Pool, sink: str = "a", severity: int = 0, **more
) -> list:
    """Look, take what is to be said, and say that it arrived."""
    losses.look(pool.members, **more)
    records = losses.records(sink, severity, **more)
    if records:
        losses.reached(sink)
    return records


def test_nothing_is_said_of_nothing(spool, pool) -> None:
    """Delivered and filtered records are no loss, the first engine no restart."""
    lose(pool, "a", delivered=5, filtered=7)
    losses = Losses(spool, {})
    assert said(losses, pool) == []
    assert not losses.is_due("a")
    assert said(losses, pool, at_last=True) == []


def test_losses_are_said_by_reason(spool, pool) -> None:
    """A sink hears of its own losses and of all drops, with the totals."""
    lose(pool, "a", delivered=9, refused=2, quarantined=1)
    lose(pool, "b", evicted=3, corrupt=4)
    pool.writers[0].drop("no_space", b"")
    losses = Losses(spool, {"service.name": "shop"})
    (record,) = said(losses, pool)
    assert record.event_name == "femtomp.records.lost"
    assert (record.severity_text, record.severity_number) == ("ERROR", 17)
    assert record.logger == "femtomp"
    assert record.resource["service.name"] == "shop"
    assert record.resource["process.pid"] == 4711
    assert record.body == (
        "records were lost to a: 2 refused, 1 quarantined, 1 dropped.no_space"
    )
    assert record.attributes == {
        "femtomp.lost.refused": 2,
        "femtomp.lost.quarantined": 1,
        "femtomp.lost.dropped.no_space": 1,
        "femtomp.lost_total.refused": 2,
        "femtomp.lost_total.quarantined": 1,
        "femtomp.lost_total.dropped.no_space": 1,
    }
    (other,) = said(losses, pool, "b")
    assert other.attributes["femtomp.lost.evicted"] == 3
    assert other.attributes["femtomp.lost.corrupt"] == 4
    assert "femtomp.lost.refused" not in other.attributes
    assert other.uid != record.uid


def test_at_most_once_an_interval(spool, pool, clock) -> None:
    """What is lost meanwhile is said when the interval is over, or at the end."""
    losses = Losses(spool, {})
    uids = set()
    for n in range(1, 4):
        lose(pool, "a", refused=n)
        (record,) = said(losses, pool)
        assert record.attributes["femtomp.lost.refused"] == n
        assert record.attributes["femtomp.lost_total.refused"] == n * (n + 1) // 2
        uids.add(record.uid)
        clock.advance(module.INTERVAL_S / 2)
        assert said(losses, pool) == []
        clock.advance(module.INTERVAL_S / 2)
        assert said(losses, pool) == []
        clock.advance(module.INTERVAL_S)
    lose(pool, "a", refused=1)
    (record,) = said(losses, pool)
    lose(pool, "a", refused=5)
    assert said(losses, pool) == []
    (last,) = said(losses, pool, at_last=True)
    assert last.attributes["femtomp.lost.refused"] == 5
    assert len(uids | {record.uid, last.uid}) == 5


def test_clock_that_was_set_back_silences_nothing(spool, pool, clock) -> None:
    """After a step back of an hour the next loss is said."""
    lose(pool, "a", refused=1)
    assert len(said(Losses(spool, {}), pool)) == 1
    lose(pool, "a", refused=1)
    clock.advance(-3600)
    assert len(said(Losses(spool, {}), pool)) == 1


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (signal.SIGSEGV, "SIGSEGV"),
        (signal.SIGSEGV | 0x80, "SIGSEGV"),
        (signal.SIGKILL, "SIGKILL"),
        (3 << 8, "exit status 3"),
        (-1, "an unknown cause"),
    ],
)
def test_restart_is_said_once(spool, pool, clock, status, name) -> None:
    """Each sink hears that the engine died, of what, and how many there were."""
    losses = restart(spool, status)
    for sink in SINKS:
        (record,) = said(losses, pool, sink)
        assert record.event_name == "femtomp.engine.restarted"
        assert record.severity_text == "WARNING"
        assert record.attributes == {
            "femtomp.engine.ended_by": name,
            "femtomp.engine.starts": 2,
        }
        assert record.uid.endswith("-restarted-2")
    clock.advance(99)
    assert said(losses, pool) == []


def test_crash_loop_is_said_once_an_interval(spool, pool, clock) -> None:
    """Of ten engines within ten seconds two are spoken of, and no loss is forgotten."""
    records = []
    for _ in range(10):
        lose(pool, "a", refused=1)
        records += said(restart(spool, signal.SIGABRT), pool)
        clock.advance(1)
    clock.advance(1)
    records += said(restart(spool, signal.SIGABRT), pool)
    starts = [r.attributes.get("femtomp.engine.starts") for r in records]
    assert [s for s in starts if s] == [2, 12]
    assert sum(r.attributes.get("femtomp.lost.refused", 0) for r in records) == 10


def test_report_that_an_engine_died_over_comes_again(spool, pool, clock) -> None:
    """It has the same uid, time and content; what was lost since is the next one's."""
    lose(pool, "a", refused=1)
    losses = restart(spool, signal.SIGSEGV)
    losses.look(pool.members)
    first = losses.records("a", 0)
    assert [r.event_name for r in first] == [
        "femtomp.engine.restarted",
        "femtomp.records.lost",
    ]
    lose(pool, "a", refused=4)
    pool.restart()
    clock.advance(3)
    losses = restart(spool, signal.SIGKILL)
    losses.look(pool.members)
    assert losses.is_due("a")
    again = losses.records("a", 0)
    assert again == first
    losses.reached("a")
    assert losses.records("a", 0) == []
    clock.advance(module.INTERVAL_S)
    then = losses.records("a", 0)
    assert then[0].attributes["femtomp.engine.ended_by"] == "SIGKILL"
    assert then[1].attributes["femtomp.lost.refused"] == 4


def test_report_that_kills_comes_later_and_later(spool, pool, clock) -> None:
    """A report that each engine crashes over does not keep the records from coming; an
    operator's kills delay none.
    """
    lose(pool, "a", refused=1)
    losses = restart(spool, signal.SIGKILL)
    tried = 0
    for second in range(3600):
        losses.look(pool.members)
        if losses.records("a", 0):
            tried += 1
            losses = restart(spool, signal.SIGSEGV if second else signal.SIGKILL)
        clock.advance(1)
    assert 3 < tried < 12
    clock.advance(3600)
    losses.look(pool.members)
    assert losses.records("a", 0)
    losses.reached("a")
    for _ in range(20):
        lose(pool, "a", refused=1)
        clock.advance(module.INTERVAL_S)
        losses = restart(spool, signal.SIGKILL)
        losses.look(pool.members)
        assert losses.records("a", 0)


def test_reaped_lanes_count_on(spool, pool, clock) -> None:
    """What was lost in a lane that is gone is neither forgotten nor said again."""
    lose(pool, "a", refused=2)
    pool.writers[0].drop("io", b"")
    losses = Losses(spool, {})
    assert len(said(losses, pool)) == 1
    ((epoch, member),) = pool.members.items()
    Totals(spool, SINKS).add(epoch, member)
    del pool.members[epoch]
    member.unlink(spool.lanes)
    clock.advance(20)
    assert said(losses, pool) == []
    pool.worker()
    pool.look()
    lose(pool, "a", refused=1)
    clock.advance(20)
    (record,) = said(losses, pool)
    assert record.attributes["femtomp.lost.refused"] == 1
    assert record.attributes["femtomp.lost_total.refused"] == 3
    assert record.attributes["femtomp.lost_total.dropped.io"] == 1


def test_lane_that_cannot_be_read_takes_nothing_back(spool, pool, clock) -> None:
    """Counts that seem smaller for a while are not said twice afterwards."""
    for _ in range(3):
        pool.writers[0].drop("size", b"")
    losses = Losses(spool, {})
    assert len(said(losses, pool)) == 1
    clock.advance(20)
    losses = restart(spool, signal.SIGKILL)
    (record,) = said(losses, SimpleNamespace(members={}))
    assert record.event_name == "femtomp.engine.restarted"
    clock.advance(20)
    assert said(losses, pool) == []
    pool.writers[0].drop("size", b"")
    clock.advance(20)
    (record,) = said(losses, pool)
    assert record.attributes["femtomp.lost.dropped.size"] == 1


def test_level_of_the_sink(spool, pool, clock) -> None:
    """A sink for errors hears of losses, one for less than these of neither; what a
    sink does not take is not kept for it.
    """
    lose(pool, "a", refused=1)
    lose(pool, "b", refused=1)
    losses = restart(spool, signal.SIGSEGV)
    names = [r.event_name for r in said(losses, pool, "a", severity=17)]
    assert names == ["femtomp.records.lost"]
    assert said(losses, pool, "b", severity=21) == []
    clock.advance(20)
    assert said(losses, pool, "b", severity=0) == []


@pytest.mark.parametrize("size", [0, 10, 63, 64, 100, 64 + 511])
def test_cut_file_makes_it_say_again(spool, pool, clock, size) -> None:
    """What is not whole is not believed: rather twice than never."""
    lose(pool, "a", refused=1)
    assert len(said(Losses(spool, {}), pool)) == 1
    os.truncate(f"{spool.path}/said", size)
    clock.advance(20)
    losses = Losses(spool, {})
    assert len(said(losses, pool)) == 1
    clock.advance(20)
    assert said(Losses(spool, {}), pool) == []


def test_file_that_cannot_be_made_stops_nothing(spool, pool) -> None:
    """Without a place to keep it, what was said is remembered by this engine alone."""
    os.mkdir(f"{spool.path}/said")
    lose(pool, "a", refused=1)
    losses = Losses(spool, {})
    assert len(said(losses, pool)) == 1
    assert said(losses, pool, at_last=True) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["lose", "drop", "say", "die over it", "die", "wait"]),
        max_size=40,
    )
)
def test_every_loss_is_said_once(tmp_path_factory, steps) -> None:
    """Whatever is lost and dies in whatever order: by uid, in the end each loss was said
    once, in at most one report an interval.
    """
    path = tmp_path_factory.mktemp("spool")
    spool = place.create(path, "shop", level=20, sinks=SINKS, master={"pid": 1})
    spool.set_control(ENGINE_STARTS, 1)
    pool = Pool(f"{spool.path}/lanes", SINKS)
    pool.worker()
    pool.look()
    module.time.advance(1000)
    losses = Losses(spool, {"service.name": "shop"})
    heard, lost, dropped = {}, 0, 0
    try:
        for step in [*steps, "wait", "say", "wait", "say"]:
            match step:
                case "lose":
                    lost += 1
                    lose(pool, "a", refused=1)
                case "drop":
                    dropped += 1
                    pool.writers[0].words[seg.DROPPED] += 1
                case "wait":
                    module.time.advance(module.INTERVAL_S)
                case "die":
                    losses = restart(spool, signal.SIGKILL)
                case "say" | "die over it":
                    losses.look(pool.members)
                    records = losses.records("a", 0)
                    for record in records:
                        assert heard.setdefault(record.uid, record) == record
                    if step == "die over it":
                        losses = restart(spool, signal.SIGKILL)
                    elif records:
                        losses.reached("a")
        found = [r.attributes for r in heard.values()]
        assert sum(a.get("femtomp.lost.refused", 0) for a in found) == lost
        assert sum(a.get("femtomp.lost.dropped.no_space", 0) for a in found) == dropped
        last = max((a.get("femtomp.engine.starts", 1) for a in found), default=1)
        assert last == spool.control()[ENGINE_STARTS]
        times = sorted({r.timestamp for r in heard.values() if "-lost-" in r.uid})
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert all(gap >= module.INTERVAL_S * 1e9 for gap in gaps)
    finally:
        pool.close()
        spool.close()


# -- in a pump -----------------------------------------------------------------------


def run(pool: Pool, losses: Losses, sink, until) -> None:
    made = Pump("a", 9, lambda: sink, pool.members, losses)
    made.start()
    wait_until(until)
    losses.look(pool.members, at_last=True)
    made.finish()
    made.join(10)
    assert not made.is_alive()


class Rated:
    """An admission that counts what is over its rate."""

    over_rate = 0


def test_a_rate_that_was_asked_for_is_no_error(spool, pool) -> None:
    """What it left out is said and counted, at level INFO, apart from losses."""
    admission = Rated()
    losses = Losses(spool, {}, {"a": admission})
    admission.over_rate = 40
    (record,) = said(losses, pool)
    assert (record.event_name, record.severity_text) == ("femtomp.records.lost", "INFO")
    assert record.attributes == {
        "femtomp.lost.over_rate": 40,
        "femtomp.lost_total.over_rate": 40,
    }
    lose(pool, "a", refused=1)
    admission.over_rate = 41
    lost, over = said(losses, pool, at_last=True)
    assert lost.severity_text == "ERROR"
    assert not [name for name in lost.attributes if "over_rate" in name]
    assert (over.severity_text, over.attributes["femtomp.lost.over_rate"]) == (
        "INFO",
        1,
    )
    assert lost.uid != over.uid


def test_other_sinks_are_told_once(spool, pool) -> None:
    """A sink's own losses are news for all others; an engine that follows tells them
    no more.
    """
    news = News(spool.sinks, {})
    losses = Losses(spool, {}, news=news)
    lose(pool, "a", refused=2)
    losses.causes["a"] = "never"
    for _ in range(2):
        said(losses, pool, "a", at_last=True)
    assert news.of("a", 0) == []
    (record,) = news.of("b", 0)
    assert record.body == "sink a lost records: 2 refused (never)"
    again = News(spool.sinks, {})
    restart(spool, signal.SIGKILL, again).look(pool.members, at_last=True)
    assert again.of("b", 0) == []


def names(sink) -> list:
    return [r.event_name for r in sink.records]


def test_pump_says_it_without_any_record(spool, pool, monkeypatch) -> None:
    """A sink that has nothing to do hears of losses, and no lane's counter moves."""
    monkeypatch.setattr(pump, "IDLE_S", 0.01)
    pool.writers[0].drop("io", b"")
    losses = Losses(spool, {})
    losses.look(pool.members)
    sink = CollectingSink()
    run(pool, losses, sink, lambda: sink.records)
    assert names(sink) == ["femtomp.records.lost"]
    member = next(iter(pool.members.values()))
    assert member.cursors.cursors["a"] is None


def test_pump_says_the_last_of_it_at_the_end(spool, pool, monkeypatch) -> None:
    """What was lost since the last report is said before the driver is closed."""
    monkeypatch.setattr(pump, "IDLE_S", 0.01)
    sink = FailingSink([Refused("never")])
    pool.log(pool.writers[0], "refused")
    pool.look()
    losses = Losses(spool, {})
    losses.look(pool.members)
    run(pool, losses, sink, lambda: all(
        m.cursors.cursors["a"] is not None for m in pool.members.values()
    ))  # fmt: skip
    assert names(sink) == ["femtomp.records.lost"]
    assert sink.records[0].attributes["femtomp.lost.refused"] == 1
    assert sink.closed


def test_pump_whose_destination_is_down_says_it_later(spool, pool, monkeypatch) -> None:
    """At the end it is tried once; what was not taken is the next engine's to say."""
    monkeypatch.setattr(pump, "IDLE_S", 0.01)
    monkeypatch.setattr(pump, "time", ManualClock())

    class Down(CollectingSink):
        def _outcome(self, batch):
            return RetryAfter(0.01, "down")

    pool.writers[0].drop("io", b"")
    losses = Losses(spool, {})
    losses.look(pool.members)
    run(pool, losses, sink := Down(), lambda: len(sink.batches) > 2)
    assert not sink.records
    losses = restart(spool, signal.SIGTERM)
    losses.look(pool.members)
    up = CollectingSink()
    run(pool, losses, up, lambda: up.records)
    assert names(up) == ["femtomp.records.lost", "femtomp.engine.restarted"]
