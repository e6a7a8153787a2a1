"""Putting things other than log calls into the lane: `Server.queue.put`.

In: a LogRecord, a Record or a dict. Out: a payload in this process's lane. Unlike a log
call, `put` raises TypeError for what is none of the three, as the caller's mistake.
"""

from __future__ import annotations

import logging
import os
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from femtomp.checks import level_or_none
from femtomp.lanes.queue import Queue
from femtomp.record import DEFAULT_LIMITS, Record, Resource, severity_number
from femtomp.worker.capture import from_log_record, from_record
from femtomp.worker.channel import Sent, channel, say
from femtomp.worker.fork import catch_up, mark
from femtomp.worker.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Limits

_NAMES: Final = frozenset(Record._fields) - {"resource", "uid"}


def queue(spool: str, base: Mapping[str, Any] | None = None) -> Queue:
    """Return the queue of a spool, for this process."""

    def send(item: object) -> None:
        if not mark[0]:
            catch_up()
        way = channel(spool)
        payload = to_payload(item, os.getpid(), way.known_limits())
        sent = way.send(payload)
        if sent is Sent.NOWHERE:
            say("a record that was put into the queue was dropped: there is no lane")
        elif sent is Sent.DROPPED and way.is_full() and way.blocks():
            # Not before: a user's queue.py beside the script is no hindrance.
            from queue import Full

            raise Full

    def is_full() -> bool:
        return channel(spool).is_full()

    return Queue(spool, send, is_full, queue, base)


def to_payload(item: object, pid: int, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the payload of what may be put into a queue.

    Raises
    ------
    TypeError
        If it is neither LogRecord, Record nor dict.
    """
    if isinstance(item, logging.LogRecord):
        return from_log_record(item, pid, limits)
    if isinstance(item, Record):
        return from_record(item, pid, limits)
    if isinstance(item, dict):
        return from_record(from_mapping(item), pid, limits)
    msg = f"put() takes a LogRecord, a Record or a dict, not a {type(item).__name__}"
    raise TypeError(msg)


def from_mapping(values: Mapping[str, Any]) -> Record:
    """Make a Record of a dict: fields by name, everything else an attribute.

    Examples
    --------
    >>> record = from_mapping({"body": "hello", "severity_text": "ERROR", "user_id": 7})
    >>> record.severity_number, record.attributes
    (17, {'user_id': 7})
    """
    known = {k: v for k, v in values.items() if k in _NAMES}
    others = {k: v for k, v in values.items() if k not in _NAMES}
    text = str(known.get("severity_text") or "INFO")
    level = level_or_none(text)
    attributes = known.get("attributes")
    timestamp = known.get("timestamp")
    number = known.get("severity_number")
    return Record(
        timestamp=timestamp if isinstance(timestamp, int) else time_ns(),
        severity_number=(
            number
            if isinstance(number, int)
            else severity_number(logging.INFO if level is None else level)
        ),
        severity_text=text,
        logger=str(known.get("logger") or "root"),
        body=plain(known.get("body")),
        attributes={**(attributes if isinstance(attributes, dict) else {}), **others},
        resource=Resource({}),
        trace_id=known.get("trace_id"),
        span_id=known.get("span_id"),
        trace_flags=known.get("trace_flags"),
        event_name=known.get("event_name"),
    )
