"""The demo's account: what was logged against what arrived.

In: the ledger's figures and what each destination holds. Out: rows, a table, a verdict.
Pure but for the printing. Delivered is what a destination gives back, told apart by uid
and by (pid, sequence); a record is lost if its call returned and it is not there.
"""

from __future__ import annotations

import statistics
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HEADINGS: Final = (
    "worker", "sink", "returned", "delivered", "lost", "duplicates", "p50 µs", "p99 µs",
)  # fmt: skip
_TEXT_COLUMNS: Final = 2
_LOST, _DUPLICATES = 4, 5
EVERYONE: Final = "all"
_NOT_A_TERMINAL_COLUMNS: Final = 100


class Delivery(NamedTuple):
    """A record as a destination gave it back."""

    uid: str
    pid: int
    sequence: int


class Account(NamedTuple):
    """What one process said about its own log calls."""

    worker: str
    pid: int
    returned: int
    latencies_ns: Sequence[int]


class Row(NamedTuple):
    """One line of the table."""

    worker: str
    sink: str
    returned: int
    delivered: int
    lost: int
    duplicates: int
    p50_us: float
    p99_us: float


def tally(account: Account, sink: str, deliveries: Iterable[Delivery]) -> Row:
    """Compare what one process logged with what one destination holds of it.

    Parameters
    ----------
    account : Account
    sink : str
    deliveries : iterable of Delivery
        Everything that the destination holds.

    Returns
    -------
    Row
        `delivered` counts different records. It can be one above `returned`: of a
        process that was killed between keeping a record and returning.

    Examples
    --------
    >>> account = Account("worker-1", 7, 3, [900, 1000, 1100])
    >>> held = [Delivery("a", 7, 0), Delivery("b", 7, 2), Delivery("b", 7, 2)]
    >>> row = tally(account, "file", held)
    >>> row.delivered, row.lost, row.duplicates
    (2, 1, 1)
    """
    mine = [one for one in deliveries if one.pid == account.pid]
    sequences = {one.sequence for one in mine}
    different = min(len(sequences), len({one.uid for one in mine}))
    return Row(
        account.worker,
        sink,
        account.returned,
        delivered=len(sequences),
        lost=len(set(range(account.returned)) - sequences),
        duplicates=len(mine) - different,
        p50_us=percentile_us(account.latencies_ns, 50),
        p99_us=percentile_us(account.latencies_ns, 99),
    )


def percentile_us(latencies_ns: Sequence[int], percent: int) -> float:
    """Return a percentile in microseconds; 0 of nothing.

    Examples
    --------
    >>> percentile_us([1000, 2000, 3000], 50)
    2.0
    """
    if not latencies_ns:
        return 0.0
    if len(latencies_ns) == 1:
        return latencies_ns[0] / 1000
    cuts = statistics.quantiles(latencies_ns, n=100, method="inclusive")
    return cuts[percent - 1] / 1000


def rows(
    accounts: Sequence[Account],
    held: Mapping[str, Sequence[Delivery]],
    counted: Mapping[str, int],
) -> list[Row]:
    """Make the whole table: each worker and sink, then all workers together.

    Parameters
    ----------
    accounts : sequence of Account
    held : mapping of str to sequence of Delivery
        What can be read back, by sink.
    counted : mapping of str to int
        Deliveries of sinks that can only be counted, not read back.
    """
    single = [tally(one, sink, held[sink]) for one in accounts for sink in held]
    everyone = Account(
        EVERYONE,
        0,
        sum(one.returned for one in accounts),
        list(chain.from_iterable(one.latencies_ns for one in accounts)),
    )
    sums = [
        _sum(everyone, sink, [r for r in single if r.sink == sink]) for sink in held
    ]
    kept = len(_kept(accounts, held))
    sums += [_counted(everyone, sink, kept, counted[sink]) for sink in counted]
    return single + sums


def _kept(
    accounts: Sequence[Account], held: Mapping[str, Sequence[Delivery]]
) -> set[tuple[int, int]]:
    """Return (pid, sequence) of every record that must be everywhere.

    Those whose call returned, and those that a killed process had kept before that.
    """
    pids = {one.pid for one in accounts}
    found = {(d.pid, d.sequence) for d in chain(*held.values()) if d.pid in pids}
    return found | {(a.pid, n) for a in accounts for n in range(a.returned)}


def _sum(everyone: Account, sink: str, parts: Sequence[Row]) -> Row:
    return Row(
        EVERYONE,
        sink,
        everyone.returned,
        sum(part.delivered for part in parts),
        sum(part.lost for part in parts),
        sum(part.duplicates for part in parts),
        percentile_us(everyone.latencies_ns, 50),
        percentile_us(everyone.latencies_ns, 99),
    )


def _counted(everyone: Account, sink: str, kept: int, delivered: int) -> Row:
    lost, more = max(0, kept - delivered), max(0, delivered - kept)
    return _sum(everyone, sink, [])._replace(
        delivered=delivered, lost=lost, duplicates=more
    )


def verdict(table: Sequence[Row]) -> str:
    """Say in one line how it went."""
    lost = sum(row.lost for row in table if row.worker == EVERYONE)
    duplicates = sum(row.duplicates for row in table if row.worker == EVERYONE)
    return f"lost {lost}, duplicates {duplicates}"


CAPTION: Final = (
    "Latencies are of single calls with pauses between them, the caches cold; only the "
    "killed\nworker ends without pauses."
)


def unreturned(table: Sequence[Row]) -> list[str]:
    """Explain the rows in which more was delivered than had returned."""
    workers = {row.worker for row in table if row.delivered > row.returned}
    return [
        f"{worker}: a record was kept although the process was killed before its call "
        "returned"
        for worker in sorted(workers - {EVERYONE})
    ]


def remarks(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what else the file's records show.

    Parameters
    ----------
    lines : sequence of mapping
        The file's JSON records.
    """
    traces = [one["attributes"].get("exception.stacktrace", "") for one in lines]
    causes = sum("direct cause" in trace for trace in traces)
    spans = {one["span_id"] for one in lines if "span_id" in one}
    inside = sum("span_id" in one for one in lines)
    pids = {one["resource"]["process.pid"] for one in lines}
    said = [
        f"{len(pids)} processes, each under its own pid",
        f"{causes} exceptions with their cause",
    ]
    if spans:
        said.append(f"{inside} records in {len(spans)} OpenTelemetry spans")
    return said


def cells(table: Sequence[Row]) -> list[list[str]]:
    """Return the table's text; a worker's name and latencies only in its first row."""
    text = []
    for before, row in pairwise([None, *table]):
        assert row is not None  # noqa: S101 - for the type checker
        first = before is None or before.worker != row.worker
        text.append([
            row.worker if first else "",
            row.sink,
            *[str(number) for number in row[2:6]],
            f"{row.p50_us:.1f}" if first else "",
            f"{row.p99_us:.1f}" if first else "",
        ])  # fmt: skip
    return text


def plain(table: Sequence[Row]) -> str:
    """Return the table as aligned text.

    Examples
    --------
    >>> print(plain([Row("all", "file", 3, 3, 0, 0, 1.5, 2.25)]))
    worker sink returned delivered lost duplicates p50 µs p99 µs
    all    file        3         3    0          0    1.5    2.2
    """
    lines = [list(HEADINGS), *cells(table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [
            cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join(" ".join(line).rstrip() for line in aligned)


def show(table: Sequence[Row]) -> None:
    """Print the table: by rich if it is installed, else as aligned text."""
    try:
        _show_rich(table)
    except ImportError:
        print(plain(table))


def _show_rich(table: Sequence[Row]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_NOT_A_TERMINAL_COLUMNS)
    # No padding: with it the table does not fit a terminal of 80 columns.
    drawn = Table(header_style="bold", box=SIMPLE, padding=0, pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        right = number >= _TEXT_COLUMNS
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for line, row in zip(cells(table), table, strict=True):
        if line[0]:
            drawn.add_section()
        for column, number in ((_LOST, row.lost), (_DUPLICATES, row.duplicates)):
            colour = "red" if number else "green"
            line[column] = f"[{colour}]{line[column]}[/]"
        drawn.add_row(*line)
    console.print(drawn)
