"""`start_server` and `Server`: the master's handle on its supervisor.

In: sinks and options. Out: a running supervisor, and what can be asked of it. The handle
holds a pidfd, one pipe end and the spool; no thread. What it does to the process is one
environment variable and one atexit callback. It is the master's alone: in a forked child
`stop`, `with` and atexit do nothing.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from femtomp.config import (
    ServerConfig,
    ServerOptions,
    check_options,
    level_number,
    resolve_sinks,
)
from femtomp.errors import AlreadyStartedError, ConfigError, SpoolError
from femtomp.lanes import place
from femtomp.lanes.liveness import boot_id, start_ticks
from femtomp.lanes.spool import DEADLINE, ENGINE, ENGINE_TICKS, STATE, Spool, State
from femtomp.supervisor.launch import Supervisor, launch
from femtomp.supervisor.stats import (
    DrainReport,
    ServerStats,
    read_stats,
    wait_delivered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self, Unpack

    from femtomp.lanes.queue import Queue

# What the supervisor gets beyond a stop's own time before it is killed.
_STOP_GRACE_S: Final = 2.0
SPOOL_VARIABLE: Final = "FEMTOMP_SPOOL"

_running: Server | None = None


class Server:
    """A supervisor, its spool and its queue. Made by `start_server`.

    Attributes
    ----------
    spool : pathlib.Path
        Directory of the lanes; what workers need to find the server.
    pid : int
        Of the guardian; 0 for a handle that is only attached.
    queue : Queue
        All lanes together, with the interface of `multiprocessing.Queue`.
    worker_init : callable
        As `femtomp.worker_init`, picklable, and carrying the spool: for ``initializer=``.
    """

    def __init__(
        self,
        spool: Spool,
        config: ServerConfig | None,
        supervisor: Supervisor | None,
        *,
        queue: Queue,
        worker_init: Callable[..., None],
    ) -> None:
        self.spool: Final[Path] = Path(spool.path)
        self.queue: Final = queue
        self.worker_init: Final = worker_init
        self._spool = spool
        self._config = config
        self._supervisor = supervisor
        self._master = os.getpid()
        self._report: DrainReport | None = None

    @property
    def pid(self) -> int:
        """Of the guardian; 0 for a handle that is only attached."""
        return self._supervisor.pid if self._supervisor is not None else 0

    def __repr__(self) -> str:
        return f"<femtomp.Server pid={self.pid} spool={str(self.spool)!r}>"

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server, with the default time."""
        self.stop()

    def _is_mine(self) -> bool:
        return self._supervisor is not None and os.getpid() == self._master

    def stats(self) -> ServerStats:
        """Return what became of all records, read from the files.

        Raises
        ------
        SpoolError
            If the spool is gone, as after a `stop()` that drained everything.
        """
        if not self._spool.exists():
            msg = f"the spool {self.spool} is gone: the server was stopped"
            raise SpoolError(2, msg)
        return read_stats(self._spool)

    def flush(self, timeout: float | None = 5.0) -> bool:
        """Wait until every sink is done with all records whose call has returned.

        Parameters
        ----------
        timeout : float or None
            Seconds; None for no limit.

        Returns
        -------
        bool
            False if the time was over before.
        """
        if not self._spool.exists():
            return self._report is not None and self._report.drained
        return wait_delivered(self._spool, timeout)

    def stop(self, timeout: float | None = 10.0) -> DrainReport:
        """Deliver what the lanes hold, end the supervisor and say what was left.

        Idempotent. In a forked child it does nothing; on an attached handle it flushes.

        Parameters
        ----------
        timeout : float or None
            Seconds for the delivery; None for no limit.

        Returns
        -------
        DrainReport
        """
        begun = time.monotonic()
        if self._supervisor is None:
            drained = self.flush(timeout)
            return DrainReport(drained, duration_s=time.monotonic() - begun)
        if not self._is_mine():
            return DrainReport()
        if self._report is None:
            self._end(self._supervisor, timeout)
            self._report = self._reported(time.monotonic() - begun)
            self._let_go(self._supervisor)
        return self._report

    def _end(self, supervisor: Supervisor, timeout: float | None) -> None:
        try:
            deadline_ns = (
                0 if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
            )
            self._spool.set_control(
                DEADLINE, max(deadline_ns, 1) if timeout is not None else 0
            )
            self._spool.set_control(STATE, State.STOPPING)
        except OSError:
            pass  # the spool was deleted: there is nothing to drain
        if not _signal(supervisor.pidfd, signal.SIGTERM):
            self._signal_engine(signal.SIGTERM)  # the guardian is dead: ask its engine
        patience = None if timeout is None else timeout + _STOP_GRACE_S
        if not self._wait_ended(supervisor, patience):
            _signal(supervisor.pidfd, signal.SIGKILL)
            self._signal_engine(signal.SIGKILL)

    def _signal_engine(self, number: signal.Signals) -> None:
        control = self._spool.control()
        if control[ENGINE] and start_ticks(control[ENGINE]) == control[ENGINE_TICKS]:
            os.kill(control[ENGINE], number)

    def _wait_ended(self, supervisor: Supervisor, patience: float | None) -> bool:
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # A pidfd is readable when its process has ended, whoever reaps it.
            ended = select.select([supervisor.pidfd], [], [], left)[0]
            if not ended:
                return False
            control = self._spool.control()
            if (
                start_ticks(control[ENGINE]) != control[ENGINE_TICKS]
                or not control[ENGINE]
            ):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.005)

    def _reported(self, duration_s: float) -> DrainReport:
        if not self._spool.exists():
            return DrainReport(drained=False, duration_s=duration_s)
        stats = read_stats(self._spool)
        pending = {name: sink.pending for name, sink in stats.sinks.items()}
        drained = not any(pending.values())
        if drained:
            self._spool.remove()
        left = None if drained else self.spool
        return DrainReport(drained, pending, stats.dropped, left, duration_s)

    def _let_go(self, supervisor: Supervisor) -> None:
        global _running  # noqa: PLW0603 - one server a process
        atexit.unregister(_stop_at_exit)
        if os.environ.get(SPOOL_VARIABLE) == str(self.spool):
            del os.environ[SPOOL_VARIABLE]
        os.close(supervisor.pidfd)
        os.close(supervisor.lifetime)
        if _running is self:
            _running = None


def _signal(pidfd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _stop_at_exit() -> None:
    if _running is not None and _running._is_mine():  # noqa: SLF001
        _running.stop()


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
    **options: Unpack[ServerOptions],
) -> Server:
    """Start a supervisor; see `femtomp.start_server`, which fills in the makers."""
    global _running  # noqa: PLW0603 - one server a process
    if config is not None:
        msg = "config= is not supported by this version: pass options as arguments"
        raise ConfigError(msg)
    check_options(options)
    attached = _attach_in_child(make_queue, make_init)
    if attached is not None:
        return attached
    if _running is not None and _running._is_mine():  # noqa: SLF001
        msg = f"this process already runs {_running!r}: stop() it first, or use it"
        raise AlreadyStartedError(msg)
    resolved = resolve_sinks(sinks, os.environ)
    attributes = _resource(resource, name)
    told = ServerConfig(
        name=name or str(attributes["service.name"]),
        sinks=resolved,
        resource=attributes,
        level=level_number(
            os.environ.get("FEMTOMP_LEVEL", "INFO") if level is None else level
        ),
        **options,
    )
    spool = place.create(
        place.choose_parent(spool_parent, os.environ),
        told.name,
        level=told.level,
        sinks=tuple(str(sink.name) for sink in resolved),
        master={"pid": os.getpid(), "start_ticks": start_ticks(), "boot_id": boot_id()},
    )
    try:
        supervisor = launch(told, spool)
    except BaseException:
        spool.remove()
        spool.close()
        raise
    path = spool.path
    server = Server(
        spool, told, supervisor,
        queue=make_queue(path, attributes), worker_init=make_init(path),
    )  # fmt: skip
    os.environ[SPOOL_VARIABLE] = path
    atexit.register(_stop_at_exit)
    _running = server
    return server


def running() -> Server | None:
    """Return the server that this process started, if it still runs."""
    return _running if _running is not None and _running._is_mine() else None  # noqa: SLF001


def _attach_in_child(
    make_queue: Callable[[str, Mapping[str, Any] | None], Queue],
    make_init: Callable[[str], Callable[..., None]],
) -> Server | None:
    """Return a handle on the server of this `multiprocessing` child's parent."""
    process = sys.modules.get("multiprocessing.process")
    parent = getattr(process, "parent_process", None)
    path = os.environ.get(SPOOL_VARIABLE)
    if not path or parent is None or parent() is None:
        return None
    try:
        spool = Spool(path)
    except SpoolError:
        return None  # inherited, but gone
    if spool.control()[STATE] != State.RUNNING:
        spool.close()
        return None
    warnings.warn(
        "start_server() was called in a multiprocessing child, which is now attached to "
        'its parent\'s server: put the call under `if __name__ == "__main__":`',
        RuntimeWarning,
        stacklevel=4,
    )
    return Server(
        spool, None, None, queue=make_queue(path, None), worker_init=make_init(path)
    )


def _resource(
    given: Mapping[str, object] | None, name: str | None
) -> dict[str, object]:
    """Merge the resource: arguments over OTEL_* over what can be guessed."""
    merged: dict[str, object] = {}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            merged[key.strip()] = unquote(value.strip())
    if service := os.environ.get("OTEL_SERVICE_NAME"):
        merged["service.name"] = service
    for key, value in (given or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float, bool)):
            msg = f"resource: {key!r} must be a str with a str, number or bool, not {value!r}"
            raise ConfigError(msg)
        merged[key] = value
    script = Path((getattr(sys, "argv", None) or [""])[0]).stem
    merged.setdefault("service.name", name or script.lstrip("-") or "python")
    return merged
