"""Of several spools that servers of one name left, none waits for a start of its own."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest

import femtomp
from femtomp.lanes.lock import is_orphaned
from femtomp.lanes.spool import GUARDIAN, STATE, Spool, State
from tests.processes.harness import (
    SEED,
    Attached,
    is_running,
    lines,
    missing_and_double,
    until,
)
from tests.processes.orphan import Orphan

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"  # discard: nobody listens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.jsonl"


@pytest.fixture
def start(tmp_path, path):
    """Start servers that are stopped, or were, at the end."""
    started = []

    def start(sink=None):
        started.append(
            femtomp.start_server(
                sink or femtomp.FileSink(path), name="shop", spool_parent=tmp_path
            )
        )
        return started[-1]

    yield start
    for server in started:
        server.stop(1)


def spools(tmp_path):
    return sorted(tmp_path.glob("femtomp-*"))


def left(tmp_path, path, number, **options):
    """Leave several spools of one name, as servers do that are killed together."""
    orphans = []
    for index in range(number):
        sink = femtomp.FileSink(path)
        orphan = Orphan(tmp_path, sink, name=f"shop-{index}", **options)
        orphans.append(orphan)
    for orphan in orphans:
        manifest = orphan.path / "manifest.json"
        said = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**said, "name": "shop"}))
    return orphans


def delivered(path, orphans):
    """Return what is missing and double of several orphans' records in one file."""
    records = lines(path)
    found = []
    for orphan in orphans:
        own = [r for r in records if r["resource"]["process.pid"] == orphan.worker]
        found.append(missing_and_double(own, orphan.returned))
    return found


def test_all_are_delivered_by_one_start(tmp_path, path, start, capfd):
    """Servers of one name die under load; the next one delivers what each had left."""
    print("seed", SEED)
    orphans = left(tmp_path, path, 3, records=None, served=True)
    chance = random.Random(SEED)
    for orphan in orphans:
        signal.sigtimedwait((), chance.uniform(0, 0.1))
        orphan.kill_worker()
    capfd.readouterr()
    server = start()
    assert "2 more spools of this name" in capfd.readouterr().err
    with Attached() as log:
        log.info("new", extra={"worker": 1, "number": 0})
    until(lambda: spools(tmp_path) == [server.spool], "the others are gone", 60)
    assert server.stop(60).drained
    for missing, double in delivered(path, orphans):
        assert not missing
        assert len(double) <= 2048
    assert [r["body"] for r in lines(path) if r["attributes"]["worker"] == 1] == ["new"]
    assert spools(tmp_path) == []


def test_living_workers_of_all_are_served(tmp_path, path, start):
    """Workers that outlived their servers log on, each in its lane, and all of it comes."""
    orphans = left(tmp_path, path, 3, records=None)
    server = start()
    goals = []
    for orphan in orphans:
        before = orphan.returned[0]
        until(lambda o=orphan, b=before: o.returned[0] > b, "the worker goes on")
        goals.append(orphan.returned[0])
    for orphan in orphans:
        orphan.kill_worker()
    until(lambda: spools(tmp_path) == [server.spool], "the others are gone", 60)
    assert server.stop(60).drained
    assert delivered(path, orphans) == [([], [])] * 3


def serving(orphan):
    """Wait until a pair serves a further spool; return the guardian's pid."""
    until(lambda: not is_orphaned(orphan.spool), "it is adopted", 30)
    until(lambda: orphan.spool.control()[STATE] == State.RUNNING, "it is served", 30)
    return orphan.spool.control()[GUARDIAN]


def test_what_is_killed_again_is_delivered_later(tmp_path, path, start):
    """A pair that is killed over a further spool leaves it for the next start."""
    orphans = left(tmp_path, path, 2)
    for orphan in orphans:
        orphan.kill_worker()
    server = start(femtomp.OTLPSink(NOBODY, name="file"))
    (other,) = [o for o in orphans if o.path != server.spool]
    serving(other)
    for pid in other.spool.control()[1:3]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_orphaned(other.spool), "it is an orphan again")
    assert server.flush(0) is False, "the server itself goes on"
    assert not server.stop(0.2).drained
    again = start()
    until(lambda: spools(tmp_path) == [again.spool], "the other is gone", 60)
    assert again.stop().drained
    assert delivered(path, orphans) == [([], [])] * 2


def test_a_stop_does_not_wait_for_the_others(tmp_path, path, start):
    """The further pair is no part of the server: it outlives it, and obeys SIGTERM."""
    orphans = left(tmp_path, path, 3)
    server = start(femtomp.OTLPSink(NOBODY, name="file"))
    others = [o for o in orphans if o.path != server.spool]
    until(lambda: any(not is_orphaned(o.spool) for o in others), "one is served", 30)
    (one,) = [o for o in others if not is_orphaned(o.spool)]
    guardian = serving(one)
    assert not server.stop(0.2).drained
    assert is_running(guardian)
    before = one.returned[0]
    assert before
    for orphan in orphans:
        orphan.kill_worker()
    os.kill(guardian, signal.SIGTERM)
    until(lambda: not is_running(guardian), "it ends", 40)
    for other in others:
        assert is_orphaned(Spool(other.path)), "and none of the rest is begun"
    again = start()
    until(lambda: spools(tmp_path) == [again.spool], "the others are gone", 60)
    assert again.stop().drained
    assert delivered(path, orphans) == [([], [])] * 3
