"""Driver of any `logging.Handler`, or of a destination of the user's own.

In: the path of a callable and its arguments. Out: each record of a batch handed to the
handler as the LogRecord that its process had made (`codec.logrecord`), then a `flush`.
The handler is the user's code, in this sink's thread of the engine: what it raises, and
what `logging` would have printed and forgotten (`handleError`), becomes an outcome that
says which record failed. Whether that one or the destination is to blame, no class of
exception tells: the pump finds out. What never fails aloud (UDP, a queue of the
handler's own) counts as delivered when `emit` has returned.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from femtomp.codec.logrecord import to_log_record
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Driver, Stumbled, Unseen
from femtomp.sinks.answers import problem_of
from femtomp.sinks.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from femtomp.config import HandlerSink
    from femtomp.record import Record
    from femtomp.sinks import Outcome


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
    except BaseException as exc:
        msg = (
            f"HandlerSink: {options.factory} cannot be made in the supervisor: "
            f"{problem_of(exc)}; it must be in a module that can be imported "
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
        self._was_handed = False
        # It is asked for inside `except`, and would print a stack trace to stderr.
        handler.handleError = self._note_failure  # type: ignore[method-assign]

    def _note_failure(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._failure = sys.exception()

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Hand over each record, up to one that fails."""
        self._was_handed = False
        for number, record in enumerate(batch):
            failure = self._failure_of(record)
            if failure is not None:
                problem = problem_of(failure)
                return Stumbled(problem, number, was_taken=self._was_handed)
        self._handler.flush()
        return Delivered() if self._was_handed else Unseen()

    def _failure_of(self, record: Record) -> BaseException | None:
        self._failure = None
        made = to_log_record(record)
        # As a logger does: what is below the handler's own level is not for it.
        if made.levelno < self._handler.level:
            return None
        try:
            passed = self._handler.handle(made)
        except BaseException as exc:  # SystemExit as well: it is this record's alone
            return exc
        self._was_handed |= bool(passed) and self._failure is None
        return self._failure

    def close(self) -> None:
        """Close the handler, which may deliver what it kept back."""
        self._handler.close()
