r"""Records as entries of systemd-journald's native protocol.

In: a `Record` and the program's identifier. Out: the bytes of one datagram, which is
one entry. A field is ``NAME=value\n``; a value with a newline takes the binary form
instead, because a newline in the first form starts another field, and an empty line
another entry::

    NAME=value\n                                      value has no newline
    NAME\n | u64 length, little endian | value | \n    any value

Names are 1 to 64 of A-Z, 0-9 and _, and begin with a letter. Extras can neither take a
name that femtomp or syslog uses nor one that journald trusts (those begin with _).

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from femtomp.codec.exceptions import ATTRIBUTE
from femtomp.codec.resources import ByResource
from femtomp.codec.text import json_value

if TYPE_CHECKING:
    from femtomp.record import AnyValue, Record, Resource

# journald drops an entry, whole and silently, above 1024 fields with its own of about
# 20: 1000 were stored and 1100 lost (version 252).
MAX_FIELDS: Final = 1000
MAX_NAME_CHARS: Final = 64

# syslog priorities by OpenTelemetry's severity number: 0 (unspecified) is info.
_DEBUG, _INFO, _WARNING, _ERROR, _CRITICAL = "7", "6", "4", "3", "2"
_PRIORITIES: Final = (
    _INFO,
    *[_DEBUG] * 8,
    *[_INFO] * 4,
    *[_WARNING] * 4,
    *[_ERROR] * 4,
    *[_CRITICAL] * 4,
)

# Attributes that have a field of their own; the journal's names for code locations.
_STANDARD: Final = {
    "code.file.path": "CODE_FILE",
    "code.line.number": "CODE_LINE",
    "code.function.name": "CODE_FUNC",
    "thread.name": "THREAD_NAME",
    "thread.id": "THREAD_ID",
    # Python's thread.id is no kernel id; whoever knows the kernel's calls it this.
    "thread.native_id": "TID",
    "exception.type": "EXCEPTION_TYPE",
    "exception.message": "EXCEPTION_MESSAGE",
    "exception.stacktrace": "EXCEPTION_STACKTRACE",
}
_RESERVED: Final = frozenset(_STANDARD.values()) | {
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "SYSLOG_FACILITY",
    "SYSLOG_TIMESTAMP",
    "SYSLOG_RAW",
    "LOGGER",
    "WORKER_PID",
    "WORKER_NAME",
    "EVENT_TIMESTAMP_USEC",
    "EVENT_NAME",
    "TRACE_ID",
    "SPAN_ID",
    "SERVICE_NAME",
    "LOG_RECORD_UID",
    "DROPPED_ATTRIBUTES_COUNT",
    "DROPPED_FIELDS",
    "EXTRA",
    # From root, journald takes the metadata of the process that this names.
    "OBJECT_PID",
}
_UNFIT: Final = re.compile(r"[^A-Z0-9_]")


def datagram(record: Record, identifier: str) -> bytes:
    r"""Encode a record as one entry of journald's native protocol.

    Parameters
    ----------
    record : Record
        Any record.
    identifier : str
        SYSLOG_IDENTIFIER: what `journalctl -t` selects, usually the service's name.

    Returns
    -------
    bytes
        The datagram. One above the socket's limit has to be sent as a memfd.

    Notes
    -----
    Extras become fields of their own under a sanitised name; keys that fall together
    are all kept, as one field with several values. A key of which nothing is left is
    kept in EXTRA as ``key=value``. At most `MAX_FIELDS` are sent, and DROPPED_FIELDS
    tells how many were not.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> record = Record(2000, 17, "ERROR", "a", "hi", {"user id": 7}, Resource({}))
    >>> for line in datagram(record, "shop").splitlines():
    ...     print(line.decode())
    MESSAGE=hi
    PRIORITY=3
    SYSLOG_IDENTIFIER=shop
    LOGGER=a
    EVENT_TIMESTAMP_USEC=2
    USER_ID=7
    """
    fields = _fields(record, identifier)
    text = "".join([f"{name}={value}\n" for name, value in fields])
    # As many newlines as fields: no value has one. Looked for once, not in each value.
    if text.count("\n") == len(fields):
        return text.encode("utf-8", "backslashreplace")
    return b"".join([_field(name, value) for name, value in fields])


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


def _fields(record: Record, identifier: str) -> list[tuple[str, str]]:
    body = record.body
    number = min(max(record.severity_number, 0), len(_PRIORITIES) - 1)
    fields = [
        ("MESSAGE", body if type(body) is str else _string(body)),
        ("PRIORITY", _PRIORITIES[number]),
        ("SYSLOG_IDENTIFIER", identifier),
        ("LOGGER", record.logger),
        ("EVENT_TIMESTAMP_USEC", str(record.timestamp // 1000)),
    ]
    if record.uid:
        fields.append(("LOG_RECORD_UID", record.uid))
    if record.trace_id is not None:
        fields.append(("TRACE_ID", record.trace_id))
    if record.span_id is not None:
        fields.append(("SPAN_ID", record.span_id))
    if record.event_name is not None:
        fields.append(("EVENT_NAME", record.event_name))
    if record.dropped_attributes_count:
        count = str(record.dropped_attributes_count)
        fields.append(("DROPPED_ATTRIBUTES_COUNT", count))
    fields += _workers.get(record.resource)
    # One is kept for DROPPED_FIELDS.
    room = MAX_FIELDS - 1 - len(fields)
    attributes = record.attributes
    if ATTRIBUTE in attributes and "exception.stacktrace" in attributes:
        # The journal's readers are people: the text says the same.
        attributes = {k: v for k, v in attributes.items() if k != ATTRIBUTE}
    if len(attributes) <= room:
        return fields + [_pair(k, v) for k, v in attributes.items()]
    fields += [_pair(k, v) for k, v in islice(attributes.items(), room)]
    return [*fields, ("DROPPED_FIELDS", str(len(attributes) - room))]


def _pair(key: str, value: AnyValue) -> tuple[str, str]:
    text = value if type(value) is str else _string(value)
    name = _name(key)
    return (name, text) if name else ("EXTRA", f"{key}={text}")


def _string(value: AnyValue) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is int:
        return str(value)
    if value is None:
        return ""
    text = json_value(value)
    # What json_value makes a string of (bytes, NaN) stands alone here, unquoted.
    return text[1:-1] if text.startswith('"') else text


@lru_cache(maxsize=4096)
def _name(key: str) -> str:
    # The vocabulary of a program's attribute keys is small; making a name took 1.2 µs.
    standard = _STANDARD.get(key)
    if standard is not None:
        return standard
    name = _UNFIT.sub("_", key.upper()).lstrip("_")[:MAX_NAME_CHARS]
    if name and (name[0].isdigit() or name in _RESERVED):
        name = f"F_{name}"[:MAX_NAME_CHARS]
    return name


def _worker_fields(resource: Resource) -> list[tuple[str, str]]:
    brief = resource.brief
    known = (
        ("SYSLOG_PID", "process.pid"),
        ("WORKER_PID", "process.pid"),
        ("WORKER_NAME", "femtomp.worker.name"),
        ("SERVICE_NAME", "service.name"),
    )
    return [(name, _string(brief[key])) for name, key in known if key in brief]


_workers: Final = ByResource(_worker_fields)
