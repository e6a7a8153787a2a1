"""A pump: one sink's thread, from lanes to destination.

In: the members' lanes, each from this sink's own cursor. Out: batches to the sink's
driver, and a committed cursor behind what the driver is done with: read, batch, write,
commit. A slow or dead destination stops this pump alone. Order is exact within a lane,
by time across the lanes of one batch.

What must never happen: a cursor moved over a record that was neither delivered nor
counted, or a batch that is tried for ever because one record breaks the driver.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from femtomp.lanes.cursor import Cursor
from femtomp.lanes.segment import SIDE
from femtomp.sinks import (
    Compares,
    Delivered,
    Driver,
    Gathers,
    Outcome,
    Refused,
    Reopens,
    RetryAfter,
)
from femtomp.supervisor.batch import Done, merge, progress, sort_out
from femtomp.supervisor.flow import Flow
from femtomp.supervisor.news import Outage
from femtomp.supervisor.notes import note
from femtomp.supervisor.redacting import as_they_are

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.lanes.chunk import Chunk
    from femtomp.record import Record
    from femtomp.supervisor.batch import Batch, Step, Stream
    from femtomp.supervisor.losses import Losses
    from femtomp.supervisor.members import Member
    from femtomp.supervisor.news import News
    from femtomp.supervisor.redacting import Redact

# Enough to amortise a system call or request; also the most that can come twice.
MAX_BATCH_RECORDS: Final = 2048
# Behind one that is as large, a sink that gathers records does not wait for more.
SMALL_BATCH_RECORDS: Final = 512
# What waits in the lanes for such a batch: nobody counts records that were not read.
_SMALL_BATCH_BYTES: Final = 256 * 1024
# How often a sink that gathers looks at what waits.
_GATHER_LOOK_S: Final = 0.02
# What a pump looks at without being woken: a frame that was incomplete, a missed wake.
SAID_DELAY_S: Final = 0.5
IDLE_S: Final = 0.25


class Pump(threading.Thread):
    """Drive one sink until told to stop.

    Parameters
    ----------
    name : str
        The sink's name: of its cursors too.
    severity : int
        Records of a lower severity number are filtered.
    build : callable
        Makes the driver, in this thread; what it raises is `failure`.
    members : mapping
        The engine's table; the poller adds to it and takes from it.
    losses : Losses, optional
        What is to be said to the sink beside its records.
    admit : callable, optional
        Filters a stream further: the sink's `Admission`.
    redact : callable, optional
        What every batch passes on its way to the driver.
    news : News, optional
        What happened, to be told to the sink; told of the sink itself.
    """

    def __init__(
        self,
        name: str,
        severity: int,
        build: Callable[[], Driver],
        members: Mapping[str, Member],
        losses: Losses | None = None,
        admit: Callable[[Stream], Stream] | None = None,
        redact: Redact = as_they_are,
        news: News | None = None,
    ) -> None:
        super().__init__(name=f"femtomp-{name}", daemon=True)
        self.sink: Final = name
        self._severity = severity
        self._build = build
        self._members = members
        self._losses = losses
        self._admit = admit
        self._redact = redact
        self._turn = 0
        self.wake = threading.Event()
        self.built = threading.Event()
        self.may_begin = threading.Event()
        """Set unless an engine waits for its other sinks: before all of them are built
        none of its records may go anywhere."""
        self.may_begin.set()
        self._finished = False
        self._hurried = threading.Event()
        self._is_ending = False
        self.is_gathering = False
        """Whether it waits for a batch to grow."""
        self._is_told = threading.Event()
        self._news = news
        self._outage = Outage(name, news)
        self.flow: Final = Flow()
        self.failure: Exception | None = None
        # How often `reopen` was asked for, and how many of these are done with.
        self._reopen_asked = self._reopen_done = 0
        self._can_reopen = False

    def run(self) -> None:
        """Build the driver, then deliver until drained or abandoned."""
        try:
            driver = self._build()
        except Exception as exc:
            self.failure = exc
            return
        finally:
            self.built.set()
        self._can_reopen = isinstance(driver, Reopens)
        interval_s = driver.interval_s if isinstance(driver, Gathers) else 0.0
        self.may_begin.wait()
        while not self._finished:
            self._reopen_if_asked(driver)
            self._say_losses(driver)
            self._tell_news(driver)
            batch = self._collect()
            if batch is not None:
                begun = time.monotonic()
                is_small = len(batch.records) < SMALL_BATCH_RECORDS
                gathers = interval_s > 0 and is_small and not self._is_cut(batch)
                self._deliver(driver, batch)
                if gathers:
                    self._gather(begun + interval_s)
            else:
                if not self._is_ending:
                    self._hurried.clear()
                self.wake.wait(IDLE_S)
                self.wake.clear()
        self._say_losses(driver)
        self._tell_news(driver)
        driver.close()

    def hurry(self) -> None:
        """Wait no more for batches to grow: what is there is all there will be."""
        self._is_ending = True
        self._hurried.set()

    def flush(self) -> None:
        """Wait no more for batches to grow until all that is there was written."""
        self._hurried.set()

    @property
    def is_stalled(self) -> bool:
        """Whether the destination took nothing when it was last asked."""
        return self._outage.is_on

    def finish(self) -> None:
        """End after the batch in hand."""
        self._finished = self._is_ending = True
        self._hurried.set()
        self._is_told.set()
        self.wake.set()

    def reopen(self) -> None:
        """Have the destination opened anew before the next batch, if it can be."""
        self._reopen_asked += 1
        self.wake.set()

    @property
    def is_reopening(self) -> bool:
        """Whether `reopen` was asked for and is still to be done."""
        return self._can_reopen and self._reopen_done != self._reopen_asked

    def _reopen_if_asked(self, driver: Driver) -> None:
        asked = self._reopen_asked
        if asked == self._reopen_done:
            return
        if isinstance(driver, Reopens):
            try:
                driver.reopen()
            except OSError as exc:
                note(f"{self.sink}:reopen", f"{self.sink} is not open: {exc.strerror}")
        self._reopen_done = asked

    # -- from the lanes --------------------------------------------------------------

    def _gather(self, until: float) -> None:
        """Wait for a batch to grow; no longer than until there is enough for one."""
        self.is_gathering = True
        while (left := until - time.monotonic()) > 0 and not self._has_a_batch():
            if self._hurried.wait(min(left, _GATHER_LOOK_S)):
                break
        self.is_gathering = False

    def _is_cut(self, batch: Batch) -> bool:
        """Return whether more was there than came into a batch: a segment ended."""
        return any(
            member is not None
            and stream.chunk.number != SIDE
            and (stream.chunk.number, stream.chunk.after) < member.lane.end[:2]
            for stream in batch.streams
            for member in (self._members.get(stream.epoch),)
        )

    def _has_a_batch(self) -> bool:
        """Return whether as much waits in the lanes as a batch has that is not small.

        Behind the end of a segment how much is not known, and some is there.
        """
        size = 0
        for member in list(self._members.values()):
            cursor = member.cursors.cursors[self.sink] or Cursor()
            position = member.lane.normalised(cursor.position)
            end = member.lane.end
            if end.segment > position.segment:
                return True
            size += end.size - position.offset + end.side - position.side
        return size >= _SMALL_BATCH_BYTES

    def _collect(self) -> Batch | None:
        streams: list[Stream] = []
        own: list[Record] = []
        room = MAX_BATCH_RECORDS
        members = list(self._members.values())
        self._turn += 1
        for index in range(len(members)):
            # Another lane is first each time: none can starve the others.
            member = members[(index + self._turn) % len(members)]
            found = self._streams(member)
            own += self._announced(member, found)
            streams += found
            room -= sum(len(stream.fates) for stream in found)
            if room <= 0:
                break
        return merge(streams, own) if streams else None

    def _streams(self, member: Member) -> list[Stream]:
        lane = member.lane
        cursor = member.cursors.cursors[self.sink] or Cursor()
        position = lane.normalised(cursor.position)
        if not lane.has_more(position):
            return []
        base = Cursor(position, cursor.counters)
        return [
            self._sorted(member, base, chunk)
            for chunk in (lane.read(position), lane.read_side(position))
            if chunk is not None
        ]

    def _sorted(self, member: Member, base: Cursor, chunk: Chunk) -> Stream:
        stream = sort_out(
            member.lane.epoch, base, chunk, self._severity,
            member.resource, member.of_process, self._damaged,
        )  # fmt: skip
        return stream if self._admit is None else self._admit(stream)

    def _announced(self, member: Member, found: list[Stream]) -> list[Record]:
        """Return the event that comes before a lane's first record, if it is due."""
        cursor = member.cursors.cursors[self.sink]
        if not found or (cursor is not None and not _is_untouched(cursor)):
            return []
        event = member.started(_first_time(found))
        return [event] if event.severity_number >= self._severity else []

    def _damaged(self, exc: Exception) -> None:
        problem = str(exc) or type(exc).__name__
        note(f"{self.sink}:damaged", f"a record cannot be read, counted: {problem}")

    # -- to the destination ----------------------------------------------------------

    def _say_losses(self, driver: Driver) -> None:
        """Hand over what is to be said of losses, in a batch of its own."""
        if self._losses is None:
            return
        if not self._finished and self._losses.is_due(self.sink):
            records = self._losses.records(self.sink, self._severity)
            if records and self._deliver(driver, merge([], records)):
                self._losses.reached(self.sink)
        # At the end whatever is new, tried once. Before it, what was begun may be open.
        while self._finished and (
            records := self._losses.records(self.sink, self._severity, at_last=True)
        ):
            if isinstance(self._write(driver, records), RetryAfter):
                return
            self._losses.reached(self.sink)

    def _tell_news(self, driver: Driver) -> None:
        if self._news is None:
            return
        records = self._news.of(self.sink, self._severity)
        if not records:
            return
        if self._finished:  # tried once
            if not isinstance(self._write(driver, records), RetryAfter):
                self._news.told(self.sink, records)
        elif self._deliver(driver, merge([], records)):
            self._news.told(self.sink, records)

    def _deliver(self, driver: Driver, batch: Batch) -> bool:
        """Write until the driver is done with it; False if told to end before."""
        done = refused = 0
        committed: Done | None = None
        self.flow.begin(batch.records)
        while done < len(batch.records) and not self._finished:
            self._reopen_if_asked(driver)
            outcome = self._write(driver, batch.records[done:])
            counts: Mapping[str, int] = {}
            match outcome:
                case Delivered(counts):
                    done = len(batch.records)
                case Refused(reason):
                    counts = {reason: len(batch.records) - done}
                    done = len(batch.records)
                case RetryAfter(_, _, accepted, counts):
                    done += accepted
            for reason, number in counts.items():
                refused += number
                note(f"{self.sink}:refused", f"{self.sink} refused {number}: {reason}")
            self._judge(outcome)
            if isinstance(outcome, RetryAfter):
                if outcome.accepted and done < len(batch.records):
                    self._commit(batch, Done(done, refused), committed)
                    committed = Done(done, refused)
                self._wait(outcome)
                if isinstance(driver, Compares) and driver.wants_more:
                    break
        self._commit(batch, Done(done, refused), committed)
        self.flow.end()
        return done == len(batch.records)

    def _write(self, driver: Driver, records: Sequence[Record]) -> Outcome:
        """Write, and find the one record that breaks the driver, if one does."""
        try:
            return driver.write(self._redact(records))
        except Exception as exc:
            problem = f"{type(exc).__name__}: {exc}"
            note(f"{self.sink}:error", f"{self.sink} failed on a batch: {problem}")
            if len(records) == 1:
                return Refused(problem)
        half = self._write(driver, records[: len(records) // 2])
        size = len(records) // 2
        match half:
            case Delivered(counts):
                return RetryAfter(0.0, "", size, counts)
            case Refused(reason):
                return RetryAfter(0.0, "", size, {reason: size})
            case RetryAfter():
                return half

    def _judge(self, outcome: Outcome) -> None:
        """Say when the destination goes down and when it is back, once each."""
        if not isinstance(outcome, RetryAfter) or outcome.accepted:
            down_s = self._outage.end(time.monotonic())
            if down_s is not None:
                text = f"{self.sink} takes records again, after {down_s:.1f} s"
                note(f"{self.sink}:recovered", text)
        # A full queue that empties in a moment is not down.
        elif outcome.delay_s >= SAID_DELAY_S and self._outage.begin(
            outcome.reason, time.monotonic()
        ):
            note(
                f"{self.sink}:retry",
                f"{self.sink} cannot take records now: {outcome.reason}; they are "
                f"kept and tried again in {outcome.delay_s:.1f} s",
            )

    def _wait(self, outcome: RetryAfter) -> None:
        if outcome.delay_s > 0:
            self.flow.retries += 1
            self._is_told.wait(outcome.delay_s)

    def _commit(self, batch: Batch, done: Done, before: Done | None) -> None:
        for epoch, steps in progress(batch, done, before).items():
            member = self._members.get(epoch)
            if member is not None:
                self._move(member, steps)

    def _move(self, member: Member, steps: Sequence[Step]) -> None:
        try:
            member.advance(self.sink, steps)
        except OSError as exc:
            text = f"cursor of {self.sink} not written: {exc}"
            note(f"cursor:{member.lane.epoch}", text)


def _is_untouched(cursor: Cursor) -> bool:
    """Tell whether all that was counted so far was stepped over, unseen by the sink."""
    counters = cursor.counters
    return counters.quarantined + counters.evicted == sum(counters)


def _first_time(streams: list[Stream]) -> int:
    times = [s.records[0].timestamp for s in streams if s.records]
    return min(times, default=0) or time.time_ns()
