"""The guardian: a small process that restarts the engine when it dies.

In: the configuration on stdin, numbers of inherited descriptors with it. Out: an
engine, always. It is exec'd, detaches itself by a fork of its own (a pool's
`waitpid(-1)` must never meet it), and does nothing but wait. It exits 0 whatever
happens: what became of the engine is in the control page.
"""

from __future__ import annotations

import errno
import json
import marshal
import os
import pickle
import resource
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

from femtomp import frozen
from femtomp.errors import FemtompError
from femtomp.lanes.lock import GUARDIAN_LOCK, Lock
from femtomp.lanes.spool import (
    DEADLINE,
    ENGINE_ENDED,
    ENGINE_STARTS,
    GUARDIAN,
    STATE,
    Spool,
    State,
)
from femtomp.sinks.secrets import masked
from femtomp.supervisor.notes import forward, note, overhear

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.options import ServerConfig

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Both are usual for it; neither may end a supervisor.
REOPEN_SIGNALS: Final = (signal.SIGUSR1, signal.SIGHUP)
# To the engine alone: the master is at its exit, and waits for what is there.
LOOK_SIGNAL: Final = signal.SIGUSR2
_SIGNALS: Final = (*STOP_SIGNALS, *REOPEN_SIGNALS, LOOK_SIGNAL, signal.SIGCHLD)
# For what is left to deliver when a stop by signal is at its end.
SIGNAL_DEADLINE_S: Final = 10.0
# Between restarts: at once, then doubling; an engine that ran for a while begins anew.
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STEADY_S: Final = 1.0

# Where /proc is missing: how far inherited descriptors are looked for.
_MOST_CLOSED: Final = 65536
# The last argument of a frozen program's second start.
_DETACHED: Final = "--detached"

# How an engine ends when it means to; any other status is a death.
EXIT_DRAINED: Final = 0
EXIT_BROKEN: Final = 1
EXIT_FAILED: Final = 2
EXIT_LEFT: Final = 4
# Another one is to go on: this one was told to end, and nobody else was.
EXIT_AGAIN: Final = 5
MEANT_ENDS: Final = (EXIT_DRAINED, EXIT_FAILED, EXIT_LEFT)


@dataclass(frozen=True)
class Launch:
    """What the guardian is told: configuration, spool, and its open descriptors."""

    config: ServerConfig
    spool: str
    environ: dict[str, str] = field(repr=False)
    ready: int
    """Where to say once whether all is well; -1 when that was done."""
    lifetime: int
    stderr: int
    stdout: int
    further: tuple[str, ...] = ()
    """Paths of other spools that servers of this name left."""


def main(told: BinaryIO) -> NoReturn:
    """Become the guardian: called in a fresh interpreter, with what it was told.

    By `spawn`, which has set the module path; the rest is a `Launch`.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    if os.fork():
        os._exit(0)
    _become_guardian(told)


def _become_guardian(told: BinaryIO) -> NoReturn:
    _reset_process()
    launch: Launch = pickle.load(told)  # noqa: S301 - from our own parent
    _close_inherited(launch)
    os.dup2(1, 0)  # /dev/null
    overhear(launch.stderr)
    os.environ.update(launch.environ)
    try:
        guard(launch)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        forward()
        os._exit(0)


def main_of_frozen() -> NoReturn:
    """Become the guardian in a frozen program, at its door (`femtomp.frozen`)."""
    is_detached = sys.argv[-1] == _DETACHED
    if frozen.is_unpacked_for_one_process() and not is_detached:
        # The program's files go when the process ends that its bootloader waits for:
        # that must be the guardian, and none that has forked it.
        arguments = [frozen.program(), *sys.argv[1:], _DETACHED]
        environ = {**os.environ, **frozen.for_another_generation()}
        os.posix_spawn(arguments[0], arguments, environ)
        os._exit(0)
    told = open(0, "rb", closefd=False)  # noqa: SIM115 - the guardian reads on
    places, _ = marshal.load(told)  # noqa: S302 - from our own parent
    sys.path += [place for place in places if place not in sys.path]
    if is_detached:
        _become_guardian(told)
    main(told)


def _close_inherited(launch: Launch) -> None:
    """Close what the master lets its own children have: its listening sockets."""
    kept = (0, 1, 2, launch.ready, launch.lifetime, launch.stderr, launch.stdout)
    try:
        opened = [int(number) for number in os.listdir("/proc/self/fd")]
    except OSError:
        os.closerange(max(kept) + 1, _MOST_CLOSED)  # no /proc
        return
    for number in opened:
        if number not in kept:
            try:
                os.close(number)
            except OSError:
                pass  # that by which the directory was read


def _reset_process() -> None:
    """Undo what the caller's process may have handed down."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass  # reserved by the C library
    # A pipe without a reader and a file at its limit are outcomes of a write.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in [n for n in os.environ if n.startswith("FEMTOMP_")]:
        del os.environ[name]


def guard(launch: Launch) -> bool:
    """Keep an engine on a spool until it needs none; True if a signal ended that."""
    # Loaded once, here: a restarted engine then begins to deliver without an import.
    from femtomp.supervisor import engine

    try:
        spool = Spool(launch.spool)
        lock = Lock(spool, GUARDIAN_LOCK)  # until this process ends
    except FemtompError as exc:
        report(launch.ready, exc)
        return False
    _serve_further(launch)
    spool.set_control(GUARDIAN, os.getpid())
    stopping = Stopping(launch.config.grace_s + SIGNAL_DEADLINE_S)
    backoff_s = 0.0
    while True:
        begun = time.monotonic()
        pid = _fork_engine(engine.main, launch, spool)
        if pid:
            if launch.ready >= 0:
                os.close(launch.ready)
                launch = replace(launch, ready=-1)
            status = _wait_for(pid, stopping)
            forward()
            if os.waitstatus_to_exitcode(status) in MEANT_ENDS or is_over(spool):
                break
            _note_death(spool, status)
        if stopping.is_over() or _is_too_late(spool):
            break  # what is left stays
        if pid and time.monotonic() - begun >= _STEADY_S:
            backoff_s = 0.0
        if waited_for(STOP_SIGNALS, backoff_s):
            stopping.begin()
        if spool.is_being_left():
            break  # others are about to serve it
        backoff_s = min(_BACKOFF_MAX_S, max(_BACKOFF_FIRST_S, 2 * backoff_s))
    lock.release()
    spool.close()
    return stopping.is_on


def _fork_engine(main: Callable[[Launch], int], launch: Launch, spool: Spool) -> int:
    """Start an engine; return its pid, 0 if no process can be made now."""
    starts = spool.control()[ENGINE_STARTS]
    spool.set_control(ENGINE_STARTS, starts + 1)
    try:
        pid = os.fork()
    except OSError as exc:
        # A limit of processes or of memory that is reached, often for a moment.
        spool.set_control(ENGINE_STARTS, starts)
        name = errno.errorcode.get(exc.errno or 0, "?")
        note(
            "fork",
            f"the engine of {spool.path} cannot be started now: {name} "
            f"({exc.strerror}); records wait in the lanes, it is tried again; look at "
            "the limits of processes (pids.max, ulimit -u) and of memory",
        )
        return 0
    if pid == 0:
        become(main, launch)
    return pid


def _serve_further(launch: Launch) -> None:
    if launch.further:
        from femtomp.supervisor import further

        further.begin(launch)


def is_over(spool: Spool) -> bool:
    """Tell whether a dead engine needs no other: its spool is gone.

    One that died while it deleted the spool had delivered all; the rest is done here.
    """
    if spool.was_removing():
        spool.remove()
    return spool.is_deleted()


def _note_death(spool: Spool, status: int) -> None:
    """Say how an engine ended, for the one that follows it; unless it made way."""
    if os.waitstatus_to_exitcode(status) != EXIT_AGAIN:
        spool.set_control(ENGINE_ENDED, status + 1)


def _is_too_late(spool: Spool) -> bool:
    """Tell whether the time that `stop()` gave is over. A drain outlives an engine."""
    control = spool.control()
    deadline_ns = control[DEADLINE]
    return control[STATE] == State.STOPPED or (
        control[STATE] == State.STOPPING and 0 < deadline_ns <= time.monotonic_ns()
    )


class Stopping:
    """Whether a signal said to stop, and for how long a dead engine is replaced then.

    Parameters
    ----------
    patience_s : float
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._until: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether a signal came."""
        return self._until is not None

    def begin(self) -> None:
        """Note that a signal came; the first one counts."""
        if self._until is None:
            self._until = time.monotonic() + self._patience_s

    def is_over(self) -> bool:
        """Tell whether a signal came and the time since is over."""
        return self._until is not None and time.monotonic() >= self._until


def report(ready: int, problem: Exception | None) -> None:
    """Tell the master that all is well, or why not, if it is still there to be told."""
    if ready < 0:
        return  # a restarted engine: the master was told before
    name = type(problem).__name__ if isinstance(problem, FemtompError) else "StartError"
    message = {} if problem is None else {"error": name, "text": masked(str(problem))}
    try:
        os.write(ready, json.dumps(message).encode() + b"\n")
        os.close(ready)
    except OSError:
        pass  # it did not wait


def waited_for(signals: tuple[signal.Signals, ...], timeout: float) -> int:
    """Wait for blocked signals; return the one that came, 0 when the time was over.

    `sigtimedwait` gives None then, but a siginfo that nobody filled in if it is
    interrupted after its time (SIGSTOP and SIGCONT do that; seen on 3.11 to 3.13).
    """
    return waited_for_one(signals, timeout)[0]


def waited_for_one(
    signals: tuple[signal.Signals, ...], timeout: float
) -> tuple[int, int]:
    """As `waited_for`; return the pid of the signal's sender, too."""
    info = signal.sigtimedwait(signals, timeout)
    if info is None or info.si_signo not in signals:
        return 0, 0
    return info.si_signo, info.si_pid


def become(main: Callable[[Launch], int], launch: Launch) -> NoReturn:
    """Run the engine, or another's part, in the forked child; never returns."""
    status = 1
    try:
        status = main(launch)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        forward()
        # Not sys.exit: a pump may be inside a destination's timeout.
        os._exit(status)


def _wait_for(engine: int, stopping: Stopping) -> int:
    """Wait until the engine ends, passing signals on; return its wait status."""
    if stopping.is_on:
        os.kill(engine, signal.SIGTERM)  # the one before it died of something else
    while True:
        info = signal.sigwaitinfo(_SIGNALS)
        if info.si_signo in STOP_SIGNALS:
            stopping.begin()
            os.kill(engine, signal.SIGTERM)
            continue
        if info.si_signo in REOPEN_SIGNALS:
            os.kill(engine, info.si_signo)
            continue
        pid, status = os.waitpid(engine, os.WNOHANG)
        if pid == engine:
            return status
