"""Guardian and engine, as their master sees them: told apart, ended, started again.

In: a launcher and the pair that it started first. Out: another pair, when both of one
are dead although nobody told them to end. There is no thread that watches: the master
looks when it is here anyway, at a call of its `Server` and, at most once a second, at
one of its own log calls. Locks, not pids, say whether somebody serves the spool, so two
that start a pair at once are harmless: the second is refused, and says nothing.

What must never happen: a log call that waits or raises because of this, or a pair
started by a forked child.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from femtomp.errors import FemtompError, StartError
from femtomp.lanes.liveness import is_stopped, start_ticks
from femtomp.lanes.lock import has_engine, is_orphaned
from femtomp.lanes.segment import close_known, known_as
from femtomp.lanes.signals import undisturbed
from femtomp.lanes.spool import (
    ENGINE,
    ENGINE_STARTS,
    ENGINE_TICKS,
    GUARDIAN,
    LEAVER,
    STATE,
    State,
)
from femtomp.native import RLock, pidfd_send_signal, sleep
from femtomp.supervisor.guardian import LOOK_SIGNAL
from femtomp.supervisor.launch import (
    START_TIMEOUT_S,
    EndedError,
    is_readable,
    launch,
    reserve,
)
from femtomp.supervisor.notes import note
from femtomp.supervisor.reaping import reap_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.lanes.spool import Spool
    from femtomp.options import ServerConfig
    from femtomp.supervisor.launch import Launcher, Starting, Supervisor

# How often a log call looks; it costs two system calls while the guardian lives.
CHECK_S: Final = 1.0
# A pair that cannot be started is tried again at once, then ever more rarely.
_MAX_PAUSE_S: Final = 60.0
# For a pair that is to make way: what its engine gives the batches in hand, and more.
_LEAVE_S: Final = 7.0
_LOOK_S: Final = 0.005
# What starting a process may fail of: no memory, no descriptor, an interpreter that is
# gone or going (modules are None then), the end of the caller's stack.
_FAULTS: Final = (
    FemtompError, OSError, RuntimeError, ValueError, MemoryError,
    ImportError, AttributeError, TypeError,
)  # fmt: skip


class Pair:
    """The guardian and engine that serve a spool for this process, whichever they are.

    Safe under threads, and in signal handlers and finalisers that come while it works.

    Parameters
    ----------
    spool : Spool
    launcher : Launcher
        Owned from now on.
    supervisor : Supervisor
        What it has started.
    """

    def __init__(
        self, spool: Spool, launcher: Launcher, supervisor: Supervisor
    ) -> None:
        self._spool = spool
        self._launcher = launcher
        self._supervisor = supervisor
        self._known = known_as(supervisor.pidfd)
        self._starting: Starting | None = None
        self._master: Final = os.getpid()
        # A handler that comes while its own thread works here finds it busy, and goes.
        self._lock = RLock()
        self._busy = False
        self._look_at = 0.0
        self._pause_s = CHECK_S

    @property
    def pid(self) -> int:
        """Of the guardian that serves, or served last."""
        if self._starting is None and not is_readable(self._supervisor.pidfd, 0):
            return self._supervisor.pid
        return self._spool.control()[GUARDIAN] or self._supervisor.pid

    @property
    def config(self) -> ServerConfig:
        """What it was told."""
        return self._launcher.config

    # -- started again ---------------------------------------------------------------

    def tend(self) -> None:
        """Start another pair if there is none: at a log call, so it never waits."""
        now = time.monotonic()
        if now < self._look_at or os.getpid() != self._master:
            return
        self._look_at = now + CHECK_S
        self._alone(lambda: undisturbed(self._begin_if_dead), 0.0)

    def ensure(self) -> None:
        """Start another pair if there is none, and wait until it is ready, or fails.

        What fails is said on stderr: the caller works with what the files tell.
        """
        if os.getpid() == self._master:
            self._alone(self._wait_for_one, START_TIMEOUT_S)

    def _alone(self, work: Callable[[], None], patience_s: float) -> None:
        if not self._lock.acquire(timeout=patience_s):
            return  # another thread is at it
        try:
            if self._busy:
                return
            self._busy = True
            try:
                work()
            finally:
                self._busy = False
        except _FAULTS as exc:
            if isinstance(exc, OSError) and exc.errno is None:
                raise  # no call's failure: thrown in by a signal handler
            self._say(exc)
        finally:
            self._lock.release()

    def _begin_if_dead(self) -> None:
        if self._starting is not None:
            if not self._starting.wait(0):
                return
            self._settle(self._starting)
        self._wake_guardian()
        if self.is_dead():
            # Before it is tried: what cannot be started must not be tried for ever.
            self._look_at = time.monotonic() + self._pause_s
            self._pause_s = min(_MAX_PAUSE_S, 2 * self._pause_s)
            reap_pair(self._spool, self._supervisor.pidfd)
            self._starting = self._launcher.begin()
        else:
            self._pause_s = CHECK_S

    def _wait_for_one(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        if self._starting is not None and self._starting.wait(START_TIMEOUT_S):
            self._settle(self._starting)
        self._wake_guardian()
        if self._starting is None and self.is_dead():
            reap_pair(self._spool, self._supervisor.pidfd)
            self._starting = self._launcher.begin()
            if self._starting.wait(until - time.monotonic()):
                self._settle(self._starting)

    def _settle(self, starting: Starting) -> None:
        """Learn what became of a pair that was started before."""
        self._starting = None
        try:
            supervisor = starting.finish()
        except EndedError:
            return  # killed meanwhile: nothing is wrong with how it is started
        except FemtompError as exc:
            # Refused because another serves: all is well.
            if is_orphaned(self._spool):
                self._say(exc)
            return
        close_known(self._known)
        self._supervisor = supervisor
        self._known = known_as(supervisor.pidfd)
        self._pause_s = CHECK_S

    def _wake_guardian(self) -> None:
        """Have a guardian go on that somebody has stopped, if there is no engine.

        It starts another one then. While an engine reads, nobody needs it.
        """
        pid, pidfd = self._supervisor
        if not has_engine(self._spool) and is_stopped(pid):
            _signal(pidfd, signal.SIGCONT)

    def is_dead(self) -> bool:
        """Tell whether nobody serves the spool, although nobody meant that."""
        return (
            is_readable(self._supervisor.pidfd, 0)
            and self._spool.exists()
            and self._spool.control()[STATE] < State.STOPPING
            and is_orphaned(self._spool)
        )

    def _say(self, exc: Exception) -> None:
        note(
            "pair",
            f"guardian and engine of {self._spool.path} are dead and cannot be started "
            f"again, records wait in the lanes: {type(exc).__name__}: {exc}",
        )

    # -- replaced --------------------------------------------------------------------

    def replace(
        self,
        config: ServerConfig,
        change: Callable[[], None],
        change_back: Callable[[], None],
    ) -> None:
        """Have this pair leave the spool to another one of another configuration.

        If that cannot be started, one of the old configuration is.

        Parameters
        ----------
        config : ServerConfig
        change, change_back : callable
            Called between the two pairs, while nobody serves the spool.

        Raises
        ------
        FemtompError
            The sink's own error, or `StartError` with what the processes said.
        """
        with self._lock:
            if self._busy:
                msg = "a signal handler cannot replace what its own thread is starting"
                raise StartError(msg)
            self._busy = True
            try:
                undisturbed(self._replace, config, change, change_back)
            finally:
                self._busy = False

    def _replace(
        self,
        config: ServerConfig,
        change: Callable[[], None],
        change_back: Callable[[], None],
    ) -> None:
        if self._starting is not None and self._starting.wait(START_TIMEOUT_S):
            self._settle(self._starting)
        launcher = self._launcher.successor(config)
        reserve()  # before anything is touched
        self._have_it_leave()
        starts = self._spool.control()[ENGINE_STARTS]
        try:
            change()
            self._serve_by(launcher)
        except BaseException:
            self._wait_orphaned()
            change_back()
            self._go_back(starts)
            raise

    def _have_it_leave(self) -> None:
        """End guardian and engine behind the batches in hand."""
        self._spool.set_control(LEAVER, self._spool.control()[GUARDIAN])
        self.end(_LEAVE_S)
        self._wait_orphaned()
        self._spool.set_control(LEAVER, 0)

    def _serve_by(self, launcher: Launcher) -> None:
        supervisor = launch(launcher)
        close_known(self._known)
        self._launcher = launcher
        self._supervisor = supervisor
        self._known = known_as(supervisor.pidfd)
        self._pause_s = CHECK_S

    def _go_back(self, starts: int) -> None:
        """Start a pair of the configuration of before; a later look tries again."""
        try:
            # An engine that could not begin is none that died.
            self._spool.set_control(ENGINE_STARTS, starts)
            self._serve_by(self._launcher)
        except _FAULTS as exc:
            self._say(exc)

    def _wait_orphaned(self) -> None:
        """Wait until those that were told to end, or were killed, hold no lock."""
        deadline = time.monotonic() + _LEAVE_S
        while self._is_served() and time.monotonic() < deadline:
            sleep(_LOOK_S)

    def _is_served(self) -> bool:
        try:
            return not is_orphaned(self._spool)
        except OSError:
            return True  # no descriptor to look by

    # -- ended -----------------------------------------------------------------------

    def hurry(self) -> None:
        """Have the engine look at once whether the master is at its exit."""
        self._signal_engine(LOOK_SIGNAL)

    def end(self, patience_s: float | None) -> None:
        """Have both end, and wait for it; kill what has not ended in time."""
        if self._starting is not None:
            self._starting.end()  # not ready in all this time
            self._starting = None
        pidfd = self._supervisor.pidfd
        if is_readable(pidfd, 0):
            # The guardian is dead: ask its engine.
            self._signal_engine(signal.SIGTERM)
        else:
            _signal(pidfd, signal.SIGTERM)
            _signal(pidfd, signal.SIGCONT)  # should somebody have stopped it
        self._signal_engine(signal.SIGCONT)
        if not self._wait_ended(patience_s):
            _signal(pidfd, signal.SIGKILL)
            self._signal_engine(signal.SIGKILL)

    def _signal_engine(self, number: signal.Signals) -> None:
        if engine := self._living_engine():
            try:
                os.kill(engine, number)
            except ProcessLookupError:
                pass  # it ended by itself

    def _living_engine(self) -> int:
        control = self._spool.control()
        engine = control[ENGINE]
        return engine if start_ticks(engine) == control[ENGINE_TICKS] else 0

    def _wait_ended(self, patience_s: float | None) -> bool:
        deadline = None if patience_s is None else time.monotonic() + patience_s
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not is_readable(self._supervisor.pidfd, left):
                return False
            reap_pair(self._spool, self._supervisor.pidfd)
            if not self._living_engine():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            sleep(0.005)

    def close(self) -> None:
        """Let go of the pair and of what was kept for another."""
        close_known(self._known)
        self._launcher.close()


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass  # it ended by itself
