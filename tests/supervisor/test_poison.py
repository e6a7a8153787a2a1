"""Poison marks: what is concluded from a death, and from none; whole whatever dies."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.lanes import place
from femtomp.lanes.cursor import Counters, Position, read_cursors, sink_key
from femtomp.lanes.segment import SIDE
from femtomp.lanes.spool import ENGINE_ENDED, ENGINE_STARTS
from femtomp.sinks import RetryAfter
from femtomp.supervisor import poison, pump, quarantine
from femtomp.supervisor.careful import Care, CarefulPump
from femtomp.supervisor.poison import (
    NOWHERE,
    Ended,
    Mark,
    Marks,
    Place,
    Stage,
    how_it_ended,
    judge,
)
from femtomp.testing import CollectingSink, ManualClock, wait_until
from tests.processes.harness import SEED
from tests.supervisor.conftest import Pool

CHUNK = Place("ab" * 12, 3, 128, 4096)
RECORD = Place("ab" * 12, 3, 256, 384)
CRASHED, KILLED, UNKNOWN = Ended.CRASHED, Ended.KILLED, Ended.UNKNOWN
DECODING, WRITING, GUILTY = Stage.DECODING, Stage.WRITING, Stage.GUILTY
SEGFAULT, KILL = signal.SIGSEGV + 1, signal.SIGKILL + 1


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0, UNKNOWN),
        (signal.SIGKILL, KILLED),
        (signal.SIGTERM, KILLED),
        (signal.SIGQUIT, KILLED),
        (signal.SIGUSR1, KILLED),
        (signal.SIGSEGV, CRASHED),
        (signal.SIGSEGV | 0x80, CRASHED),  # with a core dump
        (signal.SIGABRT, CRASHED),
        (signal.SIGBUS, CRASHED),
        (signal.SIGILL, CRASHED),
        (signal.SIGFPE, CRASHED),
        (1 << 8, CRASHED),
        (3 << 8, CRASHED),
    ],
)
def test_how_an_engine_ended(status, ended) -> None:
    """Faults and exits are the engine's own doing, other signals somebody's."""
    assert how_it_ended(status + 1 if status else 0) is ended


#     what stood,   alone, kills, how it ended -> stage,   kills, suspect
CASES = [
    (Stage.NOTHING, False, 0, CRASHED, Stage.NOTHING, 0, None),
    (DECODING, False, 0, CRASHED, Stage.NOTHING, 0, CHUNK),
    (WRITING, False, 0, CRASHED, Stage.NOTHING, 0, CHUNK),
    (DECODING, False, 0, KILLED, Stage.NOTHING, 0, CHUNK),
    (WRITING, False, 0, KILLED, Stage.NOTHING, 0, None),
    (DECODING, False, 0, UNKNOWN, Stage.NOTHING, 0, None),
    (DECODING, True, 0, CRASHED, GUILTY, 0, CHUNK),
    (WRITING, True, 0, CRASHED, GUILTY, 0, CHUNK),
    (WRITING, True, 0, KILLED, Stage.NOTHING, 0, CHUNK),
    (DECODING, True, 0, KILLED, Stage.NOTHING, 1, CHUNK),
    (DECODING, True, 1, KILLED, Stage.NOTHING, 2, CHUNK),
    (DECODING, True, 2, KILLED, GUILTY, 2, CHUNK),
    (DECODING, True, 2, UNKNOWN, Stage.NOTHING, 0, CHUNK),
    (GUILTY, True, 0, KILLED, GUILTY, 0, CHUNK),
]


@pytest.mark.parametrize(
    ("stage", "alone", "kills", "ended", "then", "kills_then", "suspect"), CASES
)
def test_conclusions(stage, alone, kills, ended, then, kills_then, suspect) -> None:
    """A chunk becomes suspect, a record of a suspect chunk guilty, and SIGKILL counts
    over decoding only, the third time.
    """
    isolated = alone or stage is GUILTY
    before = Mark(
        7, stage, alone, kills,
        RECORD if isolated else CHUNK, CHUNK if isolated else NOWHERE,
    )  # fmt: skip
    after = judge(before, ended, single=True)
    assert (after.stage, after.kills) == (then, kills_then)
    assert after.suspect == (suspect or NOWHERE)


@given(
    st.builds(
        Mark,
        st.just(1),
        st.sampled_from([Stage.NOTHING, DECODING, WRITING]),
        st.booleans(),
        st.integers(0, 3),
        st.just(RECORD),
        st.just(CHUNK),
    ),
    st.sampled_from(Ended),
)
def test_nothing_is_guilty_beside_another_mark(mark, ended) -> None:
    """While two marks stand, no death is proof against either."""
    after = judge(mark, ended, single=False)
    assert after.stage is Stage.NOTHING or mark.kills >= poison.MAX_KILLS


def test_places() -> None:
    """A place holds what begins in it, and is passed by what is behind it."""
    assert CHUNK.holds(RECORD)
    assert not RECORD.holds(CHUNK)
    assert not CHUNK.holds(RECORD._replace(number=4))
    assert not CHUNK.holds(RECORD._replace(epoch="cd" * 12))
    assert not NOWHERE.holds(NOWHERE)
    assert not CHUNK.is_passed(Position(3, 4088, 9999))
    assert CHUNK.is_passed(Position(3, 4096))
    assert CHUNK.is_passed(Position(4, 128))
    side = CHUNK._replace(number=SIDE)
    assert not side.is_passed(Position(9, 9999, 4088))
    assert side.is_passed(Position(0, 128, 4096))


# -- the file ------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path):
    made = place.create(
        tmp_path, "shop", level=20, sinks=("a", "b"), master={"pid": os.getpid()}
    )
    yield made
    made.close()


def die(spool, status: int) -> None:
    """Say that an engine died of a signal, and another one is started."""
    spool.set_control(ENGINE_STARTS, spool.control()[ENGINE_STARTS] + 1)
    spool.set_control(ENGINE_ENDED, status)


def test_marks_survive(spool) -> None:
    """What a sink marked is what the next engine judges, sink by sink."""
    die(spool, 0)
    first = Marks(spool, ("a", "b"))
    assert set(first.marks.values()) == {Mark(1)}
    first.write("a", Mark(0, WRITING, place=CHUNK))
    first.write("b", Mark(0, DECODING, place=RECORD, alone=True, suspect=CHUNK))
    die(spool, KILL)
    second = Marks(spool, ("b", "a", "new"))
    assert second.marks["a"] == Mark(2, Stage.NOTHING, place=CHUNK)
    # Two marks stood: it is not even counted.
    assert second.marks["b"] == Mark(2, place=RECORD, suspect=CHUNK)
    assert second.marks["new"] == Mark(2)
    assert stat.S_IMODE(os.stat(f"{spool.path}/marks").st_mode) == 0o600


def test_marks_are_judged_once(spool) -> None:
    """An engine that died before it could judge leaves nothing to be blamed twice."""
    die(spool, 0)
    Marks(spool, ("a",)).write("a", Mark(0, WRITING, place=CHUNK))
    die(spool, KILL)  # killed before it opened the marks
    die(spool, SEGFAULT)  # which tells nothing of the one that wrote them
    assert Marks(spool, ("a",)).marks["a"].suspect == NOWHERE


def test_verdict_outlives_the_next_death(spool) -> None:
    """A record found guilty stays so until it has been stepped over."""
    die(spool, 0)
    mark = Mark(0, WRITING, alone=True, place=RECORD, suspect=CHUNK)
    Marks(spool, ("a",)).write("a", mark)
    for status in (SEGFAULT, KILL, KILL):
        die(spool, status)
        found = Marks(spool, ("a",)).marks["a"]
        assert (found.stage, found.place) == (GUILTY, RECORD)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 100, 64 + 127, 64 + 128])
def test_cut_or_foreign_file_is_no_mark(spool, size) -> None:
    """Whatever is left of the file, what is not whole is no mark, and it works again."""
    die(spool, 0)
    Marks(spool, ("a", "b")).write("b", Mark(0, WRITING, place=CHUNK))
    os.truncate(f"{spool.path}/marks", size)
    die(spool, SEGFAULT)
    marks = Marks(spool, ("a", "b"))
    assert [m.suspect for m in marks.marks.values()] == [NOWHERE, NOWHERE]
    marks.write("b", Mark(0, WRITING, place=CHUNK))
    die(spool, SEGFAULT)
    assert Marks(spool, ("a", "b")).marks["b"].suspect == CHUNK


@pytest.mark.parametrize("bit", range(0, 128 * 8, 13))
def test_damaged_slot_is_no_mark(spool, bit) -> None:
    """A flipped bit costs the mark, and blames nobody."""
    die(spool, 0)
    Marks(spool, ("a",)).write("a", Mark(0, WRITING, place=CHUNK))
    with open(f"{spool.path}/marks", "r+b") as file:
        file.seek(64 + bit // 8)
        byte = file.read(1)[0]
        file.seek(64 + bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    die(spool, SEGFAULT)
    assert Marks(spool, ("a",)).marks["a"] == Mark(2)


def test_mark_that_cannot_be_written_stops_nothing(spool, monkeypatch) -> None:
    """A full disk costs the mark, not the records."""
    die(spool, 0)
    marks = Marks(spool, ("a",))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    marks.write("a", Mark(0, WRITING, place=CHUNK))


# -- the quarantine ------------------------------------------------------------------


def test_quarantine_is_bounded(spool, monkeypatch) -> None:
    """It keeps so many files and bytes, each record once, and says where or why not."""
    monkeypatch.setattr(quarantine, "MAX_FILES", 3)
    monkeypatch.setattr(quarantine, "MAX_BYTES", 100)
    for uid, size, kept in [
        ("e-1", 50, True),
        ("e-1", 50, True),
        ("e-2", 51, False),
        ("e-2", 49, True),
        ("e-3", 1, True),
        ("e-4", 0, False),
    ]:
        said = quarantine.keep(spool, uid, b"x" * size)
        assert said.startswith("its bytes are in" if kept else "its bytes are not kept")
    names = sorted(os.listdir(f"{spool.path}/quarantine"))
    assert names == ["e-1.frame", "e-2.frame", "e-3.frame"]


def test_quarantine_that_cannot_be_made_is_said(spool) -> None:
    """What stands in its place is not followed."""
    os.symlink("/tmp", f"{spool.path}/quarantine")
    assert "cannot be kept" in quarantine.keep(spool, "e-1", b"x")
    assert not os.path.exists("/tmp/e-1.frame")


# -- careful pumps -------------------------------------------------------------------


class Death(BaseException):
    """An engine's end, in a test that has one process."""


@pytest.fixture(autouse=True)
def _death_ends_an_engine():
    """Any exception of a driver's is a value to a pump; a process's end is none."""
    real = pump.problem_of

    def problem_of(exc: BaseException) -> str:
        if isinstance(exc, Death):
            raise exc
        return real(exc)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pump, "problem_of", problem_of)
        yield


class Deadly(CollectingSink):
    """A driver that some records kill."""

    def __init__(self, *poison) -> None:
        super().__init__()
        self.poison = poison

    def _outcome(self, batch):
        if any(record.body in self.poison for record in batch):
            raise Death
        return super()._outcome(batch)


class Engines:
    """Engines of one sink, one after the other, run step by step in this thread."""

    def __init__(self, spool, pool: Pool, sink) -> None:
        self.spool, self.pool, self.sink = spool, pool, sink
        self.deaths = 0

    def run(self, status: int = SEGFAULT) -> bool:
        """Let an engine deliver until nothing is left; False if it died before."""
        die(self.spool, status if self.deaths else 0)
        self.pool.restart()
        if self.deaths:
            care = Care(self.spool, ("sink",), self.pool.members)
            made = CarefulPump(
                "sink", 0, lambda: self.sink, self.pool.members, care=care
            )
        else:
            made = pump.Pump("sink", 0, lambda: self.sink, self.pool.members)
        self.pump = made
        try:
            while not all(m.is_drained() for m in self.pool.members.values()):
                batch = made._collect()
                if batch is not None:
                    made._deliver(self.sink, batch)
        except Death:
            self.deaths += 1
            return False
        return True

    def run_all(self, most: int) -> None:
        while not self.run():
            assert self.deaths <= most

    def counters(self) -> Counters:
        total = Counters()
        for epoch in self.pool.members:
            cursor = read_cursors(self.pool.directory, epoch)[sink_key("sink")]
            total = total.plus(cursor.counters)
        return total


@pytest.fixture
def pool(spool):
    made = Pool(f"{spool.path}/lanes")
    yield made
    made.close()


def bodies(sink) -> set:
    return {r.body for r in sink.records if r.event_name is None}


@pytest.mark.parametrize(
    "deadly", [(0,), (99,), (50, 51), (0, 50, 99), (10, 60, 110, 160)]
)
def test_each_deadly_record_is_found(spool, pool, deadly) -> None:
    """Deadly records of two lanes: each costs three engines at most; all others, and
    nothing else, are delivered; then an engine marks no more.
    """
    one, two = pool.worker(), pool.worker("mmap")
    for n in range(200):
        pool.log(one if n < 100 else two, n, time=n)
    engines = Engines(spool, pool, Deadly(*deadly))
    engines.run_all(3 * len(deadly))
    expected = Counters(delivered=200 - len(deadly), quarantined=len(deadly))
    assert engines.counters() == expected
    assert bodies(engines.sink) == set(range(200)) - set(deadly)
    assert len(os.listdir(f"{spool.path}/quarantine")) == len(deadly)
    names = [r.event_name for r in engines.sink.records]
    assert names.count("femtomp.worker.started") >= 2
    assert engines.pump._collect() is None
    before = os.stat(f"{spool.path}/marks").st_mtime_ns
    pool.log(one, 200)
    pool.look()
    engines.pump._deliver(engines.sink, engines.pump._collect())
    assert 200 in bodies(engines.sink)
    assert os.stat(f"{spool.path}/marks").st_mtime_ns == before


@pytest.mark.parametrize("steps", range(12))
def test_death_at_each_step_of_a_quarantine(spool, pool, monkeypatch, steps) -> None:
    """However far an engine came in stepping over a record, the next one finishes it,
    and it is counted once.
    """
    worker = pool.worker()
    for n in range(10):
        pool.log(worker, n)
    engines = Engines(spool, pool, Deadly(5))
    for _ in range(3):
        assert not engines.run()
    left = [steps]

    def mortal(real):
        def call(*args, **kwargs):
            if not left[0]:
                raise Death
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    for name in ("mkdir", "rename", "pwrite"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))
    monkeypatch.setattr(quarantine, "open", mortal(open), raising=False)
    # From the judgement on: that is its second pwrite, the control page's the first.
    left[0] += 2
    try:
        engines.run()
    except Death:
        pass  # over the judgement, outside of any pump
    monkeypatch.undo()
    # Once it was judged, no engine tries the record again.
    assert engines.run(KILL) or steps == 0
    engines.run_all(7)
    assert engines.counters() == Counters(delivered=9, quarantined=1)
    assert bodies(engines.sink) == set(range(10)) - {5}
    assert len(os.listdir(f"{spool.path}/quarantine")) == 1


def test_killed_over_decoding_counts_the_third_time(spool, pool, monkeypatch) -> None:
    """The system's SIGKILL (out of memory) over one record's decoding: a chunk, then the
    record three times, then it is stepped over.
    """
    worker = pool.worker()
    for n in range(10):
        pool.log(worker, n)
    engines = Engines(spool, pool, CollectingSink())
    real = pump.Pump._sorted

    def sorted_(self, member, base, chunk):
        if any(fields[5] == 5 for fields in chunk.fields):
            raise Death
        return real(self, member, base, chunk)

    monkeypatch.setattr(pump.Pump, "_sorted", sorted_)
    deaths = 0
    while not engines.run(KILL):
        deaths += 1
        assert deaths <= 5
    assert deaths == 5
    assert engines.counters() == Counters(delivered=9, quarantined=1)


class Chaotic(CollectingSink):
    """A driver that dies of some records, and is killed, busy or refusing by chance."""

    def __init__(self, chance, poison) -> None:
        super().__init__()
        self.chance, self.poison = chance, poison
        self.status = 0

    def _outcome(self, batch):
        drawn = self.chance.random()
        self.status = KILL
        if drawn < 0.1:
            raise Death
        if drawn < 0.2:
            deadly = [n for n, r in enumerate(batch) if r.body in self.poison]
            most = min([*deadly, len(batch) - 1])
            return RetryAfter(0.0, "busy", self.chance.randint(0, most))
        if any(record.body in self.poison for record in batch):
            self.status = SEGFAULT
            raise Death
        if drawn > 0.9:
            self.records += batch
            raise Death  # killed before the cursor was written
        return super()._outcome(batch)


@pytest.mark.parametrize("seed", range(12))
def test_only_deadly_records_are_quarantined(spool, pool, monkeypatch, seed) -> None:
    """Over lanes of both writers, their side files and several segments, with kills by
    chance in between: exactly the deadly records are quarantined, and all others arrive.
    """
    monkeypatch.setattr(pump, "MAX_BATCH_RECORDS", 64)
    chance = random.Random(SEED + seed)
    writers = [pool.worker("write"), pool.worker("mmap"), pool.worker("mmap")]
    total = 150
    for n in range(total):
        writer = chance.choice(writers)
        more = {"stack": "x" * chance.choice((1, 100, 20_000))}
        if chance.random() < 0.1:
            real = writer.append
            writer.append = writer.append_side
            pool.log(writer, n, **more)
            writer.append = real
        else:
            pool.log(writer, n, **more)
    poison = set(chance.sample(range(total), chance.choice((0, 1, 2, 5))))
    engines = Engines(spool, pool, sink := Chaotic(chance, poison))
    while not engines.run(sink.status):
        assert engines.deaths < 500
    count = len(poison)
    expected = Counters(delivered=total - count, quarantined=count)
    assert engines.counters() == expected
    assert bodies(sink) == set(range(total)) - poison


def test_mark_stands_only_while_something_is_done(spool, pool, monkeypatch) -> None:
    """While a destination is waited for, no mark stands and it is others' turn."""
    monkeypatch.setattr(pump, "time", ManualClock())
    for n in range(3):
        pool.log(pool.worker(), n)
    engines = Engines(spool, pool, Deadly(1))
    for _ in range(2):
        assert not engines.run()
    die(spool, SEGFAULT)
    pool.restart()
    care = Care(spool, ("sink",), pool.members)
    assert care.suspicious == {"sink"}
    seen = []

    class Busy(CollectingSink):
        def _outcome(self, batch):
            seen.append((care.marks.marks["sink"].stage, care.turn.locked()))
            return (
                RetryAfter(0.01, "busy") if len(seen) < 5 else super()._outcome(batch)
            )

    made = CarefulPump("sink", 0, Busy, pool.members, care=care)
    waits = []
    real = pump.Pump._wait

    def wait(self, outcome):
        waits.append((care.marks.marks["sink"].stage, care.turn.locked()))
        real(self, outcome)

    monkeypatch.setattr(pump.Pump, "_wait", wait)
    made.start()
    wait_until(lambda: all(m.is_drained() for m in pool.members.values()))
    made.finish()
    made.join(10)
    assert set(seen[:5]) == {(WRITING, True)}
    assert set(waits) == {(Stage.NOTHING, False)}
    assert not care.suspicious
