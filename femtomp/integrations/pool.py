"""`multiprocessing`, executors, joblib: children that log without a line of their own.

In: the server of this process. Out: every child that `multiprocessing` starts from here
on, by any start method and at any depth, logs to it: bare `Process`es, `Pool`s,
executors, managers, loky's and joblib's workers, data loaders.

    with femtomp.start_server(["console"]):
        femtomp.integrations.pool.install()
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool: ...

Forked children inherit the handler and need none of this. To others `multiprocessing`
sends a process object, with its parent's settings in it: one more of those is ours, and
what unpickles it in the child attaches it. A pool that was started before has not got
it, and needs ``initializer=server.worker_init``, or `femtomp.worker_init` in a task.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any, Final

import femtomp

if TYPE_CHECKING:
    from collections.abc import Callable

    SetUp = Callable[[str], object]

_SETTING: Final = "femtomp"


class _Carrier:
    """Tells a child its server while it is unpickled there.

    Where `install` was called it tells the one that is there by then, which may be
    another. A child's tells what it was told: its environment may be that of a fork
    server, and older.
    """

    def __init__(
        self,
        spool: str,
        level: int | str | None,
        set_up: SetUp | None,
        *,
        is_at_source: bool = False,
    ) -> None:
        self._told: Final = (spool, level, set_up)
        self._is_at_source: Final = is_at_source

    def __reduce__(self) -> tuple[Any, ...]:
        spool, level, set_up = self._told
        if self._is_at_source:
            spool = femtomp.worker_handler(missing="ignore").spool or spool
        return (_arrive, (spool, level, set_up))


def _arrive(spool: str, level: int | str | None, set_up: SetUp | None) -> _Carrier:
    if set_up is not None:
        set_up(spool)
    femtomp.worker_init(level, spool=spool)
    return _Carrier(spool, level, set_up)  # for children of this child


def install(level: int | str | None = None, *, set_up: SetUp | None = None) -> None:
    """Have all children that `multiprocessing` starts from here on log to the server.

    Call it in the master, after `start_server`. Idempotent. It also sets this process
    up, as `femtomp.worker_init` does.

    Parameters
    ----------
    level : int or str, optional
        Of the root logger in this process and the children; the server's if not given.
    set_up : callable, optional
        Called with the server's spool, first of all, in each child that is not forked.

    Raises
    ------
    NoServerError
        If there is no server.

    Examples
    --------
    >>> import femtomp
    >>> with femtomp.start_server("console:json"):
    ...     install()
    >>> uninstall()
    """
    handler = femtomp.worker_handler()
    femtomp.worker_init(level)
    if handler.spool is not None:  # else FEMTOMP_DISABLED
        _settings()[_SETTING] = _Carrier(
            handler.spool, level, set_up, is_at_source=True
        )


def uninstall() -> None:
    """Have children started from here on know of no server; for tests."""
    _settings().pop(_SETTING, None)


def _settings() -> dict[str, Any]:
    """Return what `multiprocessing` hands to children: `authkey`, `daemon`, ..."""
    found: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined] # noqa: SLF001
    return found
