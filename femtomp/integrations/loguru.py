"""loguru in front of femtomp: a sink, and the way from `logging` to loguru.

In: loguru's messages, in the caller's thread. Out: records in this process's lane, with
``extra`` as fields with their types, and exception, level, file, line and function as
loguru had them.

    from loguru import logger
    from femtomp.integrations.loguru import sink

    logger.remove()  # loguru's own handler, which would print each message once more
    logger.add(sink, format="{message}", catch=False)

Without `enqueue`: a record is safe when the call returns, and a queue is what it would
be lost in. The format is not used, a short one is cheap. Without `catch`: the sink
raises nothing, and what a signal handler throws in (Celery's soft time limit) loguru
would print and take for its own.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import femtomp

if TYPE_CHECKING:
    import loguru

# Where femtomp's handler looks for fields that may have names of a LogRecord's own.
_FIELDS: Final = "femtomp_fields"
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def sink(message: loguru.Message) -> None:
    """Hand a message to the femtomp server of this process; to stderr without one.

    Levels and filters are loguru's, ``logger.add(sink, level="INFO")``, and the
    server's level counts besides, by the logger's name, as `Server.set_level` has it.
    """
    handler = femtomp.worker_handler(missing="stderr")
    given = message.record
    if handler.is_heard(given["name"] or "", given["level"].no):
        handler.handle(_log_record(given))


def _log_record(given: Any) -> logging.LogRecord:
    exception = given["exception"]
    record = logging.LogRecord(
        given["name"] or "", given["level"].no, given["file"].path, given["line"],
        given["message"], None, tuple(exception) if exception else None,
        given["function"],
    )  # fmt: skip
    record.levelname = given["level"].name
    record.thread, record.threadName = given["thread"].id, given["thread"].name
    if given["process"].id != record.process:  # with `enqueue`, after all
        record.process, record.processName = given["process"].id, given["process"].name
        record.created = given["time"].timestamp()
    if _OWN.isdisjoint(given["extra"]):
        record.__dict__.update(given["extra"])
    else:
        record.__dict__[_FIELDS] = given["extra"]
    return record


class InterceptHandler(logging.Handler):
    """Gives what is logged by `logging` to loguru, for those who want one front end.

    ``logging.basicConfig(handlers=[InterceptHandler()], level=0, force=True)``. Records
    keep their logger's name, place, exception and extras. What cannot be formatted is
    handed on with `femtomp.format_error`, as femtomp's own handler does. femtomp itself
    does not need it: `femtomp.worker_init` takes the records of `logging` as they are,
    and both together would have each of them twice: use one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record by loguru."""
        from loguru import logger

        body, problem = femtomp.WorkerHandler.body_of(record)

        def place(target: Any) -> None:
            target["name"], target["function"] = record.name, record.funcName
            target["line"], target["module"] = record.lineno, record.module
            file = type(target["file"])
            path = str(record.pathname)
            target["file"] = file(Path(path).name, path)
            extras = {k: v for k, v in vars(record).items() if k not in _OWN}
            if problem is not None:
                extras["femtomp.format_error"] = problem
            target["extra"] |= extras.pop(_FIELDS, {}) | extras

        level: str | int = record.levelno
        try:
            level = logger.level(record.levelname).name
        except ValueError:
            pass  # loguru has no such name
        logger.opt(exception=record.exc_info).patch(place).log(level, body)
