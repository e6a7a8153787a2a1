"""Losses and restarts are records themselves, in every sink that works."""

from __future__ import annotations

import json
import os
import signal

import femtomp
from femtomp.worker.channel import channel
from tests.processes.harness import Attached, until


def own(path) -> list:
    """Return femtomp's own events of a file, but the announcements of workers."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [
        r
        for r in records
        if r.get("event_name", "").startswith("femtomp.")
        and r["event_name"] != "femtomp.worker.started"
    ]


def test_nothing_is_said_where_nothing_was_lost(tmp_path):
    """A server that lost nothing and never died says nothing of itself."""
    path = tmp_path / "a.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server, Attached() as log:
        log.info("kept")
        assert server.flush()
        assert not list(server.spool.glob("marks"))
    assert own(path) == []


def test_a_restart_is_said_in_every_sink(tmp_path):
    """Each sink that takes warnings hears what the engine died of, once, soon."""
    paths = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "errors")]
    sinks = [femtomp.FileSink(p, name=p.stem) for p in paths[:2]]
    sinks.append(femtomp.FileSink(paths[2], level="ERROR", name="errors"))
    with femtomp.start_server(sinks) as server, Attached() as log:
        engine = server._spool.control()[2]
        os.kill(engine, signal.SIGKILL)
        until(lambda: all(own(p) for p in paths[:2]), "both sinks have heard of it")
        log.error("after")
        assert server.flush()
    heard = [own(p) for p in paths]
    assert [len(events) for events in heard] == [1, 1, 0]
    (one,), (two,) = heard[:2]
    assert one == two
    assert one["event_name"] == "femtomp.engine.restarted"
    assert one["severity_text"] == "WARNING"
    assert one["logger"] == "femtomp"
    assert one["attributes"] == {
        "femtomp.engine.ended_by": "SIGKILL",
        "femtomp.engine.starts": 2,
    }
    assert "worker" not in one["resource"]["femtomp.worker.name"]


def test_losses_are_said_at_the_latest_at_the_end(tmp_path):
    """What was dropped, and what could not be read, is said before the server ends; it
    counts as no record of any lane.
    """
    path = tmp_path / "a.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server, Attached() as log:
        log.info("kept")
        lane = channel(str(server.spool))._lane
        lane.append(b"no record")
        for _ in range(3):
            lane.drop("io", b"")
        assert server.flush()
        stats = server.stats()
        assert (stats.sinks["file"].delivered, stats.sinks["file"].corrupt) == (1, 1)
        report = server.stop()
    assert report.drained
    events = own(path)
    # The engine's first look may come before all of it, its last one never does.
    assert 1 <= len(events) <= 2
    assert {e["event_name"] for e in events} == {"femtomp.records.lost"}
    assert {e["severity_text"] for e in events} == {"ERROR"}
    last = events[-1]["attributes"]
    for reason, count in (("corrupt", 1), ("dropped.io", 3)):
        said = [e["attributes"].get(f"femtomp.lost.{reason}", 0) for e in events]
        assert sum(said) == last[f"femtomp.lost_total.{reason}"] == count


def test_a_restarted_engine_neither_repeats_nor_forgets(tmp_path):
    """Over many deaths each loss is said once, by uid, and every restart is covered."""
    path = tmp_path / "a.jsonl"
    losses = 0
    with femtomp.start_server(femtomp.FileSink(path)) as server, Attached() as log:
        for number in range(5):
            log.info("kept %d", number)
            lane = channel(str(server.spool))._lane
            lane.append(b"no record")
            lane.drop("io", b"")
            losses += 1
            assert server.flush(20)
            engine = server._spool.control()[2]
            os.kill(engine, signal.SIGKILL)
            until(lambda e=engine: server._spool.control()[2] != e, "another engine")
        assert server.stop().drained
    events = {}
    for event in own(path):
        assert events.setdefault(event["uid"], event) == event
    lost = [e for e in events.values() if e["event_name"] == "femtomp.records.lost"]
    for reason in ("corrupt", "dropped.io"):
        said = [e["attributes"].get(f"femtomp.lost.{reason}", 0) for e in lost]
        assert sum(said) == losses
    starts = [e["attributes"].get("femtomp.engine.starts", 1) for e in events.values()]
    assert max(starts) == 6


def test_what_is_over_a_rate_is_said_and_counted(tmp_path):
    """A sink with a rate filters what is over it, exactly, and says how much that was;
    another sink has everything.
    """
    slow = femtomp.FileSink(tmp_path / "slow", name="slow", rate=(0.001, 5))
    with (
        femtomp.start_server(
            [slow, f"file:{tmp_path}/all"], spool_parent=tmp_path
        ) as server,
        Attached() as log,
    ):
        for number in range(20):
            log.info("record %d", number)
        assert server.flush()
        stats = server.stats().sinks
        assert (stats["slow"].delivered, stats["slow"].filtered) == (5, 15)
        assert stats["slow"].committed == stats["file"].delivered == 20
    written = [
        json.loads(line) for line in (tmp_path / "slow").read_text().splitlines()
    ]
    said = [r for r in written if r.get("event_name") == "femtomp.records.lost"]
    assert sum(r["attributes"]["femtomp.lost.over_rate"] for r in said) == 15
    assert "over_rate" in said[-1]["body"]
    assert "femtomp.records.lost" not in (tmp_path / "all").read_text()
