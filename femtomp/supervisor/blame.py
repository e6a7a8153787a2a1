"""Who is to blame when a driver raises: one record, or the destination.

No class of exception says: what a client library raises for a lost connection is no
OSError, and what it raises for a bad value may be one. So it is tried out. A record is
to blame that failed, and failed again after another record of the batch was delivered
in between; it is refused, alone. Where none is delivered the destination is down: all
are kept, and come again after a back-off.

In: records, and what writes them once. Out: an outcome for the first of them. One
`Blame` a pump, used by its thread alone.

What must never happen: a record refused because its destination was down.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from femtomp.sinks import Delivered, Refused, RetryAfter, Stumbled, Unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.record import Record
    from femtomp.sinks import Outcome

FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 30.0
# Others that are asked about before the destination is called down, each time.
MAX_OTHERS: Final = 8
# An attempt that fails as slowly as this ran into a timeout: no more than needed.
SLOW_S: Final = 1.0
# Of records that failed and were never delivered; a batch has 2048 or some more.
_MAX_ALONE: Final = 8192


class Failed(NamedTuple):
    """`write` raised, or answered what it may not: then no record is to blame."""

    problem: str
    is_answer: bool = False


class Down(RetryAfter):
    """The destination failed: the records are to be read again after the delay.

    More may have come by then, and tell by their own fate whose fault it is.
    """

    __slots__ = ()


Write: TypeAlias = "Callable[[Sequence[Record]], Outcome | Failed]"


class Blame:
    """What is known of the failures of one destination.

    Parameters
    ----------
    write : callable
        One attempt: writes records and returns an outcome or `Failed`.
    event : callable
        Makes a record of femtomp's own that says why it comes, given the problem; None
        if the destination is not to have any.
    """

    def __init__(self, write: Write, event: Callable[[str], Record | None]) -> None:
        self._write = write
        self._event = event
        self.deliveries = 0
        """How often the destination took something."""
        # How often that was when each record failed alone for the first time.
        self._alone: dict[str, int] = {}
        # The same for the first failure of this batch as a whole.
        self._failed_at: int | None = None
        self._rounds = 0

    def begin(self) -> None:
        """Note that another batch begins."""
        self._failed_at = None

    def hasten(self) -> None:
        """Begin with short delays again: somebody waits for the records."""
        self._rounds = 0

    def ask(self, records: Sequence[Record], size: int) -> Outcome:
        """Write the first so many of the records, or as many as can be.

        Returns
        -------
        Delivered, Refused, RetryAfter or Down
            `Delivered` and `Refused` are of the first `size`. Others may have been
            tried to find out more; then all up to the last of these are `accepted`.
        """
        # Of one that was down, one record is enough to see whether it still is.
        asked, size = size, 1 if self._rounds else size
        found = self._try(records[:size])
        while isinstance(found, Failed):
            if self._failed_at is None:
                self._failed_at = self.deliveries
            if found.is_answer:
                return self._down(found.problem)
            if size == 1:
                return self._suspect(records, found.problem)
            size = 1 if self._was_slow else size // 2
            found = self._try(records[:size])
        if size < asked:
            found = _as_part(found, size)
        if not isinstance(found, Stumbled):
            return found
        if found.accepted:
            return RetryAfter(0.0, "", found.accepted, found.refused)
        return self._suspect(records, found.problem)

    def _try(self, records: Sequence[Record]) -> Outcome | Failed:
        begun = time.monotonic()
        found = self._write(records)
        self._was_slow = time.monotonic() - begun >= SLOW_S
        match found:
            case Failed():
                if len(records) == 1:
                    self._note_alone(records[0])
            case Stumbled(_, accepted, refused, was_taken):
                if was_taken and accepted > sum(refused.values()):
                    self._note_delivery()
                self._note_alone(records[accepted])
            case Unseen():
                pass
            case Delivered(refused):
                if len(records) > sum(refused.values()):
                    self._note_delivery()
            case RetryAfter(_, _, accepted, refused):
                if accepted > sum(refused.values()):
                    self._note_delivery()
        return found

    def _note_alone(self, record: Record) -> None:
        if len(self._alone) >= _MAX_ALONE:
            self._alone.clear()
        self._alone.setdefault(record.uid, self.deliveries)

    def _note_delivery(self) -> None:
        self.deliveries += 1
        self._rounds = 0

    def _suspect(self, records: Sequence[Record], problem: str) -> Outcome:
        """Find out about the first record, which has failed alone."""
        uid, now = records[0].uid, self.deliveries
        # The last of a batch that failed as a whole, when all others are delivered: one
        # alone, so that an outage in the midst of a batch is not taken for many.
        is_last = len(records) == 1 and self._failed_at not in (None, now)
        if self._alone[uid] < now or is_last:
            self._failed_at = None
            del self._alone[uid]
            return RetryAfter(0.0, "", 1, {problem: 1})
        return (
            self._ask_others(records)
            or self._ask_with_event(records, problem)
            or self._down(problem)
        )

    def _ask_others(self, records: Sequence[Record]) -> Outcome | None:
        """Write others alone, those first that are not known to fail, until one works.

        Returns
        -------
        RetryAfter, Down or None
            None if none was delivered.
        """
        asked = 0
        before = self.deliveries
        for index in range(1, len(records)):
            if records[index].uid in self._alone:
                continue
            if asked == MAX_OTHERS or (asked and self._was_slow):
                break
            found = self._try(records[index : index + 1])
            if self.deliveries > before:
                return self._settle(records[: index + 1], ahead=found)
            match found:
                case Failed(problem, True):
                    return self._down(problem)
                case RetryAfter(delay_s, reason, 0):
                    return RetryAfter(delay_s, reason)
                case Unseen():
                    continue
                case Delivered() | Refused():
                    self._note_alone(records[index])  # not asked about each time
            asked += 1
        return None

    def _ask_with_event(
        self, records: Sequence[Record], problem: str
    ) -> Outcome | None:
        """Write a record of femtomp's own, once a first delay is over."""
        before = self.deliveries
        event = self._event(problem) if self._rounds else None
        if event is None:
            return None
        self._try([event])
        return self._settle(records) if self.deliveries > before else None

    def _settle(
        self, records: Sequence[Record], ahead: Outcome | Failed | None = None
    ) -> Outcome:
        """Write once more, each alone, the first records that failed.

        Another one was delivered since: what fails now is to blame itself. That one is
        the last of the records, if `ahead` is its outcome.
        """
        refused: dict[str, int] = {}
        done = 0
        for record in records[: len(records) - (ahead is not None)]:
            if record.uid not in self._alone:
                return RetryAfter(0.0, "", done, refused)
            match found := self._try([record]):
                case Failed(problem, False) | Stumbled(problem):
                    refused[problem] = refused.get(problem, 0) + 1
                case Failed(problem, True):
                    return self._down(problem, done, refused)
                case Refused(reason):
                    refused[reason] = refused.get(reason, 0) + 1
                case RetryAfter(delay_s, reason, 0):
                    return RetryAfter(delay_s, reason, done, refused)
                case _:
                    _add(refused, found)
            del self._alone[record.uid]
            done += 1
        if ahead is not None:
            _add(refused, ahead)
            done += 1
        return RetryAfter(0.0, "", done, refused)

    def _down(
        self, problem: str, done: int = 0, refused: dict[str, int] | None = None
    ) -> Down:
        delay_s = min(FIRST_DELAY_S * 2.0**self._rounds, MAX_DELAY_S)
        # Counted no further than the delay grows, so that it cannot overflow.
        self._rounds = min(self._rounds + 1, 10)
        return Down(delay_s, problem, done, refused or {})


def _as_part(found: Outcome, size: int) -> Outcome:
    """Return an outcome of the first so many records as one of more than these."""
    match found:
        case Delivered(refused):
            return RetryAfter(0.0, "", size, refused)
        case Refused(reason):
            return RetryAfter(0.0, "", size, {reason: size})
    return found


def _add(refused: dict[str, int], found: Outcome | Failed) -> None:
    if isinstance(found, (Delivered, RetryAfter)):
        for reason, number in found.refused.items():
            refused[reason] = refused.get(reason, 0) + number
