"""Starting a server: options checked, spool made, supervisor launched, handle returned.

In: what `femtomp.start_server` was given, and the environment. Out: a `Server`, or an
error before anything is left behind. What it does to this process is one environment
variable and one atexit callback, both taken back by `stop()`. That callback delivers
what is there and leaves the lanes open: older callbacks still log.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import AlreadyStartedError, SpoolError
from femtomp.lanes.liveness import boot_id, start_ticks
from femtomp.lanes.lock import is_orphaned
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.supervisor.adoption import Taken, Wanted, adopt, create
from femtomp.supervisor.container import ends_with_this_process
from femtomp.supervisor.launch import Launcher, launch
from femtomp.supervisor.pair import Pair
from femtomp.supervisor.process import Server
from femtomp.supervisor.told import Stated, stated
from femtomp.supervisor.told import told as tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Unpack

    from femtomp.lanes.lock import Lock
    from femtomp.lanes.queue import Queue
    from femtomp.options import ServerConfig, ServerOptions

SPOOL_VARIABLE: Final = "FEMTOMP_SPOOL"

_running: Server | None = None


def _deliver_at_exit() -> None:
    """Deliver what is there; stop only where the supervisor will not outlive this."""
    if _running is None or not _running.is_mine():
        return
    if ends_with_this_process():
        _running.stop()
    else:
        _running.deliver_at_exit()


def _forget(server: Server) -> None:
    """Take back what `start` did to this process."""
    global _running  # noqa: PLW0603 - one server a process
    atexit.unregister(_deliver_at_exit)
    if os.environ.get(SPOOL_VARIABLE) == str(server.spool):
        del os.environ[SPOOL_VARIABLE]
    if _running is server:
        _running = None


def start(
    sinks: object,
    *,
    spool_parent: str | os.PathLike[str] | None,
    name: str | None,
    resource: Mapping[str, object] | None,
    level: int | str | None,
    config: object,
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
    watch: Callable[[str, Callable[[], None] | None], None],
    heed: Callable[[str, int], None],
    at_fork: Callable[[str], None],
    **options: Unpack[ServerOptions],
) -> Server:
    """Start a supervisor; see `femtomp.start_server`, which fills in the makers."""
    global _running  # noqa: PLW0603 - one server a process
    arguments = Stated(sinks, level, spool_parent, name, resource or {}, options)
    everything = stated(arguments, config, os.environ)
    attached = _attach_in_child(make_queue, make_init)
    if attached is not None:
        return attached
    if _running is not None and _running.is_mine():
        msg = f"this process already runs {_running!r}: stop() it first, or use it"
        raise AlreadyStartedError(msg)
    told = tell(arguments, everything, os.environ)
    wanted = Wanted(
        told.config.name,
        told.guessed_from,
        told.config.level,
        tuple(str(sink.name) for sink in told.config.sinks),
        {"pid": os.getpid(), "start_ticks": start_ticks(), "boot_id": boot_id()},
        told.workers,
        told.config.resource,
        told.limits,
        told.levels,
    )
    spool, lock, pair = _take_and_launch(told.parent, wanted, told.config)
    path = spool.path

    def forget(server: Server) -> None:
        watch(path, None)
        server.queue.let_go()
        at_fork("drop")
        _forget(server)
        lock.release()

    server = Server(
        spool,
        pair,
        queue=make_queue(path, told.config.resource),
        worker_init=make_init(path),
        told=told,
        heed=heed,
        on_end=forget,
    )
    watch(path, pair.tend)
    at_fork(told.config.span_after_fork)
    server.queue.tend = pair.tend
    os.environ[SPOOL_VARIABLE] = path
    atexit.register(_deliver_at_exit)
    _running = server
    return server


def _take_and_launch(
    parent: Path, wanted: Wanted, told: ServerConfig
) -> tuple[Spool, Lock, Pair]:
    """Find or make a spool, and have it served."""
    taken = adopt(parent, wanted)
    if taken is not None:
        try:
            return taken.spool, taken.lock, _launch(taken, told)
        except SpoolError:
            # Somebody serves it who holds no lock of a master's: leave it to them.
            _let_go(taken)
        except BaseException:
            _let_go(taken)
            raise
    taken = create(parent, wanted)
    try:
        return taken.spool, taken.lock, _launch(taken, told)
    except BaseException:
        taken.spool.remove()
        _let_go(taken)
        raise


def _launch(taken: Taken, told: ServerConfig) -> Pair:
    launcher = Launcher(told, taken.spool, taken.further)
    try:
        return Pair(taken.spool, launcher, launch(launcher))
    except BaseException:
        launcher.close()
        raise


def _let_go(taken: Taken) -> None:
    taken.spool.close()
    taken.lock.release()


def running() -> Server | None:
    """Return the server that this process started, if it still runs."""
    return _running if _running is not None and _running.is_mine() else None


def attach(
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
) -> Server | None:
    """Return a handle on the server whose address was inherited, if it is served."""
    spool = _inherited()
    if spool is None:
        return None
    try:
        is_served = not is_orphaned(spool)
    except OSError:
        is_served = True  # its locks are not for this user to look at
    if not is_served:
        spool.close()
        return None
    return _handle(spool, make_queue, make_init)


def _attach_in_child(
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
) -> Server | None:
    """Return a handle on the server of this `multiprocessing` child's parent."""
    spool = _inherited() if _is_multiprocessing_child() else None
    if spool is None:
        return None
    warnings.warn(
        "start_server() was called in a multiprocessing child, which is now attached "
        'to its parent\'s server: put the call under `if __name__ == "__main__":`',
        RuntimeWarning,
        stacklevel=4,
    )
    return _handle(spool, make_queue, make_init)


def _inherited() -> Spool | None:
    path = os.environ.get(SPOOL_VARIABLE)
    if not path:
        return None
    try:
        spool = Spool(path)
    except SpoolError:
        return None  # inherited, but gone
    if spool.control()[STATE] != State.RUNNING:
        spool.close()
        return None
    return spool


def _handle(
    spool: Spool,
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
) -> Server:
    path = spool.path
    return Server(
        spool, None, queue=make_queue(path, None), worker_init=make_init(path)
    )


def _is_multiprocessing_child() -> bool:
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    # A spawned child imports __main__ anew before it is told of its parent; meanwhile
    # multiprocessing marks it so, to find the very programs that lack the guard.
    inheriting = getattr(process.current_process(), "_inheriting", False)
    return bool(inheriting) or process.parent_process() is not None
