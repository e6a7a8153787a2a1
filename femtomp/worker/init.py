"""`worker_init`: logging set up in a worker, in one call that never raises.

In: a level, or the server's. Out: femtomp's handler on the root logger, and the levels
that the server wants.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from femtomp.checks import number_of_level
from femtomp.errors import SpoolError
from femtomp.worker.channel import channel, say
from femtomp.worker.handler import WorkerHandler, is_disabled, worker_handler

if TYPE_CHECKING:
    import os

_has_said = False


def worker_init(
    level: int | str | None = None,
    *,
    spool: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Set up logging in a worker: femtomp's handler on the root logger, and its level.

    For ``initializer=`` of pools and executors. Never raises: a pool would start new
    workers for ever. Idempotent.

    Parameters
    ----------
    level : int or str, optional
        Of the root logger; the server's if not given.
    spool : path-like, optional
        The server's spool; `FEMTOMP_SPOOL` if not given.
    force : bool
        Remove the root logger's other handlers first, as `logging.basicConfig` does.

    Examples
    --------
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> import femtomp
    >>> pool = ProcessPoolExecutor(4, initializer=femtomp.worker_init)
    """
    try:
        root = logging.getLogger()
        handler = worker_handler(spool=spool, missing="stderr")
        if force:
            for other in root.handlers[:]:
                root.removeHandler(other)
        if not any(_is_of(each, handler.spool) for each in root.handlers):
            root.addHandler(handler)
        set_root_level(handler.spool, level)
        if handler.spool is None:
            _say_no_server()
    except Exception as exc:
        say(f"worker_init failed: {type(exc).__name__}: {exc}")


def _say_no_server() -> None:
    """Say once that records go to stderr, unless that is what was asked for."""
    global _has_said  # noqa: PLW0603 - once a process, and in none of its forks
    if _has_said or is_disabled():
        return
    _has_said = True
    say(
        "worker_init() found no server, records go to stderr: FEMTOMP_SPOOL is not "
        "set; call femtomp.start_server() in the master, before its workers begin, or "
        "femtomp.basic_config()"
    )


def _is_of(handler: logging.Handler, spool: str | None) -> bool:
    """Tell whether a handler hands records to a spool: a second one would do it too."""
    return isinstance(handler, WorkerHandler) and handler.address == spool


def set_root_level(spool: str | None, level: int | str | None) -> None:
    """Set the root logger's level, to the server's if it is None; then heed the server.

    INFO if the server cannot say.
    """
    root = logging.getLogger()
    if spool is None:
        root.setLevel(logging.INFO if level is None else number_of_level(level))
        return
    from femtomp.lanes.spool import Spool

    if level is not None:
        root.setLevel(number_of_level(level))
    try:
        opened = Spool(spool)
    except SpoolError:
        if level is None:
            raise
        return  # the handler says so, at the first record
    levels = channel(spool).levels
    try:
        if level is None:
            level = int(opened.manifest.get("level", logging.INFO))
            root.setLevel(level)
            levels.follow(level)
        for name, number in opened.manifest.get("levels", {}).items():
            logging.getLogger(name).setLevel(number)
        levels.heed(opened.descriptor, again=True)
    finally:
        opened.close()
