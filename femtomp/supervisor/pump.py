"""A pump: one sink's thread, from lanes to destination.

In: the members' lanes, each from this sink's own cursor. Out: batches to the sink's
driver, and a committed cursor behind what the driver is done with: read, batch, write,
commit. A slow or dead destination stops this pump alone. Order is exact within a lane,
by time across the lanes of one batch.

A batch is bounded by bytes as well as by records, and is handed to the driver in parts:
what a pump holds, decoded or encoded, does not grow with the lanes.

What must never happen: a cursor moved over a record that was neither delivered nor
counted, a batch that is tried for ever because one record breaks the driver, or a
driver that is called without a pause.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError
from femtomp.lanes.cursor import Cursor
from femtomp.lanes.segment import SIDE
from femtomp.record import Resource
from femtomp.sinks import (
    Asked,
    Compares,
    Delivered,
    Driver,
    Ends,
    Gathers,
    Outcome,
    Paced,
    Refused,
    Reopens,
    RetryAfter,
)
from femtomp.sinks.answers import AnswerError, outcome_of, problem_of
from femtomp.supervisor.batch import Done, Room, merge, parts, progress, sort_out
from femtomp.supervisor.blame import Blame, Down, Failed
from femtomp.supervisor.flow import Flow
from femtomp.supervisor.news import Outage, tried
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
# Of payload, before it is decoded, in one batch; and in one part of it, which a driver
# encodes as a whole: a text of it may be six times as long.
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
MAX_PART_BYTES: Final = 1024 * 1024
# Behind one that is as large, a sink that gathers records does not wait for more.
SMALL_BATCH_RECORDS: Final = 512
# What waits in the lanes for such a batch: nobody counts records that were not read.
_SMALL_BATCH_BYTES: Final = 256 * 1024
# How often a sink that gathers looks at what waits.
_GATHER_LOOK_S: Final = 0.02
# What a pump looks at without being woken: a frame that was incomplete, a missed wake.
IDLE_S: Final = 0.25
# A destination that wants to be asked again sooner is not down; unless it has taken
# nothing for so long.
SAID_DELAY_S: Final = 0.5
SAID_AFTER_S: Final = 5.0
# One that says 0 and takes nothing is asked no more often, and one that says a year is.
_LEAST_DELAY_S: Final = 0.01
_MOST_DELAY_S: Final = 24 * 3600.0
_WARNING: Final = 13


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
        self.is_waiting = False
        """Whether it waits for a batch to grow, or for its destination."""
        # Ends one wait for a destination before its time.
        self._try_now = threading.Event()
        self._ending = threading.Event()
        self._news = news
        self.outage: Final = Outage(name, news)
        self.flow: Final = Flow()
        self.failure: Exception | None = None
        # How often `reopen` was asked for, and how many of these are done with.
        self._reopen_asked = self._reopen_done = 0
        self._can_reopen = False
        # Of a destination that may go away for good: whether it has, was said.
        self._may_end = self._has_ended = False
        self._idle_since: float | None = None
        self.called_at: float | None = None
        """When the driver was called, if it has not returned."""
        self._driver: Driver | None = None
        self._blame: Final = Blame(self._attempt, self._event)

    def run(self) -> None:
        """Build the driver, then deliver until drained or abandoned."""
        try:
            driver = self._build()
            self._can_reopen = isinstance(driver, Reopens)
            self._may_end = isinstance(driver, Ends)
            interval_s = float(driver.interval_s) if isinstance(driver, Gathers) else 0
        except BaseException as exc:
            self.failure = (
                exc if isinstance(exc, Exception) else ConfigError(problem_of(exc))
            )
            return
        finally:
            self.built.set()
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
                del batch  # before the next one is collected
                if gathers:
                    self._gather(begun + interval_s)
            else:
                if not self._ending.is_set():
                    self._hurried.clear()
                self.wake.wait(IDLE_S)
                self.wake.clear()
        self._say_losses(driver)
        self._tell_news(driver)
        self._close(driver)

    def _close(self, driver: Driver) -> None:
        try:
            driver.close()
        except BaseException as exc:
            note(f"{self.sink}:close", f"{self.sink} at its end: {problem_of(exc)}")

    def hurry(self) -> None:
        """Wait no more for batches to grow: what is there is all there will be.

        A destination that is waited for is tried once more at once.
        """
        self._ending.set()
        self.flush()

    def flush(self) -> None:
        """Wait no more for batches to grow until all that is there was written.

        A destination that is waited for is tried once more at once.
        """
        self._hurried.set()
        self._try_now.set()

    def relax(self) -> None:
        """Wait for batches to grow again: more is to come after all."""
        self._ending.clear()
        self._hurried.clear()

    @property
    def is_stalled(self) -> bool:
        """Whether the destination took nothing when it was last asked."""
        return self.outage.is_on

    def finish(self) -> None:
        """End after the batch in hand."""
        self._finished = True
        self._hurried.set()
        self._try_now.set()
        self._ending.set()
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
            except BaseException as exc:
                problem = getattr(exc, "strerror", None) or problem_of(exc)
                note(f"{self.sink}:reopen", f"{self.sink} is not open: {problem}")
        self._reopen_done = asked

    # -- from the lanes --------------------------------------------------------------

    def _gather(self, until: float) -> None:
        """Wait for a batch to grow; no longer than until there is enough for one."""
        self.is_waiting = True
        while (left := until - time.monotonic()) > 0 and not self._has_a_batch():
            if self._hurried.wait(min(left, _GATHER_LOOK_S)):
                break
        self.is_waiting = False

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
        room = Room(MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
        members = list(self._members.values())
        self._turn += 1
        for index in range(len(members)):
            # Another lane is first each time: none can starve the others.
            member = members[(index + self._turn) % len(members)]
            found = self._streams(member, room)
            own += self._announced(member, found)
            streams += found
            if not room.is_left:
                break
        return merge(streams, own) if streams else None

    def _streams(self, member: Member, room: Room) -> list[Stream]:
        lane = member.lane
        cursor = member.cursors.cursors[self.sink] or Cursor()
        position = lane.normalised(cursor.position)
        if not lane.has_more(position):
            return []
        base = Cursor(position, cursor.counters)
        streams: list[Stream] = []
        for find in (lane.find_next, lane.find_side):
            found = find(position)
            found = found and room.cut(found)
            if found is not None:
                streams.append(self._sorted(member, base, lane.load(found)))
        return streams

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
            if not isinstance(self._write(driver, records), (Delivered, Refused)):
                return
            self._losses.reached(self.sink)

    def _tell_news(self, driver: Driver) -> None:
        if self._news is None:
            return
        records = self._news.of(self.sink, self._severity)
        if not records:
            return
        if self._finished:  # tried once
            if isinstance(self._write(driver, records), (Delivered, Refused)):
                self._news.told(self.sink, records)
        elif self._deliver(driver, merge([], records)):
            self._news.told(self.sink, records)

    def _deliver(self, driver: Driver, batch: Batch) -> bool:
        """Write until the driver is done with it.

        False if the destination failed, or this is to end: what is left comes again.
        """
        done = refused = 0
        committed: Done | None = None
        ends = iter(parts(batch, MAX_PART_BYTES))
        end = 0
        comes_again = False
        self.flow.begin(batch.records)
        self._driver = driver
        self._blame.begin()
        while done < len(batch.records) and not (comes_again or self._finished):
            self._reopen_if_asked(driver)
            while end <= done:
                end = next(ends)
            outcome = self._ask(batch.records[done:], end - done)
            counts: Mapping[str, int] = {}
            match outcome:
                case Delivered(counts):
                    done = end
                case Refused(reason):
                    counts = {reason: end - done}
                    done = end
                case RetryAfter(_, _, accepted, counts):
                    done += accepted
            refused += self._count(counts)
            if done > (committed or Done()).records and done < len(batch.records):
                self._commit(batch, Done(done, refused), committed)
                committed = Done(done, refused)
            if isinstance(outcome, RetryAfter):
                self._wait(outcome)
                comes_again = isinstance(outcome, Down) or (
                    isinstance(driver, Compares) and driver.wants_more
                )
        self._commit(batch, Done(done, refused), committed)
        self.flow.end()
        return done == len(batch.records)

    def _ask(self, records: Sequence[Record], size: int) -> Outcome:
        before = self._blame.deliveries
        outcome = self._blame.ask(records, size)
        if self._is_over():
            pass
        elif self._blame.deliveries > before or isinstance(outcome, Refused):
            self._took()
        elif isinstance(outcome, Paced):
            self._idle_since = None
        elif isinstance(outcome, RetryAfter) and not outcome.accepted:
            self._took_nothing(outcome)
        return outcome

    def _attempt(self, records: Sequence[Record]) -> Outcome | Failed:
        assert self._driver is not None  # noqa: S101 - for the type checker
        return self._write(self._driver, records)

    def _write(self, driver: Driver, records: Sequence[Record]) -> Outcome | Failed:
        """Write once; any fault of a driver's, which may be a user's code, is a value.

        SystemExit ends this process no more than another exception does.
        """
        redacted = self._redact(records)
        self.called_at = time.monotonic()
        try:
            return outcome_of(driver.write(redacted), len(records))
        except AnswerError as exc:
            return Failed(str(exc), is_answer=True)
        except BaseException as exc:
            return Failed(problem_of(exc))
        finally:
            self.called_at = None

    def _event(self, problem: str) -> Record | None:
        """Make the record by which a destination that failed is tried."""
        if self._severity > _WARNING:
            return None
        resource = self._news.resource if self._news else Resource({})
        return tried(self.sink, problem, resource)

    def _count(self, counts: Mapping[str, int]) -> int:
        for reason, number in counts.items():
            note(f"{self.sink}:refused", f"{self.sink} refused {number}: {reason}")
            if self._losses is not None:
                self._losses.causes[self.sink] = reason
        return sum(counts.values())

    def _took(self) -> None:
        """Say that the destination is back, if it was down."""
        self._idle_since = None
        down_s = self.outage.end(time.monotonic())
        if down_s is not None:
            text = f"{self.sink} takes records again, after {down_s:.1f} s"
            note(f"{self.sink}:recovered", text)

    def _took_nothing(self, outcome: RetryAfter) -> None:
        """Say that the destination is down; a queue that empties in a moment is not."""
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        is_down = outcome.delay_s >= SAID_DELAY_S or (
            now - self._idle_since >= SAID_AFTER_S
        )
        reason = outcome.reason or f"it asks for {outcome.delay_s:.1f} s"
        if is_down and self.outage.begin(reason, now):
            note(
                f"{self.sink}:retry",
                f"{self.sink} cannot take records now: {reason}; they are kept and "
                f"tried again in {outcome.delay_s:.1f} s",
            )

    def _is_over(self) -> bool:
        """Return whether the destination has gone for good; say so once."""
        driver = self._driver
        if not self._may_end or not isinstance(driver, Ends):
            return False
        if driver.gone_for_good and not self._has_ended:
            self._has_ended = True
            self.outage.forget()  # it is not down, and is not awaited
            why = driver.gone_for_good
            text = f"{self.sink} has ended: {why}; its records are refused from now on"
            note(f"{self.sink}:ended", text)
            if self._news is not None:
                self._news.sink_ended(self.sink, why)
        return self._has_ended

    def _wait(self, outcome: RetryAfter) -> None:
        least = 0.0 if outcome.accepted else _LEAST_DELAY_S
        delay_s = min(max(outcome.delay_s, least), _MOST_DELAY_S)
        if delay_s > 0:
            self.flow.retries += 1
            self.is_waiting = True
            if isinstance(outcome, Asked) and not self._ending.is_set():
                self._ending.wait(delay_s)
            elif self._try_now.wait(delay_s):
                self._try_now.clear()
                self._blame.hasten()
            self.is_waiting = False

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
            note(f"cursor:{self.sink}", text)


def _is_untouched(cursor: Cursor) -> bool:
    """Tell whether all that was counted so far was stepped over, unseen by the sink."""
    counters = cursor.counters
    return counters.quarantined + counters.evicted == sum(counters)


def _first_time(streams: list[Stream]) -> int:
    times = [s.records[0].timestamp for s in streams if s.records]
    return min(times, default=0) or time.time_ns()
