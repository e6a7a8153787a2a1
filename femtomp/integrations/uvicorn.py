"""uvicorn, and what uses its loggers: a log configuration, and fields of access lines.

In: uvicorn's own logging. Out: a server that the master starts and that its children
attach to, and access records with OpenTelemetry's fields. uvicorn's master never
imports the application: a factory named in the log configuration is the only code of
the user's that runs there.

    uvicorn --workers 4 --log-config log.json shop:app

    {"version": 1, "disable_existing_loggers": false,
     "handlers": {"femtomp": {"()": "femtomp.integrations.uvicorn.handler",
                              "sinks": ["console:json", "journald"]}},
     "root": {"handlers": ["femtomp"], "level": "INFO"}}

or, in a program of your own, ``uvicorn.run(app, log_config=log_config())``.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import femtomp

ACCESS: Final = "uvicorn.access"


def handler(sinks: object = None, **options: Any) -> femtomp.WorkerHandler:
    """Return femtomp's handler; start the server first, in the master.

    For ``"()"`` of a `dictConfig` that a master and its spawned or forked workers all
    run, some of them twice: a server is started once, and children attach to it.

    Parameters
    ----------
    sinks, **options
        As for `femtomp.start_server`; there "name" is the master's script if not given.

    Returns
    -------
    WorkerHandler

    Raises
    ------
    FemtompError
        As `start_server`, in the master.
    """
    if not _is_child():
        try:
            femtomp.start_server(sinks, **options)
        except femtomp.AlreadyStartedError:
            pass  # this very configuration was run before
    add_access_fields()
    return femtomp.worker_handler(missing="stderr")


def _is_child() -> bool:
    """Tell whether a pool of `multiprocessing` made this process."""
    import multiprocessing

    return multiprocessing.parent_process() is not None


def log_config(sinks: object = None, **options: Any) -> dict[str, Any]:
    """Return a log configuration for ``uvicorn.run(log_config=...)``.

    Parameters
    ----------
    sinks, **options
        As for `handler`.

    Examples
    --------
    >>> sorted(log_config("console:json")["loggers"])
    ['uvicorn', 'uvicorn.access']
    """
    factory = {"()": f"{__name__}.handler", "sinks": sinks, **options}
    passed_up = {"handlers": [], "level": "INFO", "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"femtomp": factory},
        "root": {"handlers": ["femtomp"], "level": "INFO"},
        "loggers": {"uvicorn": passed_up, ACCESS: dict(passed_up)},
    }


def add_access_fields() -> None:
    """Give the records of uvicorn's access log fields, from here on; idempotent."""
    logging.getLogger(ACCESS).addFilter(_fields)


def _fields(record: logging.LogRecord) -> bool:
    """Add to an access record what its five arguments say."""
    args = record.args
    if isinstance(args, tuple) and len(args) == 5:  # noqa: PLR2004 - uvicorn's
        client, method, path, version, status = args
        path, _, query = str(path).partition("?")
        fields = {
            "http.request.method": method,
            "url.path": path,
            "network.protocol.version": version,
            "http.response.status_code": status,
        }
        if query:
            fields["url.query"] = query
        if client:
            fields["client.address"] = str(client).rpartition(":")[0]
        record.__dict__.update(fields)
    return True
