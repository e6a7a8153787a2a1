r"""Records as Elastic Common Schema, one JSON object a line, for Filebeat and its kin.

In: a `Record`. Out: one line; no value can end it. The first keys are those that the
specification of ECS logging orders; all have dotted names, which Elasticsearch (and
Filebeat's ``expand_keys: true``) takes for objects::

    {"@timestamp":"2026-11-21T09:23:37.123456789Z","log.level":"INFO",
     "message":"sold tea","ecs.version":"9.0.0","log.logger":"shop", ...
     "labels":{"item":"tea"},"numeric_labels":{"price":4.2}}\n

A field takes its own place if it is one of ECS's in `_OWN_PLACES` (which OpenTelemetry
names alike: `http.request.method`), has the type that ECS gives it, and the place is
free. All other fields go where their type can clash with no mapping: numbers to
`numeric_labels` (as Elastic's APM does), the rest as texts to `labels`, with JSON for
what is no text. In labels `.`, `*` and `\` become underscores, as the specification
says; names that fall together get underscores behind them. So no name has two types,
and no field is overwritten. Left out: template, scope, trace flags.

https://github.com/elastic/ecs-logging/tree/main/spec and
https://www.elastic.co/docs/reference/ecs
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.codec.exceptions import ATTRIBUTE
from femtomp.codec.resources import ByResource
from femtomp.codec.values import (
    as_text,
    free_name,
    level_name,
    object_line,
    object_lines,
    rfc3339,
    scrubbed_brief,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from femtomp.record import AnyValue, Record, Resource

ECS_VERSION: Final = "9.0.0"

# Attributes with a name of their own in ECS, and the types that its mapping takes.
_RENAMED: Final = {
    "code.file.path": ("log.origin.file.name", str),
    "code.line.number": ("log.origin.file.line", int),
    "code.function.name": ("log.origin.function", str),
    "thread.id": ("process.thread.id", int),
    "thread.name": ("process.thread.name", str),
    "exception.type": ("error.type", str),
    "exception.message": ("error.message", str),
    "exception.stacktrace": ("error.stack_trace", str),
    # A log call without an exception that asked for its stack.
    "code.stacktrace": ("error.stack_trace", str),
    "service.name": ("service.name", str),
    "service.instance.id": ("service.node.name", str),
    "deployment.environment.name": ("service.environment", str),
    "host.name": ("host.name", str),
    "femtomp.worker.name": ("process.name", str),
}
_OWN_PLACES: Final = {
    **dict.fromkeys(
        (
            "client.address", "client.domain", "cloud.account.id",
            "cloud.availability_zone", "cloud.provider", "cloud.region", "container.id",
            "container.name", "destination.address", "error.code", "error.id",
            "error.type", "event.action", "event.code", "event.kind", "event.module",
            "event.outcome", "event.reason", "http.request.id", "http.request.method",
            "http.request.mime_type", "http.request.referrer",
            "http.response.mime_type", "http.version", "network.protocol",
            "network.transport", "network.type", "organization.id", "server.address",
            "server.domain", "service.environment", "service.type", "service.version",
            "source.address", "source.domain", "transaction.id", "url.domain",
            "url.fragment", "url.full", "url.original", "url.path", "url.query",
            "url.scheme", "user.email", "user.full_name", "user.id", "user.name",
            "user_agent.name", "user_agent.original",
        ),
        str,
    ),
    **dict.fromkeys(
        (
            "client.bytes", "client.port", "destination.bytes", "destination.port",
            "event.duration", "event.sequence", "event.severity",
            "http.request.body.bytes", "http.request.bytes", "http.response.body.bytes",
            "http.response.bytes", "http.response.status_code", "network.bytes",
            "process.parent.pid", "process.pid", "server.bytes", "server.port",
            "source.bytes", "source.port", "url.port",
        ),
        int,
    ),
}  # fmt: skip
_LEFT_OUT: Final = frozenset(("femtomp.template", ATTRIBUTE))
_SANITISED: Final = str.maketrans(".*\\", "___")


class _Document(NamedTuple):
    fields: dict[str, AnyValue]
    labels: dict[str, str]
    numbers: dict[str, int | float]


def ecs_line(record: Record) -> bytes:
    r"""Encode a record as one object of Elastic Common Schema and a newline.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> record = Record(0, 9, "INFO", "shop", "hi", {"n": 1, "a.b": "c"}, Resource({}))
    >>> ecs_line(record)[47:]  # doctest: +ELLIPSIS
    b'"log.level":"INFO",..."labels":{"a_b":"c"},"numeric_labels":{"n":1}}\n'
    """
    return object_line(_object, record)


def ecs_lines(batch: Sequence[Record]) -> bytes:
    """Encode a batch as the lines that `ecs_line` gives."""
    return object_lines(_object, batch)


def _object(record: Record) -> dict[str, AnyValue]:
    worker = _workers.get(record.resource)
    fields: dict[str, AnyValue] = {
        "@timestamp": rfc3339(record.timestamp),
        "log.level": level_name(record),
        "message": as_text(record.body),
        "ecs.version": ECS_VERSION,
        "log.logger": record.logger,
        **worker.fields,
    }
    if record.trace_id is not None:
        fields["trace.id"] = record.trace_id
    if record.span_id is not None:
        fields["span.id"] = record.span_id
    if record.event_name is not None:
        fields["event.action"] = record.event_name
    if record.uid:
        fields["event.id"] = record.uid
    document = _Document(fields, {**worker.labels}, {**worker.numbers})
    _place(document, record.attributes)
    if record.dropped_attributes_count:
        dropped = {"dropped_attributes_count": record.dropped_attributes_count}
        _place(document, dropped)
    if document.labels:
        fields["labels"] = document.labels
    if document.numbers:
        fields["numeric_labels"] = document.numbers
    return fields


def _place(document: _Document, attributes: Mapping[str, AnyValue]) -> None:
    """Put each attribute where it belongs, and what has no such place to the labels."""
    others = []
    for key, value in attributes.items():
        name, kind = _RENAMED.get(key) or (key, _OWN_PLACES.get(key))
        if type(value) is kind and name not in document.fields:
            document.fields[name] = value
        elif key not in _LEFT_OUT:
            others.append((key, value))
    for key, value in others:
        name = _label(key)
        if type(value) is int or type(value) is float:
            document.numbers[free_name(name, document.numbers)] = value
        else:
            document.labels[free_name(name, document.labels)] = as_text(value)


@lru_cache(maxsize=4096)
def _label(key: str) -> str:
    # The vocabulary of a program's keys is small. Elasticsearch refuses a document for
    # one name that is empty or blank.
    name = key.translate(_SANITISED)
    return name if name.strip() else "_"


def _worker(resource: Resource) -> _Document:
    brief = scrubbed_brief(resource)
    document = _Document({}, {}, {})
    _place(document, brief)
    if "service.name" in document.fields:
        document.fields["event.dataset"] = f"{document.fields['service.name']}.log"
    return document


_workers: Final = ByResource(_worker)
