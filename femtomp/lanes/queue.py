"""`Server.queue`: all lanes together, with the interface of `multiprocessing.Queue`.

In: LogRecords, Records or dicts from any process, into that process's lane. Out, in the
master only: Records, through a pull cursor of its own beside the sinks'. The cursor is
born at the first `get`; unused, it holds nothing back. There is no pipe, no feeder
thread and no lock between processes: `put` returns when the record is in the lane.
"""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import identity as identity_codec
from femtomp.codec import wire
from femtomp.errors import CodecError
from femtomp.lanes.cursor import Counters, Cursor, CursorFile
from femtomp.lanes.reader import Lane
from femtomp.lanes.resource import worker_resource
from femtomp.lanes.scan import scan_all
from femtomp.lanes.spool import PULLER, Spool
from femtomp.native import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from femtomp.record import Record, Resource

PULL: Final = "pull"
# Between looks of a waiting `get`.
_WAIT_FIRST_S: Final = 0.001
_WAIT_MAX_S: Final = 0.02


class Puller:
    """Read the records of a spool in this process, each once.

    Parameters
    ----------
    spool : Spool
    base : mapping
        Resource attributes of the server.
    """

    def __init__(self, spool: Spool, base: Mapping[str, Any]) -> None:
        self._spool = spool
        self._base = base
        self._lanes: dict[str, Lane] = {}
        self._cursors: dict[str, CursorFile] = {}
        self._resources: dict[tuple[str, int, str], Resource] = {}
        self._is_gone = False

    def let_go(self) -> None:
        """Close everything if the spool is gone; nothing comes any more."""
        if not self._spool.exists():
            self._is_gone = True
            self._lanes.clear()
            self._cursors.clear()
            self._spool.close()

    def pull(self) -> list[Record]:
        """Return what has come since the last call, by time; in order within a lane."""
        if self._is_gone:
            return []
        scan_all(self._spool, self._lanes, self._open)
        keyed: list[tuple[int, Record]] = []
        for epoch, lane in list(self._lanes.items()):
            records = self._of_lane(epoch, lane)
            # A clock that was set back must not change the order within a lane.
            keys = accumulate((record.timestamp for record in records), max)
            keyed += zip(keys, records, strict=True)
            if not lane.exists():
                self._let_go(epoch)
        keyed.sort(key=itemgetter(0))
        return [record for _, record in keyed]

    def _let_go(self, epoch: str) -> None:
        """Forget a lane that was reaped."""
        del self._lanes[epoch], self._cursors[epoch]
        for key in [key for key in self._resources if key[0] == epoch]:
            del self._resources[key]

    def _open(self, directory: int, epoch: str) -> Lane | None:
        try:
            hostile = self._spool.has_other_workers
            lane = Lane(directory, epoch, hostile=hostile)
            identity = identity_codec.from_bytes(lane.read_own()[0])
            cursor = CursorFile(self._spool.cursors, epoch, (PULL,), suffix=PULL)
        except (OSError, CodecError):
            return None  # reaped a moment ago, or damaged: the engine says so
        self._cursors[epoch] = cursor
        self._resources[(epoch, 0, "")] = worker_resource(identity, self._base, epoch)
        return lane

    def _of_lane(self, epoch: str, lane: Lane) -> list[Record]:
        file = self._cursors[epoch]
        lane.refresh()
        records: list[Record] = []
        position = (file.cursors[PULL] or Cursor()).position
        while True:
            position = lane.normalised(position)
            chunks = [c for c in (lane.read(position), lane.read_side(position)) if c]
            if not chunks:
                break
            for chunk in chunks:
                records += self._records(epoch, chunk.frames, chunk.fields)
                position = position.behind(chunk.number, chunk.after, chunk.sequence)
        if file.cursors[PULL] is None or position != file.cursors[PULL].position:
            file.commit(PULL, Cursor(position, Counters()))
        return records

    def _records(
        self, epoch: str, frames: list[Any], fields: list[Any]
    ) -> list[Record]:
        own = self._resources[(epoch, 0, "")]

        def of_process(pid: int, name: str) -> Resource:
            key = (epoch, pid, name)
            if key not in self._resources:
                changes = {"process.pid": pid, "femtomp.worker.name": name}
                self._resources[key] = type(own)(
                    {**own, **changes}, {**own.brief, **changes}
                )
            return self._resources[key]

        records = []
        for frame, values in zip(frames, fields, strict=True):
            try:
                if isinstance(values, CodecError):
                    raise values
                uid = f"{epoch}-{frame.sequence}"
                records.append(wire.to_record(values, uid, own, of_process))
            except CodecError:
                continue  # counted and said by the engine, for every sink
        return records

    def waiting(self) -> int:
        """Return about how many records `pull` would give."""
        if self._is_gone:
            return 0
        scan_all(self._spool, self._lanes, self._open)
        total = 0
        for epoch, lane in self._lanes.items():
            lane.refresh()
            cursor = self._cursors[epoch].cursors[PULL] or Cursor()
            total += lane.count(cursor.position)
        return total


def _nothing() -> None:
    """See to nothing."""


class Queue:
    """The lanes of a server as a queue.

    Made by `start_server`; pass it to `logging.handlers.QueueHandler`, to processes of
    any start method, or into a `dictConfig` (not of 3.12, whose first releases take
    nothing but a `queue.Queue` there). Safe under threads and forks.

    Parameters
    ----------
    spool : Path
        The server's.
    send : callable
        Puts one thing into this process's lane.
    is_full : callable
        Tells whether that lane has no room.
    rebuild : callable
        Makes this queue in a process that received it.
    base : mapping
        Resource attributes of the server; None outside the master.
    """

    def __init__(
        self,
        spool: str,
        send: Callable[[object], None],
        is_full: Callable[[], bool],
        rebuild: Callable[[str], Queue],
        base: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = spool
        self._send = send
        self._is_full = is_full
        self._rebuild = rebuild
        self._base = base
        self._master = os.getpid() if base is not None else 0
        self._puller: Puller | None = None
        self._ready: deque[Record] = deque()
        self._lock = Lock()
        # The master's: sees to its supervisor while it waits here.
        self.tend: Callable[[], None] = _nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return self._rebuild, (self._path,)

    # Parameters as multiprocessing.Queue has them.
    def put(
        self,
        item: object,
        block: bool = True,  # noqa: ARG002, FBT001, FBT002
        timeout: float | None = None,  # noqa: ARG002
    ) -> None:
        """Put a LogRecord, a Record or a dict into this process's lane.

        Returns when the record is safe, or counted as dropped where a quota is reached.
        `block` and `timeout` are accepted for the interface's sake: how long to wait
        for room is the server's `overflow="block"` and `block_s`.

        Raises
        ------
        queue.Full
            If there was no room for so long.
        TypeError
            If it is none of the three.
        """
        self._send(item)

    def put_nowait(self, item: object) -> None:
        """Do what `put` does."""
        self._send(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Record:  # noqa: FBT001, FBT002 - multiprocessing.Queue's signature
        """Take the next record of any process; in the master only.

        Parameters
        ----------
        block : bool
            Wait for one.
        timeout : float, optional
            For at most so many seconds.

        Raises
        ------
        queue.Empty
            If there is none (in time).
        RuntimeError
            In any process but the master.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wait_s = _WAIT_FIRST_S
        while True:
            self.tend()
            with self._lock:
                puller = self._own_puller()
                if not self._ready:
                    self._ready.extend(puller.pull())
                if self._ready:
                    return self._ready.popleft()
            if not block or (deadline is not None and time.monotonic() >= deadline):
                # Not before: a user's queue.py beside the script is no hindrance.
                from queue import Empty

                raise Empty
            time.sleep(wait_s)
            wait_s = min(_WAIT_MAX_S, wait_s * 2)

    def get_nowait(self) -> Record:
        """Take the next record, or raise `queue.Empty`; in the master only."""
        return self.get(block=False)

    def _own_puller(self) -> Puller:
        if self._base is None or os.getpid() != self._master:
            msg = "Server.queue.get works in the process that started the server only"
            raise RuntimeError(msg)
        if self._puller is None:
            spool = Spool(self._path)
            spool.set_control(PULLER, os.getpid())
            self._puller = Puller(spool, self._base)
        return self._puller

    def qsize(self) -> int:
        """Return about how many records are in the lanes, not yet taken by `get`."""
        if self._puller is not None and os.getpid() == self._master:
            return len(self._ready) + self._puller.waiting()
        spool = Spool(self._path)
        try:
            lanes: dict[str, Lane] = {}
            scan_all(spool, lanes, Lane)
            return sum(
                lane.refresh() and lane.count(Cursor().position)
                for lane in lanes.values()
            )
        finally:
            spool.close()

    def empty(self) -> bool:
        """Tell whether `qsize` is 0."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Tell whether this process's lane dropped its last record for want of room."""
        return self._is_full()

    def let_go(self) -> None:
        """Keep nothing open of a spool that is gone; what `get` has found stays."""
        # A signal handler may stop the server in the midst of a `get`.
        if self._lock.acquire(blocking=False):
            if self._puller is not None:
                self._puller.let_go()
            self._lock.release()

    def close(self) -> None:
        """Do nothing: records are where they should be when `put` returns."""

    def join_thread(self) -> None:
        """Do nothing: there is no thread."""

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread."""

    def join(self) -> None:
        """Do nothing; here because `logging.config` of 3.13 asks for it."""

    def task_done(self) -> None:
        """Do nothing; here because `logging.config` of 3.13 asks for it."""
