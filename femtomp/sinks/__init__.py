"""Drivers: what the supervisor does with a batch of records, one module a destination.

In: a batch of `Record`, ordered. Out: an outcome; an exception has its cause found by
further calls (`supervisor.blame`), which an outcome spares. A driver is built, used and
closed by one thread of the engine; it may block that thread for as long as its own
timeouts say, never longer. It knows nothing of lanes, cursors or other sinks.
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

    `reason` is said on stderr and to the other sinks.

    The first `accepted` records of the batch are done with (delivered, or counted in
    `refused`); the others will come again, in the same order.
    """

    delay_s: float
    reason: str = ""
    accepted: int = 0
    refused: Mapping[str, int] = {}


class Asked(RetryAfter):
    """The destination itself named the delay: a flush does not cut it short."""

    __slots__ = ()


class Paced(RetryAfter):
    """The driver itself takes no more for now; its destination is well."""

    __slots__ = ()


class Refused(NamedTuple):
    """The destination will never take this batch: counted with the reason."""

    reason: str


class Stumbled(NamedTuple):
    """One record failed: that behind the first `accepted`, which are done with.

    For drivers that hand over record by record and so know which; whether the record
    or the destination is to blame, the pump finds out. `was_taken` says whether any of
    the accepted was delivered, and not merely left out.
    """

    problem: str
    accepted: int
    refused: Mapping[str, int] = {}
    was_taken: bool = True


class Unseen(Delivered):
    """Done with, though the destination had nothing of it: says nothing of its state.

    A `logging.Handler` leaves out what is below its own level.
    """

    __slots__ = ()


Outcome: TypeAlias = "Delivered | RetryAfter | Refused | Stumbled"


@runtime_checkable
class Driver(Protocol):
    """One destination. See `femtomp.testing.check_sink` for the duties, executable."""

    def write(self, batch: Sequence[Record]) -> Outcome | None:
        """Hand over a batch of at least one record, in order.

        None is as good as `Delivered()`. Any answer that is no outcome, and any
        exception that no single record is to blame for, means that the destination is
        down: the records are kept and come again.
        """

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


@runtime_checkable
class Compares(Protocol):
    """A destination that must see other records before it gives up one that fails.

    While `wants_more` is true after a `RetryAfter`, the records that are left are read
    again together with what was logged meanwhile.
    """

    wants_more: bool


Sink = Driver
"""The name of the protocol on the public door: a destination of the user's own."""
