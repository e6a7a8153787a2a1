"""Delivering what an orphaned spool holds, in this process and while somebody looks on.

In: a spool that nobody serves, and sinks. Out: its records at their destinations, the
cursors behind them, and a report. This process takes all locks of the spool, so that no
server comes in between; it is an engine without a guardian.

What must never happen: a directory removed that holds a record which a sink, given here
or named by the spool's own server, did not get; unless that was asked for.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.config import level_number
from femtomp.errors import CodecError, SpoolError
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Counters, Cursor, sink_key
from femtomp.lanes.lock import ENGINE_LOCK, GUARDIAN_LOCK, MASTER_LOCK, Lock
from femtomp.record import severity_number
from femtomp.redaction import Redaction
from femtomp.sinks.build import build
from femtomp.supervisor.notes import note
from femtomp.supervisor.orphans import (
    count_before,
    open_same,
    sinks_with_records,
)
from femtomp.supervisor.poller import Poller
from femtomp.supervisor.pump import Pump
from femtomp.supervisor.redacting import redact_by
from femtomp.supervisor.totals import read_totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.config import SinkOptions
    from femtomp.lanes.chunk import End
    from femtomp.lanes.cursor import Position
    from femtomp.lanes.lock import Directory
    from femtomp.sinks import Driver
    from femtomp.supervisor.members import Member

_LOOK_S: Final = 0.02
# For the batch in hand when all is to end; a destination may be in a timeout.
_FINISH_S: Final = 10.0
# For lanes that cannot be opened: in this time those that are drained are reaped, which
# makes room.
_STUCK_S: Final = 3.0
CAREFUL: Final = Redaction(patterns="all")


class SinkOutcome(NamedTuple):
    """What became of the records for one sink, here; `pending` is what is left."""

    delivered: int
    refused: int
    corrupt: int
    pending: int


class Outcome(NamedTuple):
    """How a recovery ended."""

    sinks: dict[str, SinkOutcome]
    dropped: dict[str, int]
    """Records that the spool's workers could not keep, by reason."""
    kept_for: str
    """Why the directory is still there; "" if it was removed."""
    unopened: str = ""
    """How many lanes could not be read at all, and why; "" for none."""

    @property
    def is_whole(self) -> bool:
        """Whether every sink has everything."""
        return not self.unopened and not any(s.pending for s in self.sinks.values())


class Recovery:
    """One spool on its way to the sinks given.

    Parameters
    ----------
    place : Directory
        The spool's.
    sinks : tuple of sinks
        Each with its name. One that the spool's server had goes on at its cursor; any
        other gets everything that is still there.
    redaction : Redaction, optional
        The rules of the spool's server are not known here: without others the standard
        keys and all patterns. None for none.

    Raises
    ------
    SpoolError
        If somebody serves the spool, or it cannot be read.
    """

    def __init__(
        self,
        place: Directory,
        sinks: tuple[SinkOptions, ...],
        redaction: Redaction | None = CAREFUL,
    ) -> None:
        self._locks: list[Lock] = []
        try:
            self._lock(place)
            self._spool = open_same(place)
        except BaseException:
            self._release_locks()
            raise
        own = self._spool.sinks
        self._cursors = {str(s.name): _cursor_name(s, own) for s in sinks}
        self._others = [name for name in own if name not in self._cursors.values()]
        # In memory alone: what one of them did not pass, no segment of that is freed.
        self._spool.manifest["sinks"] = [*self._others, *self._cursors.values()]
        self._poller = Poller(
            self._spool, self._spool.resource(), self._wake, needs_cursors=True
        )
        self._stuck_with: tuple[int, float] = (-1, 0.0)
        self._pumps = [
            Pump(
                self._cursors[str(sink.name)],
                severity_number(level_number(sink.level)),
                _builder(sink),
                self._poller.members,
                redact=redact_by(redaction),
            )
            for sink in sinks
        ]
        self._dropped = Counter(read_totals(self._spool.cursors).dropped())
        self._seen: dict[str, Member] = {}
        self._before: dict[tuple[str, str], Counters] = {}
        self._goals: dict[str, End] = {}

    def _lock(self, place: Directory) -> None:
        try:
            for name in (GUARDIAN_LOCK, ENGINE_LOCK, MASTER_LOCK):
                self._locks.append(Lock(place, name))
        except SpoolError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            msg = (
                f"the spool {place.path} is in use: a running server, or another "
                f"`femtomp recover`, holds {name}"
            )
            raise SpoolError(exc.errno, msg) from exc

    def _wake(self) -> None:
        for pump in self._pumps:
            pump.wake.set()

    # -- the way -----------------------------------------------------------------------

    def deliver(self, go_on: Callable[[], bool]) -> None:
        """Deliver until all is done, or `go_on`, asked again and again, says no.

        Raises
        ------
        FemtompError
            If a sink cannot be built.
        """
        self._look()
        for pump in self._pumps:
            pump.start()
        try:
            for pump in self._pumps:
                pump.built.wait()
                if pump.failure is not None:
                    raise pump.failure
            while not self._is_done() and go_on():
                time.sleep(_LOOK_S)
                self._look()
                if not all(pump.is_alive() for pump in self._pumps):
                    break  # a fault of ours, said on stderr by the thread
        finally:
            self._finish()

    def _finish(self) -> None:
        """End the pumps after the batch in hand."""
        for pump in self._pumps:
            pump.finish()
        until = time.monotonic() + _FINISH_S
        # One whose destination takes nothing has none: it would only be waited for.
        while time.monotonic() < until and any(
            pump.is_alive() and not pump.is_stalled for pump in self._pumps
        ):
            time.sleep(_LOOK_S)

    def _look(self) -> None:
        self._poller.poll()
        for epoch, member in self._poller.members.items():
            if epoch in self._seen:
                continue
            self._seen[epoch] = member
            self._goals[epoch] = member.lane.end
            for name in self._cursors.values():
                self._before[epoch, name] = self._cursor(member, name).counters

    def _is_done(self) -> bool:
        """Tell whether every sink has all; of a lane that lives, what it had at first.

        Which ones do is asked when nothing seems left: only then their end is final.
        """
        if not self._has_passed_all():
            self._stuck_with = (-1, 0.0)
            return False
        if self._poller.why_waiting():
            return self._is_stuck()
        self._poller.has_living()
        return self._has_passed_all()

    def _is_stuck(self) -> bool:
        """Tell whether lanes wait in vain, for room that others might leave them."""
        now = time.monotonic()
        seen, since = self._stuck_with
        if seen != len(self._seen):
            self._stuck_with = (len(self._seen), now)
            return False
        return now - since >= _STUCK_S

    def _has_passed_all(self) -> bool:
        return all(
            self._has_passed(member, self._cursor(member, name).position)
            for member in self._poller.members.values()
            for name in self._cursors.values()
        )

    def _has_passed(self, member: Member, position: Position) -> bool:
        lane = member.lane
        if lane.ended or not lane.is_behind(lane.normalised(position)):
            return not lane.has_more(lane.normalised(position))
        goal = self._goals[lane.epoch]
        return (position.segment, position.offset) >= goal[:2] and (
            position.side >= goal.side
        )

    @staticmethod
    def _cursor(member: Member, name: str) -> Cursor:
        return member.cursors.cursors[name] or Cursor()

    # -- what can be told of it --------------------------------------------------------

    @property
    def path(self) -> str:
        """The spool's directory."""
        return self._spool.path

    def delivered(self) -> dict[str, int]:
        """Return how many records each sink has got so far."""
        return {
            name: sum(now.delivered for now in self._gained(cursor))
            for name, cursor in self._cursors.items()
        }

    def left_bytes(self) -> int:
        """Return about how many bytes are still before the sinks, all together."""
        total = 0
        for member in self._poller.members.values():
            end = member.lane.end
            for name in self._cursors.values():
                at = self._cursor(member, name).position
                behind = (end.segment - at.segment) * seg.SEGMENT_BYTES
                total += max(0, behind + end.size - at.offset)
        return total

    def _gained(self, name: str) -> list[Counters]:
        return [
            Counters(
                *(
                    now - before
                    for now, before in zip(
                        self._cursor(member, name).counters,
                        self._before[epoch, name],
                        strict=True,
                    )
                )
            )
            for epoch, member in self._seen.items()
        ]

    # -- the end -----------------------------------------------------------------------

    def close(self, *, remove: bool = False) -> Outcome:
        """Count, remove the directory if nothing is lost by it, and let go of it.

        Parameters
        ----------
        remove : bool
            Also if sinks of the spool's own server, not given here, lack records.
        """
        sinks = {name: self._outcome(cursor) for name, cursor in self._cursors.items()}
        dropped = self._dropped
        for member in self._seen.values():
            try:
                words = member.lane.read_own()[1]
            except (OSError, CodecError) as exc:
                note("drops", f"drops of lane {member.lane.epoch} are not known: {exc}")
                continue
            dropped.update(seg.drops(words))
        unopened = self._poller.why_waiting()
        why = unopened or self._reason_to_keep(sinks, remove=remove)
        if not why:
            self._spool.remove()
        self._spool.close()
        self._release_locks()
        return Outcome(sinks, {k: v for k, v in dropped.items() if v}, why, unopened)

    def _outcome(self, name: str) -> SinkOutcome:
        gained = self._gained(name)
        pending = sum(
            member.lane.count(self._cursor(member, name).position)
            for member in self._poller.members.values()
        )
        if self._poller.why_waiting():
            pending += count_before(self._spool, name, besides=self._seen)
        return SinkOutcome(
            sum(one.delivered for one in gained),
            sum(one.refused for one in gained),
            sum(one.corrupt + one.quarantined for one in gained),
            pending,
        )

    def _reason_to_keep(self, sinks: dict[str, SinkOutcome], *, remove: bool) -> str:
        if self._poller.has_living():
            return "workers that live still write to it"
        if any(sink.pending for sink in sinks.values()):
            return "not everything was delivered; the same command goes on from here"
        if damaged := self._poller.damaged():
            return f"{len(damaged)} of its lanes are damaged and were left alone"
        waiting = [] if remove else sinks_with_records(self._spool, self._others)
        if waiting:
            return (
                f"its server's own {', '.join(waiting)} did not get everything; "
                "--remove removes it all the same"
            )
        return ""

    def _release_locks(self) -> None:
        while self._locks:
            self._locks.pop().release()


def _cursor_name(sink: SinkOptions, own: tuple[str, ...]) -> str:
    """Return the name of a sink's cursors.

    One that is none of the server's must not move the cursor of a sink which the next
    server may have by that name; of the same destination it is found again.
    """
    if sink.name in own:
        return str(sink.name)
    return f"{sink.name}~{sink_key(repr(sink)).hex()[:12]}"


def _builder(sink: SinkOptions) -> Any:
    def make() -> Driver:
        return build(sink, stderr_fd=2, stdout_fd=1, environ=os.environ)

    return make
