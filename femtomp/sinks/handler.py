"""Driver of any `logging.Handler`, or of a destination of the user's own.

In: the path of a callable and its arguments. Out: each record of a batch handed to the
handler as the LogRecord that its process had made (`codec.logrecord`), then a `flush`.
The handler is the user's code, in this sink's thread of the engine: what it raises, and
what `logging` would have printed and forgotten (`handleError`), becomes an outcome.

A failed connection is temporary: the records wait and come again, from the one that
failed on. Anything else is refused for that record alone. What never fails aloud (UDP,
a queue of the handler's own) counts as delivered when `emit` has returned.
"""

from __future__ import annotations

import errno
import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.logrecord import to_log_record
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Driver, RetryAfter
from femtomp.sinks.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from femtomp.config import HandlerSink
    from femtomp.record import Record
    from femtomp.sinks import Outcome

# A mail or syslog server that restarts is back within some of these.
RETRY_DELAY_S: Final = 1.0
# An OSError that no later attempt with the same record can do without.
_OF_THE_RECORD: Final = (errno.EMSGSIZE, errno.EINVAL)


def open_driver(options: HandlerSink) -> Driver:
    """Call what makes the handler.

    Raises
    ------
    ConfigError
        If it cannot be imported, raises, or gives neither a handler nor a sink.
    """
    hide(_texts(options.args))
    module, _, name = options.factory.rpartition(".")
    try:
        made = getattr(import_module(module), name)(**options.args)
    except Exception as exc:
        msg = (
            f"HandlerSink: {options.factory} cannot be made in the supervisor: "
            f"{type(exc).__name__}: {exc}; it must be in a module that can be imported "
            "there, not in the program's own script"
        )
        raise ConfigError(msg) from exc
    if isinstance(made, logging.Handler):
        return _Handler(made)
    if isinstance(made, Driver):
        return made
    msg = (
        f"HandlerSink: {options.factory} gave a {type(made).__name__}, which is no "
        "logging.Handler and has no write() and close()"
    )
    raise ConfigError(msg)


def _texts(args: Mapping[str, Any]) -> Iterator[str]:
    """Give the texts among the arguments: any may be a password or a URL with one."""
    for value in args.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (v for v in value if isinstance(v, str))


class _Handler:
    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        self._failure: BaseException | None = None
        # It is asked for inside `except`, and would print a stack trace to stderr.
        handler.handleError = self._note_failure  # type: ignore[method-assign]

    def _note_failure(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._failure = sys.exception()

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Hand over each record; those that it cannot take are refused."""
        refused: dict[str, int] = {}
        for number, record in enumerate(batch):
            failure = self._failure_of(record)
            if failure is None:
                continue
            reason = f"{type(failure).__name__}: {failure}"
            if _is_temporary(failure):
                return RetryAfter(RETRY_DELAY_S, reason, number, refused)
            refused[reason] = refused.get(reason, 0) + 1
        self._handler.flush()
        return Delivered(refused)

    def _failure_of(self, record: Record) -> BaseException | None:
        self._failure = None
        made = to_log_record(record)
        # As a logger does: what is below the handler's own level is not for it.
        if made.levelno < self._handler.level:
            return None
        try:
            self._handler.handle(made)
        except Exception as exc:
            return exc
        return self._failure

    def close(self) -> None:
        """Close the handler, which may deliver what it kept back."""
        self._handler.close()


def _is_temporary(failure: BaseException) -> bool:
    return isinstance(failure, OSError) and failure.errno not in _OF_THE_RECORD
