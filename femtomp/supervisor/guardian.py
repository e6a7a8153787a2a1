"""The guardian: a small process that restarts the engine when it dies.

In: the configuration on stdin, numbers of inherited descriptors with it. Out: an
engine, always. It is exec'd, detaches itself by a fork of its own (a pool's
`waitpid(-1)` must never meet it), and does nothing but wait. It exits 0 whatever
happens: what became of the engine is in the control page.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from femtomp.lanes.spool import ENGINE_STARTS, GUARDIAN, Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.config import ServerConfig

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# Between restarts: at once, then doubling; an engine that ran for a while begins anew.
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STEADY_S: Final = 1.0

# How an engine ends when it means to; any other status is a death.
EXIT_DRAINED: Final = 0
EXIT_BROKEN: Final = 1
EXIT_FAILED: Final = 2
EXIT_LEFT: Final = 4
MEANT_ENDS: Final = (EXIT_DRAINED, EXIT_FAILED, EXIT_LEFT)


@dataclass(frozen=True)
class Launch:
    """What the guardian is told: configuration, spool, and its open descriptors."""

    config: ServerConfig
    spool: str
    sys_path: tuple[str, ...]
    ready: int
    """Where the first engine says that it is ready; -1 for the later ones."""
    lifetime: int
    stderr: int
    stdout: int


def main() -> None:
    """Become the guardian: called in a fresh interpreter by `process`."""
    if os.fork():
        os._exit(0)
    _reset_process()
    launch: Launch = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(launch.stderr, 2)
    sys.path[:] = list(launch.sys_path)
    try:
        _guard(launch)
    finally:
        os._exit(0)


def _reset_process() -> None:
    """Undo what the caller's process may have handed down."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass  # reserved by the C library
    for ignored in (signal.SIGPIPE, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in [n for n in os.environ if n.startswith("FEMTOMP_")]:
        del os.environ[name]


def _guard(launch: Launch) -> None:
    # Loaded once, here: a restarted engine then begins to deliver without an import.
    from femtomp.supervisor import engine

    spool = Spool(launch.spool)
    spool.set_control(GUARDIAN, os.getpid())
    backoff_s = 0.0
    starts = 0
    while True:
        starts += 1
        spool.set_control(ENGINE_STARTS, starts)
        begun = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _be_engine(engine.main, launch)
        if launch.ready >= 0:
            os.close(launch.ready)
            # Its number is free now: a later engine's log file may get it.
            launch = replace(launch, ready=-1)
        if _wait_for(pid):
            return
        if time.monotonic() - begun >= _STEADY_S:
            backoff_s = 0.0
        if waited_for((signal.SIGTERM, signal.SIGINT), backoff_s):
            return
        backoff_s = min(_BACKOFF_MAX_S, max(_BACKOFF_FIRST_S, 2 * backoff_s))


def waited_for(signals: tuple[signal.Signals, ...], timeout: float) -> bool:
    """Wait for blocked signals; True if one came, False when the time was over.

    `sigtimedwait` gives None then, but a siginfo that nobody filled in if it is
    interrupted after its time (SIGSTOP and SIGCONT do that; seen on 3.11 to 3.13).
    """
    info = signal.sigtimedwait(signals, timeout)
    return info is not None and info.si_signo in signals


def _be_engine(main: Callable[[Launch], int], launch: Launch) -> None:
    """Run the engine in the forked child; never returns."""
    status = 1
    try:
        status = main(launch)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Not sys.exit: a pump may be inside a destination's timeout.
        os._exit(status)


def _wait_for(engine: int) -> bool:
    """Wait until the engine ends, passing signals on; True if it meant to end."""
    stopping = False
    while True:
        info = signal.sigwaitinfo(_SIGNALS)
        if info.si_signo in (signal.SIGTERM, signal.SIGINT):
            stopping = True
            os.kill(engine, signal.SIGTERM)
            continue
        pid, status = os.waitpid(engine, os.WNOHANG)
        if pid == engine:
            return stopping or os.waitstatus_to_exitcode(status) in MEANT_ENDS


if __name__ == "__main__":
    main()
