"""The handler that workers put on their loggers, and how a worker finds its server.

In: LogRecords from any thread. Out: payloads into this process's one lane of the spool.
Handlers share the lane; a handler is cheap, may be made, closed and forked at any time,
and works again at the next record. A log call never raises and never waits.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final, Literal, TypeAlias

from femtomp import nowait
from femtomp.checks import number_of_level
from femtomp.codec.visible import shown
from femtomp.errors import ConfigError, NoServerError
from femtomp.lanes.thrown import thrown_in
from femtomp.lanes.writer import LaneLostError
from femtomp.worker.capture import from_log_record, message, to_log_record
from femtomp.worker.channel import Channel, Sent, channel, close_channel, say
from femtomp.worker.fallback import line_of, prepare
from femtomp.worker.fork import catch_up, mark
from femtomp.worker.once import Taken, nowhere
from femtomp.worker.plain import described, text

Missing: TypeAlias = Literal["raise", "stderr", "ignore"]
MISSING: Final = ("raise", "stderr", "ignore")
SPOOL_VARIABLE: Final = "FEMTOMP_SPOOL"

_memo: Final[dict[tuple[str, int], WorkerHandler]] = {}


class WorkerHandler(logging.Handler):
    """A `logging.Handler` that hands records to the femtomp server of this process.

    Use `worker_handler()`; the class is public for `logging.config.dictConfig`
    (``"class": "femtomp.WorkerHandler"``). Safe under threads, forks and signals.

    Two that do the same are equal, so that a logger takes one of them. Made before the
    server, with `missing` of "stderr" or "ignore", it finds it once it is there, and
    another server that this one's successor is.

    Parameters
    ----------
    level : int or str
        As of any handler.
    spool : path-like, optional
        The server's spool; `FEMTOMP_SPOOL` if not given.
    missing : {"raise", "stderr", "ignore"}
        What to do where there is no address: raise `NoServerError` now, write records
        to stderr, or drop them.

    Raises
    ------
    NoServerError
        If no address is to be found and `missing` is "raise".
    """

    def __init__(
        self,
        level: int | str = 0,
        *,
        spool: str | os.PathLike[str] | None = None,
        missing: Missing = "raise",
    ) -> None:
        super().__init__(number_of_level(level))
        if missing not in MISSING:
            msg = f"missing must be one of {', '.join(MISSING)}, not {missing!r}"
            raise ConfigError(msg)
        prepare()
        path = find_spool(spool)
        if is_disabled():
            missing = "ignore"
        if path is None and missing == "raise":
            msg = (
                "no femtomp server to log to: call femtomp.start_server() in the "
                f"master first (it sets {SPOOL_VARIABLE}), or pass spool=, or "
                "missing='stderr'"
            )
            raise NoServerError(msg)
        self._missing = missing
        self._is_bound = spool is not None
        self._bind(path)

    def _bind(self, path: str | None) -> None:
        self.spool = path
        self._channel: Channel | None = None if path is None else channel(path)

    def __eq__(self, other: object) -> bool:
        """Tell whether both would do the same with any record."""
        if not isinstance(other, WorkerHandler):
            return NotImplemented
        # Who has an address has no use for `missing`.
        return self is other or (
            type(self) is type(other)
            and (self.address, self.level) == (other.address, other.level)
            and (self.address is not None or self._missing == other._missing)
            and not (self.filters or other.filters)
        )

    def __hash__(self) -> int:
        """Return what does not change: level and filters may."""
        return hash(WorkerHandler)

    def handle(self, record: logging.LogRecord) -> Any:  # noqa: C901 - the hot path
        """Filter and keep a record.

        Without the handler's lock, which would guard nothing: the lane has its own.
        """
        if self.filters:
            passed = self._filtered(record)
            if not passed:
                return passed
            if isinstance(passed, logging.LogRecord):  # Python 3.12: a replacement
                record = passed
        way = self._channel
        try:
            try:
                made = record.relativeCreated
                is_usual = (
                    way is not None
                    and mark[0]
                    and way.fresh_from <= record.created < way.fresh_until
                    and made is not way.last
                    and way.seen is None
                )
            except Exception as exc:
                if thrown_in(exc):
                    raise
                is_usual = False  # times that are none, in a record from elsewhere
            if is_usual:
                # The hot path: `emit`, when nothing is due besides.
                way.append(from_log_record(record, way.pid, way.limits))  # type: ignore[union-attr]
                way.last = made  # type: ignore[union-attr]
                return True
            if self.way.has(record, sys._getframe()):  # noqa: SLF001
                return True
        except LaneLostError:
            self._emit(record, again=True)
        except Exception as exc:
            self._give_up(record, exc)
            return True
        else:
            self.emit(record)
        self.way.take(record)
        return True

    @property
    def way(self) -> Taken:
        """Where records go: the channel, or nowhere."""
        return nowhere if self._channel is None else self._channel

    def addFilter(self, filter: Any) -> None:  # noqa: A002, N802 - logging's names
        """Add a filter; one of femtomp's own counts in this handler's lane."""
        super().addFilter(filter)
        if hasattr(filter, "count_left_out"):
            filter.count_left_out = self._count_left_out

    def _count_left_out(self, way: str) -> None:
        if self._channel is not None:
            self._channel.leave_out(way)

    def _filtered(self, record: logging.LogRecord) -> Any:
        """Ask the filters; where one fails the record is kept, with what went wrong."""
        try:
            passed = self.filter(record)
            self._say_left_out()
        except Exception as exc:
            if thrown_in(exc):
                raise
            return _marked(record, exc)
        return passed

    def _say_left_out(self, *, at_last: bool = False) -> None:
        for each in self.filters:
            if (due_records := getattr(each, "due_records", None)) is not None:
                for record in due_records(at_last=at_last):
                    self.emit(record)

    def flush(self) -> None:
        """Say what filters left out and have not said yet; `logging.shutdown` asks."""
        self._say_left_out(at_last=True)

    def keep(self, payload: bytes) -> None:
        """Append the payload of a record that was captured already, by a logger."""
        way: Any = self._channel
        try:
            try:
                way.append(payload)
            except LaneLostError:
                if way.send(payload, again=True) is Sent.NOWHERE:
                    self._fall_back(to_log_record(payload))
        except Exception as exc:
            self._give_up(to_log_record(payload), exc)

    def keep_anew(self, payload: bytes) -> None:
        """Append the payload of a record that no logger made; open a lane if need be.

        Without a way to any server it is said on descriptor 2.
        """
        try:
            if not self._sends(payload) and not (
                self._finds_another() and self._sends(payload)
            ):
                self._fall_back(to_log_record(payload))
        except Exception as exc:
            self._give_up(to_log_record(payload), exc)

    def _sends(self, payload: bytes) -> bool:
        way = self._channel
        return way is not None and way.send(payload) is not Sent.NOWHERE

    def emit(self, record: logging.LogRecord) -> None:
        """Capture the record and append it to the lane, opening one if need be."""
        self._emit(record, again=False)

    def _emit(self, record: logging.LogRecord, *, again: bool) -> None:
        try:
            if not mark[0]:
                catch_up()
            if self._is_orphan():
                self._finds_another()
            if not self._send(record, again=again) and not (
                self._finds_another() and self._send(record, again=again)
            ):
                self._fall_back(record)
        except Exception as exc:
            self._give_up(record, exc)

    def _send(self, record: logging.LogRecord, *, again: bool) -> bool:
        """Hand over the record; False if there is nowhere to."""
        way = self._channel
        if way is None:
            return False
        payload = from_log_record(record, way.pid, way.known_limits())
        return way.send(payload, again=again) is not Sent.NOWHERE

    @property
    def address(self) -> str | None:
        """The spool that the next record goes to, if the one of the last is gone."""
        return self.spool if self._is_bound else find_spool() or self.spool

    def _is_orphan(self) -> bool:
        """Tell whether the server has left for good, and another one is there."""
        path = self.spool
        return (
            path is not None and self.address != path and not os.path.exists(path)  # noqa: PTH110 - pathlib is not loaded
        )

    def _finds_another(self) -> bool:
        """Look for a server that was started since, where none was named."""
        path = self.address
        if path == self.spool:
            return False
        self._bind(path)
        return True

    def _fall_back(self, record: logging.LogRecord) -> None:
        """Write the record to descriptor 2 as a plain line."""
        if self.spool is None and self._missing == "ignore":
            return
        line = f"{shown(line_of(record))}\n"
        nowait.stderr.say(line.encode("utf-8", "backslashreplace"))

    def _give_up(self, record: logging.LogRecord, exc: Exception) -> None:
        """Count a record that a fault of femtomp's own has cost, and say both."""
        # The latter is the caller's: its stack is at its end.
        if thrown_in(exc) or isinstance(exc, RecursionError):
            raise exc
        if self._channel is not None:
            self._channel.dropped += 1
        if logging.raiseExceptions:
            name = text(getattr(record, "name", None))
            say(f"a record of {name} was dropped: {described(exc)}; it was:")
            self._fall_back(record)

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Set the level, by number or by any name that femtomp takes."""
        super().setLevel(number_of_level(level))

    @staticmethod
    def body_of(record: logging.LogRecord) -> tuple[str, str | None]:
        """Return a record's message; if it cannot be formatted, its parts and why."""
        return message(record)

    def is_heard(self, name: str, level: int) -> bool:
        """Return whether the server's levels let a logger's record of a level pass.

        For front ends with levels of their own, such as loguru; loggers of `logging`
        have the server's by `worker_init`.
        """
        way = self._channel
        if way is None:
            return True
        way.known_limits()
        return level >= way.levels.least(name)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802
        """Refuse a formatter: workers send records, and the sinks have formats.

        `logging.basicConfig` gives each handler one unasked, which counts as none.

        Raises
        ------
        ConfigError
            For any other.
        """
        if fmt is None or getattr(fmt, "_fmt", None) == logging.BASIC_FORMAT:
            return
        msg = (
            "WorkerHandler takes no formatter: it sends records, and the sinks of the "
            'server format them: FileSink("app.log", format="text"), or '
            'format="package.Formatter" for one of your own; see README, "Formats"'
        )
        raise ConfigError(msg)

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Make no lock: none is used, and fork hooks and billiard remake them all."""
        self.lock = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to spawned children by address."""
        return (_remake, (self.level, self.spool, self._missing))

    def __repr__(self) -> str:
        return f"<WorkerHandler {self.spool} ({logging.getLevelName(self.level)})>"


def _marked(record: logging.LogRecord, exc: Exception) -> logging.LogRecord:
    """Return a copy of a record that says which filter's error it was kept in spite of.

    Other handlers see the record as it was.
    """
    made = logging.LogRecord("", 0, "", 0, "", (), None)
    made.__dict__ = {**record.__dict__, "femtomp.filter_error": described(exc)}
    return made


def _remake(level: int, spool: str | None, missing: Missing) -> WorkerHandler:
    return WorkerHandler(level, spool=spool, missing=missing)


def find_spool(spool: str | os.PathLike[str] | None = None) -> str | None:
    """Return the address of the server: what is given, else `FEMTOMP_SPOOL`.

    There is none while `FEMTOMP_DISABLED` is 1.
    """
    if is_disabled():
        return None
    if spool is None:
        return os.environ.get(SPOOL_VARIABLE) or None
    return os.path.abspath(os.fspath(spool))  # noqa: PTH100 - pathlib is not loaded


def is_disabled() -> bool:
    """Tell whether `FEMTOMP_DISABLED=1` asks for handlers that do nothing."""
    return os.environ.get("FEMTOMP_DISABLED") == "1"


def worker_handler(
    level: int | str = 0,
    *,
    spool: str | os.PathLike[str] | None = None,
    missing: Missing = "raise",
) -> WorkerHandler:
    """Return the handler to put on this process's loggers.

    Idempotent: the same handler for the same spool and level, also in forked children;
    another one where that was given filters or another level. `logging.config`, which
    does so, gets one of its own, which is equal as long as it has neither.

    Parameters
    ----------
    level : int or str
        Records below it are left out by the handler.
    spool : path-like, optional
        The server's spool; `FEMTOMP_SPOOL`, which `start_server` sets, if not given.
    missing : {"raise", "stderr", "ignore"}
        What to do where there is no address.

    Returns
    -------
    WorkerHandler

    Raises
    ------
    NoServerError
        If no address is to be found and `missing` is "raise".
    ConfigError
        If `missing` is none of the three.

    Examples
    --------
    >>> import logging, femtomp
    >>> handler = femtomp.worker_handler(missing="ignore")
    >>> logging.getLogger("shop").addHandler(handler)
    >>> logging.getLogger("shop").removeHandler(handler)
    """
    number = number_of_level(level)
    path = find_spool(spool)
    # What it names and sets, others who have that handler too must not get.
    asks = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001
    if path is None or asks == "logging.config":
        return WorkerHandler(level, spool=spool, missing=missing)
    found = _memo.get((path, number))
    if found is None or found.filters or (found.spool, found.level) != (path, number):
        found = WorkerHandler(level, spool=spool, missing=missing)
        _memo[(path, number)] = found
    return found


def release(handler: WorkerHandler) -> None:
    """Forget a handler and close its lane: for tests, which use many spools."""
    if handler.spool is not None:
        for key in [k for k in _memo if k[0] == handler.spool]:
            del _memo[key]
        close_channel(handler.spool)
