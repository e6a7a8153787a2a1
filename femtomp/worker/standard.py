"""What `logging` itself would do with a call: its methods, its caller, its task.

In: names of `logging.Logger`'s methods, frames. Out: whether the standard way is still
the standard library's own, and what its LogRecord would hold. What must never happen: a
method that a library has replaced and that is taken for the original.
"""

from __future__ import annotations

import logging
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

_modules: Final = sys.modules


def untouched(name: str) -> object:
    """Return a method of `logging.Logger`; what equals nothing, if it was replaced.

    Sentry and New Relic have a `callHandlers` of their own there, Datadog `makeRecord`:
    these must go on to see every record.
    """
    found = getattr(logging.Logger, name)
    source = logging._srcfile  # noqa: SLF001
    if type(found) is FunctionType and found.__code__.co_filename == source:
        return found
    return object()


def task_name() -> str | None:
    """Return what a LogRecord's `taskName` would be.

    Without a loop that runs, to ask for a task is an exception: 1 us.
    """
    asyncio: Any = _modules.get("asyncio")
    if asyncio is None or not logging.logAsyncioTasks:  # type: ignore[attr-defined]
        return None
    if asyncio._get_running_loop() is None:  # noqa: SLF001
        return None
    task = asyncio.current_task()
    return None if task is None else task.get_name()


def outer(frame: FrameType, stacklevel: int) -> FrameType:
    """Return a caller's caller, as `logging.Logger.findCaller` counts them.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    while stacklevel > 1:
        if frame.f_back is None:
            raise ValueError
        frame = frame.f_back
        if not logging._is_internal_frame(frame):  # type: ignore[attr-defined]  # noqa: SLF001
            stacklevel -= 1
    return frame
