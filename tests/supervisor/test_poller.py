"""The poller: what it does with lanes whose owners are gone."""

from __future__ import annotations

import os

import pytest

from femtomp.codec import identity as identity_codec
from femtomp.lanes import place
from femtomp.lanes.cursor import Counters, Cursor, Position
from femtomp.lanes.writer import open_writer
from femtomp.supervisor import poller as module
from femtomp.supervisor.poller import Poller
from femtomp.supervisor.totals import read_totals
from femtomp.worker.identity import read_identity
from tests.lanes.conftest import payload_of
from tests.processes.harness import fork


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """Give a spool with the lanes of two dead workers, of 3 and 5 records."""
    monkeypatch.setattr(module, "QUIET_S", 0.0)
    made = place.create(tmp_path, "test", level=20, sinks=("file",), master={"pid": 0})

    def work(count: int) -> None:
        who = identity_codec.to_bytes(read_identity("worker"))
        writer = open_writer("write", made.lanes, who)
        for _ in range(count):
            writer.append(payload_of("x"))

    for count in (3, 5):
        assert os.waitpid(fork(work, count), 0)[1] == 0
    yield made
    made.close()


def opened(spool) -> Poller:
    poller = Poller(spool, {}, lambda: None)
    poller.scan()
    for member in poller.members.values():
        member.lane.refresh()
    return poller


@pytest.mark.parametrize("unlinked", range(5))
def test_what_a_dead_engine_was_reaping_is_reaped_first(
    spool, monkeypatch, unlinked
) -> None:
    """However far an engine was when it died, a lane it was reaping counts once, though
    the next engine sees another one first.
    """
    poller = opened(spool)
    for member in poller.members.values():
        end = Position(0, member.lane.end.size)
        counters = Counters(delivered=member.lane.count(Position()))
        member.cursors.commit("file", Cursor(end, counters))
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
    assert len(again.members) == 2
    half = again.members.pop(first)
    again.members[first] = half  # the last one of the table
    for _ in range(3):
        again._tend_at = 0.0
        again.poll()
    assert again.members == {}
    assert read_totals(spool.lanes).sink("file").delivered == 8
