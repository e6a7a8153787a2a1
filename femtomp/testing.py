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
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from femtomp.checks import number_of_level
from femtomp.codec.exception_tree import ExceptionTree, read_exception
from femtomp.lanes import place
from femtomp.lanes.content import LaneContent, check_lane, hold
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import STATE, State
from femtomp.record import Record, Resource
from femtomp.sinks import Delivered, RetryAfter, Stumbled
from femtomp.sinks.answers import AnswerError, outcome_of
from femtomp.worker.handler import SPOOL_VARIABLE, release, worker_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from femtomp.sinks import Driver

__all__ = [
    "CapturedRecords",
    "CollectingSink",
    "ExceptionTree",
    "FailingSink",
    "LaneContent",
    "ManualClock",
    "captured_records",
    "check_lane",
    "check_sink",
    "read_exception",
    "wait_until",
]


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
    Forked children are captured too. Spawned ones, and those of a fork server, begin
    without a handler: they find the same place by `FEMTOMP_SPOOL`, and are captured if
    they call `worker_init` or `worker_handler`, as by ``initializer=``.

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
        target.setLevel(number_of_level(level))
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


class ManualClock:
    """A clock that stands until it is moved, in place of the module `time`.

    Examples
    --------
    >>> clock = ManualClock(100.0)
    >>> clock.sleep(2.5)
    >>> clock.monotonic(), clock.time_ns()
    (102.5, 102500000000)
    """

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_ns = int(now_s * 1e9)

    def advance(self, seconds: float) -> None:
        """Move the clock; backwards too, as wall clocks are."""
        self._now_ns += int(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Move the clock instead of waiting."""
        self.advance(seconds)

    def time_ns(self) -> int:
        """Return the time in nanoseconds."""
        return self._now_ns

    def time(self) -> float:
        """Return the time in seconds."""
        return self._now_ns / 1e9

    monotonic_ns = time_ns
    monotonic = perf_counter = time


class CollectingSink:
    """A driver that keeps what it is given.

    Attributes
    ----------
    records : list of Record
        What was delivered, in order.
    batches : list of int
        The sizes of the batches that were handed over.
    closed : bool
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.batches: list[int] = []
        self.closed = False
        self._came = threading.Condition()

    def write(self, batch: Sequence[Record]) -> Any:
        """Keep the batch; answer for it."""
        self.batches.append(len(batch))
        outcome = self._outcome(batch)
        with self._came:
            if isinstance(outcome, Delivered) or outcome is None:
                self.records += batch
            elif isinstance(outcome, RetryAfter):
                self.records += batch[: outcome.accepted]
            self._came.notify_all()
        return outcome

    def _outcome(self, _: Sequence[Record]) -> Any:
        return Delivered()

    def wait(self, count: int, timeout: float = 10.0) -> list[Record]:
        """Wait until so many records were delivered; return them.

        Raises
        ------
        TimeoutError
            If they were not, in so many seconds.
        """
        with self._came:
            if not self._came.wait_for(lambda: len(self.records) >= count, timeout):
                msg = f"{len(self.records)} records of {count} after {timeout:g} s"
                raise TimeoutError(msg)
        return self.records

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class FailingSink(CollectingSink):
    """A driver that does what a script says, one entry a batch; then it delivers.

    Parameters
    ----------
    script : iterable
        An exception is raised, anything else returned: an outcome, or what none is.
        Entries may be endless.

    Examples
    --------
    >>> sink = FailingSink([RetryAfter(0.1, "busy"), OSError("gone")])
    >>> sink.write([])
    RetryAfter(delay_s=0.1, reason='busy', accepted=0, refused={})
    """

    def __init__(self, script: Iterable[Any]) -> None:
        super().__init__()
        self._script = iter(script)

    def _outcome(self, _: Sequence[Record]) -> Any:
        step = next(self._script, Delivered())
        if isinstance(step, BaseException):
            raise step
        return step


_RESOURCE = Resource({"service.name": "check", "process.pid": 1})
_PLAIN_RECORD = Record(
    1_700_000_000_000_000_000, 9, "INFO", "check", "plain", {"n": 1}, _RESOURCE, "e-0"
)
# What every destination must take or refuse, and never stumble over.
HOSTILE_RECORDS = (
    _PLAIN_RECORD._replace(body=""),
    _PLAIN_RECORD._replace(body="two\nlines\r\n\x1b[31mred\0nul"),
    _PLAIN_RECORD._replace(body="\udc80 lone surrogate", logger="\ud800"),
    _PLAIN_RECORD._replace(body={"any": ["value", None, b"\xff", 1.5, True]}),
    _PLAIN_RECORD._replace(body=None, attributes={}),
    _PLAIN_RECORD._replace(attributes={"nan": float("nan"), "inf": float("-inf")}),
    _PLAIN_RECORD._replace(attributes={"big": 1 << 70, "bigger": 1 << 40_000}),
    _PLAIN_RECORD._replace(attributes={"": "", "a b=c\n": "\n", "_PID": "0", "é": "é"}),
    _PLAIN_RECORD._replace(attributes={"k" * 256: "v" * 100_000, "d": {"e": [{}]}}),
    _PLAIN_RECORD._replace(severity_number=0, severity_text="", timestamp=0),
    _PLAIN_RECORD._replace(severity_number=24, severity_text="Level 99", uid=""),
    _PLAIN_RECORD._replace(
        trace_id="0" * 31 + "1", span_id="0" * 15 + "1", trace_flags=1, event_name="e"
    ),
)


def check_sink(make_driver: Callable[[], Driver]) -> None:
    """Hold a driver to its duties, in the tests of any.

    It answers with an outcome, or None, and does not raise, whatever a record holds; it
    says of no more records that they are done with than it was given; it leaves the
    batch as it was; it is closed once.

    Parameters
    ----------
    make_driver : callable
        Gives a driver whose destination works.

    Raises
    ------
    AssertionError
        If it does otherwise; says with which records.

    Examples
    --------
    >>> check_sink(CollectingSink)
    """
    driver = make_driver()
    try:
        plain = [_PLAIN_RECORD._replace(uid=f"e-{n}") for n in range(300)]
        _check_write(driver, plain[:1], "one plain record")
        _check_write(driver, plain, "300 plain records")
        for number, record in enumerate(HOSTILE_RECORDS):
            _check_write(driver, [record], f"HOSTILE_RECORDS[{number}]")
        _check_write(driver, list(HOSTILE_RECORDS), "HOSTILE_RECORDS")
    finally:
        driver.close()


def _check_write(driver: Driver, batch: list[Record], said: str) -> None:
    before = list(batch)
    try:
        outcome = outcome_of(driver.write(batch), len(before))
    except AnswerError as exc:
        msg = f"{exc}, for {said}"
        raise AssertionError(msg) from exc
    except BaseException as exc:
        msg = f"write raised {type(exc).__name__}: {exc}, for {said}"
        raise AssertionError(msg) from exc
    said = f"{outcome!r} for {said}"
    hold(not isinstance(outcome, Stumbled), f"a record failed: {said}")
    hold(list(map(id, batch)) == list(map(id, before)), f"batch changed: {said}")


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait until something is true, and return it.

    Raises
    ------
    TimeoutError
        If it is not, in so many seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() >= deadline:
            msg = f"not true after {timeout:g} s: {condition!r}"
            raise TimeoutError(msg)
        time.sleep(0.002)
    return result
