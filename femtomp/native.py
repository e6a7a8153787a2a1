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

from typing import TYPE_CHECKING, Any

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

__all__ = ["Lock", "RLock", "sleep", "unpatched"]
