"""Figures as an OTLP request, cumulative.

In: a resource, metrics and the time. Out: a serialized `ExportMetricsServiceRequest`.
By the generated classes of opentelemetry-proto, loaded at the first call: this is done
once a minute.

https://opentelemetry.io/docs/specs/otel/metrics/data-model/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCOPE: Final = "femtomp"
_INT64: Final = 1 << 63


class Sizes(NamedTuple):
    """A histogram's point: how many were at most each bound, and above the last."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


class Point(NamedTuple):
    """One value, of what the attributes say."""

    value: float | Sizes
    attributes: Mapping[str, str] = {}


class Metric(NamedTuple):
    """A metric's points.

    Attributes
    ----------
    kind : {"counter", "up_down", "gauge", "histogram"}
        A counter only grows, "up_down" is a sum that can shrink.
    since : int
        When it was 0, nanoseconds since the epoch.
    """

    name: str
    unit: str
    description: str
    kind: Literal["counter", "up_down", "gauge", "histogram"]
    since: int
    points: Sequence[Point]


def encode_metrics(
    resource: Mapping[str, Any], metrics: Sequence[Metric], now: int, version: str = ""
) -> bytes:
    """Return one request.

    Parameters
    ----------
    resource : mapping
        Of whom the figures are.
    metrics : sequence of Metric
    now : int
        When they were read, nanoseconds since the epoch.
    version : str
        Of what has read them.
    """
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    request = metrics_service_pb2.ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add()
    _put(of_resource.resource.attributes, resource)
    of_scope = of_resource.scope_metrics.add()
    of_scope.scope.name = SCOPE
    of_scope.scope.version = version
    for metric in metrics:
        if metric.points:
            _add(of_scope.metrics.add(), metric, now)
    return bytes(request.SerializeToString())


def _add(message: Any, metric: Metric, now: int) -> None:
    message.name = metric.name
    message.unit = metric.unit
    message.description = metric.description
    if metric.kind == "histogram":
        data = message.histogram
    elif metric.kind == "gauge":
        data = message.gauge
    else:
        data = message.sum
        data.is_monotonic = metric.kind == "counter"
    if metric.kind != "gauge":
        data.aggregation_temporality = 2  # AGGREGATION_TEMPORALITY_CUMULATIVE
    for point in metric.points:
        added = data.data_points.add()
        _put(added.attributes, point.attributes)
        added.time_unix_nano = now
        if metric.kind != "gauge":
            added.start_time_unix_nano = metric.since
        _set(added, point.value)


def _set(message: Any, value: float | Sizes) -> None:
    if isinstance(value, Sizes):
        message.count = sum(value.counts)
        message.sum = value.total
        message.bucket_counts.extend(value.counts)
        message.explicit_bounds.extend(value.bounds)
    elif isinstance(value, int):
        message.as_int = value
    else:
        message.as_double = value


def _put(pairs: Any, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        pair = pairs.add()
        pair.key = _text(key)
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int) and -_INT64 <= value < _INT64:
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = _text(str(value))


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
