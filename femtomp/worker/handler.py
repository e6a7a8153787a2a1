"""The handler that workers put on their loggers, and how a worker finds its server.

In: LogRecords from any thread. Out: payloads into this process's one lane of the spool.
Handlers share the lane; a handler is cheap, may be made, closed and forked at any time,
and works again at the next record. A log call never raises and never waits.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from femtomp.errors import ConfigError, NoServerError
from femtomp.lanes.writer import LaneLostError
from femtomp.worker.capture import from_log_record, to_log_record
from femtomp.worker.channel import Channel, Sent, channel, close_channel, renew, say
from femtomp.worker.fork import catch_up, mark
from femtomp.worker.identity import add
from femtomp.worker.plain import described

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Missing: TypeAlias = Literal["raise", "stderr", "ignore"]
MISSING: Final = ("raise", "stderr", "ignore")
SPOOL_VARIABLE: Final = "FEMTOMP_SPOOL"

# What may go wrong in femtomp itself. Capture deals with the caller's objects; an
# exception of any other kind was thrown in from outside (a task's time limit, raised by
# a signal handler) and is the caller's to see.
_OWN_FAULTS: Final = (
    OSError,
    ValueError,
    LookupError,
    MemoryError,
    BufferError,
    AttributeError,
)

_memo: Final[dict[tuple[str | None, int], WorkerHandler]] = {}


class WorkerHandler(logging.Handler):
    """A `logging.Handler` that hands records to the femtomp server of this process.

    Use `worker_handler()`; the class is public for `logging.config.dictConfig`
    (``"class": "femtomp.WorkerHandler"``). Safe under threads, forks and signals.

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
        super().__init__(level)
        if missing not in MISSING:
            msg = f"missing must be one of {', '.join(MISSING)}, not {missing!r}"
            raise ConfigError(msg)
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
        self._channel: Channel | None = None if path is None else channel(path)
        self.spool: Final = path

    def handle(self, record: logging.LogRecord) -> Any:
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
            if (
                way is not None
                and mark[0]
                and way.fresh_from <= record.created < way.fresh_until
            ):
                # The hot path: `emit`, when nothing is due besides.
                way.append(from_log_record(record, way.pid, way.limits))
                return True
        except LaneLostError:
            self._emit(record, again=True)
            return True
        except TypeError:
            pass  # `created` is no number, in a record from elsewhere
        except _OWN_FAULTS as exc:
            self._give_up(record.name, exc)
            return True
        self.emit(record)
        return True

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
        except _OWN_FAULTS as exc:
            self._give_up(to_log_record(payload).name, exc)

    def emit(self, record: logging.LogRecord) -> None:
        """Capture the record and append it to the lane, opening one if need be."""
        self._emit(record, again=False)

    def _emit(self, record: logging.LogRecord, *, again: bool) -> None:
        try:
            if not mark[0]:
                catch_up()
            way = self._channel
            if way is None:
                if self._missing != "ignore":
                    self._fall_back(record)
            else:
                payload = from_log_record(record, way.pid, way.known_limits())
                if way.send(payload, again=again) is Sent.NOWHERE:
                    self._fall_back(record)
        except _OWN_FAULTS as exc:
            self._give_up(record.name, exc)

    def _fall_back(self, record: logging.LogRecord) -> None:
        """Write the record to descriptor 2 as a plain line."""
        try:
            text = (self.formatter or _FALLBACK).format(record)
        except Exception as exc:
            text = f"{record.levelname} {record.name}: {record.msg!r} ({exc!r})"
        try:
            text = _without_secrets(text)
        except ImportError:
            # A signal handler's record, in the midst of the import that this needs.
            text = f"{record.levelname} {record.name}: [redacted]"
        try:
            os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # nowhere left to say it

    def _give_up(self, name: object, exc: Exception) -> None:
        if isinstance(exc, OSError) and exc.errno is None:
            raise exc  # no call's failure: thrown in by a signal handler (TimeoutError)
        if self._channel is not None:
            self._channel.dropped += 1
        if logging.raiseExceptions:
            say(f"a record of {name} was dropped: {type(exc).__name__}: {exc}")

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Make no lock: none is used, and fork hooks and billiard remake them all."""
        self.lock = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to spawned children by address."""
        return (_remake, (self.level, self.spool, self._missing))


_FALLBACK: Final = logging.Formatter(
    "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
)


def _without_secrets(text: str) -> str:
    """Leave standard secrets out of a line that no server redacts any more."""
    from femtomp.codec.secret_keys import STANDARD_KEYS, SecretKeys

    return SecretKeys(STANDARD_KEYS).leave_out(text)[0]


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

    Idempotent: the same handler for the same spool and level, also in forked children.

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
    number = logging._checkLevel(level)  # type: ignore[attr-defined]  # noqa: SLF001
    path = find_spool(spool)
    key = (path, number)
    if path is None or key not in _memo:
        handler = WorkerHandler(level, spool=spool, missing=missing)
        if path is None:
            return handler
        _memo[key] = handler
    return _memo[key]


def release(handler: WorkerHandler) -> None:
    """Forget a handler and close its lane: for tests, which use many spools."""
    if handler.spool is not None:
        for key in [k for k in _memo if k[0] == handler.spool]:
            del _memo[key]
        close_channel(handler.spool)


def worker_init(
    level: int | str | None = None,
    *,
    spool: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Set up logging in a worker: femtomp's handler on the root logger, and its level.

    For ``initializer=`` of pools and executors. Never raises: a pool would start new
    workers for ever. Idempotent.

    Parameters
    ----------
    level : int or str, optional
        Of the root logger; the server's if not given.
    spool : path-like, optional
        The server's spool; `FEMTOMP_SPOOL` if not given.
    force : bool
        Remove the root logger's other handlers first, as `logging.basicConfig` does.

    Examples
    --------
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> import femtomp
    >>> pool = ProcessPoolExecutor(4, initializer=femtomp.worker_init)
    """
    try:
        root = logging.getLogger()
        handler = worker_handler(spool=spool, missing="stderr")
        if force:
            for other in root.handlers[:]:
                root.removeHandler(other)
        if handler not in root.handlers:
            root.addHandler(handler)
        of_server, of_loggers = server_levels(handler.spool)
        root.setLevel(of_server if level is None else level)
        for name, number in of_loggers.items():
            logging.getLogger(name).setLevel(number)
    except Exception as exc:
        say(f"worker_init failed: {type(exc).__name__}: {exc}")


def identify(who: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
    """Say who a process is: attributes that all its records' resources have.

    Best before the first record: a process that has logged already goes on in another
    lane, with another `service.instance.id`. Integrations of pools use it; so may you,
    where a worker has a number or a shard. Told again, later words win.

    Parameters
    ----------
    who : mapping of str to str, number or bool, or callable
        A mapping is about this process alone. A callable without parameters, which
        returns one, is asked in each process, forked children too, when it logs for
        the first time. "femtomp.worker.name" is the name that all formats show.

    Raises
    ------
    ConfigError
        If it is neither.

    Examples
    --------
    >>> import femtomp
    >>> femtomp.identify({"femtomp.worker.name": "importer", "shard": 3})
    """
    add(who)
    renew()


def server_levels(spool: str | None) -> tuple[int, dict[str, int]]:
    """Return the levels that the server wants: of the root logger, and of others.

    INFO, and none, if it cannot say.
    """
    from femtomp.lanes.spool import Spool

    if spool is None:
        return logging.INFO, {}
    opened = Spool(spool)
    try:
        manifest = opened.manifest
        return int(manifest.get("level", logging.INFO)), manifest.get("levels", {})
    finally:
        opened.close()
