"""The poller: what it does with lanes whose owners are gone, or seem to be."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from femtomp.codec import identity as identity_codec
from femtomp.lanes import place
from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import Counters, Cursor, Position
from femtomp.lanes.segment import CLOSED
from femtomp.lanes.space import Space, read_space
from femtomp.lanes.writer import LaneWriter, open_writer
from femtomp.supervisor import poller as module
from femtomp.supervisor import room
from femtomp.supervisor.poller import Poller
from femtomp.supervisor.totals import read_totals
from femtomp.worker.identity import read_identity
from tests.lanes.conftest import payload_of
from tests.processes.harness import fork


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """Give a spool of two sinks, whose lanes are asked at once whether they live."""
    monkeypatch.setattr(module, "QUIET_S", 0.0)
    sinks = ("file", "otlp")
    made = place.create(tmp_path, "test", level=20, sinks=sinks, master={"pid": 0})
    yield made
    made.close()


def write(spool, count: int) -> LaneWriter:
    """Make a lane with so many records."""
    who = identity_codec.to_bytes(read_identity("worker"))
    writer = open_writer("write", spool.lanes, who)
    for _ in range(count):
        writer.append(payload_of("x"))
    return writer


def die_after(spool, count: int) -> None:
    """Have a worker write so many records and end."""
    assert os.waitpid(fork(write, spool, count), 0)[1] == 0


@contextmanager
def living(spool, before, at_end=lambda writer: None):
    """Run a worker that makes a lane, lives on, and does something when it is told to.

    Gives a function that lets it end and returns when it has.
    """
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        writer = write(spool, 1)
        before(writer)
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        at_end(writer)

    pid = fork(work)
    os.read(ready[0], 1)
    left = [pid]

    def end() -> None:
        os.write(go[1], b"1")
        assert os.waitpid(left.pop(), 0)[1] == 0

    try:
        yield end
    finally:
        if left:
            end()
        for descriptor in (*ready, *go):
            os.close(descriptor)


def opened(spool) -> Poller:
    """Give a poller that has looked at all lanes."""
    poller = Poller(spool, {}, lambda: None)
    poller.scan()
    for member in poller.members.values():
        member.lane.refresh()
    return poller


def deliver(poller: Poller, *sinks: str) -> None:
    """Move cursors to the ends of all lanes."""
    for member in poller.members.values():
        for sink in sinks or ("file", "otlp"):
            number, size, _ = member.lane.end
            count = member.lane.count(Position())
            position = Position(number, size, sequence=count)
            member.cursors.commit(sink, Cursor(position, Counters(delivered=count)))


def tend(poller: Poller) -> None:
    """Look after the lanes, several times."""
    for _ in range(3):
        poller._tend_at = 0.0
        poller.poll()


def delivered(spool) -> int:
    """Give the sum that is kept of reaped lanes."""
    return read_totals(spool.lanes).sink("file").delivered


@pytest.mark.parametrize("unlinked", range(5))
def test_what_a_dead_engine_was_reaping_is_reaped_first(
    spool, monkeypatch, unlinked
) -> None:
    """However far an engine was when it died, a lane it was reaping counts once: the
    next engine reaps it to the end before it looks at any.
    """
    for count in (3, 5):
        die_after(spool, count)
    poller = opened(spool)
    deliver(poller)
    first = next(iter(poller.members))
    real, left = os.unlink, [unlinked]

    def unlink(*args, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*args, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        poller.poll()
    monkeypatch.setattr(os, "unlink", real)
    del poller
    again = opened(spool)
    assert first not in again.members
    tend(again)
    assert again.members == {}
    assert delivered(spool) == 8
    assert [
        name for name in os.listdir(f"{spool.path}/lanes") if name.startswith(first)
    ] == []


def test_what_came_before_the_owners_death_is_seen_after_it(spool) -> None:
    """A lane is called ended only with an end that was read after its owner's death."""
    more = lambda writer: writer.append(payload_of("last words"))
    with living(spool, lambda _: None, more) as end:
        poller = opened(spool)
        deliver(poller)
        (member,) = poller.members.values()
        assert member.is_drained()
        end()
    poller._ask_if_alive([member])
    assert member.lane.ended
    assert not member.is_drained()
    assert member.lane.is_behind(member.cursors.cursors["file"].position)


def test_lane_of_the_living_is_not_deleted(spool) -> None:
    """A lock that was lost while its process lives costs the lane nothing."""
    lose = lambda writer: os.close(
        os.open(f"{writer.epoch}.own", os.O_RDONLY, dir_fd=spool.lanes)
    )
    with living(spool, lose) as end:
        poller = opened(spool)
        deliver(poller)
        (member,) = poller.members.values()
        assert member.lane.is_orphaned()
        tend(poller)
        assert f"{member.lane.epoch}.own" in os.listdir(f"{spool.path}/lanes")
        end()
    tend(poller)
    assert delivered(spool) == 1
    assert poller.members == {}


def test_records_missing_at_the_end_keep_a_lane(spool) -> None:
    """What a dead worker's file lacks is missed only once its owner is known to be
    dead, and the lane stays until every sink has counted it.
    """
    with living(spool, lambda _: None) as end:
        poller = opened(spool)
        (member,) = poller.members.values()
        cut = f"{member.lane.epoch}.0.seg"
        deliver(poller)
        for sink in ("file", "otlp"):
            behind = Position(*member.lane.end[:2], sequence=0)
            member.cursors.commit(sink, Cursor(behind, Counters()))
        tend(poller)
        assert member.is_drained()
        end()
    poller._ask_if_alive([member])
    assert not member.is_drained()
    tend(poller)
    assert cut in os.listdir(f"{spool.path}/lanes")
    chunk = member.lane.read(Position(*member.lane.end[:2], sequence=0))
    assert (chunk.corrupt, chunk.sequence) == (1, 1)


def test_full_disk_does_not_keep_an_engine_from_starting(spool, monkeypatch) -> None:
    """Where the limits cannot be written, lanes are read all the same: that gives room."""

    def publish(*_):
        raise OSError(28, "No space left on device")

    die_after(spool, 3)
    monkeypatch.setattr(room, "publish", publish)
    poller = opened(spool)
    poller.publish_limits()
    assert len(poller.members) == 1


def test_thousands_that_end_at_once_cost_one_look(spool, monkeypatch) -> None:
    """However many workers ended, the directory is read a few times, not for each: a
    storm of short-lived workers took an hour to clear otherwise.
    """
    looks = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: looks.append(path) or real(path))
    counts = []
    for workers in (2, 30):
        for _ in range(workers):
            die_after(spool, 1)
        poller = opened(spool)
        deliver(poller)
        looks.clear()
        tend(poller)
        assert poller.members == {}
        counts.append(len(looks))
    assert max(counts) < 10


def test_more_lanes_than_descriptors_are_read_in_turn(spool, monkeypatch) -> None:
    """What cannot be open at once waits until others were reaped: it is neither lost
    nor taken for drained, and the operator is told what to raise.
    """
    said = []
    monkeypatch.setattr(module, "_capacity", lambda: 3)
    monkeypatch.setattr(module, "note", lambda _, text: said.append(text))
    for _ in range(8):
        die_after(spool, 2)
    poller = opened(spool)
    assert len(poller.members) == 3
    deliver(poller)
    assert not poller.is_drained()
    assert poller.has_living()
    for _ in range(6):
        poller._rescan_at = 0.0
        tend(poller)
        deliver(poller)
    assert poller.is_drained()
    assert delivered(spool) == 16
    assert "5 lanes wait" in said[0]
    assert "ulimit -n" in said[0]


def test_lanes_that_wait_count_for_the_quota(spool, monkeypatch) -> None:
    """What writers may take is less by all that is there, opened or not."""
    monkeypatch.setattr(module, "_capacity", lambda: 2)
    for _ in range(6):
        die_after(spool, 2000)
    (taken,) = {
        sum(entry.stat().st_blocks * 512 for entry in os.scandir(f"{spool.path}/lanes"))
    }
    poller = Poller(spool, {}, lambda: None, Space(quota=1 << 30, lane_quota=1 << 29))
    poller.publish_limits()
    assert len(poller.members) == 2
    cursors = sum(len(m.cursors.cursors) for m in poller.members.values()) * 4096
    used = read_space(spool.lanes).used
    assert taken <= used <= taken + cursors


def test_lane_that_its_process_left_is_reaped(spool) -> None:
    """A process that lives on, and says in its lane that it is closed, needs it no
    more: it is drained and deleted.
    """

    def close(writer):
        writer.words[CLOSED] = 1
        writer.close()

    with living(spool, close):
        poller = opened(spool)
        deliver(poller)
        tend(poller)
        assert poller.members == {}
        assert not [n for n in os.listdir(f"{spool.path}/lanes") if n.endswith("own")]
    assert delivered(spool) == 1


def test_name_that_cannot_be_unlinked_is_put_aside(spool) -> None:
    """A lane that holds a directory in a file's place is reaped once, and counted once."""
    die_after(spool, 3)
    poller = opened(spool)
    (epoch,) = poller.members
    deliver(poller)
    os.mkdir(f"{spool.path}/lanes/{epoch}.pull")
    os.mkdir(f"{spool.path}/lanes/{epoch}.pull/full")
    for _ in range(3):
        tend(poller)
    assert poller.members == {}
    assert delivered(spool) == 3
    left = os.listdir(f"{spool.path}/lanes")
    assert not [name for name in left if name.startswith(epoch)]


def test_segment_is_kept_for_the_last_sink(spool, monkeypatch) -> None:
    """A segment is deleted when the written cursor of every sink has passed it."""
    for name in ("FIRST_BYTES", "SEGMENT_BYTES"):
        monkeypatch.setattr(writers, name, 4096)
    die_after(spool, 600)
    poller = opened(spool)
    (member,) = poller.members.values()
    names = {f"{member.lane.epoch}.{n}.seg" for n in range(member.lane.end.segment)}
    assert len(names) > 2
    deliver(poller, "file")
    tend(poller)
    assert names <= set(os.listdir(f"{spool.path}/lanes"))
    member.cursors.commit("otlp", Cursor(Position(2), Counters()))
    tend(poller)
    left = names & set(os.listdir(f"{spool.path}/lanes"))
    assert left == {name for name in names if int(name.split(".")[1]) >= 2}


def test_what_a_worker_was_making_when_it_died_goes_with_its_lane(spool) -> None:
    """A file that has only its temporary name is deleted when its lane is, not before,
    and not that of another lane.
    """
    die_after(spool, 1)
    poller = opened(spool)
    (epoch,) = poller.members
    for name in (f".{epoch}.1.seg.tmp", f".{'0' * 24}.1.seg.tmp"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        os.close(os.open(name, flags, 0o600, dir_fd=spool.lanes))
    tend(poller)
    assert f".{epoch}.1.seg.tmp" in os.listdir(f"{spool.path}/lanes")
    deliver(poller)
    tend(poller)
    left = os.listdir(f"{spool.path}/lanes")
    assert [name for name in left if epoch in name] == []
    assert f".{'0' * 24}.1.seg.tmp" in left
