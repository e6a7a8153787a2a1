"""The JSON record that the stdlib's peers write: the fields of femtomp's, by `json`.

This is what projects do, themselves or by a package: a `logging.Formatter` that takes
what is not a standard attribute for an extra and calls `json.dumps`. It is spared what
femtomp adds: the identifier of each record, limits, values that JSON has no form for.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_SEVERITY = {10: 5, 20: 9, 30: 13, 40: 17, 50: 21}


class JsonFormatter(logging.Formatter):
    """Format a LogRecord as one JSON object."""

    def __init__(self, service: str, host: str) -> None:
        super().__init__()
        self._service = service
        self._host = host

    def format(self, record: logging.LogRecord) -> str:
        attributes = {
            "code.file.path": record.pathname,
            "code.line.number": record.lineno,
            "code.function.name": record.funcName,
            "thread.id": record.thread,
            "thread.name": record.threadName,
        }
        if record.args:  # a QueueHandler has merged them into the message
            attributes["femtomp.template"] = record.msg
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                attributes[key] = value
        if record.exc_info:
            attributes["exception.stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(
            {
                "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
                "severity_text": record.levelname,
                "severity_number": _SEVERITY.get(record.levelno, 0),
                "logger": record.name,
                "body": record.getMessage(),
                "attributes": attributes,
                "resource": {
                    "service.name": self._service,
                    "process.pid": record.process,
                    "host.name": self._host,
                    "femtomp.worker.name": record.processName,
                },
            },
            default=str,
        )
