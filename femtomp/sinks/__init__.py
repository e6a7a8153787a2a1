"""Drivers: what the supervisor does with a batch of records, one module a destination.

In: a batch of `Record`, ordered. Out: an outcome, never an exception for what can go
wrong with a destination. A driver is built, used and closed by one thread of the
engine; it may block that thread for as long as its own timeouts say, never longer. It
knows nothing of lanes, cursors or other sinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from femtomp.record import Record


class Delivered(NamedTuple):
    """The whole batch is done with: accepted, but for those counted in `refused`.

    `refused` maps a reason ("rejected by the collector: ...") to a number of records
    of this batch that the destination will never take; they are counted, not repeated.
    """

    refused: Mapping[str, int] = {}


class RetryAfter(NamedTuple):
    """The destination cannot take more now; try again after `delay_s` seconds.

    The first `accepted` records of the batch are done with (delivered, or counted in
    `refused`); the others will come again, in the same order.
    """

    delay_s: float
    reason: str
    accepted: int = 0
    refused: Mapping[str, int] = {}


class Refused(NamedTuple):
    """The destination will never take this batch: counted with the reason."""

    reason: str


Outcome: TypeAlias = "Delivered | RetryAfter | Refused"


@runtime_checkable
class Driver(Protocol):
    """One destination. See `femtomp.testing.check_sink` for the duties, executable."""

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Hand over a batch of at least one record, in order."""

    def close(self) -> None:
        """Release what the driver holds; called once, by the same thread."""


@runtime_checkable
class Reopens(Protocol):
    """A destination that can be opened anew, as a file that was moved must be."""

    def reopen(self) -> None:
        """Let go of what is open, and open what the options name now.

        Raises
        ------
        OSError
            If it cannot be opened; then nothing is written before it can be.
        """


@runtime_checkable
class Gathers(Protocol):
    """A destination that wants few large batches: each costs it more than a record.

    After a small batch the next one is written no sooner than `interval_s` later.
    """

    interval_s: float


@runtime_checkable
class Ends(Protocol):
    """A destination that may go away for good, as who reads a pipe does.

    From then on each batch is refused, with the same reason, and nothing is kept for
    it: it does not come back, for no engine and no later server.
    """

    gone_for_good: str
    """Why it takes nothing any more; empty as long as it does."""


Sink = Driver
"""The name of the protocol on the public door: a destination of the user's own."""
