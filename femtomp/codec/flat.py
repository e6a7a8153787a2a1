r"""Records as flat JSON, one object a line, as Loki and Datadog like it on stdout.

In: a `Record`. Out: one line; no value can end it. What every record has comes first,
then the record's own fields, on the same level::

    {"timestamp":"2026-11-21T09:23:37.123456789Z","level":"ERROR","message":"sold tea",
     "logger":"shop","service":"shop","pid":812,"worker":"worker-1","item":"tea",
     "caller":"/srv/shop/cart.py:12","uid":"8901ad17f7f35ab7b5388dd0-0"}\n

`trace_id`, `span_id`, `event`, `exception` (the stack trace), `exception_type`,
`exception_message`, `stack` and `dropped_attributes_count` are there if the record has
them. Attributes that the server's `resource=` names stand beside `service`. A field
whose name is taken gets underscores behind it, `level_`, so that nothing is
overwritten and no key is there twice. Left out: thread, function, template, host and
instance, scope and trace flags, which the format `json` has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    from collections.abc import Sequence

    from femtomp.record import AnyValue, Record, Resource

# Attributes that stand under another name, or not at all.
_PLACED: Final = frozenset((
    "code.file.path",
    "code.line.number",
    "code.function.name",
    "code.stacktrace",
    "exception.message",
    "exception.stacktrace",
    "exception.type",
    "femtomp.template",
    ATTRIBUTE,
    "thread.id",
    "thread.name",
))  # fmt: skip
_TAIL: Final = (
    ("exception_type", "exception.type"),
    ("exception_message", "exception.message"),
    ("exception", "exception.stacktrace"),
    ("stack", "code.stacktrace"),
)
_OF_WORKER: Final = (
    ("service", "service.name"),
    ("pid", "process.pid"),
    ("worker", "femtomp.worker.name"),
)
_NOT_OF_WORKER: Final = frozenset(("host.name", "service.instance.id"))
_HEAD: Final = ("timestamp", "level", "message", "logger")


def flat_line(record: Record) -> bytes:
    r"""Encode a record as one flat JSON object and a newline.

    Values are written by the rules of the format `json`.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> worker = Resource({"service.name": "shop", "process.pid": 7})
    >>> record = Record(0, 9, "INFO", "cart", "hi", {"n": 1, "level": 2}, worker)
    >>> flat_line(record)[46:]
    b'"level":"INFO","message":"hi","logger":"cart","service":"shop","pid":7,"n":1,"level_":2}\n'
    """
    return object_line(flat_fields, record)


def flat_lines(batch: Sequence[Record]) -> bytes:
    """Encode a batch as the lines that `flat_line` gives."""
    return object_lines(flat_fields, batch)


def flat_fields(record: Record) -> dict[str, AnyValue]:
    """Return what a flat line says, in its order; each key is there once.

    Parameters
    ----------
    record : Record
        Whose values JSON can say.
    """
    head: dict[str, AnyValue] = {
        "timestamp": rfc3339(record.timestamp),
        "level": level_name(record),
        "message": as_text(record.body),
        "logger": record.logger,
        **_workers.get(record.resource),
    }
    if record.trace_id is not None:
        head["trace_id"] = record.trace_id
    if record.span_id is not None:
        head["span_id"] = record.span_id
    if record.event_name is not None:
        head["event"] = record.event_name
    tail = _tail(record)
    clashing = []
    for key, value in record.attributes.items():
        if key in _PLACED:
            continue
        if key in head or key in tail:
            clashing.append((key, value))
        else:
            head[key] = value
    # Last: `level_` may be a field too.
    for key, value in clashing:
        head[free_name(key, head, tail)] = value
    head.update(tail)
    return head


def _tail(record: Record) -> dict[str, AnyValue]:
    attributes = record.attributes
    tail: dict[str, AnyValue] = {}
    path = attributes.get("code.file.path")
    if path is not None:
        line = attributes.get("code.line.number")
        tail["caller"] = as_text(path) if line is None else f"{path}:{line}"
    for name, key in _TAIL:
        if key in attributes:
            tail[name] = attributes[key]
    if record.dropped_attributes_count:
        tail["dropped_attributes_count"] = record.dropped_attributes_count
    if record.uid:
        tail["uid"] = record.uid
    return tail


def _worker(resource: Resource) -> dict[str, AnyValue]:
    brief = scrubbed_brief(resource)
    values = {name: brief.pop(key) for name, key in _OF_WORKER if key in brief}
    for key, value in brief.items():
        if key not in _NOT_OF_WORKER:
            values[free_name(key, values, _HEAD)] = value
    return values


_workers: Final = ByResource(_worker)
