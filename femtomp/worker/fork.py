"""What happens in a forked child: everything of the parent's is forgotten.

In: callbacks of other modules. Out: `os.register_at_fork`, once per process image, at
first use and never at import (what the import does is one anonymous page). The hook
also runs in children that exec at once (`Popen` with a `preexec_fn`), in signal
handlers and in threads: so it takes no lock, opens, creates, registers and logs
nothing, and raises nothing. New lanes are opened at the first record. It cannot be the
only belt: uWSGI and `fork()` called from C run no hooks, so `mark[0]` is asked before
each append, and `catch_up` called if it is false.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MADV_WIPEONFORK: Final = 18  # madvise(2), Linux 4.14; not named by Python's mmap
_callbacks: Final[list[Callable[[], None]]] = []
_registered = False


def on_fork(callback: Callable[[], None]) -> None:
    """Call back in every forked child, in order of registration.

    The callback must do no more than reset memory.
    """
    global _registered  # noqa: PLW0603 - once per process image
    _callbacks.append(callback)
    if not _registered:
        _registered = True
        os.register_at_fork(after_in_child=_after_in_child)


def _after_in_child() -> None:
    mark[0] = 1
    for callback in _callbacks:
        try:
            callback()
        except Exception:  # noqa: S110 - nobody could be told; the fork goes on
            pass


def catch_up() -> None:
    """Do in a child that ran no fork hook what the hook would have done."""
    _after_in_child()


class _PidMark:
    """Where the kernel cannot wipe memory in a child: compare pids, for 0.2 us."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _: int) -> bool:
        return os.getpid() == self._pid

    def __setitem__(self, _: int, __: int) -> None:
        self._pid = os.getpid()


def _new_mark() -> Any:
    try:
        # A byte that the kernel zeroes in every child, however it was forked: 40 ns to
        # read where os.getpid costs 200. The advice holds in the child again.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        anonymous = mmap.mmap(-1, mmap.PAGESIZE, flags=flags)
        anonymous.madvise(_MADV_WIPEONFORK)
    except (OSError, ValueError, AttributeError):
        return _PidMark()
    return anonymous


# mark[0] is true in this process and false in a child of it that ran no hook.
mark: Final[Any] = _new_mark()
mark[0] = 1
