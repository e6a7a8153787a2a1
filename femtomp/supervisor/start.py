"""Starting a server: options checked, spool made, supervisor launched, handle returned.

In: what `femtomp.start_server` was given, and the environment. Out: a `Server`, or an
error before anything is left behind. What it does to this process is one environment
variable and one atexit callback, both taken back by `stop()`.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from femtomp.config import OTLPSink, SinkOptions, level_number
from femtomp.errors import AlreadyStartedError, ConfigError, SpoolError
from femtomp.grammar import resolve_sinks
from femtomp.lanes import place
from femtomp.lanes.liveness import boot_id, start_ticks
from femtomp.lanes.space import default_quota
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.limits import checked_levels
from femtomp.options import (
    ServerConfig,
    ServerOptions,
    check_options,
    split_limits,
)
from femtomp.settings import Settings, load
from femtomp.supervisor.adoption import Taken, Wanted, adopt, create
from femtomp.supervisor.launch import Launcher, launch
from femtomp.supervisor.pair import Pair
from femtomp.supervisor.process import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self, Unpack

    from femtomp.lanes.lock import Lock
    from femtomp.lanes.queue import Queue

SPOOL_VARIABLE: Final = "FEMTOMP_SPOOL"

_running: Server | None = None


def _stop_at_exit() -> None:
    if _running is not None and _running.is_mine():
        _running.stop()


def _forget(server: Server) -> None:
    """Take back what `start` did to this process."""
    global _running  # noqa: PLW0603 - one server a process
    atexit.unregister(_stop_at_exit)
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
    **options: Unpack[ServerOptions],
) -> Server:
    """Start a supervisor; see `femtomp.start_server`, which fills in the makers."""
    global _running  # noqa: PLW0603 - one server a process
    said = load(config, os.environ)
    sinks, level = _over(sinks, level, said, os.environ)
    spool_parent = spool_parent or _parent(said, os.environ)
    name = name or said.name
    given: dict[str, Any] = {**said.options, **options}
    options = cast("ServerOptions", given)
    check_options(options)
    attached = _attach_in_child(make_queue, make_init)
    if attached is not None:
        return attached
    if _running is not None and _running.is_mine():
        msg = f"this process already runs {_running!r}: stop() it first, or use it"
        raise AlreadyStartedError(msg)
    resolved = resolve_sinks(sinks, os.environ)
    _require_extras(resolved)
    stated = _stated_resource(said.resource, resource)
    attributes = _resource(stated, name)
    workers = _workers(options.get("worker_uid"), options.get("worker_gid"))
    parent = place.choose_parent(spool_parent, os.environ, workers)
    quota = options.setdefault(
        "spool_quota_bytes",
        default_quota(parent, in_memory=place.is_in_memory(parent)),
    )
    # Half of it: one worker alone behind a dead sink leaves room for the others.
    lane_quota = min(quota, options.get("lane_quota_bytes", quota // 2))
    options["lane_quota_bytes"] = lane_quota
    limits, others = split_limits(options, os.environ)
    told = ServerConfig(
        name=str(name or attributes["service.name"]),
        sinks=resolved,
        resource=attributes,
        level=level_number(
            os.environ.get("FEMTOMP_LEVEL", "INFO") if level is None else level
        ),
        **others,
    )
    wanted = Wanted(
        told.name,
        _guessed_from(name, stated),
        told.level,
        tuple(str(sink.name) for sink in resolved),
        {"pid": os.getpid(), "start_ticks": start_ticks(), "boot_id": boot_id()},
        workers,
        attributes,
        limits,
        checked_levels("levels", told.levels, level_number),
    )
    spool, lock, pair = _take_and_launch(parent, wanted, told)
    path = spool.path

    def forget(server: Server) -> None:
        watch(path, None)
        _forget(server)
        lock.release()

    server = Server(
        spool,
        pair,
        queue=make_queue(path, attributes),
        worker_init=make_init(path),
        on_end=forget,
    )
    watch(path, pair.tend)
    server.queue.tend = pair.tend
    os.environ[SPOOL_VARIABLE] = path
    atexit.register(_stop_at_exit)
    _running = server
    return server


def _over(
    sinks: object, level: int | str | None, said: Settings, environ: Mapping[str, str]
) -> tuple[object, int | str | None]:
    """Return sinks and level: arguments over the environment over the file."""
    if sinks is None and not environ.get("FEMTOMP_SINKS", "").strip(" ,"):
        sinks = said.sinks
    if level is None and "FEMTOMP_LEVEL" not in environ:
        level = said.level
    return sinks, level


def _parent(said: Settings, environ: Mapping[str, str]) -> str | None:
    return None if environ.get("FEMTOMP_SPOOL_PARENT") else said.spool_parent


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


def _workers(uid: int | None, gid: int | None) -> tuple[int, int] | None:
    """Return uid and gid of workers that are another user than this process, or None.

    Raises
    ------
    ConfigError
        If this process cannot make files for them, or their group is not known.
    """
    if uid is None and gid is not None:
        msg = "worker_gid needs worker_uid: say both"
        raise ConfigError(msg)
    if uid is None or uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        msg = f"worker_uid={uid}: only root can give its spool to another user"
        raise ConfigError(msg)
    if gid is None:
        import pwd

        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError as exc:
            msg = f"worker_uid={uid} has no entry in passwd: give worker_gid too"
            raise ConfigError(msg) from exc
    return uid, gid


def _require_extras(sinks: tuple[SinkOptions, ...]) -> None:
    for sink in sinks:
        if isinstance(sink, OTLPSink):
            from femtomp.sinks.otlp import require

            require(sink)


def running() -> Server | None:
    """Return the server that this process started, if it still runs."""
    return _running if _running is not None and _running.is_mine() else None


def _attach_in_child(
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
) -> Server | None:
    """Return a handle on the server of this `multiprocessing` child's parent."""
    path = os.environ.get(SPOOL_VARIABLE)
    if not path or not _is_multiprocessing_child():
        return None
    try:
        spool = Spool(path)
    except SpoolError:
        return None  # inherited, but gone
    if spool.control()[STATE] != State.RUNNING:
        spool.close()
        return None
    warnings.warn(
        "start_server() was called in a multiprocessing child, which is now attached "
        'to its parent\'s server: put the call under `if __name__ == "__main__":`',
        RuntimeWarning,
        stacklevel=4,
    )
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


class GuessedName(str):
    """A name that nobody gave; a spool of it is adopted for the same source only.

    Parameters
    ----------
    name : str
    source : str
        What it was guessed from: a script's path, a command; "": nothing that lasts.
    """

    source: str
    __slots__ = ("source",)

    def __new__(cls, name: str, source: str) -> Self:
        """Make the name, and note its source."""
        made = super().__new__(cls, name)
        made.source = source
        return made


def _guessed_from(name: str | None, stated: Mapping[str, object]) -> str | None:
    """Return what the server's name was guessed from; None if somebody said it."""
    if isinstance(name, GuessedName):
        return name.source
    if name or "service.name" in stated:
        return None
    script = (getattr(sys, "argv", None) or [""])[0]
    return str(Path(script).absolute()) if script and Path(script).is_file() else ""


def _resource(stated: Mapping[str, object], name: str | None) -> dict[str, object]:
    """Return what was stated, with a service's name in any case."""
    script = Path((getattr(sys, "argv", None) or [""])[0]).stem
    guessed = str(name or script.lstrip("-") or "python")
    return {"service.name": guessed, **stated}


def _stated_resource(
    in_file: Mapping[str, object], given: Mapping[str, object] | None
) -> dict[str, object]:
    """Merge the resource: arguments over OTEL_* over the configuration file."""
    merged = _checked(in_file)
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        word, equals, text = pair.partition("=")
        if equals and word.strip():
            merged[word.strip()] = unquote(text.strip())
    if service := os.environ.get("OTEL_SERVICE_NAME"):
        merged["service.name"] = service
    return {**merged, **_checked(given or {})}


def _checked(attributes: Mapping[str, object]) -> dict[str, object]:
    for key, value in attributes.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float, bool)):
            msg = f"resource: {key!r}: {value!r} must be str: str, number or bool"
            raise ConfigError(msg)
    return dict(attributes)
