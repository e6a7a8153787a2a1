"""Celery: one server for a worker's main process and all its pool, whatever the pool.

In: Celery's signals. Out: a femtomp server in the main process (of a worker, or of
beat), its handler on the root logger, names for the pool's processes, and the task's
id, name, queue and retries on every record that is made while a task runs, by whatever
library.

    app = Celery("shop")
    femtomp.integrations.celery.install(app, ["journald"])

Importing this in a web process that only sends tasks does nothing but pass its trace on
to them. The server starts in `setup_logging`: the only signal at which an error stops
the worker, and the one that keeps Celery from taking the root logger over. Forked
children inherit the handler, spawned ones are sent the signal again and attach.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from celery import signals

import femtomp

if TYPE_CHECKING:
    from collections.abc import Mapping

    Running = tuple[str, int]

_TRACEPARENT: Final = "traceparent"
# Where Celery says what becomes of tasks, be they running in this process or not.
_ABOUT_TASKS: Final = (
    "celery.app.trace",
    "celery.worker.request",
    "celery.worker.strategy",
)
_log: Final = logging.getLogger("femtomp.celery")


class _Worker:
    """What is known in this process: of a worker, of beat, or of whoever sends."""

    sinks: object = None
    options: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    server: femtomp.Server | None = None
    node: str | None = None
    # What was entered, to be left when the task has ended. By thread or greenlet, too:
    # a broker may deliver a task again while it runs.
    tasks: dict[Running, femtomp.log_context] = {}  # noqa: RUF012 - of this process


_worker: Final = _Worker()


def install(app: Any, sinks: object = None, **options: Any) -> None:
    """Log to femtomp in Celery's workers and beat.

    Call it once where the app is made, at module level. It connects receivers of
    signals and does nothing else; calling it again changes sinks and options only.
    Celery then neither touches the root logger nor redirects stdout and stderr.

    Parameters
    ----------
    app : celery.Celery
        The application; its name is the server's if none is given.
    sinks, **options
        As for `femtomp.start_server`; `level` is that of ``--loglevel`` if not given.

    Raises
    ------
    TypeError
        If `app` is no Celery application.

    Examples
    --------
    >>> from celery import Celery
    >>> app = Celery("shop")
    >>> install(app, "console:json")
    """
    if not hasattr(app, "conf") or not hasattr(app, "tasks"):
        msg = f"install: give the Celery application, not {app!r}"
        raise TypeError(msg)
    _worker.sinks = sinks
    _worker.options = {"name": app.main or "celery", **options}
    for name, receiver in _RECEIVERS.items():
        # By this id a signal knows a receiver that it has already.
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False, dispatch_uid=f"femtomp.{name}")
    femtomp.identify(_who)


def _set_up_logging(
    loglevel: int | None = None, logfile: object = None, **_: Any
) -> None:
    """Start the server or, in a child that was spawned, attach to it."""
    if not _is_pool_child() and not (_worker.server and _worker.server.is_mine()):
        options = {"level": loglevel or None, **_worker.options}
        _worker.server = femtomp.start_server(_worker.sinks, **options)
    femtomp.worker_init()
    for name in _ABOUT_TASKS:
        logging.getLogger(name).addFilter(_name_task)
    _hear_billiard(loglevel)
    if logfile and not _is_pool_child():
        _log.warning(
            "Celery's --logfile is not used: %s gets no records of this process. "
            'femtomp writes to its own sinks; add "file:PATH" to them for a file',
            logfile,
        )


def _hear_billiard(loglevel: int | None) -> None:
    """Add the handler to billiard's logger, which does not propagate.

    It says what a process of the pool died of. The rest of what it says, of locks and
    queues, is left out as Celery does: unless the variable MP_LOG is set.
    """
    from billiard.util import get_logger

    handler, logger = femtomp.worker_handler(missing="stderr"), get_logger()
    if handler not in logger.handlers:
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel((os.environ.get("MP_LOG") and loglevel) or logging.ERROR)


def _put_back(**_: Any) -> None:
    """Put the handler back if a `setup_logging` of the user's has taken it away."""
    root, handler = logging.getLogger(), femtomp.worker_handler(missing="stderr")
    if handler.spool is not None and handler not in root.handlers:
        root.addHandler(handler)


def _begin_process(**_: Any) -> None:
    """Set up a process of the pool, so that its tasks hear of their time limits."""
    _put_back()
    # A LogRecord that asks `multiprocessing` for the process's name takes any Exception
    # for a failure of that, a soft time limit too: one in 200 that strike in a call.
    # femtomp's records have the name without it.
    logging.logMultiprocessing = False


def _name_task(record: logging.LogRecord) -> bool:
    """Give what the main process says about a task the task's fields."""
    data = record.__dict__.get("data")
    if isinstance(data, dict):
        told = {"celery.task.id": data.get("id"), "celery.task.name": data.get("name")}
        record.__dict__.update(_known(told))
    return True


def _is_pool_child() -> bool:
    return _pool_process() is not None


def _pool_process() -> Any:
    """Return billiard's object for this process if it is a child; None otherwise."""
    module = sys.modules.get("billiard.process")
    process = module.current_process() if module is not None else None
    # While a spawned child imports the application it is marked, and has no name yet.
    if getattr(process, "_inheriting", False) or getattr(process, "_parent_pid", None):
        return process
    return None


def _who() -> dict[str, Any]:
    """Name the main process after its node, a child as billiard does, with its slot."""
    told: dict[str, Any] = {}
    if _worker.node:
        told["celery.node"] = _worker.node
    process = _pool_process()
    if process is None:
        if _worker.node and _worker.server is not None and _worker.server.is_mine():
            told["femtomp.worker.name"] = _worker.node
        return told
    told["femtomp.worker.name"] = process.name
    if (slot := getattr(process, "index", None)) is not None:
        told["celery.worker.slot"] = slot
    return told


def _note_node(sender: str | None = None, **_: Any) -> None:
    _worker.node = sender or _worker.node


def _begin_task(task_id: str, task: Any, **_: Any) -> None:
    """Put the task's fields and its trace on every record of this thread."""
    fields = _fields_of_request(task.name, task.request)
    header = getattr(task.request, _TRACEPARENT, None)
    context = femtomp.log_context(**fields).traced(header)
    context.__enter__()
    _worker.tasks[_running(task_id)] = context


def _end_task(task_id: str, **_: Any) -> None:
    """Take them back: sent for every task that began and whose process lives on."""
    context = _worker.tasks.pop(_running(task_id), None)
    if context is not None:
        context.__exit__(None, None, None)


def _running(task_id: str) -> Running:
    return task_id, threading.get_ident()


def _fields_of_request(name: str, request: Any) -> dict[str, Any]:
    delivery = getattr(request, "delivery_info", None) or {}
    return _known({
        "celery.task.id": getattr(request, "id", None),
        "celery.task.name": name,
        "celery.task.root_id": getattr(request, "root_id", None),
        "celery.task.parent_id": getattr(request, "parent_id", None),
        "celery.task.retries": getattr(request, "retries", None),
        "celery.task.queue": delivery.get("routing_key"),
    })  # fmt: skip


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _say_failure(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
    """Say a failure that the task's own process could not: it was killed."""
    if task_id and _running(task_id) not in _worker.tasks:
        kind = type(exception).__name__
        fields = {**_of(sender, task_id), "error.type": kind}
        _log.error("task %s failed: %s", task_id, exception, extra=fields)


def _say_retry(sender: Any, request: Any, reason: object = None, **_: Any) -> None:
    if _running(request.id) not in _worker.tasks:
        fields = _fields_of_request(sender.name, request)
        _log.warning("task %s is tried again: %s", request.id, reason, extra=fields)


def _say_revoked(
    sender: Any, request: Any, *, terminated: bool = False, **_: Any
) -> None:
    fields = _of(sender, request.id)
    how = "terminated" if terminated else "revoked"
    _log.warning("task %s was %s", request.id, how, extra=fields)


def _of(sender: Any, task_id: str) -> dict[str, Any]:
    name = getattr(sender, "name", None)
    return _known({"celery.task.id": task_id, "celery.task.name": name})


def _pass_trace_on(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Send the sender's trace along, unless an instrumentation has done so."""
    if headers is not None and _TRACEPARENT not in headers:
        header = femtomp.traceparent()
        if header is not None:
            headers[_TRACEPARENT] = header


_RECEIVERS: Final = {
    "setup_logging": _set_up_logging,
    "celeryd_init": _note_node,
    "celeryd_after_setup": _put_back,
    "worker_process_init": _begin_process,
    "beat_init": _put_back,
    "before_task_publish": _pass_trace_on,
    "task_prerun": _begin_task,
    "task_postrun": _end_task,
    "task_failure": _say_failure,
    "task_retry": _say_retry,
    "task_revoked": _say_revoked,
}
