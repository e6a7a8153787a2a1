"""Making files without a signal handler in the middle of it.

A handler that logs while its own thread makes a lane makes another one; if handlers
come faster than lanes are made, calls nest until the stack ends. A handler that raises
there leaves half of a lane behind. So this thread's signals wait for the fraction of a
millisecond that it takes, once a lane and once a segment, never for a record. What can
come all the same (another thread takes the signal and the main thread runs its handler,
finalisers, `PyThreadState_SetAsyncExc`) is dealt with where it arrives.
"""

from __future__ import annotations

import signal

# The function in C: `signal` wraps it in Python, and a handler that raises where that
# begins would keep the mask from being restored.
from _signal import pthread_sigmask  # type: ignore[import-not-found]
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# Not those that the processor raises for this very instruction: blocked, they kill.
_BLOCKED: Final = signal.valid_signals() - {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
    signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT,
}  # fmt: skip


def undisturbed(make: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
    """Call something while this thread's signals wait; they come before it returns.

    So an exception may be raised by a handler although `make` has done all it does:
    what it makes must be kept by itself, not by who gets the result.
    """
    # Asked first and without change: a handler that raises here leaves nothing blocked.
    before = pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        made = make(*arguments)
    finally:
        pthread_sigmask(signal.SIG_SETMASK, before)
    return made
