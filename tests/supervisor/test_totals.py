"""Totals: what reaped lanes amounted to, each counted once whatever dies."""

from __future__ import annotations

import os

import pytest

from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Counters, Cursor, Position
from femtomp.supervisor import totals as module
from femtomp.supervisor.totals import Totals, read_totals
from tests.supervisor.conftest import Pool

SINKS = ("file", "otlp")


@pytest.fixture
def two(tmp_path):
    """Give two lanes of which both sinks have read all: 3 and 5 records, 1 drop each."""
    pool = Pool(tmp_path, SINKS)
    for count in (3, 5):
        writer = pool.worker()
        for n in range(count):
            pool.log(writer, n)
        writer.words[seg.STARTED] += 1
        writer.drop("no_space", b"")
        writer.leave_out("limited")
    pool.look()
    for member in pool.members.values():
        end = Position(0, member.lane.end.size)
        count = member.lane.count(Position())
        member.cursors.commit("file", Cursor(end, Counters(delivered=count)))
        counts = Counters(delivered=count - 1, refused=1)
        member.cursors.commit("otlp", Cursor(end, counts))
    yield pool
    pool.close()


def read(pool: Pool) -> tuple:
    found = read_totals(pool.directory)
    return (
        found.sink("file"),
        found.sink("otlp"),
        found.started(),
        found.dropped()["no_space"],
        found.left_out()["limited"],
    )


NOTHING = (Counters(), Counters(), 0, 0, 0)
BOTH = (Counters(delivered=8), Counters(delivered=6, refused=2), 10, 2, 2)


def test_nothing_was_reaped_yet(two) -> None:
    """Without reaped lanes all sums are zero, with a file and without."""
    assert read(two) == NOTHING
    Totals(two, SINKS)
    assert read(two) == NOTHING


def test_lanes_are_added_up(two) -> None:
    """Sinks, calls and drops of all added lanes are summed."""
    totals = Totals(two, SINKS)
    for epoch, member in two.members.items():
        totals.add(epoch, member)
        assert read_totals(two.directory).has(epoch)
        assert read_totals(two.directory).is_whole(two.sinks)
    assert read(two) == BOTH


def test_lane_is_added_once(two) -> None:
    """An engine that died before it unlinked a lane does not add it again."""
    epochs = list(two.members)
    Totals(two, SINKS).add(epochs[0], two.members[epochs[0]])
    before = read(two)
    two.restart()
    Totals(two, SINKS).add(epochs[0], two.members[epochs[0]])
    assert read(two) == before


def dies_after(written: int):
    """Give an `os.pwrite` that ends the engine when it was called so many times."""
    real, left = os.pwrite, [written]

    def pwrite(descriptor, data, offset):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(descriptor, data, offset)

    return pwrite


@pytest.mark.parametrize("written", range(7))
def test_death_in_the_middle_of_adding(two, monkeypatch, written) -> None:
    """However many of the sums were written when the engine died, in the end each lane
    is in each sum once.
    """
    totals = Totals(two, SINKS)
    first, second = two.members
    monkeypatch.setattr(os, "pwrite", dies_after(written))
    try:
        totals.add(first, two.members[first])
    except KeyboardInterrupt:
        assert written < 6
    monkeypatch.undo()
    two.restart()
    totals = Totals(two, SINKS)
    totals.add(first, two.members[first])
    totals.add(second, two.members[second])
    assert read(two) == BOTH


def test_lane_is_added_once_whatever_comes_between(two) -> None:
    """An engine that died between adding and unlinking a lane, and whose successor reaps
    another lane first, does not add the first one twice.
    """
    first, second = two.members
    Totals(two, SINKS).add(first, two.members[first])
    two.restart()
    totals = Totals(two, SINKS)
    totals.add(second, two.members[second])
    totals.add(first, two.members[first])
    assert read(two) == BOTH


@pytest.mark.parametrize("written", range(1, 7))
def test_half_added_lane_is_finished_first(two, monkeypatch, written) -> None:
    """A lane that an engine died over is added to the other sums, and unlinked, before
    its successor reaps another one.
    """
    first, second = two.members
    totals = Totals(two, SINKS)
    monkeypatch.setattr(os, "pwrite", dies_after(written))
    try:
        totals.add(first, two.members[first])
    except KeyboardInterrupt:
        assert written < 6
    monkeypatch.undo()
    totals = Totals(two, SINKS)
    assert not [name for name in os.listdir(two.directory) if first in name]
    totals.add(second, two.members[second])
    assert read(two) == BOTH


def test_sums_are_kept_for_sinks_that_come_and_go(two) -> None:
    """Sums are found by the sink's name, whatever the order of another start."""
    totals = Totals(two, SINKS)
    for epoch, member in two.members.items():
        totals.add(epoch, member)
    again = Totals(two, ("otlp", "new", "file"))
    assert read(two) == BOTH
    assert again._file.cursors["new"].counters == Counters()


def test_file_is_no_lane(two) -> None:
    """The file of the totals is not taken for a lane's."""
    Totals(two, SINKS).add(*next(iter(two.members.items())))
    before = set(two.members)
    two.restart()
    assert set(two.members) == before
    assert module.EPOCH not in before
