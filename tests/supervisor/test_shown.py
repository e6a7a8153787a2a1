"""What a person reads of statistics: losses first, then a table."""

from __future__ import annotations

import pytest

from femtomp import DrainReport, ServerStats, SinkStats


def stats(**file: int) -> ServerStats:
    sinks = {"file": SinkStats(**file), "otlp": SinkStats(delivered=12_000)}
    return ServerStats(12_000, {"quota": 0}, {}, sinks, [], 1)


def test_a_server_without_losses_speaks_of_none() -> None:
    """The first line has the calls alone where nothing was lost and nothing is left."""
    lines = str(stats(delivered=12_000)).splitlines()
    assert lines[0] == "12,000 log calls"
    assert lines[1].split()[0] == "sink"
    assert lines[2].split() == ["file", "12,000", *["0"] * 6]
    assert len({len(line) for line in lines[1:4]}) == 1, "columns are aligned"


@pytest.mark.parametrize(
    "what", ["refused", "evicted", "corrupt", "quarantined", "pending"]
)
def test_what_a_sink_did_not_get_is_in_the_first_line(what: str) -> None:
    """Each way of not being delivered is named with its count, in capitals."""
    assert f"1,234 {what.upper()}" in str(stats(**{what: 1234})).splitlines()[0]


def test_drops_are_in_the_first_line_and_by_reason() -> None:
    """What could not be kept is in the first line; its reasons have a line of theirs."""
    text = str(ServerStats(9, {"quota": 3, "size": 2, "io": 0}, {}, {}, [], 3))
    assert "5 DROPPED" in text.splitlines()[0]
    assert "dropped: 3 (quota), 2 (size)" in text
    assert "started 3 times" in text


def test_a_report_says_first_whether_all_was_delivered() -> None:
    """A clean end is one calm line and a table; what is left is loud, with the command."""
    assert str(DrainReport(pending={"file": 0})).startswith("all was delivered, in ")
    text = str(
        DrainReport(
            drained=False,
            pending={"file": 0, "otlp": 1003},
            dropped={"quota": 3},
            refused={"file": 0, "otlp": 2},
            spool="/dev/shm/x",  # type: ignore[arg-type]
            duration_s=1.0,
        )
    )
    first = text.splitlines()[0]
    assert first.startswith("NOT ALL WAS DELIVERED")
    for part in ("1,003 PENDING", "3 DROPPED", "2 REFUSED"):
        assert part in first
    assert "femtomp recover /dev/shm/x --sink" in text


def test_repr_stays_what_it_is_for_programs() -> None:
    """repr() has every field, as of any dataclass."""
    assert repr(DrainReport()).startswith("DrainReport(drained=True, pending={}")
