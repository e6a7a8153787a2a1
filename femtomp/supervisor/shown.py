"""Statistics as a person reads them: one line that says what was lost, then a table.

In: `ServerStats` and `DrainReport`. Out: text, for `str()`. What was refused, dropped
or is pending stands in the first line, in words, and cannot be overlooked; a count of 0
is not named there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from femtomp.supervisor.stats import DrainReport, ServerStats

_OUTCOMES: Final = (
    "delivered", "filtered", "refused", "evicted", "corrupt", "quarantined", "pending",
)  # fmt: skip
_LOSSES: Final = ("refused", "evicted", "corrupt", "quarantined")


def report_as_text(report: DrainReport) -> str:
    """Return how a server ended, in some lines."""
    by_sink = {
        "pending": report.pending,
        "refused": report.refused,
        "quarantined": report.quarantined,
    }
    counts = _counted(("PENDING", report.pending), ("DROPPED", report.dropped))
    counts += _counted(("REFUSED", report.refused))
    counts += _counted(("QUARANTINED", report.quarantined))
    how = "all was delivered" if report.drained else "NOT ALL WAS DELIVERED"
    if report.drained and counts:
        how = "all that could be was delivered"
    lines = [f"{how}, in {report.duration_s:.2f} s{_listed(counts)}"]
    sinks = list(dict.fromkeys(name for each in by_sink.values() for name in each))
    rows = [[name, *(v.get(name, 0) for v in by_sink.values())] for name in sinks]
    lines += _table(["sink", *by_sink], rows)
    lines += _reasons(report.dropped)
    if report.spool is not None:
        lines.append(
            f"what is left is in {report.spool}: "
            f"`femtomp recover {report.spool} --sink SINK` delivers it"
        )
    return "\n".join(lines)


def stats_as_text(stats: ServerStats) -> str:
    """Return what became of all records, in some lines."""
    lost = {
        loss: {name: getattr(sink, loss) for name, sink in stats.sinks.items()}
        for loss in _LOSSES
    }
    pending = {name: sink.pending for name, sink in stats.sinks.items()}
    counts = _counted(("PENDING", pending), ("DROPPED", stats.dropped))
    counts += _counted(*((loss.upper(), each) for loss, each in lost.items()))
    lines = [f"{stats.started:,} log calls{_listed(counts)}"]
    rows = [
        [name, *(getattr(sink, outcome) for outcome in _OUTCOMES)]
        for name, sink in stats.sinks.items()
    ]
    lines += _table(["sink", *_OUTCOMES], rows)
    lines += _reasons(stats.dropped)
    if any(stats.left_out.values()):
        ways = ", ".join(f"{n:,} {way}" for way, n in stats.left_out.items() if n)
        lines.append(f"left out as asked: {ways}")
    alive = sum(lane.alive for lane in stats.lanes)
    lines.append(f"{alive:,} of {len(stats.lanes):,} workers known are alive")
    if stats.engine_starts > 1:
        lines.append(f"the engine was started {stats.engine_starts:,} times")
    return "\n".join(lines)


def _counted(*counts: tuple[str, Mapping[str, int]]) -> list[str]:
    return [f"{sum(by.values()):,} {word}" for word, by in counts if any(by.values())]


def _listed(counts: Sequence[str]) -> str:
    return f": {', '.join(counts)}" if counts else ""


def _reasons(dropped: Mapping[str, int]) -> list[str]:
    reasons = ", ".join(f"{n:,} ({why})" for why, n in dropped.items() if n)
    return [f"dropped: {reasons}"] if reasons else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return lines of columns: the first to the left, numbers to the right."""
    if not rows:
        return []
    cells = [[str(head) for head in heads]]
    cells += [[c if isinstance(c, str) else f"{c:,}" for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [
                f"  {row[0]:<{widths[0]}}",
                *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]
