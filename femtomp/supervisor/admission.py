"""Admission: which records one sink takes, beside its level: its filter and its rate.

In: the records of a stream, in order. Out: the same stream; what the sink is not to
have is filtered, and counted as that. One `Admission` a sink, used by its pump alone.

What must never happen: a record that is gone because a filter of the user's failed.
Such a record is kept, and the failure said.
"""

from __future__ import annotations

import math
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError
from femtomp.limits import OFF
from femtomp.record import SEVERITY_MAX, severity_number
from femtomp.sinks.answers import problem_of
from femtomp.supervisor.batch import DELIVER, FILTER
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.config import SinkOptions
    from femtomp.record import Record
    from femtomp.supervisor.batch import Stream

# Loggers come from code; a program that makes up their names must not fill the memory.
_SEVERITY_OFF: Final = SEVERITY_MAX + 1
_MAX_LOGGERS: Final = 4096


class Admission:
    """What one sink takes.

    Parameters
    ----------
    sink : sink
        Its `filter` and `rate` count.
    clock : callable
        Seconds, for the rate.
    """

    def __init__(
        self, sink: SinkOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = str(sink.name)
        # As they were checked: numbers, and a pair.
        wanted: Any = sink.filter
        rate: Any = sink.rate
        self._path: str | None = wanted if isinstance(wanted, str) else None
        self._severities: dict[str, int] = {}
        if isinstance(wanted, dict):
            self._severities = {
                prefix: _SEVERITY_OFF if level == OFF else severity_number(level)
                for prefix, level in wanted.items()
            }
        self._of_logger: dict[str, int] = {}
        self._wants: Callable[[Record], Any] | None = None
        self._rate: float
        self._burst: float
        self._rate, self._burst = rate or (math.inf, math.inf)
        self._clock = clock
        self._left: float = self._burst
        self._filled_at = clock()
        self._is_open = sink.filter is None and sink.rate is None
        self.over_rate = 0
        """How many records were filtered because there were too many."""

    def load(self) -> None:
        """Import the user's function, if there is one.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        if self._path is None:
            return
        module, _, function = self._path.rpartition(".")
        try:
            self._wants = getattr(import_module(module), function)
        except BaseException as exc:
            problem = problem_of(exc)
            msg = f"filter {self._path!r} of {self._name} cannot be loaded: {problem}"
            raise ConfigError(msg) from exc
        if not callable(self._wants):
            msg = f"filter {self._path!r} of {self._name} cannot be called"
            raise ConfigError(msg)

    def __call__(self, stream: Stream) -> Stream:
        """Return the stream with what the sink does not take as filtered."""
        if self._is_open:
            return stream
        self._fill()
        fates = [*stream.fates]
        kept: list[Record] = []
        records = iter(stream.records)
        for at, fate in enumerate(fates):
            if fate != DELIVER:
                continue
            record = next(records)
            if self._takes(record) and self._is_within_rate():
                kept.append(record)
            else:
                fates[at] = FILTER
        return stream._replace(fates=fates, records=kept)

    def _takes(self, record: Record) -> bool:
        if self._severities and record.severity_number < self._least(record.logger):
            return False
        if self._wants is None:
            return True
        try:
            return bool(self._wants(record))
        except BaseException as exc:  # SystemExit as well: it is a filter's like any
            note(
                f"{self._name}:filter",
                f"filter {self._path!r} of {self._name} failed, the record is kept: "
                f"{problem_of(exc)}",
            )
            return True

    def _least(self, logger: str) -> int:
        """Return the severity of the longest prefix of a logger's name."""
        found = self._of_logger.get(logger)
        if found is None:
            if len(self._of_logger) >= _MAX_LOGGERS:
                self._of_logger.clear()
            prefix = logger
            while prefix and prefix not in self._severities:
                prefix = prefix.rpartition(".")[0]
            found = self._of_logger[logger] = self._severities.get(prefix, 0)
        return found

    def _fill(self) -> None:
        now = self._clock()
        more = (now - self._filled_at) * self._rate
        self._left = min(self._burst, self._left + more)
        self._filled_at = now

    def _is_within_rate(self) -> bool:
        if self._left < 1:
            self.over_rate += 1
            return False
        self._left -= 1
        return True
