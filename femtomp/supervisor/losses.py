"""Losses and restarts, said as records of femtomp's own in every sink that works.

In: the counters that the files hold anyway. Out: at most one `femtomp.records.lost` and
one `femtomp.engine.restarted` a sink and interval, and none when there is nothing new.
What a rate left out is said in a `femtomp.records.lost` of its own: it was asked for,
and is no error. They are of no lane and are counted nowhere. What one sink lost is news
for the others (see `news`). Owner: the engine's main thread looks, each pump takes what
is due to its sink and says when it was delivered.

What was said is kept in `said` (see `slots`): the next engine neither repeats nor
forgets it. A sink's slot::

    u64 number | u64 time_ns | u32 open | u32 deaths
    | reached: u64 starts | u64 counts[16]
    | saying: u64 starts | u64 ended | u64 began_ns | u64 counts[16]

A report is written down as open before it is handed over and as reached when it was
taken: one that an engine died over comes again as it was, with the same uid, and later
and later if engines crash each time.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.errors import CodecError
from femtomp.lanes.cursor import Counters, Cursor, sink_key
from femtomp.lanes.resource import worker_resource
from femtomp.lanes.segment import DROP_REASONS, EPOCH_BYTES, drops
from femtomp.lanes.space import read_unkept
from femtomp.lanes.spool import ENGINE_ENDED, ENGINE_STARTS, GUARDIAN
from femtomp.record import Identity, Record
from femtomp.supervisor.notes import note
from femtomp.supervisor.poison import Ended, how_it_ended
from femtomp.supervisor.slots import Slots
from femtomp.supervisor.totals import read_totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.admission import Admission
    from femtomp.supervisor.members import Member
    from femtomp.supervisor.news import News

INTERVAL_S: Final = 10.0
# Engines that crashed while a report was open, before it waits until it is twice as old
# after each: it may be what kills them.
MAX_DEATHS: Final = 3
_MAX_DOUBLINGS: Final = 20

_MAGIC: Final = b"FMTPSAID"
_COUNTS: Final = 16
_SAID: Final = struct.Struct(f"<QQII Q{_COUNTS}Q QQQ{_COUNTS}Q")
_SLOT_BYTES: Final = 512
# Where each count is: of the sink, then of the workers' drops by reason.
_OF_SINK: Final = ("evicted", "refused", "corrupt", "quarantined")
_DROPPED: Final = tuple(f"dropped.{reason}" for reason in DROP_REASONS)
# Known to this engine alone: in no file before it is said.
_OVER_RATE: Final = _COUNTS - 1
_UNUSED: Final = ("",) * (_OVER_RATE - len(_OF_SINK) - len(_DROPPED))
_NAMES: Final = (*_OF_SINK, *_DROPPED, *_UNUSED, "over_rate")
_NOTHING: Final = (0,) * _COUNTS
_INFO: Final = (9, "INFO")
_WARNING: Final = (13, "WARNING")
_ERROR: Final = (17, "ERROR")


class Said(NamedTuple):
    """What one sink was told.

    Attributes
    ----------
    number : int
        Of the last report.
    time_ns : int
        When it was made.
    is_open : bool
        It is not known whether it arrived.
    deaths : int
        Engines that crashed since it is open.
    starts, counts
        Up to where everything was said.
    next_starts, next_ended, next_began_ns, next_counts
        Up to where the open report goes, and what it says of the engine.
    """

    number: int = 0
    time_ns: int = 0
    is_open: bool = False
    deaths: int = 0
    starts: int = 1
    counts: tuple[int, ...] = _NOTHING
    next_starts: int = 1
    next_ended: int = 0
    next_began_ns: int = 0
    next_counts: tuple[int, ...] = _NOTHING


class Losses:
    """What is to be said to each sink.

    Parameters
    ----------
    spool : Spool
    base : mapping
        Resource attributes of the server.
    admissions : mapping, optional
        By sink: who knows how many records were over its rate.
    news : News, optional
        Told what a sink loses, for all others.

    Attributes
    ----------
    causes : dict of str to str
        Why a sink's destination refused records last, as its pump was told.
    """

    def __init__(
        self,
        spool: Spool,
        base: Mapping[str, Any],
        admissions: Mapping[str, Admission] | None = None,
        news: News | None = None,
    ) -> None:
        self._spool = spool
        control = spool.control()
        self._starts: Final = max(1, control[ENGINE_STARTS])
        self._ended: Final = control[ENGINE_ENDED]
        self._began_ns: Final = time.time_ns()
        self._look_at = 0.0
        self._now: dict[str, tuple[int, ...]] = {}
        self._due = dict.fromkeys(spool.sinks, False)
        self._file = _File(spool, spool.sinks)
        self._epoch: Final = self._file.epoch
        self._admissions = admissions or {}
        self._over_rate = {
            name: max(said.counts[_OVER_RATE], said.next_counts[_OVER_RATE])
            for name, said in self._file.said.items()
        }
        self._news = news
        self.causes: Final[dict[str, str]] = {}
        # Up to where the other sinks were told; an engine before this one told as much.
        self._told = {
            name: tuple(map(max, said.counts, said.next_counts))[: len(_OF_SINK)]
            for name, said in self._file.said.items()
        }
        if how_it_ended(self._ended) is Ended.CRASHED:
            for name, said in self._file.said.items():
                if said.is_open:
                    self._file.write(name, said._replace(deaths=said.deaths + 1))
        who = Identity(
            control[GUARDIAN], 0, 0, 0, "", "femtomp", "supervisor",
            os.uname().nodename, "",
        )  # fmt: skip
        self._resource: Final = worker_resource(who, base, self._epoch)

    def look(self, members: Mapping[str, Member], *, at_last: bool = False) -> None:
        """Read the counters, once an interval, or once more at the end."""
        now = time.monotonic()
        if now < self._look_at and not at_last:
            return
        self._look_at = now + INTERVAL_S
        self._now = _counts(self._spool, list(members.values()))
        for name, admission in self._admissions.items():
            over = self._over_rate[name] + admission.over_rate
            self._now[name] = (*self._now[name][:_OVER_RATE], over)
        for name in self._due:
            self._due[name] = self._is_news(name)
            self._tell_others(name)

    def _tell_others(self, sink: str) -> None:
        counts = self._now.get(sink, _NOTHING)[: len(_OF_SINK)]
        lost = {
            name: after - before
            for name, before, after in zip(
                _OF_SINK, self._told[sink], counts, strict=True
            )
            if after > before
        }
        self._told[sink] = tuple(map(max, counts, self._told[sink]))
        if lost and self._news is not None:
            self._news.sink_lost(sink, lost, self.causes.get(sink, ""))

    def is_due(self, sink: str) -> bool:
        """Tell whether there was anything new at the last look; for each batch."""
        return self._due[sink]

    def of_sink(self, sink: str) -> Mapping[str, int] | None:
        """Return what a sink lost by itself, by reason; None before the first look."""
        counts = self._now.get(sink)
        return None if counts is None else dict(zip(_OF_SINK, counts, strict=False))

    def _is_news(self, sink: str) -> bool:
        said = self._file.said[sink]
        now = self._now.get(sink, _NOTHING)
        return (
            said.is_open
            or said.starts < self._starts
            or any(a > b for a, b in zip(now, said.counts, strict=True))
        )

    def records(
        self, sink: str, severity: int, *, at_last: bool = False
    ) -> list[Record]:
        """Return what is to be said to a sink now, of its level; open until `reached`.

        To be called by the sink's own thread alone.
        """
        said = self._file.said[sink]
        now = time.time_ns()
        if said.is_open:
            doubled = INTERVAL_S * 2 ** min(said.deaths, _MAX_DOUBLINGS)
            if said.deaths >= MAX_DEATHS and _is_early(now, said, doubled):
                return []
        else:
            early = _is_early(now, said, INTERVAL_S)
            if (early and not at_last) or not self._is_news(sink):
                return []
            reached = self._now.get(sink, _NOTHING)
            said = said._replace(
                number=said.number + 1,
                time_ns=now,
                is_open=True,
                next_starts=self._starts,
                next_ended=self._ended,
                next_began_ns=self._began_ns,
                # Of a lane that cannot be read now nothing is taken back.
                next_counts=tuple(map(max, reached, said.counts)),
            )
            self._file.write(sink, said)
        made = [
            self._restarted(said),
            self._lost(sink, said),
            self._over_rate_of(sink, said),
        ]
        records = [r for r in made if r is not None and r.severity_number >= severity]
        if not records:
            self.reached(sink)
        return records

    def reached(self, sink: str) -> None:
        """Note that a sink is done with what `records` returned."""
        said = self._file.said[sink]
        said = said._replace(
            is_open=False,
            deaths=0,
            starts=said.next_starts,
            counts=said.next_counts,
        )
        self._file.write(sink, said)
        self._due[sink] = self._is_news(sink)

    def _restarted(self, said: Said) -> Record | None:
        if said.next_starts <= said.starts:
            return None
        ended = _ended_by(said.next_ended)
        return Record(
            timestamp=said.next_began_ns,
            severity_number=_WARNING[0],
            severity_text=_WARNING[1],
            logger="femtomp",
            body=f"the engine was started again: the one before it ended by {ended}",
            attributes={
                "femtomp.engine.ended_by": ended,
                "femtomp.engine.starts": said.next_starts,
            },
            resource=self._resource,
            uid=f"{self._epoch}-restarted-{said.next_starts}",
            event_name="femtomp.engine.restarted",
        )

    def _lost(self, sink: str, said: Said) -> Record | None:
        lost = {
            name: after - before
            for name, before, after in zip(
                _NAMES[:_OVER_RATE], said.counts, said.next_counts, strict=False
            )
            if after > before
        }
        if not lost:
            return None
        totals = zip(_NAMES[:_OVER_RATE], said.next_counts, strict=False)
        what = ", ".join(f"{count} {name}" for name, count in lost.items())
        return Record(
            timestamp=said.time_ns,
            severity_number=_ERROR[0],
            severity_text=_ERROR[1],
            logger="femtomp",
            body=f"records were lost to {sink}: {what}",
            attributes={
                **{f"femtomp.lost.{name}": count for name, count in lost.items()},
                **{f"femtomp.lost_total.{name}": n for name, n in totals if n},
            },
            resource=self._resource,
            # What is lost is not the same in every sink, nor is what is said of it.
            uid=f"{self._epoch}-{sink_key(sink).hex()[:8]}-lost-{said.number}",
            event_name="femtomp.records.lost",
        )

    def _over_rate_of(self, sink: str, said: Said) -> Record | None:
        """Return what is said of records over a rate: that was asked for, no error."""
        total = said.next_counts[_OVER_RATE]
        count = total - said.counts[_OVER_RATE]
        if count <= 0:
            return None
        return Record(
            timestamp=said.time_ns,
            severity_number=_INFO[0],
            severity_text=_INFO[1],
            logger="femtomp",
            body=f"the rate of {sink} left out records, as asked: {count} over_rate",
            attributes={
                "femtomp.lost.over_rate": count,
                "femtomp.lost_total.over_rate": total,
            },
            resource=self._resource,
            uid=f"{self._epoch}-{sink_key(sink).hex()[:8]}-over-rate-{said.number}",
            event_name="femtomp.records.lost",
        )


def _is_early(now_ns: int, said: Said, interval_s: float) -> bool:
    # A clock that was set back silences nothing.
    return 0 <= now_ns - said.time_ns < interval_s * 1e9


def _counts(spool: Spool, members: list[Member]) -> dict[str, tuple[int, ...]]:
    """Add up what is lost for each sink, over all lanes there ever were."""
    totals = read_totals(spool.cursors)
    dropped = list(totals.dropped().values())
    # As in the statistics: they came to no lane.
    dropped[DROP_REASONS.index("quota")] += sum(read_unkept(spool.directories).values())
    sums = {name: totals.sink(name) for name in spool.sinks}
    for member in members:
        try:
            words = member.lane.read_own()[1]
        except (OSError, CodecError) as exc:
            note("losses", f"drops of lane {member.lane.epoch} cannot be read: {exc}")
            continue
        dropped = [a + b for a, b in zip(dropped, drops(words).values(), strict=True)]
        for name, cursor in member.cursors.cursors.items():
            sums[name] = sums[name].plus((cursor or Cursor()).counters)
    return {name: _as_counts(counters, dropped) for name, counters in sums.items()}


def _as_counts(counters: Counters, dropped: list[int]) -> tuple[int, ...]:
    found = [getattr(counters, name) for name in _OF_SINK] + dropped
    return (*found, *_NOTHING)[:_COUNTS]


def _ended_by(status: int) -> str:
    """Say what the word ENGINE_ENDED means.

    Examples
    --------
    >>> _ended_by(0), _ended_by(9 + 1), _ended_by(256 + 1)
    ('an unknown cause', 'SIGKILL', 'exit status 1')
    """
    if status == 0:
        return "an unknown cause"
    code = os.waitstatus_to_exitcode(status - 1)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class _File:
    """The file `said`, or memory alone where there is no room for one."""

    def __init__(self, spool: Spool, sinks: tuple[str, ...]) -> None:
        self.said: Final = dict.fromkeys(sinks, Said())
        self._slots: Slots | None = None
        try:
            self._slots = Slots(spool.descriptor, "said", _MAGIC, _SLOT_BYTES, sinks)
        except OSError as exc:
            _say_lost(exc)
            self.epoch = os.urandom(EPOCH_BYTES).hex()
            return
        self.epoch = self._slots.epoch
        self.said.update({k: _unpack(v) for k, v in self._slots.found.items()})

    def write(self, sink: str, said: Said) -> None:
        self.said[sink] = said
        if self._slots is None:
            return
        try:
            self._slots.write(sink, _pack(said))
        except OSError as exc:
            _say_lost(exc)


def _say_lost(exc: OSError) -> None:
    note("said", f"what was said is not kept, and may come again: {exc}")


def _pack(said: Said) -> bytes:
    return _SAID.pack(
        said.number, said.time_ns, said.is_open, said.deaths,
        said.starts, *said.counts,
        said.next_starts, said.next_ended, said.next_began_ns, *said.next_counts,
    )  # fmt: skip


def _unpack(content: bytes) -> Said:
    number, time_ns, is_open, deaths, starts, *rest = _SAID.unpack_from(content)
    counts = tuple(rest[:_COUNTS])
    next_starts, ended, began_ns, *next_counts = rest[_COUNTS:]
    return Said(
        number, time_ns, bool(is_open), deaths, starts, counts,
        next_starts, ended, began_ns, tuple(next_counts),
    )  # fmt: skip
