"""gunicorn: one server for the master and all workers, whatever their class.

In: gunicorn's configuration and hooks. Out: a femtomp server in the master, its handler
on the loggers of master and workers, names for them ("master", "worker-3" by gunicorn's
age of a worker, which it never uses twice), and records of requests, of workers that
ended and of requests that timed out. Nothing in the application knows of it.

    # gunicorn.conf.py: the last line
    from femtomp.integrations import gunicorn
    gunicorn.install(globals(), ["journald", "file:shop.jsonl"])

or no line at all, with sinks from `FEMTOMP_SINKS`:

    gunicorn --logger-class femtomp.integrations.gunicorn.Logger shop:app

State is kept here and not in the configuration file, which is executed anew, as another
module, at each reload (HUP). The server starts when gunicorn sets up its logger: before
that, `--daemon` has not forked yet; after it, `--preload` imports the application, and
only then comes `on_starting`. Its own atexit stops it: gunicorn may log behind
`on_exit`, when a worker that it killed is reaped. A second master (USR2) has a server
of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextvars import ContextVar
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from gunicorn.glogging import Logger as _Logger
from gunicorn.instrument.statsd import Statsd as _Statsd

import femtomp
from femtomp.integrations import http, uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Self

_LOGGERS: Final = ("gunicorn.error", "gunicorn.access")
_UVICORNS: Final = ("uvicorn.error", uvicorn.ACCESS)
_BEGAN: Final = "femtomp_began"
_error_log: Final = logging.getLogger("gunicorn.error")
# The line that gunicorn itself would write of the request that is being logged.
_access_line: Final[ContextVar[str | None]] = ContextVar("access_line", default=None)


class _Pool:
    """What is known in this process, master or worker."""

    sinks: object = None
    options: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    server: femtomp.Server | None = None
    # What it was asked for last: a reload may say something else.
    asked: object = None
    # In a worker: itself. In the master: the one that was forked last.
    worker: Any = None
    # A worker's, in the order they came: by their ids, as they may have no hash.
    requests: dict[int, Any] = {}  # noqa: RUF012 - of this process


_pool: Final = _Pool()


def install(namespace: dict[str, Any], sinks: object = None, **options: Any) -> None:
    """Log to femtomp in the master and in every worker.

    For the last line of a ``gunicorn.conf.py``. Hooks and a `logger_class` that the
    file has are kept and called as well. Idempotent; what a reload (HUP) changes here
    takes effect with the next master (USR2, or a restart), and a record says so.

    Parameters
    ----------
    namespace : dict
        The file's ``globals()``.
    sinks, **options
        As for `femtomp.start_server`. `name` is gunicorn's `proc_name` if not given,
        else the application's module; `worker_uid` and `worker_gid` are `user` and
        `group`.

    Raises
    ------
    TypeError
        If `namespace` is no dict.

    Examples
    --------
    >>> config = {"workers": 4}
    >>> install(config, "console:json")
    >>> config["logger_class"]
    'femtomp.integrations.gunicorn.Logger'
    """
    if not isinstance(namespace, dict):
        msg = f"install: give the file's globals(), not {namespace!r}"
        raise TypeError(msg)
    _pool.sinks, _pool.options = sinks, options
    namespace.setdefault("logger_class", f"{__name__}.Logger")
    # The first hook of all, for a logger class of the user's.
    theirs = namespace.get("nworkers_changed")

    def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
        _set_up(server.cfg)
        if theirs is not None:
            theirs(server, new_value, old_value)

    namespace["nworkers_changed"] = nworkers_changed


class Logger(_Logger):  # type: ignore[misc]
    """gunicorn's `logger_class`: its error and access log as records with fields.

    An `errorlog` or `accesslog` of ``"-"`` means femtomp's sinks; a path is written by
    gunicorn itself, besides, in the `access_log_format`. `logconfig` and its like are
    respected. With a `statsd_host`, gunicorn's metrics are sent there, as without
    femtomp.
    """

    # gunicorn thinks so only if it has a file or stream of its own to write to.
    access_log_enabled = True
    # Whether a file or syslog of gunicorn's own is to have its line.
    _has_lines = False

    def __new__(cls, cfg: Any = None) -> Self:
        """Return a logger that sends metrics, too, where a `statsd_host` is set.

        gunicorn does so for its own class only: it takes another one in its place.
        """
        with_metrics = cls is Logger and getattr(cfg, "statsd_host", None) is not None
        made: Self = super().__new__(_StatsdLogger if with_metrics else cls)
        return made

    def setup(self, cfg: Any) -> None:
        """Set up the loggers; called at the start and at each reload."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            for handler in logger.handlers[:]:
                if type(handler) is logging.StreamHandler and _is_gunicorns(handler):
                    logger.removeHandler(handler)
        self._has_lines = False
        for handler in self.access_log.handlers:
            if _is_gunicorns(handler):
                handler.setFormatter(_AccessFormatter(handler.formatter))
                self._has_lines = True
        _set_up(cfg)

    def access(
        self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta
    ) -> None:
        """Log one request; gunicorn calls it when the response has been sent."""
        if not self.access_log.isEnabledFor(logging.INFO):
            return
        began = getattr(req, _BEGAN, None)
        duration_s = _seconds(request_time)
        if "PATH_INFO" not in environ and began is not None:
            # The request failed or timed out, and gunicorn made this environ after it:
            # the time is not that of the request, and headers are missing.
            duration_s = time.monotonic() - began
        fields = http.from_environ({**_headers(req), **environ})
        status = http.status_code(resp.status)
        fields["http.server.request.duration"] = duration_s
        if status is not None:
            fields["http.response.status_code"] = status
        if (sent := getattr(resp, "sent", None)) is not None:
            fields["http.response.body.size"] = sent
        line = self._line(resp, req, environ, request_time) if self._has_lines else None
        token = _access_line.set(line)
        try:
            self.access_log.info(
                "%s %s %s",
                fields.get("http.request.method"),
                fields.get("url.path"),
                status,
                extra=fields,
            )
        finally:
            _access_line.reset(token)

    def _line(self, *request: Any) -> str | None:
        """Return the line that gunicorn would log, for its own files and syslog."""
        try:
            atoms = self.atoms_wrapper_class(self.atoms(*request))
            return str(self.cfg.access_log_format % atoms)
        except (AttributeError, LookupError, TypeError, ValueError):
            # As gunicorn does, which knows no format that is wrong at the start.
            self.exception("access_log_format %r failed", self.cfg.access_log_format)
            return None


class _StatsdLogger(Logger, _Statsd):  # type: ignore[misc]
    """The same for a gunicorn with a `statsd_host`."""

    def access(
        self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta
    ) -> None:
        """Log one request, and send the metrics that gunicorn's own class sends."""
        Logger.access(self, resp, req, environ, request_time)
        self.timer("gunicorn.request.duration", round(_seconds(request_time) * 1e3, 3))
        self.increment("gunicorn.requests", 1)
        if (status := http.status_code(resp.status)) is not None:
            self.increment(f"gunicorn.request.status.{status}", 1)


class _AccessFormatter(logging.Formatter):
    """Write gunicorn's own line where there is one; else as the formatter before."""

    def __init__(self, other: logging.Formatter | None) -> None:
        super().__init__()
        self._other = other or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = _access_line.get()
        if line is not None:
            record = copy(record)
            record.msg, record.args = line, None
        return self._other.format(record)


def _seconds(time_taken: Any) -> float:
    """Return a timedelta as seconds, or what gunicorn's asgi worker has: no days."""
    days = getattr(time_taken, "days", 0)
    return float(days * 86_400 + time_taken.seconds + time_taken.microseconds / 1e6)


def _is_gunicorns(handler: logging.Handler) -> bool:
    return bool(getattr(handler, "_gunicorn", False))


def _headers(req: Any) -> dict[str, str]:
    """Return a request's headers as an environ has them."""
    headers = getattr(req, "headers", req)
    pairs = headers.items() if hasattr(headers, "items") else headers or ()
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in pairs}


def _set_up(cfg: Any) -> None:
    """Start the server if there is none yet, and have all loggers and hooks use it."""
    _start(cfg)
    handler = femtomp.worker_handler(missing="stderr")
    if not (cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json):
        femtomp.worker_init()
    elif not _has_handler(logging.getLogger()):
        logging.getLogger().addHandler(handler)
    for name in _LOGGERS:
        # Their own, where they do not propagate: uvicorn's worker class takes them
        # over from there.
        _have_heard(logging.getLogger(name), handler)
    for name, hook in _HOOKS.items():
        _compose(cfg, name, hook)


def _have_heard(logger: logging.Logger, handler: logging.Handler) -> None:
    """Add the handler to a logger whose records would come to none of its kind."""
    above: logging.Logger | None = logger
    while above is not None:
        if _has_handler(above):
            return
        above = above.parent if above.propagate else None
    # Not `addHandler`: uvicorn's worker class shares the list of gunicorn's logger.
    logger.handlers = [*logger.handlers, handler]


def _has_handler(logger: logging.Logger) -> bool:
    return any(isinstance(each, femtomp.WorkerHandler) for each in logger.handlers)


def _start(cfg: Any) -> None:
    options = {"worker_uid": cfg.uid, "worker_gid": cfg.gid, **_pool.options}
    if not (options.get("config") or os.environ.get("FEMTOMP_CONFIG")):
        options.setdefault("name", str(cfg.proc_name).partition(":")[0])
    asked = (_pool.sinks, options)
    if _pool.server is not None and _pool.server.is_mine():
        if asked != _pool.asked:
            _pool.asked = asked
            _error_log.warning(
                "femtomp goes on with the sinks and options it was started with: "
                "those of this reload need a new master (USR2, or a restart)"
            )
        return
    try:
        _pool.server = femtomp.start_server(_pool.sinks, **options)
    except femtomp.FemtompError as exc:
        # The one that gunicorn prints as a line, before it exits with 1.
        msg = f"femtomp: {exc}"
        raise RuntimeError(msg) from exc
    _pool.asked = asked
    femtomp.identify(_who)


def _who() -> dict[str, Any]:
    """Say who this process is: gunicorn's hooks come after a worker's first record."""
    worker = _pool.worker
    if worker is not None and worker.pid == os.getpid():
        age = worker.age
        return {"femtomp.worker.name": f"worker-{age}", "gunicorn.worker.age": age}
    if _pool.server is not None and _pool.server.is_mine():
        return {"femtomp.worker.name": "master"}
    return {}


def _compose(cfg: Any, name: str, ours: Callable[..., None]) -> None:
    """Call a function of ours before a hook of the user's."""
    setting = cfg.settings[name]
    theirs = setting.get()
    if getattr(theirs, "is_femtomps", False):
        return

    def both(*args: Any) -> None:
        ours(*args)
        theirs(*args)

    both.is_femtomps = True  # type: ignore[attr-defined]
    # Not by `cfg.set`, which counts parameters; what it does besides is done already.
    setting.value = both


def _pre_fork(master: Any, worker: Any) -> None:
    _be_heard(master)  # an application that was loaded in the master, --preload
    _pool.worker = worker


def _be_heard(_: Any) -> None:
    """Enable the loggers that an application's `dictConfig` disables by default."""
    for name in _LOGGERS:
        logging.getLogger(name).disabled = False


def _post_worker_init(worker: Any) -> None:
    """Put the handler back if the application's own set-up has taken it away."""
    _be_heard(worker)
    handler = femtomp.worker_handler(missing="stderr")
    if not _has_handler(logging.getLogger()):
        logging.getLogger().addHandler(handler)
    if "uvicorn" in sys.modules:  # a worker class of its own, and its own access log
        uvicorn.add_access_fields()
        for name in _UVICORNS:
            _have_heard(logging.getLogger(name), handler)


def _pre_request(_: Any, req: Any) -> None:
    _pool.requests[id(req)] = req
    try:
        setattr(req, _BEGAN, time.monotonic())
    except AttributeError:
        pass  # a parser's object without room: gunicorn's own time is taken


def _post_request(_: Any, req: Any, *__: Any) -> None:
    _pool.requests.pop(id(req), None)


def _worker_abort(_: Any) -> None:
    """Say which requests a worker was busy with when its time was over."""
    for req in list(_pool.requests.values()):
        fields = http.from_environ({
            "REQUEST_METHOD": getattr(req, "method", None),
            "RAW_URI": getattr(req, "uri", None),
            "QUERY_STRING": getattr(req, "query", None),
            **_headers(req),
        })  # fmt: skip
        waited_s = time.monotonic() - getattr(req, _BEGAN, time.monotonic())
        fields |= {"error.type": "timeout", "http.server.request.duration": waited_s}
        method, path = fields.get("http.request.method"), fields.get("url.path")
        _error_log.error(
            "request timed out after %.3f s: %s %s", waited_s, method, path,
            extra=fields,
        )  # fmt: skip


def _child_exit(_: Any, worker: Any) -> None:
    fields = {"gunicorn.worker.age": worker.age, "gunicorn.worker.pid": worker.pid}
    _error_log.info("Worker-%s (pid:%s) has ended", *fields.values(), extra=fields)


_HOOKS: Final[dict[str, Callable[..., None]]] = {
    "on_starting": _be_heard,
    "pre_fork": _pre_fork,
    "post_worker_init": _post_worker_init,
    "pre_request": _pre_request,
    "post_request": _post_request,
    "worker_abort": _worker_abort,
    "child_exit": _child_exit,
}
