"""hypercorn: one server for its master and workers, and access records with fields.

In: hypercorn's configuration. Out: a femtomp server in the master, workers that log to
it from their first line on, and its error and access log as records. hypercorn's master
imports no application and sets up no logging, whatever `--log-config` says: a
configuration file in Python is the only code of the user's that runs there.

    # conf.py, for: hypercorn -w 4 -c file:conf.py shop:app
    from femtomp.integrations import hypercorn
    hypercorn.install(globals(), ["journald", "file:shop.jsonl"])
"""

from __future__ import annotations

import logging
from typing import Any, Final

from hypercorn.logging import Logger as _Logger

import femtomp
from femtomp.integrations import asgi, http, pool

_ACCESS: Final = "hypercorn.access"
_ERROR: Final = "hypercorn.error"


def install(namespace: dict[str, Any], sinks: object = None, **options: Any) -> None:
    """Start the server, and have hypercorn's workers log to it.

    For the last line of a configuration file in Python. A `logger_class` that the file
    has is kept. Idempotent.

    Parameters
    ----------
    namespace : dict
        The file's ``globals()``.
    sinks, **options
        As for `femtomp.start_server`.

    Raises
    ------
    FemtompError
        As `femtomp.start_server`.
    TypeError
        If `namespace` is no dict.
    """
    if not isinstance(namespace, dict):
        msg = f"install: give the file's globals(), not {namespace!r}"
        raise TypeError(msg)
    try:
        femtomp.start_server(sinks, **options)
    except femtomp.AlreadyStartedError:
        pass  # this very line was run before
    namespace.setdefault("logger_class", Logger)
    pool.install()  # workers are spawned, and import the application first of all


class Logger(_Logger):  # type: ignore[misc]
    """hypercorn's `logger_class`.

    An `errorlog` or `accesslog` of ``"-"``, or none, means femtomp's sinks; a path is
    written by hypercorn itself, besides.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.error_logger: logging.Logger = _passing_up(
            self.error_logger, _ERROR, config
        )
        self.access_logger: logging.Logger = _passing_up(
            self.access_logger, _ACCESS, config
        )
        femtomp.worker_init()

    async def access(self, request: Any, response: Any, request_time: float) -> None:
        """Log one request."""
        fields = http.from_environ(asgi.environ_of(request))
        fields["http.server.request.duration"] = request_time
        if response is not None:
            fields["http.response.status_code"] = response["status"]
            for name, value in response.get("headers", ()):
                if name.lower() == b"content-length" and value.isdigit():
                    fields["http.response.body.size"] = int(value)
        self.access_logger.info(
            "%s %s %s",
            fields.get("http.request.method"),
            fields.get("url.path"),
            fields.get("http.response.status_code"),
            extra=fields,
        )


def _passing_up(found: logging.Logger | None, name: str, config: Any) -> logging.Logger:
    """Return a logger of hypercorn's without its stream, that the root logger hears."""
    logger = found or logging.getLogger(name)
    for handler in logger.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logger.removeHandler(handler)
    logger.propagate = True
    if config.loglevel is not None:
        logger.setLevel(config.loglevel.upper())
    return logger
