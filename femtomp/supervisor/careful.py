"""What the pumps of an engine do that follows a dead one: everything under a mark.

That lasts until they are past what the dead one may have had in hand, and no longer.
In: what `poison` concluded. Out: the same batches as any pump's, but each of one chunk
of one lane, or of one record where a chunk is suspect; guilty records quarantined. The
pumps of an engine that follows none are plain ones: they pay nothing.

A mark stands while records are decoded or written, not while a destination is waited
for. While a chunk of any sink is suspect, all sinks take turns, so that a death over
one record has that record for its only explanation; a destination that hangs then holds
up the others for as long as one of its writes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from femtomp.lanes.cursor import Counters, Cursor
from femtomp.lanes.segment import SIDE
from femtomp.supervisor.batch import Step, merge
from femtomp.supervisor.notes import note
from femtomp.supervisor.poison import NOWHERE, Mark, Marks, Place, Stage
from femtomp.supervisor.pump import Pump
from femtomp.supervisor.quarantine import keep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from femtomp.lanes.chunk import Found
    from femtomp.lanes.cursor import Position
    from femtomp.lanes.spool import Spool
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome, RetryAfter
    from femtomp.supervisor.batch import Batch
    from femtomp.supervisor.blame import Failed
    from femtomp.supervisor.members import Member


class Care:
    """What the pumps of one engine share: the marks, and whose turn it is.

    Parameters
    ----------
    spool : Spool
    sinks : tuple of str
    lanes : iterable of str
        Those that there were when the former engine died.

    Raises
    ------
    OSError
        If the marks' file can be neither opened nor made.
    """

    def __init__(
        self, spool: Spool, sinks: tuple[str, ...], lanes: Iterable[str]
    ) -> None:
        self.spool: Final = spool
        self.marks: Final = Marks(spool, sinks)
        self.lanes: Final = frozenset(lanes)
        self.turn: Final = threading.Lock()
        # A set only shrinks, by single atomic calls: no lock of its own.
        self.suspicious: Final = {
            name for name, mark in self.marks.marks.items() if mark.suspect != NOWHERE
        }


class CarefulPump(Pump):
    """A pump that marks what it has in hand, for as long as there is a reason to.

    Parameters
    ----------
    name, severity, build, members, losses
        As for `Pump`.
    care : Care
    """

    def __init__(self, *arguments: Any, care: Care) -> None:
        super().__init__(*arguments)
        self._care = care
        self._mark = care.marks.marks[self.sink]
        self._hand: Place | None = None
        self._has_turn = False
        # What the former engine may have had in hand, by lane; None: not looked at yet.
        self._left: dict[str, list[Place] | None] = dict.fromkeys(care.lanes)

    # -- from the lanes ----------------------------------------------------------------

    def _collect(self) -> Batch | None:
        self._forget_what_is_passed()
        if not self._left and not self._care.suspicious:
            return super()._collect()
        while (found := self._next()) is not None:
            if not self._is_guilty(*found):
                return self._take(*found)
            self._quarantine(*found)
        return None

    def _forget_what_is_passed(self) -> None:
        for epoch, places in list(self._left.items()):
            member = self._members.get(epoch)
            if places is None and member is not None:
                places = self._left[epoch] = self._first_chunks(member)  # noqa: PLW2901
            if all(map(self._is_passed, places or ())):
                del self._left[epoch]
        if self._mark.stage is Stage.GUILTY and self._is_passed(self._mark.place):
            self._put(self._mark._replace(stage=Stage.NOTHING, alone=False, kills=0))
        if self._mark.suspect != NOWHERE and self._is_passed(self._mark.suspect):
            self._put(self._mark._replace(suspect=NOWHERE))
            self._care.suspicious.discard(self.sink)

    def _is_passed(self, place: Place) -> bool:
        """Tell whether this sink's cursor is behind a place, or its lane is gone."""
        member = self._members.get(place.epoch)
        return member is None or place.is_passed(self._position(member))

    def _position(self, member: Member) -> Position:
        cursor = member.cursors.cursors[self.sink] or Cursor()
        return member.lane.normalised(cursor.position)

    def _first_chunks(self, member: Member) -> list[Place]:
        return [_place(member, found) for found in self._chunks(member)]

    def _chunks(self, member: Member) -> Iterator[Found]:
        """Find what a pump would read next of a lane: suspect or side frames first."""
        lane, position = member.lane, self._position(member)
        if not lane.has_more(position):
            return
        files = [(position.segment, position.offset)]
        if lane.has_side:
            first = self._mark.suspect[:2] == (lane.epoch, position.segment)
            files.insert(first, (SIDE, position.side))
        for number, offset in files:
            found = lane.find(number, offset, position.sequence)
            if found is not None:
                yield found

    def _next(self) -> tuple[Member, Found] | None:
        """Find a chunk behind the cursor: of the suspect lane, else of each in turn."""
        members = list(self._members.values())
        self._turn += 1
        shift = self._turn % max(1, len(members))
        turned = members[shift:] + members[:shift]
        suspect = self._mark.suspect.epoch
        for member in sorted(turned, key=lambda m: m.lane.epoch != suspect):
            for found in self._chunks(member):
                return member, found
        return None

    def _take(self, member: Member, found: Found) -> Batch:
        """Decode a chunk, or one record of a suspect one, under a mark."""
        if found.frames and self._mark.suspect.holds(_place(member, found)):
            found = found.first()
        cursor = member.cursors.cursors[self.sink] or Cursor()
        base = Cursor(self._position(member), cursor.counters)
        self._hand = _place(member, found)
        self._say(Stage.DECODING)
        stream = self._sorted(member, base, member.lane.load(found))
        return merge([stream], self._announced(member, [stream]))

    def _is_guilty(self, member: Member, found: Found) -> bool:
        mark = self._mark
        return (
            mark.stage is Stage.GUILTY
            and mark.place[:3] == _place(member, found)[:3]
            and bool(found.frames)
        )

    def _quarantine(self, member: Member, found: Found) -> None:
        """Keep a record's bytes, count it and step over it, in this order."""
        found = found.first()
        frame = found.frames[0]
        uid = f"{member.lane.epoch}-{frame.sequence}"
        kept = keep(self._care.spool, uid, found.data[: frame.next])
        step = Step(found.number, found.after, found.sequence, Counters(quarantined=1))
        self._move(member, [step])
        self._put(self._mark._replace(stage=Stage.NOTHING, alone=False, kills=0))
        note(
            f"{self.sink}:quarantined:{uid}",
            f"record {uid} killed the engine again and again, it is stepped over for "
            f"{self.sink} and counted as quarantined; {kept}",
        )

    # -- to the destination ------------------------------------------------------------

    def _say_losses(self, driver: Driver) -> None:
        # It is under no mark: not while another sink's is to be the only explanation.
        if not self._care.suspicious:
            super()._say_losses(driver)

    def _deliver(self, driver: Driver, batch: Batch) -> bool:
        is_done = super()._deliver(driver, batch)
        self._hand = None
        self._lift()
        return is_done

    def _write(self, driver: Driver, records: Sequence[Record]) -> Outcome | Failed:
        if self._hand is not None:
            self._say(Stage.WRITING)
        return super()._write(driver, records)

    def _wait(self, outcome: RetryAfter) -> None:
        self._lift()
        super()._wait(outcome)

    # -- the mark ----------------------------------------------------------------------

    def _say(self, stage: Stage) -> None:
        """Mark what is in hand; waits for this sink's turn while turns are taken."""
        assert self._hand is not None  # noqa: S101 - for the type checker
        if self._care.suspicious and not self._has_turn:
            # Not `with`: a thread that dies of an exception must keep it, so that its
            # mark is the only one when the engine ends of that.
            self._care.turn.acquire()
            self._has_turn = True
        again = stage is Stage.DECODING and self._hand == self._mark.place
        self._put(
            self._mark._replace(
                stage=stage,
                alone=self._mark.suspect.holds(self._hand),
                # Killed over it in a row: what was decoded once is not deadly.
                kills=self._mark.kills if again else 0,
                place=self._hand,
            )
        )

    def _lift(self) -> None:
        if self._mark.stands:
            self._put(self._mark._replace(stage=Stage.NOTHING, alone=False))
        if self._has_turn:
            self._has_turn = False
            self._care.turn.release()

    def _put(self, mark: Mark) -> None:
        if mark != self._mark:
            self._mark = mark
            self._care.marks.write(self.sink, mark)


def _place(member: Member, found: Found) -> Place:
    return Place(member.lane.epoch, found.number, found.offset, found.after)
