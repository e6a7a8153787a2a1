"""Multiprocessing-safe logging for Python worker pools.

::

    worker process (any start method)     supervisor (exec'd, one per pool)

    logging, get_logger, ...              sink thread "journald" ── frames ──> journald
           │                              sink thread "otlp"     ── batches ─> collector
        capture                           sink thread "file"     ── lines ───> file
           │                              sink thread "console"  ── lines ───> stderr
        codec.wire                              ▲ each with its own cursor:
           │                                    │ read -> batch -> write -> commit
        lane.append ────> lane (segments) ──────┘
                          in the spool directory

A record is safe when the log call returns, whatever process dies next; what cannot be
kept is counted, and said.

The names below are all there is to import. Those a worker does not need are loaded at
their first use, so that `import femtomp` costs a worker next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from femtomp.errors import (
    AlreadyStartedError,
    CodecError,
    ConfigError,
    FemtompError,
    MissingExtraError,
    NoServerError,
    SpoolError,
    StartError,
    is_thrown_in,
)
from femtomp.record import Identity, Record, Resource, Scope
from femtomp.worker.carry import with_context
from femtomp.worker.context import log_context, traceparent
from femtomp.worker.handler import WorkerHandler, worker_handler
from femtomp.worker.identify import identify
from femtomp.worker.init import worker_init
from femtomp.worker.logger import Logger, get_logger

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Unpack

    from femtomp.config import (
        ConsoleSink,
        FileSink,
        HandlerSink,
        JournaldSink,
        OTLPSink,
    )
    from femtomp.lanes.queue import Queue
    from femtomp.options import ServerOptions
    from femtomp.redaction import Redaction
    from femtomp.sinks import Delivered, Refused, RetryAfter, Sink
    from femtomp.supervisor.process import Server
    from femtomp.supervisor.stats import DrainReport, LaneStats, ServerStats, SinkStats
    from femtomp.worker.executor import ProcessPoolExecutor
    from femtomp.worker.thinning import CallSiteLimit, Sampling

__all__ = [
    "AlreadyStartedError",
    "CallSiteLimit",
    "CodecError",
    "ConfigError",
    "ConsoleSink",
    "Delivered",
    "DrainReport",
    "FemtompError",
    "FileSink",
    "HandlerSink",
    "Identity",
    "JournaldSink",
    "LaneStats",
    "Logger",
    "MissingExtraError",
    "NoServerError",
    "OTLPSink",
    "ProcessPoolExecutor",
    "Queue",
    "Record",
    "Redaction",
    "Refused",
    "Resource",
    "RetryAfter",
    "Sampling",
    "Scope",
    "Server",
    "ServerStats",
    "Sink",
    "SinkStats",
    "SpoolError",
    "StartError",
    "WorkerHandler",
    "basic_config",
    "freeze_support",
    "get_logger",
    "identify",
    "log_context",
    "start_server",
    "traceparent",
    "with_context",
    "worker_handler",
    "worker_init",
]

_LATE = {
    "CallSiteLimit": "femtomp.worker.thinning",
    "ConsoleSink": "femtomp.config",
    "FileSink": "femtomp.config",
    "HandlerSink": "femtomp.config",
    "JournaldSink": "femtomp.config",
    "OTLPSink": "femtomp.config",
    "ProcessPoolExecutor": "femtomp.worker.executor",
    "Queue": "femtomp.lanes.queue",
    "Delivered": "femtomp.sinks",
    "Refused": "femtomp.sinks",
    "RetryAfter": "femtomp.sinks",
    "Sink": "femtomp.sinks",
    "Redaction": "femtomp.redaction",
    "Sampling": "femtomp.worker.thinning",
    "Server": "femtomp.supervisor.process",
    "DrainReport": "femtomp.supervisor.stats",
    "LaneStats": "femtomp.supervisor.stats",
    "ServerStats": "femtomp.supervisor.stats",
    "SinkStats": "femtomp.supervisor.stats",
}


# As `femtomp.testing.captured_records`, without an import of their own.
_MODULES = ("integrations", "otel", "testing")


def __getattr__(name: str) -> Any:
    """Load what workers do not need when it is first asked for (PEP 562)."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"femtomp.{name}")
    module = _LATE.get(name)
    if module is None:
        msg = f"module 'femtomp' has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))


def start_server(
    sinks: object = None,
    *,
    spool_parent: str | os.PathLike[str] | None = None,
    name: str | None = None,
    resource: Mapping[str, object] | None = None,
    level: int | str | None = None,
    config: object = None,
    **options: Unpack[ServerOptions],
) -> Server:
    """Start the supervisor that owns the sinks; returns when it is ready.

    Call it in the master, before its workers exist. Sets `FEMTOMP_SPOOL`, by which
    children of any start method find it, and one atexit callback that delivers what is
    there (10 s). What older callbacks log behind it is the supervisor's to deliver, in
    the rest of these 10 s; it ends by itself. Where the end of this process ends its
    container, that callback stops the server, and older ones are heard on stderr.

    Parameters
    ----------
    sinks : sink, str, or iterable of these, optional
        Objects (`FileSink("app.jsonl")`) or strings (``"console"``, ``"console:json"``,
        ``"file:app.jsonl"``, ``"journald"``, ``"otlp"``). Not given: what
        `FEMTOMP_SINKS` says, else the console.
    spool_parent : path-like, optional
        Where the spool directory is made; see the README for the default.
    name : str, optional
        Of the server and its spool; `service.name` if not given.
    resource : mapping, optional
        OpenTelemetry resource attributes, merged over `OTEL_RESOURCE_ATTRIBUTES` and
        `OTEL_SERVICE_NAME`.
    level : int or str, optional
        What `worker_init` sets in every worker; `FEMTOMP_LEVEL`, else INFO.
    config : path-like or mapping, optional
        A TOML file (`femtomp.toml`, or `pyproject.toml` for its `[tool.femtomp]`) or a
        mapping of the same shape, with any of these parameters and options, and sinks
        as strings or tables (``{type = "file", path = "app.jsonl"}``). Not given: the
        file that `FEMTOMP_CONFIG` names, if it does. Arguments win over the
        environment, that over the file.
    **options
        `linger_s` : float
            How long the supervisor stays when no process is left to serve and a sink
            still refuses; 30 seconds.
        `worker_uid`, `worker_gid` : int
            Whom the workers become, where root starts them and they drop its privileges
            (gunicorn's `user` and `group`): `lanes/` is theirs, and processes of root
            have lanes of their own, a system call or more a record. The group is the
            user's own if not given. This process's own user changes nothing.
        `grace_s` : float
            How long the supervisor serves processes that live on after it got SIGTERM
            or SIGINT; 10 seconds.
        `spool_quota_bytes` : int
            What all lanes together may take; half of what is free at the start, at most
            1 GiB, and where the spool is in memory at most a tenth of the memory limit.
            The last eighth of this and the next is for records of ERROR and above.
        `lane_quota_bytes` : int
            What one process's lane may take; half of that.
        `overflow` : {"drop_old", "drop_new", "block"}
            What happens at a quota. "drop_old": a sink that lags misses its oldest
            records, which it counts as evicted; the other sinks miss nothing.
            "drop_new": new records are dropped and counted; "block": a log call waits
            for room first. With both the slowest sink decides for all.
        `block_s` : float
            How long a log call waits with "block", at most; 1 second.
        `attribute_count_limit` : int
            Attributes of one record; 128. Those beyond are counted, in
            `dropped_attributes_count`.
        `attribute_value_length_limit`, `body_length_limit`, `stacktrace_length_limit`
            Characters of a text, or bytes; no limit but that on the whole record, 4
            MiB. The attribute `femtomp.truncated` says how long what was cut had been.
        `attribute_depth_limit` : int
            Containers in containers; 8, which is also the most.
        `exception_frames` : {"all", "application"} or tuple of str
            Which lines of a stack trace are kept: all, those of no library, or those of
            these modules and directories ("shop", "/srv/shop").
        `levels` : mapping of str to level
            What `worker_init` sets for loggers beside the root logger, and all below
            them: ``{"noisy.lib": "WARNING"}``; "OFF" for none.
        `redact` : bool or Redaction
            What is left out of records before any sink: by default the values of keys
            such as "password" and "token". False: nothing is looked at.
        `span_after_fork` : {"drop", "link", "inherit"}
            What a forked child has of the span in which its parent forked it: nothing;
            its ids as the attributes `femtomp.parent.trace_id` and `.span_id`; or the
            span itself, so that logs have its ids and spans are its children.

    Returns
    -------
    Server

    Raises
    ------
    ConfigError
        For an unknown option or a sink that cannot be built, by name.
    MissingExtraError
        For a sink whose packages are not installed.
    AlreadyStartedError
        If this process already runs one.
    SpoolError, StartError
        If there is no place for the spool, or the supervisor is not ready in 10 s.

    Examples
    --------
    >>> import femtomp, logging
    >>> with femtomp.start_server("console:json") as server:
    ...     logging.getLogger("shop").addHandler(femtomp.worker_handler())
    ...     logging.getLogger("shop").warning("low stock", extra={"item": 7})
    >>> logging.getLogger("shop").removeHandler(
    ...     femtomp.worker_handler(spool=server.spool)
    ... )
    """
    from femtomp import frozen

    frozen.refuse_second_generation()
    try:
        from femtomp.supervisor.start import start
        from femtomp.worker.channel import heed, watch
        from femtomp.worker.context import set_span_after_fork
        from femtomp.worker.sender import queue

        return start(
            sinks,
            spool_parent=spool_parent,
            name=name,
            resource=resource,
            level=level,
            config=config,
            make_queue=queue,
            make_init=_init_for,
            watch=watch,
            heed=heed,
            at_fork=set_span_after_fork,
            **options,
        )
    except (OSError, ImportError) as exc:
        if isinstance(exc, FemtompError) or is_thrown_in(exc):
            raise
        # An import needs a descriptor, too.
        raise StartError.because_of(exc) from exc


def _init_for(spool: str) -> Any:
    from functools import partial

    return partial(worker_init, spool=spool)


def freeze_support() -> None:
    """Become the supervisor, in a frozen program that was started to be it.

    A program that PyInstaller, Nuitka or cx_Freeze made has no other interpreter than
    itself: its supervisor is the program, started again. Call this first of all in such
    a program, beside `multiprocessing.freeze_support`; it returns at once everywhere
    else. `start_server` refuses to work in a frozen program that has not called it.
    What PyInstaller makes calls it by itself, by a hook that comes with femtomp.

    Examples
    --------
    >>> import femtomp, multiprocessing
    >>> if __name__ == "__main__":
    ...     multiprocessing.freeze_support()
    ...     femtomp.freeze_support()
    """
    from femtomp import frozen

    frozen.know_door()
    if frozen.is_at_door():
        from femtomp.supervisor.guardian import main_of_frozen

        main_of_frozen()


def basic_config(
    sinks: object = None,
    *,
    level: int | str | None = None,
    force: bool = False,
    **options: Any,
) -> Server:
    """Set up everything in one line: use or start a server, then log to it.

    A server that this process started is used again: running a notebook's cell twice is
    harmless. So is a parent's, or that of `femtomp run`, whose address is in
    `FEMTOMP_SPOOL`: then the arguments do not count, and `stop` of what is returned
    only flushes.

    Parameters
    ----------
    sinks, level, **options
        As for `start_server`.
    force : bool
        Remove the root logger's other handlers first.

    Returns
    -------
    Server

    Examples
    --------
    >>> import femtomp, logging
    >>> server = femtomp.basic_config("console:json")
    >>> logging.getLogger().removeHandler(femtomp.worker_handler())
    >>> server.stop().drained
    True
    """
    from femtomp.supervisor.start import attach, running
    from femtomp.worker.sender import queue

    server = running() or attach(queue, _init_for)
    if server is None:
        server = start_server(sinks, level=level, **options)
    worker_init(level, spool=server.spool, force=force)
    return server
