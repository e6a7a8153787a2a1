"""What happens to the pool and to the sinks, told as records in every sink.

In: a destination that takes nothing any more, one that does again, and one that has
gone for good; a worker that a signal ended. Out: records of femtomp's own, of no lane
and counted nowhere, each to all sinks: one that is down gets it when it is back. They
are kept in memory: what an engine did not tell when it died is not told. One that makes
way leaves it to the next.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from femtomp.lanes.resource import worker_resource
from femtomp.record import Identity, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SINK_DOWN: Final = "femtomp.sink.down"
SINK_RECOVERED: Final = "femtomp.sink.recovered"
SINK_ENDED: Final = "femtomp.sink.ended"
WORKER_DIED: Final = "femtomp.worker.died"
# Of one that was down for long, and missed them all: the newest.
MAX_WAITING: Final = 256
# A sink that goes up and down is told of at most so often.
INTERVAL_S: Final = 10.0
_INFO: Final = (9, "INFO")
_WARNING: Final = (13, "WARNING")


class News:
    """What is still to be told, by sink; used by all threads of the engine.

    Parameters
    ----------
    sinks : iterable of str
    base : mapping
        Resource attributes of the server.
    """

    def __init__(self, sinks: Iterable[str], base: Mapping[str, Any]) -> None:
        self._waiting: Final[dict[str, deque[Record]]] = {
            sink: deque(maxlen=MAX_WAITING) for sink in sinks
        }
        self._epoch: Final = os.urandom(12).hex()
        self._number = 0
        self._lock = threading.Lock()
        who = Identity(
            os.getppid(), 0, 0, 0, "", "femtomp", "supervisor", os.uname().nodename, ""
        )
        self._resource: Final = worker_resource(who, base, self._epoch)

    def of(self, sink: str, severity: int) -> list[Record]:
        """Return what is to be told to a sink now, of its level; for each batch."""
        waiting = self._waiting[sink]
        if not waiting:
            return []
        with self._lock:
            return [r for r in waiting if r.severity_number >= severity]

    def told(self, sink: str, records: list[Record]) -> None:
        """Forget what a sink got, and all that is older."""
        last = records[-1].uid if records else ""
        with self._lock:
            waiting = self._waiting[sink]
            # Not there if newer ones have taken its place, and that of all older.
            if any(record.uid == last for record in waiting):
                while waiting.popleft().uid != last:
                    pass

    def left(self) -> dict[str, list[Any]]:
        """Return what is still to be told, by sink, for the next engine."""
        with self._lock:
            return {
                sink: [record._replace(resource=None) for record in waiting]  # type: ignore[arg-type]
                for sink, waiting in self._waiting.items()
            }

    def take(self, left: Mapping[str, list[Any]]) -> None:
        """Tell what the engine before this one has left."""
        with self._lock:
            for sink, waiting in self._waiting.items():
                for fields in reversed(left.get(sink, ())):
                    record = Record(*fields)._replace(resource=self._resource)
                    waiting.appendleft(record)

    def worker_died(self, identity: Identity, cause: str) -> None:
        """Tell that a worker did not end by itself."""
        self._tell(
            WORKER_DIED,
            _WARNING,
            f"worker {identity.name} (pid {identity.pid}) was killed by {cause}",
            {
                "femtomp.worker.pid": identity.pid,
                "femtomp.worker.name": identity.name,
                "femtomp.worker.ended_by": cause,
            },
        )

    def sink_down(self, sink: str, reason: str) -> None:
        """Tell that a destination takes nothing."""
        self._tell(
            SINK_DOWN,
            _WARNING,
            f"sink {sink} is down: {reason}; its records are kept",
            {"femtomp.sink": sink, "femtomp.sink.reason": reason},
        )

    def sink_recovered(self, sink: str, down_s: float) -> None:
        """Tell that a destination takes records again."""
        self._tell(
            SINK_RECOVERED,
            _INFO,
            f"sink {sink} has recovered, it was down for {down_s:.1f} s",
            {"femtomp.sink": sink, "femtomp.sink.down_s": round(down_s, 3)},
        )

    def sink_ended(self, sink: str, reason: str) -> None:
        """Tell that a destination has gone, and does not come back."""
        self._tell(
            SINK_ENDED,
            _WARNING,
            f"sink {sink} has ended: {reason}; its records are refused from now on",
            {"femtomp.sink": sink, "femtomp.sink.reason": reason},
        )

    def _tell(
        self,
        event: str,
        severity: tuple[int, str],
        body: str,
        attributes: dict[str, Any],
    ) -> None:
        with self._lock:
            self._number += 1
            record = Record(
                timestamp=time.time_ns(),
                severity_number=severity[0],
                severity_text=severity[1],
                logger="femtomp",
                body=body,
                attributes=attributes,
                resource=self._resource,
                uid=f"{self._epoch}-news-{self._number}",
                event_name=event,
            )
            for waiting in self._waiting.values():
                waiting.append(record)


class Outage:
    """Whether one sink's destination takes records, and since when it does not.

    Parameters
    ----------
    sink : str
    news : News, optional
        Told when that changes.
    """

    def __init__(self, sink: str, news: News | None) -> None:
        self._sink = sink
        self._news = news
        self._since: float | None = None
        self._told_at = -INTERVAL_S
        self._is_told = False

    @property
    def is_on(self) -> bool:
        """Whether the destination took nothing when it was last asked."""
        return self._since is not None

    def begin(self, reason: str, now: float) -> bool:
        """Note that nothing was taken; True if that is new."""
        if self._since is not None:
            return False
        self._since = now
        self._is_told = now - self._told_at >= INTERVAL_S
        if self._is_told and self._news is not None:
            self._told_at = now
            self._news.sink_down(self._sink, reason)
        return True

    def end(self, now: float) -> float | None:
        """Note that something was taken; how long nothing was, if that is new."""
        if self._since is None:
            return None
        down_s, self._since = now - self._since, None
        if self._is_told and self._news is not None:
            self._news.sink_recovered(self._sink, down_s)
        return down_s
