"""Handlers and sinks that the supervisor imports by their path."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from femtomp.sinks import Delivered, RetryAfter  # noqa: F401 - for `eval`

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.record import Record
    from femtomp.sinks import Outcome


class Scripted(logging.Handler):
    """Raises what the script says for a body, as often as it says; keeps the rest."""

    def __init__(self, script: dict[str, list[Exception]], *, aloud: bool = False):
        super().__init__()
        self.script = script
        self.aloud = aloud
        self.kept: list[logging.LogRecord] = []
        self.flushed = 0
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, or fail as `logging`'s own handlers do, or aloud."""
        try:
            errors = self.script.get(record.getMessage(), [])
            if errors:
                raise errors.pop(0)
        except Exception:
            if self.aloud:
                raise
            self.handleError(record)
            return
        self.kept.append(record)

    def flush(self) -> None:
        """Count."""
        self.flushed += 1

    def close(self) -> None:
        """Note it."""
        self.closed = True
        super().close()


class Lines:
    """A destination of one's own: bodies in a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Append the bodies."""
        with open(self.path, "a") as file:
            file.writelines(f"{record.body}\n" for record in batch)
        return Delivered()

    def close(self) -> None:
        """Nothing is held."""


def broken() -> NoReturn:
    """Fail."""
    raise RuntimeError("no such server")


def nothing() -> object:
    """Make what is no sink."""
    return object()


class DatabaseError(Exception):
    """As client libraries have them: of no class that Python knows."""


class Table(Lines):
    """A destination that is down while a file says so, and takes no "bad" record."""

    def write(self, batch: Sequence[Record]) -> Outcome:
        """Append the bodies, all or none."""
        if os.path.exists(f"{self.path}.down"):
            raise DatabaseError("server closed the connection unexpectedly")
        if any("bad" in str(record.body) for record in batch):
            raise DatabaseError("invalid byte sequence")
        return super().write(batch)


class Answers(Lines):
    """A destination that answers what a file says, until it is gone."""

    def write(self, batch: Sequence[Record]) -> Any:
        """Append the bodies, unless there is something else to answer."""
        if not os.path.exists(f"{self.path}.answer"):
            return super().write(batch)
        with open(f"{self.path}.calls", "a") as calls:
            calls.write(".")
        answer = Path(f"{self.path}.answer").read_text()
        return eval(answer)


def exits(record: Record) -> NoReturn:
    """End the process, as a filter of a user's may."""
    raise SystemExit(3)


class Exits(logging.Handler):
    """Ends the process for some records."""

    def emit(self, record: logging.LogRecord) -> None:
        """Exit, or keep the record in a file."""
        if "bad" in record.getMessage():
            raise KeyboardInterrupt
