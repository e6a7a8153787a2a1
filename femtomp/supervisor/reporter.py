"""The reporter: sends the server's figures to a collector, now and then.

In: statistics, the pumps' flows. Out: one request each interval and a last one when the
server ends. One thread, in the engine alone. Nothing is repeated: the figures are
cumulative, so the next request says what a lost one would have.

What must never happen: a record that waits for this, or an engine that dies of it.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.otlp_metrics import encode_metrics
from femtomp.config import OTLPSink
from femtomp.errors import ConfigError, FemtompError
from femtomp.lanes.lock import GUARDIAN_LOCK
from femtomp.lanes.resource import worker_resource
from femtomp.record import Identity
from femtomp.supervisor.measures import Component, Reading, metrics_of
from femtomp.supervisor.notes import note
from femtomp.supervisor.stats import read_stats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from femtomp.config import SinkOptions
    from femtomp.lanes.spool import Spool
    from femtomp.sinks.otlp import Transport
    from femtomp.supervisor.guardian import Launch
    from femtomp.supervisor.pump import Pump

INTERVAL_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
_INTERVAL_MS: Final = 60_000
# The statistics of a thousand lanes are read in 0.1 s.
_LEAST_MS: Final = 100
_MOST_MS: Final = 24 * 3600 * 1000
# What the server's end waits for the last figures, when all records are away.
_LAST_S: Final = 2.0
_OF_A_WORKER: Final = (
    "process.pid",
    "process.parent_pid",
    "femtomp.worker.name",
    "femtomp.worker.role",
)


class Reporter(threading.Thread):
    """Sends the figures to one collector.

    Parameters
    ----------
    sink : str
        Whose collector it is.
    transport : Transport
    spool : Spool
    resource : mapping
        Of the server.
    components : mapping
        The server's sinks, by name.
    interval_s : float
    """

    def __init__(
        self,
        sink: str,
        transport: Transport,
        spool: Spool,
        resource: Mapping[str, Any],
        components: Mapping[str, Component],
        interval_s: float,
    ) -> None:
        super().__init__(name=f"femtomp-{sink}-metrics", daemon=True)
        self._sink = sink
        self._transport = transport
        self._spool = spool
        self._resource = resource
        self._components = components
        self._interval_s = interval_s
        self._since = time.time_ns()
        self._kept = 0
        self._is_told = threading.Event()

    def run(self) -> None:
        """Send each interval; once more when told to end."""
        while not self._is_told.wait(self._interval_s):
            self._report()
        self._report()
        self._transport.close()

    def finish(self, timeout: float | None) -> None:
        """Send a last time; wait for it, but not long."""
        self._is_told.set()
        self.join(_LAST_S if timeout is None else min(timeout, _LAST_S))

    def _report(self) -> None:
        try:
            answer = self._transport.send(self._request())
        except OSError as exc:  # a spool that cannot be read
            self._say(str(exc))
            return
        if answer.kind != "accepted" or answer.rejected:
            self._say(answer.reason)

    def _request(self) -> bytes:
        stats = read_stats(self._spool)
        # A call that is about to drop its record has begun: the sum must not shrink.
        self._kept = max(self._kept, stats.started - sum(stats.dropped.values()))
        reading = Reading(
            stats,
            self._kept,
            self._components,
            _born(self._spool) or self._since,
            self._since,
            time.time_ns(),
        )
        return encode_metrics(self._resource, metrics_of(reading), reading.now)

    def _say(self, reason: str) -> None:
        note(f"{self._sink}:metrics", f"metrics of {self._sink} not taken: {reason}")


def start_reporters(
    launch: Launch, spool: Spool, pumps: Sequence[Pump]
) -> list[Reporter]:
    """Start one for each sink that is to have metrics.

    An engine after the first goes on without metrics rather than not at all.

    Parameters
    ----------
    launch : Launch
        With the sinks and the resource.
    spool : Spool
    pumps : sequence of Pump

    Raises
    ------
    FemtompError
        If one cannot be made.
    """
    config = launch.config
    wanted = [s for s in config.sinks if isinstance(s, OTLPSink) and s.metrics]
    if not wanted:
        return []
    from femtomp.sinks.otlp import open_transport  # late, with its drivers

    try:
        interval_s = _interval_s(os.environ)
        types = {str(sink.name): _type_of(sink) for sink in config.sinks}
        components = {p.sink: Component(p.sink, types[p.sink], p.flow) for p in pumps}
        resource = _resource(spool, dict(config.resource))
        made = [
            Reporter(
                str(sink.name),
                open_transport(sink, os.environ, "metrics"),
                spool,
                resource,
                components,
                interval_s,
            )
            for sink in wanted
        ]
    except FemtompError as exc:
        if launch.ready >= 0:
            raise
        note("metrics", f"no metrics: {exc}")
        return []
    for reporter in made:
        reporter.start()
    return made


def _type_of(sink: SinkOptions) -> str:
    """Return the convention's name for such a component, else the class's."""
    if isinstance(sink, OTLPSink):
        from femtomp.sinks.otlp import resolve_protocol

        kind = "grpc" if resolve_protocol(sink, os.environ) == "grpc" else "http"
        return f"otlp_{kind}_log_exporter"
    return f"femtomp.{type(sink).__name__}"


def _resource(spool: Spool, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the server's: the same for all engines that serve one spool."""
    who = Identity(0, 0, 0, 0, "", "", "", os.uname().nodename, "")
    found = dict(worker_resource(who, base, spool.path))
    return {key: found[key] for key in found if key not in _OF_A_WORKER}


def _born(spool: Spool) -> int:
    """Return when the spool was made: its figures were 0 then.

    The lock's file is never written to; nor is it opened here, which would end in the
    loss of the lock.
    """
    try:
        return os.stat(GUARDIAN_LOCK, dir_fd=spool.descriptor).st_mtime_ns
    except OSError:
        return 0


def _interval_s(environ: Mapping[str, str]) -> float:
    given = environ.get(INTERVAL_VARIABLE, "").strip() or str(_INTERVAL_MS)
    try:
        milliseconds = int(given)
    except ValueError:
        milliseconds = 0
    if not _LEAST_MS <= milliseconds <= _MOST_MS:
        msg = (
            f"{INTERVAL_VARIABLE} must be milliseconds, {_LEAST_MS} to {_MOST_MS}, "
            f"not {given!r}"
        )
        raise ConfigError(msg)
    return milliseconds / 1000
