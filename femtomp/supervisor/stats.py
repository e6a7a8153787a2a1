"""Statistics, from the files alone: they hold after any process died.

In: a spool. Out: frozen snapshots. The conservation law they obey: per lane `committed
+ dropped <= started`; per sink, exactly, `committed = delivered + filtered + refused +
evicted + corrupt + quarantined + pending`.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from femtomp.codec import identity as identity_codec
from femtomp.errors import CodecError, ConfigError
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Counters, Cursor, read_cursors, sink_key
from femtomp.lanes.liveness import is_alive
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan, scan_all
from femtomp.lanes.space import read_unkept
from femtomp.lanes.spool import ENGINE_STARTS, FLUSH
from femtomp.native import sleep
from femtomp.supervisor.shown import report_as_text, stats_as_text
from femtomp.supervisor.totals import read_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from femtomp.lanes.chunk import End
    from femtomp.lanes.spool import Spool

_POLL_FIRST_S: Final = 0.001
_POLL_MAX_S: Final = 0.02
# By what a wait grows: who waits for a delivery waits for an eighth of its time more.
_POLL_GROWTH: Final = 1.125
# A reading that the engine's reaping disturbs each time; it reaps twice a second.
_MAX_READINGS: Final = 10
# Thirty years: no limit, and within the bits of a deadline.
_FOR_EVER_S: Final = 1e9


@dataclass(frozen=True)
class SinkStats:
    """What became of records, for one sink."""

    delivered: int = 0
    filtered: int = 0
    refused: int = 0
    evicted: int = 0
    corrupt: int = 0
    quarantined: int = 0
    pending: int = 0

    @property
    def committed(self) -> int:
        """How many records the sink has or had before it: the sum of all."""
        return (
            self.delivered + self.filtered + self.refused + self.evicted
            + self.corrupt + self.quarantined + self.pending
        )  # fmt: skip


@dataclass(frozen=True)
class LaneStats:
    """One process's lane, as long as its files are there."""

    epoch: str
    pid: int
    name: str
    alive: bool
    started: int
    committed: int
    dropped: dict[str, int]
    dropped_by_level: dict[str, int]
    sinks: dict[str, SinkStats]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerStats:
    """A whole server: sums over all lanes, those of ended workers included.

    Attributes
    ----------
    started : int
        Log calls that began.
    dropped : dict of str to int
        Records that could not be kept, by reason.
    dropped_by_level : dict of str to int
        The same, by level.
    sinks : dict of str to SinkStats
    lanes : list of LaneStats
        Of the workers that live or still have records pending.
    engine_starts : int
        1 if the engine never died.
    left_out : dict of str to int
        Records that workers did not keep because they were told to, by way ("limited"
        by call site, "sampled"). Not among `started`.
    """

    started: int
    dropped: dict[str, int]
    dropped_by_level: dict[str, int]
    sinks: dict[str, SinkStats]
    lanes: list[LaneStats]
    engine_starts: int
    left_out: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return stats_as_text(self)


@dataclass(frozen=True)
class DrainReport:
    """How a server ended.

    Attributes
    ----------
    drained : bool
        Everything was delivered or counted, in every sink.
    pending : dict of str to int
        Records that were left, by sink.
    dropped : dict of str to int
        Records that could not be kept while the server ran, by reason.
    refused : dict of str to int
        Records that a sink's destination would not take, by sink.
    quarantined : dict of str to int
        Records that killed the engine and were stepped over, by sink.
    spool : Path or None
        Where what is left lies; None if nothing is.
    duration_s : float
    """

    drained: bool = True
    pending: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    spool: Path | None = None
    duration_s: float = 0.0

    def __str__(self) -> str:
        return report_as_text(self)


def patience(timeout: float | None) -> float | None:
    """Return a timeout as seconds that can be added to a clock; None is no limit.

    Raises
    ------
    ConfigError
        If it is no number of seconds.
    """
    if timeout is None:
        return None
    # Not a number is neither greater nor less.
    if not isinstance(timeout, int | float) or math.isnan(timeout):
        msg = f"timeout must be a number of seconds, or None for no limit: {timeout!r}"
        raise ConfigError(msg)
    return None if timeout > _FOR_EVER_S else max(0.0, float(timeout))


def read_stats(spool: Spool) -> ServerStats:
    """Read a server's statistics. Damaged lanes are left out, as the engine does.

    Lanes are reaped meanwhile: what was read in the middle of that is read again.
    """
    for _ in range(_MAX_READINGS):
        before = read_totals(spool.cursors)
        lanes = [
            stats
            for lane in open_lanes(spool)
            if not before.has(lane.epoch) and (stats := _lane_stats(spool, lane))
        ]
        if before.is_whole(spool.sinks) and read_totals(spool.cursors) == before:
            break
    started = before.started()
    dropped = before.dropped()
    by_level = before.dropped_by_level()
    unkept = read_unkept(spool.directories)
    started += sum(unkept.values())
    dropped["quota"] += sum(unkept.values())
    by_level = {k: v + unkept.get(k, 0) for k, v in by_level.items()}
    totals = {name: SinkStats(*before.sink(name)) for name in spool.sinks}
    left_out = before.left_out()
    for lane in lanes:
        started += lane.started
        dropped = {k: v + lane.dropped.get(k, 0) for k, v in dropped.items()}
        by_level = {k: v + lane.dropped_by_level[k] for k, v in by_level.items()}
        left_out = {k: v + lane.left_out.get(k, 0) for k, v in left_out.items()}
        totals = {name: _sum(stats, lane.sinks[name]) for name, stats in totals.items()}
    starts = spool.control()[ENGINE_STARTS]
    return ServerStats(started, dropped, by_level, totals, lanes, starts, left_out)


def open_lanes(spool: Spool) -> Iterator[Lane]:
    """Yield a reader for each lane of a spool, looked at once, open until the next.

    There may be more of them than this process may have open files.
    """
    lanes: dict[str, Lane] = {}
    hostile = spool.has_other_workers
    scan_all(spool, lanes, lambda at, epoch: Lane(at, epoch, hostile=hostile))
    for lane in lanes.values():
        lane.refresh()
        yield lane
        lane.close()


def is_readable(spool: Spool) -> bool:
    """Tell whether this process may see what became of a spool's records.

    Workers that are another user than the server may not.
    """
    return not spool.has_other_workers or os.geteuid() == 0


def _has_owner(lane: Lane) -> bool:
    """Tell whether a lane says whose it is; any other is read by no engine."""
    try:
        identity_codec.from_bytes(lane.read_own()[0])
    except (FileNotFoundError, CodecError):
        return False
    except OSError:
        return True  # it cannot be opened now
    return True


def _lane_stats(spool: Spool, lane: Lane) -> LaneStats | None:
    try:
        for _ in range(_MAX_READINGS):
            content, words = lane.read_own()
            identity = identity_codec.from_bytes(content)
            cursors = read_cursors(spool.cursors, lane.epoch)
            # Another thread may read a new manifest at any time.
            names = spool.sinks
            found = [cursors.get(sink_key(name), Cursor()) for name in names]
            pending = [lane.count(cursor.position) for cursor in found]
            # A segment that was freed meanwhile was not counted: look again.
            if all(lane.is_there(cursor.position) for cursor in found):
                break
            scan(lane.directory, {lane.epoch: lane}, lambda _: None)
    except (OSError, CodecError):
        return None
    sinks = {
        name: SinkStats(*cursor.counters, pending=count)
        for name, cursor, count in zip(names, found, pending, strict=True)
    }
    return LaneStats(
        epoch=lane.epoch,
        pid=identity.pid,
        name=identity.name,
        alive=is_alive(identity),
        started=seg.started(words),
        committed=max((s.committed for s in sinks.values()), default=0),
        dropped=seg.drops(words),
        dropped_by_level=seg.drops_by_level(words),
        sinks=sinks,
        left_out=seg.left_out(words),
    )


def _sum(one: SinkStats, other: SinkStats) -> SinkStats:
    counters = Counters(*_counts(one)).plus(Counters(*_counts(other)))
    return SinkStats(*counters, pending=one.pending + other.pending)


def _counts(stats: SinkStats) -> tuple[int, ...]:
    return (
        stats.delivered, stats.filtered, stats.refused, stats.evicted,
        stats.corrupt, stats.quarantined,
    )  # fmt: skip


def wait_delivered(
    spool: Spool,
    timeout: float | None,
    tend: Callable[[], None] | None = None,
    sinks: Sequence[str] | None = None,
) -> bool:
    """Wait until every sink has passed what the lanes hold now.

    Sinks that the server has no more are not waited for.

    Parameters
    ----------
    spool : Spool
    timeout : float or None
        Seconds; None for no limit.
    tend : callable, optional
        Called while waiting: sees to it that there is an engine to wait for.
    sinks : sequence of str, optional
        Wait for these alone.

    Returns
    -------
    bool
        False if the time was over before.
    """
    timeout = patience(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    goals = {
        lane.epoch: (lane.directory, lane.end)
        for lane in open_lanes(spool)
        if _has_owner(lane)
    }
    _hurry(spool)
    wait_s = _POLL_FIRST_S
    while True:
        spool.refresh()
        names = spool.sinks if sinks is None else sinks
        goals = {
            epoch: (directory, end)
            for epoch, (directory, end) in goals.items()
            if not _reached(spool, directory, epoch, end, names)
        }
        if not goals:
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False
        if tend is not None:
            tend()
        sleep(wait_s)
        wait_s = min(_POLL_MAX_S, wait_s * _POLL_GROWTH)


def _hurry(spool: Spool) -> None:
    """Have the sinks gather no more records for a batch; they may do so anyway."""
    try:
        spool.set_control(FLUSH, (spool.control()[FLUSH] + 1) % (1 << 64))
    except OSError:
        pass  # another user's, or gone: what is there is delivered a little later


def _reached(
    spool: Spool, directory: int, epoch: str, end: End, sinks: Sequence[str]
) -> bool:
    if end.size <= seg.FRAMES_AT and end.side <= seg.FRAMES_AT and end.segment == 0:
        return True  # nothing was ever written to it
    cursors = read_cursors(spool.cursors, epoch)
    if not cursors:
        # Reaped, which happens behind the last sink; or not yet opened by the engine.
        return not _has_owner(Lane(directory, epoch))
    for name in sinks:
        position = cursors.get(sink_key(name), Cursor()).position
        if (position.segment, position.offset) < end[:2] or position.side < end.side:
            return False
    return True
