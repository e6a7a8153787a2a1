"""Locks, sleep and poll as the interpreter has them, whatever was patched since.

eventlet and gevent put their own functions into `threading`, `time` and `os`, and take
some out of `select`: before femtomp is imported, or after. Theirs switch to other
greenlets. In the middle of a lane or of a start that must not happen, and a thread of
the operating system's cannot use their locks. So what is used here comes from copies of
the built-in modules that nobody else has. `posix` is not patched by either.

What goes into a record (the thread's id and name) is asked of `threading` all the same:
a greenlet is to be found by the number that `logging` gives it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from threading import Lock, RLock
    from time import sleep


def unpatched(name: str) -> Any:
    """Return a module of the standard library as new, beside the one in use.

    Parameters
    ----------
    name : {"_thread", "select", "time"}
        One that is written in C, and can be loaded more than once (PEP 489).
    """
    spec: Any = __import__(name).__spec__
    module = spec.loader.create_module(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _thread = unpatched("_thread")
    Lock = _thread.allocate_lock
    RLock = _thread.RLock
    sleep = unpatched("time").sleep

# Of Linux, the same on all machines; where Python was made for an older C library, as
# cx_Freeze's is and Conda's was, its `os` and `signal` lack them.
_PIDFD_SEND_SIGNAL: Final = 424
_PIDFD_OPEN: Final = 434


def _call(number: int, *arguments: int) -> int:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(each) for each in (number, *arguments)]
    answer = int(library.syscall(*given))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


def pidfd_open(pid: int) -> int:
    """Do what `os.pidfd_open` does, which not every Python has."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call(_PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Do what `signal.pidfd_send_signal` does, which not every Python has."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(pidfd, number)
    else:
        _call(_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0)


__all__ = ["Lock", "RLock", "pidfd_open", "pidfd_send_signal", "sleep", "unpatched"]
