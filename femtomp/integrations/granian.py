"""granian: a log configuration that starts the server, and fields of access lines.

In: granian's own logging. Out: as for uvicorn. granian's master never imports the
application, but it takes its log configuration, as each worker does:

    granian --workers 4 --access-log --log-config log.json shop:app

    {"handlers": {"femtomp": {"()": "femtomp.integrations.granian.handler",
                              "sinks": ["console:json", "journald"]}},
     "root": {"handlers": ["femtomp"], "level": "INFO"},
     "loggers": {"_granian": {}, "granian.access": {}}}

The last line is needed: granian's own loggers have handlers that would be missing here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from femtomp.integrations import http, uvicorn

if TYPE_CHECKING:
    import femtomp

ACCESS: Final = "granian.access"


def handler(sinks: object = None, **options: Any) -> femtomp.WorkerHandler:
    """Return femtomp's handler; start the server first, in the master.

    Parameters, return value and errors are those of `femtomp.integrations.uvicorn`'s.
    """
    logging.getLogger(ACCESS).addFilter(_fields)
    return uvicorn.handler(sinks, **options)


def log_config(sinks: object = None, **options: Any) -> dict[str, Any]:
    """Return a log configuration for ``granian.Granian(log_dictconfig=...)``.

    Parameters
    ----------
    sinks, **options
        As for `handler`.

    Examples
    --------
    >>> sorted(log_config("console:json")["loggers"])
    ['_granian', 'granian.access']
    """
    made = uvicorn.log_config(sinks, **options)
    made["handlers"]["femtomp"]["()"] = f"{__name__}.handler"
    made["loggers"] = {"_granian": {}, ACCESS: {"level": "INFO"}}
    return made


def _fields(record: logging.LogRecord) -> bool:
    """Add to an access record what its mapping says."""
    said = record.args
    if isinstance(said, dict) and "dt_ms" in said:
        asked = http.from_environ({
            "REQUEST_METHOD": said.get("method"),
            "PATH_INFO": said.get("path"),
            "QUERY_STRING": said.get("query_string"),
            "wsgi.url_scheme": said.get("scheme"),
            "SERVER_PROTOCOL": said.get("protocol"),
            "REMOTE_ADDR": said.get("addr"),
        })  # fmt: skip
        asked["http.response.status_code"] = said.get("status")
        asked["http.server.request.duration"] = said["dt_ms"] / 1000
        record.__dict__.update(asked)
    return True
