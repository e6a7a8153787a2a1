"""The server's own figures as OpenTelemetry metrics.

In: statistics, which come from the files, and each sink's `Flow`. Out: metrics, named
as OpenTelemetry names those of its SDKs' components where it has a name: all that
workers do is one log processor, and each sink a processor with a queue and an exporter.
The rest is `femtomp.*`.

https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.codec.otlp_metrics import Metric, Point, Sizes
from femtomp.supervisor.flow import SIZE_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.supervisor.flow import Flow
    from femtomp.supervisor.stats import ServerStats, SinkStats

WORKERS: Final = "femtomp.WorkerHandler"
_RECORDS: Final = "{log_record}"
# What the convention wants a full queue to be called.
_FULL: Final = "queue_full"


class Component(NamedTuple):
    """A sink, as the convention sees it."""

    name: str
    type: str
    flow: Flow

    def attributes(self, **more: str) -> dict[str, str]:
        """Return what its points have."""
        return _of(self.name, self.type, **more)


class Reading(NamedTuple):
    """All that was read at one time.

    Attributes
    ----------
    kept : int
        Records that workers kept. Not of the sinks' figures, which go with a sink.
    since, engine_since : int
        When the server's figures were 0, and those of its engine's flows.
    """

    stats: ServerStats
    kept: int
    components: Mapping[str, Component]
    since: int
    engine_since: int
    now: int


def metrics_of(reading: Reading) -> list[Metric]:
    """Return every metric of a server, that of each sink among them."""
    return [*_of_workers(reading), *_of_sinks(reading), *_of_flows(reading)]


def _of_workers(reading: Reading) -> list[Metric]:
    stats, since = reading.stats, reading.since
    return [
        Metric(
            "otel.sdk.log.created", _RECORDS, "Log calls that began.",
            "counter", since, [Point(stats.started)],
        ),
        Metric(
            "otel.sdk.processor.log.processed", _RECORDS,
            "Records that were kept, or handed to a sink; those that were dropped have "
            "an error.type.",
            "counter", since,
            [
                Point(reading.kept, _of(WORKERS, WORKERS)),
                *(
                    Point(count, _of(WORKERS, WORKERS, error_type=_reason(reason)))
                    for reason, count in stats.dropped.items()
                ),
                *(p for c, s in _pairs(reading) for p in _processed(c, s)),
            ],
        ),
        Metric(
            "femtomp.log.left_out", _RECORDS,
            "Records that workers did not keep because they were told to.",
            "counter", since,
            [Point(n, {"femtomp.way": way}) for way, n in stats.left_out.items()],
        ),
        Metric(
            "femtomp.workers", "{process}", "Workers that live.", "up_down", since,
            [Point(sum(lane.alive for lane in stats.lanes))],
        ),
        Metric(
            "femtomp.engine.restarts", "{restart}",
            "How often the process that owns the sinks was started again.",
            "counter", since, [Point(max(stats.engine_starts - 1, 0))],
        ),
    ]  # fmt: skip


def _of_sinks(reading: Reading) -> list[Metric]:
    pairs, since = _pairs(reading), reading.since
    return [
        Metric(
            "otel.sdk.processor.log.queue.size", _RECORDS,
            "Records that a sink is not done with.", "up_down", since,
            [Point(s.pending, c.attributes()) for c, s in pairs],
        ),
        Metric(
            "otel.sdk.exporter.log.exported", _RECORDS,
            "Records that a destination took; those that it refused have an "
            "error.type.",
            "counter", since,
            [
                *(Point(s.delivered, c.attributes()) for c, s in pairs),
                *(
                    Point(s.refused, c.attributes(error_type="rejected"))
                    for c, s in pairs
                ),
            ],
        ),
        Metric(
            "femtomp.sink.filtered", _RECORDS,
            "Records that a sink's level, filter and rate left out.",
            "counter", since, [Point(s.filtered, c.attributes()) for c, s in pairs],
        ),
    ]  # fmt: skip


def _of_flows(reading: Reading) -> list[Metric]:
    components, since = reading.components.values(), reading.engine_since
    return [
        Metric(
            "otel.sdk.exporter.log.inflight", _RECORDS,
            "Records of the batch that is being written.", "up_down", since,
            [Point(c.flow.in_hand, c.attributes()) for c in components],
        ),
        Metric(
            "femtomp.sink.lag", "s",
            "How long ago the first record of the batch was logged that is being "
            "written; 0 without one.",
            "gauge", since,
            [Point(_lag_s(c.flow, reading.now), c.attributes()) for c in components],
        ),
        Metric(
            "femtomp.sink.retries", "{retry}",
            "How often a destination was waited for before it was asked again.",
            "counter", since,
            [Point(c.flow.retries, c.attributes()) for c in components],
        ),
        Metric(
            "femtomp.sink.batch.size", _RECORDS, "Records of one batch.",
            "histogram", since,
            [Point(_sizes(c.flow), c.attributes()) for c in components],
        ),
    ]  # fmt: skip


def _pairs(reading: Reading) -> list[tuple[Component, SinkStats]]:
    sinks = reading.stats.sinks
    return [(c, sinks[name]) for name, c in reading.components.items() if name in sinks]


def _processed(component: Component, sink: SinkStats) -> list[Point]:
    dropped = {
        _FULL: sink.evicted,
        "corrupt": sink.corrupt,
        "quarantined": sink.quarantined,
    }
    return [
        Point(sink.delivered + sink.refused, component.attributes()),
        *(Point(n, component.attributes(error_type=e)) for e, n in dropped.items()),
    ]


def _reason(reason: str) -> str:
    return _FULL if reason == "quota" else reason


def _lag_s(flow: Flow, now: int) -> float:
    oldest = flow.oldest
    return max(now - oldest, 0) / 1e9 if oldest else 0.0


def _sizes(flow: Flow) -> Sizes:
    return Sizes(SIZE_BOUNDS, list(flow.sizes), flow.records)


def _of(name: str, kind: str, *, error_type: str | None = None) -> dict[str, str]:
    found = {"otel.component.name": name, "otel.component.type": kind}
    if error_type is not None:
        found["error.type"] = error_type
    return found
