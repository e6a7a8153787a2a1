"""`Server`: the master's handle on its supervisor.

In: a pair of guardian and engine. Out: what can be asked of it. The handle holds some
descriptors and the spool; no thread. It is the master's alone: in a forked child
`stop`, `with` and atexit do nothing. A pair that was killed is started again first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import (
    FemtompError,
    NoServerError,
    SpoolError,
    StartError,
    is_thrown_in,
)
from femtomp.lanes.spool import DEADLINE, EXITING, STATE, Spool, State
from femtomp.native import RLock
from femtomp.supervisor import levels
from femtomp.supervisor.levels import ToldLevels
from femtomp.supervisor.stats import (
    DrainReport,
    ServerStats,
    is_readable,
    patience,
    read_stats,
    wait_delivered,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, Unpack

    from femtomp.lanes.queue import Queue
    from femtomp.options import ServerOptions
    from femtomp.supervisor.pair import Pair
    from femtomp.supervisor.told import Told

# What the supervisor gets beyond a stop's own time before it is killed.
_STOP_GRACE_S: Final = 2.0
# At this process's exit: to deliver what is there, and what is logged from then on.
_EXIT_S: Final = 10.0
# Of that the least for the latter, by a supervisor whose master is gone.
_LAST_S: Final = 0.5


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
        told: Told | None = None,
        heed: Callable[[str, int], None] = lambda _, __: None,
        on_end: Callable[[Server], None] = lambda _: None,
    ) -> None:
        self.spool: Final[Path] = Path(spool.path)
        self.queue: Final = queue
        self.worker_init: Final = worker_init
        self._spool = spool
        self._pair = pair
        self._told = told
        self._levels = ToldLevels(spool)
        self._heed = heed
        self._on_end = on_end
        # Of this process's threads one at a time changes what the server is.
        self._changing = RLock()
        self._master = os.getpid()
        self._report: DrainReport | None = None

    @property
    def pid(self) -> int:
        """Of the guardian; 0 for a handle that is only attached."""
        return self._pair.pid if self._pair is not None else 0

    def __repr__(self) -> str:
        if self._report is not None:
            return f"<femtomp.Server stopped spool={str(self.spool)!r}>"
        state = f"pid={self.pid}" if self._pair is not None else "attached"
        return f"<femtomp.Server {state} spool={str(self.spool)!r}>"

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
            If the spool is gone, as after a `stop()` that drained everything; in a
            worker of another user (`worker_uid`).
        """
        if not self._spool.exists():
            msg = f"the spool {self.spool} is gone: the server was stopped"
            raise SpoolError(2, msg)
        if not is_readable(self._spool):
            msg = f"the statistics of {self.spool} are for root to read, not for its "
            msg += f"workers of uid {os.geteuid()}: call stats() in the master"
            raise SpoolError(13, msg)
        self._ensure()
        self._spool.refresh()
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
            False if the time was over before; in a worker of another user
            (`worker_uid`), which may not look, at once.
        """
        if not self._spool.exists():
            return self._report is not None and self._report.drained
        if not is_readable(self._spool):
            return False
        self._ensure()
        tend = self._pair.tend if self._pair is not None else None
        return wait_delivered(self._spool, timeout, tend)

    def stop(self, timeout: float | None = 10.0) -> DrainReport:
        """Deliver what the lanes hold, end the supervisor and say what was left.

        Idempotent. In a forked child it does nothing; on an attached handle it flushes.

        Parameters
        ----------
        timeout : float or None
            Seconds for the delivery; None or infinity for no limit. If guardian and
            engine were killed, others are started for it first, which takes 10 s at
            most.

        Returns
        -------
        DrainReport
        """
        timeout = patience(timeout)
        begun = time.monotonic()
        if self._pair is None:
            drained = self.flush(timeout)
            return DrainReport(drained, duration_s=time.monotonic() - begun)
        if not self.is_mine():
            return DrainReport()
        with self._changing:
            if self._report is None:
                self._stop(self._pair, timeout, begun)
            return self._report or DrainReport()

    def deliver_at_exit(self) -> None:
        """Deliver what is there, at this process's exit, and leave the lanes open.

        What is logged from now on is the supervisor's to deliver, when this process is
        gone: in the rest of 10 s.
        """
        if self._pair is None or not self.is_mine() or self._report is not None:
            return
        begun = time.monotonic()
        try:
            self._spool.set_control(EXITING, int(_EXIT_S * 1e9))
            self._pair.hurry()
            self.flush(_EXIT_S - _LAST_S)
            left_s = max(_LAST_S, _EXIT_S - (time.monotonic() - begun))
            self._spool.set_control(EXITING, int(left_s * 1e9))
        except OSError:
            pass  # the spool was deleted: there is nothing to deliver

    def reconfigure(
        self,
        sinks: object = None,
        *,
        level: int | str | None = None,
        config: object = None,
        timeout: float | None = 10.0,
        **options: Unpack[ServerOptions],
    ) -> DrainReport:
        """Give the running server other sinks, another level or other options.

        In the process that started it. Workers notice nothing: they log on into their
        lanes. A sink of the same name goes on behind its last record, whatever else of
        it is new: none comes twice, none is missing. One of a new name begins where the
        slowest of the others is: with what is logged from now on, or a little before.

        If anything fails, the server goes on as it was: a wrong option or a missing
        package is found before anything is touched, a sink that cannot be built by the
        supervisor, after which the sinks of before are built again.

        Parameters
        ----------
        sinks, level, config, **options
            As for `start_server`. What is not given stays as it is; `FEMTOMP_CONFIG` is
            not read again by itself. `name`, `spool_parent`, `worker_uid` and
            `worker_gid` cannot change. `level` reaches workers that began before as
            `set_level` does, if `worker_init` gave them the server's.
        timeout : float or None
            Seconds to wait until sinks that go away have all that was logged before the
            call; None for no limit.

        Returns
        -------
        DrainReport
            Of the sinks that went away: `pending` is what they had not got in time. It
            is not delivered to them any more, which a line on stderr says too. Where no
            sink stays, the new ones get it.

        Raises
        ------
        ConfigError, MissingExtraError
            For what cannot be used, or cannot change.
        NoServerError
            In a child, on an attached handle, or after `stop()`.
        StartError, SpoolError
            If no supervisor can be started, or the spool is gone.

        Examples
        --------
        >>> import femtomp
        >>> with femtomp.start_server("console:json") as server:
        ...     server.reconfigure(["console:json", "file:/dev/null"]).drained
        True
        """
        if self._pair is None or self._told is None or not self.is_mine():
            msg = "reconfigure() is for the process that started the server"
            raise NoServerError(msg)
        given: tuple[Any, ...] = (sinks, level, None, None, {}, options)
        with self._changing:
            self._refuse_if_over()
            try:
                return self._change(self._pair, self._told, given, config, timeout)
            except (OSError, ImportError) as exc:
                if isinstance(exc, FemtompError) or is_thrown_in(exc):
                    raise
                raise StartError.because_of(exc) from exc

    def _change(
        self,
        pair: Pair,
        before: Told,
        given: tuple[Any, ...],
        config: object,
        timeout: float | None,
    ) -> DrainReport:
        from femtomp.supervisor.reconfigure import Change
        from femtomp.supervisor.told import Stated, told_anew

        stated = Stated(*given)
        after = told_anew(before, stated, config, os.environ)
        self._ensure()
        change = Change(self._spool, before, after)
        is_more = stated.sinks is not None or config is not None or stated.options
        try:
            if is_more:
                report = change.make(pair, timeout)
            else:
                report = change.make_of_level()
                self._told = after
        finally:
            # A signal handler may raise when all is done.
            if pair.config is after.config:
                self._told = after
        if after.config.level != before.config.level:
            self._levels.write()
            self._heed(self._spool.path, self._spool.descriptor)
        return report

    def set_level(
        self,
        name: str | None,
        level: int | str | None,
        *,
        duration_s: float | None = None,
    ) -> None:
        """Give a logger another level, in every worker and in this process.

        Here at once. A worker hears of it at one of its own records that reaches a
        femtomp handler, whatever logger that is of, and within a second of the first
        such record; one that begins later, by `worker_init` or with its first record. A
        worker that logs nothing hears nothing; nor does one in which all loggers have
        been given levels above everything that they log, and then no lower level or end
        of the time reaches it: rather raise the level of one noisy logger than that of
        the root. Nothing is added to a log call.

        A level that the program itself sets meanwhile stays. Handlers and sinks have
        levels of their own, which this does not change.

        Parameters
        ----------
        name : str or None
            The logger; None or "" for the root logger.
        level : int, str or None
            None: back to what it was.
        duration_s : float, optional
            Seconds, after which it is what it was; a worker looks as described.

        Raises
        ------
        ConfigError
            If there is no such level, or the time is none.
        NoServerError
            In a child, on an attached handle, or after `stop()`.
        SpoolError
            If the spool is gone, or cannot be written.

        Examples
        --------
        >>> import femtomp, logging
        >>> with femtomp.start_server("console:json") as server:
        ...     server.set_level("shop.cart", "DEBUG", duration_s=60)
        ...     logging.getLogger("shop.cart").isEnabledFor(logging.DEBUG)
        True
        """
        if not self.is_mine():
            msg = "set_level() is for the process that started the server"
            raise NoServerError(msg)
        self._refuse_if_over()
        self._levels.set(name, level, duration_s)
        self._heed(self._spool.path, self._spool.descriptor)

    def _refuse_if_over(self) -> None:
        if self._report is not None:
            msg = "the server was stopped: start another one"
            raise NoServerError(msg)
        if not self._spool.exists():
            msg = f"the spool {self.spool} is gone"
            raise SpoolError(2, msg)

    def _stop(self, pair: Pair, timeout: float | None, begun: float) -> None:
        """Stop, unless a signal handler that comes in between has done it."""
        try:
            self._ensure()
            self._end(pair, timeout)
            report = self._reported(time.monotonic() - begun)
        except OSError:
            if self._report is None:
                raise
            return  # what the handler has closed and removed was still in use here
        if self._report is not None:
            return
        # Before anything is removed: a handler that comes now finds it done.
        self._report = report
        if report.drained:
            self._spool.remove()
        levels.clear(self._spool)
        self._heed(self._spool.path, self._spool.descriptor)
        self._on_end(self)
        pair.close()
        if not self._spool.exists():
            self._spool.close()

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
        left = None if drained else self.spool
        refused = {name: sink.refused for name, sink in stats.sinks.items()}
        quarantined = {name: sink.quarantined for name, sink in stats.sinks.items()}
        return DrainReport(
            drained, pending, stats.dropped, refused, quarantined, left, duration_s
        )
