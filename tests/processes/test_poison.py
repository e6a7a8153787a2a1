"""Records that kill the engine: found, stepped over and counted, and no innocent one."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import stat
import time

import pytest

import femtomp
from femtomp.codec import wire
from femtomp.lanes.spool import State
from femtomp.worker.channel import channel
from tests.processes.harness import (
    SEED,
    Attached,
    Returned,
    fork,
    is_running,
    lines,
    log_steadily,
    missing_and_double,
    until,
)

pytestmark = pytest.mark.slow

# Runs in the guardian and its engines, which are fresh interpreters.
PATCH = """
import os, signal, sys, time
from femtomp.codec import wire
from femtomp.sinks import RetryAfter, file
from femtomp.supervisor import guardian
guardian._BACKOFF_MAX_S = 0.2
guardian.SIGNAL_DEADLINE_S = {deadline_s}

def die():
    {die}

write, decode_chunk = file._File.write, wire.decode_chunk

def deadly_write(self, batch):
    if os.path.exists(self._path + ".down") and "slow" in self._path:
        time.sleep(0.3)
        return RetryAfter(0.05, "slow")
    if "bad" in self._path:
        if os.path.exists(self._path + ".down"):
            {down}
            return RetryAfter(0.05, "down")
        if any("deadly to write" in str(record.body) for record in batch):
            die()
    return write(self, batch)

def deadly_decode(chunk, frames, **options):
    if any(b"deadly to load" in chunk[f.start : f.end] for f in frames):
        die()
    return decode_chunk(chunk, frames, **options)

def raising_load(fields, *others):
    if "raises when loaded" in str(fields[5]):
        {die}
    return to_record(fields, *others)

to_record, wire.to_record = wire.to_record, raising_load
file._File.write, wire.decode_chunk = deadly_write, deadly_decode
"""
DEATHS = {
    "segfault": "signal.raise_signal(signal.SIGSEGV)",
    "abort": "os.abort()",
    "exit": "os._exit(3)",
    # By a fault of the pump's own: what a driver raises ends no thread.
    "a dead thread": (
        "from femtomp.supervisor import pump; pump.problem_of = None; raise SystemExit"
    ),
}
WORKERS = 3
RECORDS = 10_000


class Shop:
    """A server with a sink that dies of some records, and one that does not."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.monkeypatch = monkeypatch
        self.bad, self.good = path / "bad.jsonl", path / "good.jsonl"
        self.returned = Returned(WORKERS)

    def start(self, death="segfault", down="", deadline_s=10.0, more=(), **options):
        patch = self.path / "patch"
        patch.mkdir()
        source = PATCH.format(
            die=DEATHS.get(death, death), down=down or "pass", deadline_s=deadline_s
        )
        (patch / "sitecustomize.py").write_text(source)
        path = f"{patch}:{os.environ.get('PYTHONPATH', '')}"
        with self.monkeypatch.context() as context:
            context.setenv("PYTHONPATH", path)
            sinks = [
                femtomp.FileSink(p, name=p.stem) for p in (self.bad, self.good, *more)
            ]
            self.server = femtomp.start_server(sinks, spool_parent=self.path, **options)
        return self.server

    def engine(self):
        return self.server._spool.control()[2]

    def starts(self):
        return self.server._spool.control()[3]

    def work(self, worker, count, deadly):
        """Log `count` records, of which those in `deadly` are so."""
        log = logging.getLogger("shop.worker")
        for number in range(count):
            body = deadly.get(number, "harmless %d")
            log.info(body, number, extra={"worker": worker, "number": number})
            self.returned.set(worker, number + 1)

    def pool(self, count, deadly):
        """Log in three workers; the second has the deadly records."""
        pids = [
            fork(self.work, worker, count, deadly if worker == 1 else {})
            for worker in range(WORKERS)
        ]
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0

    def check(self, quarantined, spared=(), total=None):
        """All is delivered but what `quarantined` says by sink, and it adds up."""
        stats = self.server.stats()
        total = sum(self.returned.all()) if total is None else total
        for name, path in (("bad", self.bad), ("good", self.good)):
            sink = stats.sinks[name]
            print(name, sink)
            assert sink.quarantined == quarantined.get(name, 0), name
            assert sink.committed == total == stats.started
            assert sink.delivered == total - sink.quarantined
            missing, _ = missing_and_double(lines(path), self.returned)
            assert len(missing) == sink.quarantined
            if quarantined.get(name):
                assert sorted(missing) == sorted(spared)
        return stats


@pytest.fixture
def shop(tmp_path, monkeypatch):
    print("seed", SEED)
    shop = Shop(tmp_path, monkeypatch)
    yield shop
    shop.server.stop()


@pytest.mark.parametrize("death", DEATHS)
def test_a_record_that_kills_its_writer_is_stepped_over(shop, capfd, death):
    """Of ten thousand records one kills the engine each time a sink writes it: it dies
    three times, then never again; that one is quarantined for that sink alone.
    """
    where = random.Random(SEED).randrange(RECORDS // WORKERS)
    with shop.start(death), Attached():
        shop.pool(RECORDS // WORKERS, {where: "deadly to write %d"})
        assert shop.server.flush(60)
        assert shop.starts() == 1 + 3
        stats = shop.check({"bad": 1}, spared=[(1, where)])
        assert stats.engine_starts == 1 + 3
        (kept,) = (shop.server.spool / "quarantine").iterdir()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert b"deadly to write" in kept.read_bytes()
        healthy = {r["body"]: r["uid"] for r in lines(shop.good)}
        assert kept.name == healthy[f"deadly to write {where}"] + ".frame"
        logging.getLogger("shop").info("after")
        assert shop.server.flush(20)
        assert shop.starts() == 1 + 3
        assert shop.server.stop().drained
    said = capfd.readouterr().err
    assert said.count("counted as quarantined") == 1
    assert kept.name in said
    events = [json.loads(line) for line in shop.bad.read_bytes().splitlines()]
    lost = [e for e in events if e.get("event_name") == "femtomp.records.lost"]
    assert [e["attributes"]["femtomp.lost.quarantined"] for e in lost] == [1]


def test_a_record_that_kills_its_decoder_is_stepped_over(shop):
    """What cannot be loaded without a death is quarantined for every sink."""
    where = random.Random(SEED).randrange(RECORDS // WORKERS)
    with shop.start(), Attached():
        shop.pool(RECORDS // WORKERS, {where: "deadly to load %d"})
        assert shop.server.flush(60)
        assert shop.starts() <= 1 + 3 * 2
        shop.check({"bad": 1, "good": 1}, spared=[(1, where)])
        assert len(list((shop.server.spool / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("stage", ["write", "load"])
def test_two_deadly_records(shop, stage):
    """Of two deadly records, one the very last, each is found; all others arrive."""
    last = 999
    chance = random.Random(SEED)
    deadly = dict.fromkeys((chance.randrange(last), last), f"deadly to {stage} %d")
    with shop.start(), Attached():
        shop.pool(last + 1, deadly)
        assert shop.server.flush(60)
        sinks = ("bad",) if stage == "write" else ("bad", "good")
        assert shop.starts() <= 1 + 3 * 2 * len(sinks)
        shop.check(dict.fromkeys(sinks, 2), spared=[(1, n) for n in deadly])


def test_a_deadly_record_in_the_side_file(shop):
    """A call inside a call may be deadly too: its record lies in the side file."""
    with shop.start(), Attached() as log:
        for number in range(10):
            log.info("harmless", extra={"worker": 0, "number": number})
        lane = channel(str(shop.server.spool))._lane
        for number in range(10, 20):
            body = "deadly to write" if number == 15 else "harmless"
            extra = {"worker": 0, "number": number}
            lane.append_side(
                wire.encode((1, time.time_ns(), 20, "INFO", "shop", body, None, "/a", 1,
                             "f", 1, "t", extra, None))
            )  # fmt: skip
        shop.returned.set(0, 20)
        assert shop.server.flush(60)
        assert shop.starts() == 1 + 3
        shop.check({"bad": 1}, spared=[(0, 15)])


@pytest.mark.parametrize("death", ["segfault", "a dead thread"])
def test_a_stop_outlives_the_engine(shop, death):
    """A deadly record that comes up in the drain costs engines, not the drain."""
    (shop.path / "bad.jsonl.down").touch()
    with shop.start(death), Attached():
        shop.pool(1000, {777: "deadly to write %d"})
        (shop.path / "bad.jsonl.down").unlink()
        report = shop.server.stop(60)
        assert report.drained
        assert report.quarantined == {"bad": 1, "good": 0}
        for path, gone in ((shop.bad, [(1, 777)]), (shop.good, [])):
            assert missing_and_double(lines(path), shop.returned)[0] == gone


def test_a_drain_by_signal_outlives_the_engine(shop):
    """A supervisor that is told to end by a signal replaces an engine that dies then."""
    down = shop.path / "bad.jsonl.down"
    down.touch()
    with shop.start(grace_s=0.1, deadline_s=20.0), Attached():
        shop.pool(10, {7: "deadly to write %d"})
        os.kill(shop.server.pid, signal.SIGTERM)
        until(lambda: shop.server._spool.control()[0] == State.STOPPING, "it drains")
        down.unlink()
        until(lambda: not is_running(shop.server.pid), "the guardian has ended")
        assert shop.starts() == 1 + 3
        report = shop.server.stop()
        assert report.quarantined == {"bad": 1, "good": 0}
        assert report.drained


def test_a_drain_ends_though_its_engine_died(shop):
    """The engine after one that died in a drain has what was left of the time."""
    (shop.path / "bad.jsonl.down").touch()
    with shop.start(grace_s=0.1, deadline_s=2.0), Attached():
        shop.pool(10, {})
        os.kill(shop.server.pid, signal.SIGTERM)
        until(lambda: shop.server._spool.control()[0] == State.STOPPING, "it drains")
        begun = time.monotonic()
        os.kill(shop.engine(), signal.SIGKILL)
        until(lambda: not is_running(shop.server.pid), "the guardian has ended")
        assert 1 < time.monotonic() - begun < 15
        assert shop.starts() == 2
        assert shop.server.stop().pending == {"bad": 30, "good": 0}


@pytest.mark.parametrize("death", ["segfault", "killed"])
def test_a_sink_that_hangs_is_not_blamed(shop, death):
    """While one sink is at its destination's mercy another one meets a deadly record:
    only that one is quarantined, and only there.
    """
    death = "os.kill(os.getpid(), signal.SIGKILL)" if death == "killed" else death
    slow = shop.path / "slow.jsonl"
    (shop.path / "slow.jsonl.down").touch()
    stage, deaths = ("load", 5 * 3) if "kill" in death else ("write", 3)
    with shop.start(death, more=[slow]), Attached():
        shop.pool(300, {150: f"deadly to {stage} %d"})
        done = lambda: all(
            shop.server.stats().sinks[name].pending == 0 for name in ("bad", "good")
        )
        until(done, "the others have all of it", timeout=50)
        (shop.path / "slow.jsonl.down").unlink()
        assert shop.server.flush(30)
        print("deaths", shop.starts() - 1)
        assert shop.starts() <= 1 + deaths
        everywhere = stage == "load"
        shop.check({"bad": 1, "good": everywhere}, spared=[(1, 150)])
        assert shop.server.stats().sinks["slow"].quarantined == everywhere
        missing, _ = missing_and_double(lines(slow), shop.returned)
        assert missing == [(1, 150)] * everywhere


@pytest.mark.parametrize("error", ["MemoryError", "RecursionError"])
@pytest.mark.parametrize("body", ["deadly to write %d", "raises when loaded %d"])
def test_errors_of_python_kill_nothing(shop, error, body):
    """A driver's or decoder's MemoryError costs the one record, and no engine."""
    with shop.start(f"raise {error}"), Attached():
        shop.pool(100, {50: body})
        assert shop.server.flush(20)
        assert shop.starts() == 1
        # An engine that follows none pays nothing.
        assert not (shop.server.spool / "marks").exists()
        bad = shop.server.stats().sinks["bad"]
        assert (bad.refused + bad.corrupt, bad.delivered) == (1, 299)


@pytest.mark.parametrize(
    "down", ["", "time.sleep(0.2)"], ids=["it says so at once", "it hangs"]
)
def test_an_operators_kills_quarantine_nothing(shop, down):
    """Twenty times SIGKILL while a sink is down: its records wait, and all arrive."""
    chance = random.Random(SEED)
    (shop.path / "bad.jsonl.down").touch()
    with shop.start(down=down), Attached():
        steady = fork(log_steadily, shop.returned, 0, RECORDS)
        until(lambda: shop.returned[0], "the worker logs")
        for _ in range(20):
            signal.sigtimedwait((), chance.uniform(0, 0.3))
            victim = shop.engine()
            os.kill(victim, signal.SIGKILL)
            until(lambda v=victim: shop.engine() != v, "there is another engine")
        assert os.waitpid(steady, 0)[1] == 0
        (shop.path / "bad.jsonl.down").unlink()
        assert shop.server.flush(120)
        stats = shop.server.stats()
        for name in ("bad", "good"):
            assert stats.sinks[name].quarantined == 0
            assert stats.sinks[name].delivered == stats.sinks[name].committed
        for path in (shop.bad, shop.good):
            assert missing_and_double(lines(path), shop.returned)[0] == []
