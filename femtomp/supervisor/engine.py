"""The engine: the process that owns the sinks.

In: the configuration, the spool. Out: everything the lanes hold, at the destinations.
Its main thread polls and waits for signals; one pump thread a sink does the rest. It
ends when `stop()` tells it to, or when no member is left (SIGTERM and SIGINT bound the
time that it waits for them, a master's exit the time that it has behind the last),
after everything is drained or the deadline has passed; what is not drained stays in the
spool.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from femtomp.config import level_number
from femtomp.errors import FemtompError, SpoolError
from femtomp.lanes.liveness import start_ticks
from femtomp.lanes.lock import ENGINE_LOCK, Lock, has_master
from femtomp.lanes.space import Overflow, Space
from femtomp.lanes.spool import (
    DEADLINE,
    ENGINE,
    ENGINE_ENDED,
    ENGINE_STARTS,
    ENGINE_TICKS,
    FLUSH,
    REOPEN,
    REOPENED,
    STATE,
    Spool,
    State,
)
from femtomp.record import severity_number
from femtomp.sinks.build import build
from femtomp.supervisor import handed_over
from femtomp.supervisor.admission import Admission
from femtomp.supervisor.careful import Care, CarefulPump
from femtomp.supervisor.deaths import Deaths
from femtomp.supervisor.departure import Departure
from femtomp.supervisor.guardian import (
    EXIT_AGAIN,
    EXIT_BROKEN,
    EXIT_DRAINED,
    EXIT_FAILED,
    EXIT_LEFT,
    LOOK_SIGNAL,
    REOPEN_SIGNALS,
    SIGNAL_DEADLINE_S,
    STOP_SIGNALS,
    report,
    waited_for_one,
)
from femtomp.supervisor.late import build_late
from femtomp.supervisor.losses import Losses
from femtomp.supervisor.news import News
from femtomp.supervisor.notes import forward, note, take_over_logging
from femtomp.supervisor.poller import BUSY_S, Poller
from femtomp.supervisor.pump import Pump
from femtomp.supervisor.redacting import redact_by
from femtomp.supervisor.reminders import Reminders
from femtomp.supervisor.reporter import Reporter, start_reporters
from femtomp.supervisor.stats import read_stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.config import SinkOptions
    from femtomp.sinks import Driver
    from femtomp.supervisor.guardian import Launch

_MEMBERS_CHECK_S: Final = 0.5
_DRAIN_CHECK_S: Final = 0.005
# For the batches in hand when another engine is to serve: a file takes milliseconds, a
# collector that hangs longer than this gets them twice.
_LEAVE_S: Final = 5.0
# In which a signal to all processes of a pool has reached the guardian, too.
_OTHERS_TOLD_S: Final = 0.5
_SIGNALS: Final = (*STOP_SIGNALS, *REOPEN_SIGNALS, LOOK_SIGNAL)
# With the default of 5 ms, a thread that makes a system call a record beside one that
# encodes waits 5 ms for the interpreter lock each time.
_SWITCH_INTERVAL_S: Final = 0.0005
_GC_THRESHOLDS: Final = (50_000, 20, 100)


def main(launch: Launch) -> int:
    """Run the engine in this process until it ends; return its exit status."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    take_over_logging()
    engine = Engine(launch)
    problem = engine.start()
    report(launch.ready, problem)
    if problem is not None:
        if launch.ready >= 0:
            return EXIT_FAILED
        # Nobody waits to be told. What keeps a later engine from starting (a directory
        # gone, no descriptor left) may be over at the next attempt.
        note("start", f"the engine cannot be started again, tried anew: {problem}")
        return EXIT_BROKEN
    # What exists now lives as long as the process, and records are no cycles: 0.8 us a
    # record less for the collector.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    return engine.run()


class _BrokenError(Exception):
    """A sink's thread has ended by an exception."""


class Engine:
    """All that the engine process holds."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._config = launch.config
        self._spool = Spool(launch.spool)
        base: dict[str, Any] = dict(self._config.resource)
        self._poller = Poller(
            self._spool, base, self._wake, self._limits(), self._stalled
        )
        self._pumps: list[Pump] = []
        self._reporters: list[Reporter] = []
        self._losses: Losses | None = None
        self._reminders = Reminders()
        names = [str(sink.name) for sink in self._config.sinks]
        self._news = News(names, base)
        self._deaths = Deaths(self._news)
        self._departure = Departure(self._spool, launch.lifetime)
        # When members are served no longer, since a signal said that they end.
        self._grace_until: float | None = None
        self._guardian = os.getppid()
        # When another engine is to go on, since this one alone was told to end.
        self._again_at: float | None = None
        # What was asked for when the sinks were told to open their files anew.
        self._reopening: int | None = None
        self._flushed = self._spool.control()[FLUSH]

    def _make_pumps(self) -> list[Pump]:
        make = self._maker_of_pumps()
        admissions = {str(sink.name): Admission(sink) for sink in self._config.sinks}
        self._losses = Losses(
            self._spool, dict(self._config.resource), admissions, self._news
        )
        return [
            make(
                str(sink.name),
                severity_number(level_number(sink.level)),
                self._builder(sink, admissions[str(sink.name)]),
                self._poller.members,
                self._losses,
                admissions[str(sink.name)],
                redact_by(self._config.redaction),
                self._news,
            )
            for sink in self._config.sinks
        ]

    def _limits(self) -> Space:
        config = self._config
        return Space(
            quota=config.spool_quota_bytes or 0,
            lane_quota=config.lane_quota_bytes or 0,
            overflow=Overflow[config.overflow.upper()],
            block_ns=int(config.block_s * 1e9),
            engine_pid=os.getpid(),
            engine_ticks=start_ticks(),
        )

    def _maker_of_pumps(self) -> Callable[..., Pump]:
        """Return what makes a pump: a careful one if an engine died before this one."""
        if self._spool.control()[ENGINE_STARTS] <= 1:
            return Pump
        members = self._poller.members
        try:
            self._poller.scan()
            for member in members.values():
                member.lane.refresh()
            care = Care(self._spool, self._spool.sinks, members)
        except OSError as exc:
            note("marks", f"no poison marks, what kills the engine stays: {exc}")
            return Pump
        return partial(CarefulPump, care=care)

    def _builder(self, sink: SinkOptions, admission: Admission) -> Any:
        def make() -> Driver:
            admission.load()
            return build(
                sink,
                stderr_fd=self._launch.stderr,
                stdout_fd=self._launch.stdout,
                environ=os.environ,
            )

        if self._launch.ready < 0:  # it worked when the server was started
            return partial(build_late, make)
        return make

    def _stalled(self) -> set[str]:
        return {pump.sink for pump in self._pumps if pump.is_stalled}

    def _wake(self) -> None:
        for pump in self._pumps:
            pump.wake.set()

    def start(self) -> Exception | None:
        """Take the spool, build every sink; return the first error if there is one."""
        try:
            self._lock = Lock(self._spool, ENGINE_LOCK)  # until this process ends
        except SpoolError as exc:
            return exc
        self._pumps = self._make_pumps()
        for pump in self._pumps:
            pump.may_begin.clear()
            pump.start()
        for pump in self._pumps:
            pump.built.wait()
            if pump.failure is not None:
                return pump.failure
        try:
            self._reporters = start_reporters(self._launch, self._spool, self._pumps)
        except FemtompError as exc:
            return exc
        self._poller.publish_limits()  # before any writer can ask for them
        self._spool.set_control(REOPENED, self._spool.control()[REOPEN])
        self._spool.set_control(ENGINE_TICKS, start_ticks())
        self._spool.set_control(ENGINE, os.getpid())
        if self._spool.control()[STATE] < State.STOPPING:  # told before it was ready
            self._poller.readmit()
            self._spool.set_control(STATE, State.RUNNING)
        self._news.take(handed_over.take(self._spool.descriptor))
        for pump in self._pumps:
            pump.may_begin.set()
        return None

    def run(self) -> int:
        """Poll until told to stop or until nobody is left, then drain.

        A signal says that members are about to end, and records are still to come: it
        begins a grace. `stop()` in the master says that none are.
        """
        try:
            return self._run()
        except _BrokenError:
            # A fault of ours, said on stderr by the thread: a sink must not be mute
            # while everything looks well. The next engine begins at its cursor.
            return EXIT_BROKEN

    def _run(self) -> int:
        members_at = time.monotonic() + _MEMBERS_CHECK_S
        self._look_at_master()
        while True:
            if not self._poll():
                return EXIT_LEFT
            self._look_for_losses()
            self._deaths.look(self._poller.members)
            self._finish_reopening()
            self._flush_if_asked()
            if (way_out := self._heed(*self._wait())) is not None:
                return way_out()
            self._check_pumps()
            if self._departure.is_on or time.monotonic() >= members_at:
                members_at = time.monotonic() + _MEMBERS_CHECK_S
                self._look_at_master()
                if self._is_alone():
                    is_told = self._grace_until is not None
                    return self._stop() if is_told else self._leave()
            if self._grace_until is not None and time.monotonic() >= self._grace_until:
                return self._stop()

    def _wait(self) -> tuple[int, int]:
        """Wait a little, for a signal or the master's end; return signal and sender."""
        pause_s = self._poller.interval_s
        if self._departure.is_on:
            # Of its members the last to let go of the pipe is a process that ends now.
            pause_s = BUSY_S if self._departure.is_alone(pause_s) else 0.0
        return waited_for_one(_SIGNALS, pause_s)

    def _look_at_master(self) -> None:
        """Learn whether the master is at its exit: then there is no time to gather."""
        was_on = self._departure.is_on
        self._departure.look()
        if self._departure.is_on and not was_on:
            for pump in self._pumps:
                pump.hurry()
        elif was_on and not self._departure.is_on:
            for pump in self._pumps:
                pump.relax()

    def _heed(self, came: int, sender: int) -> Callable[[], int] | None:
        """Do what a signal says; return how to end, if it says that.

        To end is said to the guardian, which says it here. Who says it to the engine
        alone, while the master lives and no such word comes, gets another engine.
        """
        if came in REOPEN_SIGNALS:
            self._reopen()
        elif came == LOOK_SIGNAL:
            self._look_at_master()
        elif came:
            if (way_out := self._way_out()) is not None:
                return way_out
            if sender != self._guardian and has_master(self._spool):
                if self._again_at is None:
                    self._again_at = time.monotonic() + _OTHERS_TOLD_S
            elif self._grace_until is None:
                self._grace_until = time.monotonic() + self._config.grace_s
        if self._again_at is None or self._grace_until is not None:
            return None
        return self._begin_again if time.monotonic() >= self._again_at else None

    def _way_out(self) -> Callable[[], int] | None:
        """Return how to end, if whoever sent the signal has said so."""
        if self._spool.control()[STATE] >= State.STOPPING:
            return self._stop
        return self._make_way if self._spool.is_being_left() else None

    def _reopen(self) -> None:
        self._reopening = self._spool.control()[REOPEN]
        for pump in self._pumps:
            pump.reopen()

    def _finish_reopening(self) -> None:
        """Say that it is done when the last sink has done it."""
        if self._reopening is None or any(p.is_reopening for p in self._pumps):
            return
        self._spool.set_control(REOPENED, self._reopening)
        self._reopening = None

    def _flush_if_asked(self) -> None:
        """Hurry the pumps that wait, if somebody waits for their records."""
        if not any(pump.is_waiting for pump in self._pumps):
            return
        asked = self._spool.control()[FLUSH]
        if asked != self._flushed:
            self._flushed = asked
            for pump in self._pumps:
                pump.flush()

    def _check_pumps(self) -> None:
        forward()
        if not all(pump.is_alive() for pump in self._pumps):
            raise _BrokenError

    def _poll(self) -> bool:
        """Look at the lanes; False if the spool is gone."""
        try:
            self._poller.poll()
        except OSError as exc:
            if not self._spool.exists():
                note("spool", f"the spool {self._spool.path} is gone: {exc}")
                return False
            note("poll", f"cannot read the spool: {exc}")
        if self._spool.is_deleted():
            note("spool", f"the spool {self._spool.path} was deleted")
            return False
        return True

    def _look_for_losses(self, *, at_last: bool = False) -> None:
        if self._losses is None:
            return
        try:
            self._losses.look(self._poller.members, at_last=at_last)
        except OSError as exc:
            note("losses", f"losses cannot be looked for now: {exc}")
        self._reminders.look(self._pumps, self._losses, self._poller.members)

    def _is_alone(self) -> bool:
        """Tell whether no member is left: no pipe end open, no lane's owner alive."""
        if not self._departure.is_alone():
            return False
        self._poller.scan()
        return not self._poller.has_living()

    def _stop(self) -> int:
        """Drain because somebody said so, until the deadline that `stop()` wrote.

        A signal names no deadline, and the master's end another.
        """
        deadline_ns = self._spool.control()[DEADLINE]
        if self._spool.control()[STATE] < State.STOPPING:
            until = self._departure.deadline() or time.monotonic() + SIGNAL_DEADLINE_S
            deadline_ns = int(until * 1e9)
            # For the engine after this one, should this one die of what it drains.
            self._spool.set_control(DEADLINE, deadline_ns)
            self._spool.set_control(STATE, State.STOPPING)
        drained = self._drain(deadline_ns / 1e9 if deadline_ns else None)
        self._spool.set_control(STATE, State.STOPPED)
        if not drained:
            self._say_what_is_left()
        elif self._is_alone():
            self._remove()  # no master is left to read the statistics
        return EXIT_DRAINED if drained else EXIT_LEFT

    def _begin_again(self) -> int:
        self._make_way()
        return EXIT_AGAIN

    def _make_way(self) -> int:
        """End behind the batches in hand: another engine goes on at the cursors."""
        deadline = time.monotonic() + _LEAVE_S
        self._deaths.look(self._poller.members, at_last=True)
        for pump in self._pumps:
            pump.finish()
        for pump in self._pumps:
            pump.join(max(0.0, deadline - time.monotonic()))
        try:
            handed_over.leave(self._spool.descriptor, self._news.left())
        except OSError as exc:
            note("news", f"events that wait for a sink are not told: {exc}")
        if any(pump.is_alive() for pump in self._pumps):
            # What it has in hand is to blame for nothing.
            self._spool.set_control(ENGINE_ENDED, 0)
        # It is no death: the next one has the number of this one.
        starts = self._spool.control()[ENGINE_STARTS]
        self._spool.set_control(ENGINE_STARTS, starts - 1)
        return EXIT_LEFT

    def _leave(self) -> int:
        """Drain because nobody is left: for `linger_s`, or what the exit has left."""
        if self._departure.deadline() is not None:
            return self._stop()
        drained = self._drain(time.monotonic() + self._config.linger_s)
        if drained:
            self._remove()
            return EXIT_DRAINED
        self._spool.set_control(STATE, State.STOPPED)
        self._say_what_is_left()
        return EXIT_LEFT

    def _remove(self) -> None:
        # Said first: who finds half of it knows that nothing was in it any more.
        self._spool.set_control(STATE, State.REMOVING)
        self._spool.remove()

    def _say_what_is_left(self) -> None:
        sinks = read_stats(self._spool).sinks
        left = ", ".join(f"{s.pending} for {n}" for n, s in sinks.items() if s.pending)
        note("left", f"records are left in {self._spool.path}: {left or 'unreadable'}")

    def _drain(self, deadline: float | None) -> bool:
        """Deliver all there is; writers are told first that nobody will read on."""
        # A program whose worker was killed often ends by that, and at once. Before the
        # lanes of the dead are reaped, and while the sinks can still be told.
        self._deaths.look(self._poller.members, at_last=True)
        self._poller.retire()
        for pump in self._pumps:
            pump.hurry()
        drained = False
        while not drained and (deadline is None or time.monotonic() < deadline):
            # A record that was on its way when its writer was told counts as well: it
            # is looked for again until nothing new turns up.
            grew = self._poller.look_again()
            drained = not grew and self._poller.is_drained()
            self._check_pumps()
            if not drained:
                time.sleep(_DRAIN_CHECK_S)
        self._look_for_losses(at_last=True)
        for pump in self._pumps:
            pump.finish()
        for pump in self._pumps:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            pump.join(left)
        for reporter in self._reporters:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            reporter.finish(left)
        return drained
