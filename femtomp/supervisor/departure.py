"""The end of the master, as its supervisor sees it.

In: the word in which the master says that it is at its exit, its lock, and the pipe
that all members hold an end of. Out: whether anybody is left to hold it, and how long
the supervisor may still try to deliver once the master is gone.

At its exit a master delivers what is there and leaves the lanes open: exit callbacks
that are older than its own still log. Whoever waits for the program may be waiting for
the end of the supervisor, too, which holds the program's streams. So what is left of
the master's own time is all that it gets, and not `linger_s`.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final

from femtomp.lanes.lock import has_master
from femtomp.lanes.spool import EXITING

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool

# A process that a pool's master has waited for is gone before it. One that is still
# there so long after it goes on by itself, and the supervisor with it.
_OTHERS_S: Final = 1.0


class Departure:
    """What an engine knows of the master's exit; by its main thread alone.

    Parameters
    ----------
    spool : Spool
    lifetime : int
        The read end of the members' pipe.
    """

    def __init__(self, spool: Spool, lifetime: int) -> None:
        self._spool = spool
        # Not by `select`, which knows no descriptor above 1023.
        self._poll = select.poll()
        self._poll.register(lifetime, select.POLLIN)
        self._gone_at: float | None = None
        self._is_void = False
        self.is_on = False
        """Whether the master is at its exit, or gone by it."""

    def look(self) -> None:
        """Learn whether the master is at its exit, is gone, and left others behind."""
        self.is_on = not self._is_void and self._left_ns() > 0
        if not self.is_on or has_master(self._spool):
            return
        now = time.monotonic()
        if self._gone_at is None:
            self._gone_at = now
        elif now - self._gone_at >= _OTHERS_S:
            self._is_void, self.is_on = True, False

    def is_alone(self, timeout: float = 0.0) -> bool:
        """Wait until no process holds an end of the members' pipe; tell whether so."""
        return bool(self._poll.poll(timeout * 1000))

    def deadline(self) -> float | None:
        """Return until when to deliver if the master is gone by its exit; else None."""
        self.look()
        if self._gone_at is None or self._is_void:
            return None
        return self._gone_at + self._left_ns() / 1e9

    def _left_ns(self) -> int:
        return self._spool.control()[EXITING]
