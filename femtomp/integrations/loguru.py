"""loguru in front of femtomp: a sink, and the way from `logging` to loguru.

In: loguru's messages, in the caller's thread. Out: records in this process's lane, with
``extra`` as fields with their types, and exception, level, file, line and function as
loguru had them.

    from loguru import logger
    from femtomp.integrations.loguru import sink

    logger.remove()
    logger.add(sink, format="{message}")

Without `enqueue`: a record is safe when the call returns, and a queue is what it would
be lost in. The format is not used, a short one is cheap.
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

    Levels and filters are loguru's: ``logger.add(sink, level="INFO")``.
    """
    femtomp.worker_handler(missing="stderr").handle(_log_record(message.record))


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
    keep their logger's name, place, exception and extras. femtomp itself does not need
    it: `femtomp.worker_init` takes the records of `logging` as they are.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record by loguru."""
        from loguru import logger

        def place(target: Any) -> None:
            target["name"], target["function"] = record.name, record.funcName
            target["line"], target["module"] = record.lineno, record.module
            file = type(target["file"])
            target["file"] = file(Path(record.pathname).name, record.pathname)
            extras = {k: v for k, v in vars(record).items() if k not in _OWN}
            target["extra"] |= extras.pop(_FIELDS, {}) | extras

        level: str | int = record.levelno
        try:
            level = logger.level(record.levelname).name
        except ValueError:
            pass  # loguru has no such name
        logger.opt(exception=record.exc_info).patch(place).log(
            level, record.getMessage()
        )
