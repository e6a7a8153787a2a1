"""`Server`: the master's handle on its supervisor.

In: a pair of guardian and engine. Out: what can be asked of it. The handle holds some
descriptors and the spool; no thread. It is the master's alone: in a forked child
`stop`, `with` and atexit do nothing. A pair that was killed is started again first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.errors import SpoolError
from femtomp.lanes.spool import DEADLINE, STATE, Spool, State
from femtomp.supervisor.stats import (
    DrainReport,
    ServerStats,
    read_stats,
    wait_delivered,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from femtomp.lanes.queue import Queue
    from femtomp.supervisor.pair import Pair

# What the supervisor gets beyond a stop's own time before it is killed.
_STOP_GRACE_S: Final = 2.0


class Server:
    """A supervisor, its spool and its queue. Made by `start_server`.

    Attributes
    ----------
    spool : pathlib.Path
        Directory of the lanes; what workers need to find the server.
    pid : int
        Of the guardian; 0 for a handle that is only attached.
    queue : Queue
        All lanes together, with the interface of `multiprocessing.Queue`.
    worker_init : callable
        As `femtomp.worker_init`, picklable, and carrying the spool: for
        ``initializer=``.
    """

    def __init__(
        self,
        spool: Spool,
        pair: Pair | None,
        *,
        queue: Queue,
        worker_init: Callable[..., None],
        on_end: Callable[[Server], None] = lambda _: None,
    ) -> None:
        self.spool: Final[Path] = Path(spool.path)
        self.queue: Final = queue
        self.worker_init: Final = worker_init
        self._spool = spool
        self._pair = pair
        self._on_end = on_end
        self._master = os.getpid()
        self._report: DrainReport | None = None

    @property
    def pid(self) -> int:
        """Of the guardian; 0 for a handle that is only attached."""
        return self._pair.pid if self._pair is not None else 0

    def __repr__(self) -> str:
        return f"<femtomp.Server pid={self.pid} spool={str(self.spool)!r}>"

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server, with the default time."""
        self.stop()

    def is_mine(self) -> bool:
        """Tell whether this process started the supervisor."""
        return self._pair is not None and os.getpid() == self._master

    def _ensure(self) -> None:
        """Have a pair that was killed started again."""
        if self._pair is not None and self._report is None:
            self._pair.ensure()

    def stats(self) -> ServerStats:
        """Return what became of all records, read from the files.

        Raises
        ------
        SpoolError
            If the spool is gone, as after a `stop()` that drained everything.
        """
        if not self._spool.exists():
            msg = f"the spool {self.spool} is gone: the server was stopped"
            raise SpoolError(2, msg)
        self._ensure()
        return read_stats(self._spool)

    def flush(self, timeout: float | None = 5.0) -> bool:
        """Wait until every sink is done with all records whose call has returned.

        Parameters
        ----------
        timeout : float or None
            Seconds; None for no limit.

        Returns
        -------
        bool
            False if the time was over before.
        """
        if not self._spool.exists():
            return self._report is not None and self._report.drained
        self._ensure()
        tend = self._pair.tend if self._pair is not None else None
        return wait_delivered(self._spool, timeout, tend)

    def stop(self, timeout: float | None = 10.0) -> DrainReport:
        """Deliver what the lanes hold, end the supervisor and say what was left.

        Idempotent. In a forked child it does nothing; on an attached handle it flushes.

        Parameters
        ----------
        timeout : float or None
            Seconds for the delivery; None for no limit. If guardian and engine were
            killed, others are started for it first, which takes 10 s at most.

        Returns
        -------
        DrainReport
        """
        begun = time.monotonic()
        if self._pair is None:
            drained = self.flush(timeout)
            return DrainReport(drained, duration_s=time.monotonic() - begun)
        if not self.is_mine():
            return DrainReport()
        if self._report is None:
            self._ensure()
            self._end(self._pair, timeout)
            self._report = self._reported(time.monotonic() - begun)
            self._on_end(self)
            self._pair.close()
        return self._report

    def _end(self, pair: Pair, timeout: float | None) -> None:
        try:
            deadline_ns = (
                0 if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
            )
            self._spool.set_control(
                DEADLINE, max(deadline_ns, 1) if timeout is not None else 0
            )
            self._spool.set_control(STATE, State.STOPPING)
        except OSError:
            pass  # the spool was deleted: there is nothing to drain
        pair.end(None if timeout is None else timeout + _STOP_GRACE_S)

    def _reported(self, duration_s: float) -> DrainReport:
        if not self._spool.exists():
            return DrainReport(drained=False, duration_s=duration_s)
        stats = read_stats(self._spool)
        pending = {name: sink.pending for name, sink in stats.sinks.items()}
        drained = not any(pending.values())
        if drained:
            self._spool.remove()
        left = None if drained else self.spool
        refused = {name: sink.refused for name, sink in stats.sinks.items()}
        quarantined = {name: sink.quarantined for name, sink in stats.sinks.items()}
        return DrainReport(
            drained, pending, stats.dropped, refused, quarantined, left, duration_s
        )
