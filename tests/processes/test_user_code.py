"""A user's own code in the supervisor: what it does costs its own sink at most."""

from __future__ import annotations

import json
import time

import pytest

import femtomp
from tests.processes.harness import Attached, until

HERE = "tests.sinks.handlers"


def own(path) -> list[dict]:
    """Return femtomp's own events of a file, but the announcements of workers."""
    # What is behind the last newline is being written.
    whole = path.read_bytes().rpartition(b"\n")[0]
    records = [json.loads(line) for line in whole.splitlines()]
    names = [r.get("event_name", "") for r in records]
    return [
        r
        for r, name in zip(records, names, strict=True)
        if name.startswith("femtomp.") and name != "femtomp.worker.started"
    ]


@pytest.fixture
def good(tmp_path):
    return tmp_path / "good.jsonl"


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table.txt"


def sink(kind: str, table) -> femtomp.HandlerSink:
    return femtomp.HandlerSink(f"{HERE}.{kind}", args={"path": str(table)}, name="own")


def test_a_client_librarys_error_loses_nothing_while_it_is_down(
    tmp_path, good, table, capfd
):
    """Whatever its class, an exception for all records means down: they are kept, the
    other sink goes on and is told, and so is stderr; `flush` has it tried at once.
    """
    down = tmp_path / "table.txt.down"
    down.touch()
    with femtomp.start_server(
        [sink("Table", table), femtomp.FileSink(good, name="good")],
        spool_parent=tmp_path,
    ) as server:
        with Attached() as log:
            for number in range(100):
                log.info("record %d", number)
        until(
            lambda: any(e["event_name"] == "femtomp.sink.down" for e in own(good)),
            "the other sink is told",
        )
        stats = server.stats().sinks
        assert (stats["own"].delivered, stats["own"].refused) == (0, 0)
        assert stats["good"].delivered == 100
        down.unlink()
        assert server.flush(30)
        stats = server.stats().sinks
        assert (stats["own"].delivered, stats["own"].refused) == (100, 0)
    assert [
        line for line in table.read_text().splitlines() if line.startswith("record")
    ] == [f"record {number}" for number in range(100)]
    (event,) = [e for e in own(good) if e["event_name"] == "femtomp.sink.down"]
    assert "DatabaseError: server closed the connection" in event["body"]
    assert "own cannot take records now: DatabaseError" in capfd.readouterr().err


def test_records_at_fault_are_refused_and_the_others_told(tmp_path, good, table):
    """Bad records are refused alone, a last one too, with the client's words, and the
    other sink hears how many there were.
    """
    with femtomp.start_server(
        [sink("Table", table), femtomp.FileSink(good, name="good")],
        spool_parent=tmp_path,
    ) as server:
        with Attached() as log:
            for number in range(100):
                log.info("%s %d", "bad" if number in (0, 50, 51, 99) else "ok", number)
        assert server.flush(30)
        stats = server.stats().sinks["own"]
        assert (stats.delivered, stats.refused) == (96, 4)
    events = [e for e in own(good) if e["event_name"] == "femtomp.sink.lost"]
    assert sum(e["attributes"]["femtomp.lost.refused"] for e in events) == 4
    assert "invalid byte sequence" in events[0]["body"]
    assert events[0]["severity_text"] == "ERROR"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("True", "write() answered True (a bool)"),
        ("Delivered(3)", "write() answered Delivered(refused=3)"),
        ("Delivered", "write() answered the class Delivered"),
        ("(lambda: [(yield)])()", "(a generator)"),
    ],
)
def test_a_wrong_answer_is_said_and_keeps_the_records(
    tmp_path, good, table, capfd, answer, words
):
    """It counts as down: few calls, no record lost, and `stop` tries once more."""
    (tmp_path / "table.txt.answer").write_text(answer)
    calls = tmp_path / "table.txt.calls"
    server = femtomp.start_server(
        [sink("Answers", table), femtomp.FileSink(good, name="good")],
        spool_parent=tmp_path,
    )
    with server:
        with Attached() as log:
            log.info("kept")
        begun = time.monotonic()
        until(
            lambda: any(e["event_name"] == "femtomp.sink.down" for e in own(good)),
            "the other sink is told",
        )
        lasted = time.monotonic() - begun
        # At most twice a round: news and records; a round a quarter of a second at least.
        assert len(calls.read_text()) <= 8 * (lasted + 1)
        (tmp_path / "table.txt.answer").unlink()
        assert server.stop(10).drained
    assert "kept" in table.read_text()
    said = capfd.readouterr().err
    assert "own cannot take records now: " in said
    assert words in said
    assert "it may answer None or Delivered()" in said


def test_flush_has_a_sink_tried_that_wants_to_be_asked_much_later(
    tmp_path, good, table
):
    """However long it wanted to wait, it is tried once more when somebody waits."""
    answer = tmp_path / "table.txt.answer"
    answer.write_text("RetryAfter(1000.0)")
    calls = tmp_path / "table.txt.calls"
    with femtomp.start_server(sink("Answers", table), spool_parent=tmp_path) as server:
        with Attached() as log:
            log.info("kept")
        until(calls.exists, "it was asked once")
        assert not server.flush(1)
        until(lambda: len(calls.read_text()) == 2, "the flush had it asked again")
        answer.unlink()
        assert server.flush(20)
        assert "kept" in table.read_text()
        assert server.stats().sinks["own"].refused == 0


def test_system_exit_of_a_users_code_ends_nothing(tmp_path, good):
    """Out of a filter it keeps the record, out of a handler it is that record's fault."""
    sinks = [
        femtomp.HandlerSink(f"{HERE}.Exits", name="own"),
        femtomp.FileSink(good, name="good"),
        femtomp.FileSink(tmp_path / "all", name="all", filter=f"{HERE}.exits"),
    ]
    with femtomp.start_server(sinks, spool_parent=tmp_path) as server:
        with Attached() as log:
            for number in range(20):
                log.info("%s %d", "bad" if number == 7 else "ok", number)
        assert server.flush(30)
        stats = server.stats()
    assert stats.engine_starts == 1
    assert (stats.sinks["own"].delivered, stats.sinks["own"].refused) == (19, 1)
    assert stats.sinks["good"].delivered == stats.sinks["all"].delivered == 20


def test_system_exit_while_a_sink_is_made_is_an_error_of_the_start(tmp_path):
    """`start_server` says what it was."""
    with pytest.raises(femtomp.FemtompError, match="SystemExit"):
        femtomp.start_server(
            femtomp.HandlerSink("sys.exit", name="own"), spool_parent=tmp_path
        )
