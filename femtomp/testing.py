"""Doubles and checkers for the tests of those who use femtomp, and for its own.

`captured_records` captures what code under test logs, children included, without a
supervisor: it makes a spool, attaches to it, and reads the lanes in this process.
`CollectingSink` and `FailingSink` stand for destinations; `check_sink` and `check_lane`
hold any driver and any lane to their duties.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from femtomp.codec import frame
from femtomp.lanes import place
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.record import Record, Resource
from femtomp.sinks import Delivered, RetryAfter
from femtomp.worker.handler import SPOOL_VARIABLE, release, worker_handler

if TYPE_CHECKING:
    from femtomp.sinks import Driver, Outcome


class CapturedRecords(Sequence[Record]):
    """The records so far, in order: read again from the lanes whenever looked at."""

    def __init__(self, puller: Puller) -> None:
        self._puller: Puller | None = puller
        self._records: list[Record] = []

    def _now(self) -> list[Record]:
        if self._puller is not None:
            self._records += self._puller.pull()
        return self._records

    def freeze(self) -> None:
        """Look for the last time; the lanes may go away afterwards."""
        self._now()
        self._puller = None

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Return a record, or some."""
        return self._now()[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._now())

    def __repr__(self) -> str:
        """Show the bodies."""
        return f"<captured: {[record.body for record in self._now()]!r}>"


@contextmanager
def captured_records(
    level: int | str = 1, *, logger: str | None = None
) -> Iterator[CapturedRecords]:
    """Capture the records logged inside the block, by this process and its children.

    Puts femtomp's handler on a logger, sets that logger's level, and takes both back.
    Children of any start method find the same place by `FEMTOMP_SPOOL`; those that set
    up logging by `worker_init` or `worker_handler` are captured too, forked ones always.

    Parameters
    ----------
    level : int or str
        Level of the logger meanwhile; all by default.
    logger : str, optional
        Name of the logger; the root logger if not given.

    Yields
    ------
    CapturedRecords
        A sequence of `femtomp.Record` that grows.

    Examples
    --------
    >>> import logging
    >>> with captured_records() as records:
    ...     logging.getLogger("shop").info("sold %d", 3, extra={"item": "tea"})
    >>> records[0].body, records[0].attributes["item"]
    ('sold 3', 'tea')
    """
    target = logging.getLogger(logger)
    with tempfile.TemporaryDirectory(prefix="femtomp-captured-") as parent:
        spool = place.create(
            Path(parent), "captured", level=1, sinks=(), master={"pid": os.getpid()}
        )
        spool.set_control(STATE, State.RUNNING)
        handler = worker_handler(spool=spool.path)
        previous = target.level, os.environ.get(SPOOL_VARIABLE)
        os.environ[SPOOL_VARIABLE] = str(spool.path)
        target.addHandler(handler)
        target.setLevel(level)
        records = CapturedRecords(Puller(spool, {"service.name": "captured"}))
        try:
            yield records
        finally:
            target.removeHandler(handler)
            target.setLevel(previous[0])
            if previous[1] is None:
                os.environ.pop(SPOOL_VARIABLE, None)
            else:
                os.environ[SPOOL_VARIABLE] = previous[1]
            records.freeze()
            spool.set_control(STATE, State.STOPPED)
            release(handler)
            spool.close()
