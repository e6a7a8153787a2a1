r"""Records as entries of systemd-journald's native protocol.

In: a `Record` and the program's identifier. Out: the bytes of one datagram, which is
one entry. A field is ``NAME=value\n``; a value with a newline takes the binary form
instead, because a newline in the first form starts another field, and an empty line
another entry::

    NAME=value\n                                      value has no newline
    NAME\n | u64 length, little endian | value | \n    any value

Names are those of `journald_names`. Most records of a program have the same few sets of
attributes: for each set the names are found once, and a record is then one formatting
of a text. Any that does not come out as one line a field is written with care instead.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from femtomp.codec.exceptions import ATTRIBUTE
from femtomp.codec.journal_catalog import MESSAGE_IDS
from femtomp.codec.journald_names import EXTRA, Names
from femtomp.codec.resources import ByResource
from femtomp.codec.values import json_value
from femtomp.record import LAST_LEVEL, LEVEL, SEVERITY_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from femtomp.record import AnyValue, Record, Resource

# journald drops an entry, whole and silently, above 1024 fields with its own of about
# 20: 1000 were stored and 1100 lost (version 252).
MAX_FIELDS: Final = 1000
# Sets of attribute names; a program has dozens, one that makes names up has no use of
# the table.
MAX_SHAPES: Final = 1024

# syslog priorities by OpenTelemetry's severity number: 0 (unspecified) is info, INFO2
# to INFO4 (Python's 21 to 29) are notices, as OpenTelemetry maps syslog's.
_DEBUG, _INFO, _NOTICE, _WARNING, _ERROR, _CRITICAL, _ALERT, _EMERGENCY = "76543210"
_PRIORITIES: Final = (
    _INFO,
    *[_DEBUG] * 8,
    _INFO,
    *[_NOTICE] * 3,
    *[_WARNING] * 4,
    *[_ERROR] * 4,
    *[_CRITICAL] * 4,
)
_LAST_PRIORITY: Final = len(_PRIORITIES) - 1
# Levels above CRITICAL that syslog has names for. journald shows an emergency on every
# terminal, so whoever logs at 70 means it.
_ALERT_LEVEL: Final = 60
_EMERGENCY_LEVEL: Final = 70
_STACKTRACES: Final = ("exception.stacktrace", "code.stacktrace")
_MESSAGE_ID: Final = "MESSAGE_ID"
# RFC 9562's text, in braces and as a URN too; sd-id128(3) is without its dashes.
_UUID: Final = re.compile(
    r"(?:urn:uuid:)?(\{)?([0-9a-f]{8}(-?)(?:[0-9a-f]{4}\3){3}[0-9a-f]{12})(?(1)\})",
    re.IGNORECASE,
)
_HEAD_FIELDS: Final = 5
# All that can be beside extras: the head's, the resource's, DROPPED_FIELDS.
_MOST_OF_RESOURCE: Final = 6
_MOST_OTHERS: Final = 20
_OF_RESOURCE: Final = (
    ("SYSLOG_PID", "process.pid"),
    ("WORKER_PID", "process.pid"),
    ("WORKER_NAME", "femtomp.worker.name"),
    ("WORKER_ROLE", "femtomp.worker.role"),
    ("SERVICE_NAME", "service.name"),
)
# What the priority does not say already.
# What the fast way, one line a field, cannot write.
_NEED_CARE: Final = frozenset((ATTRIBUTE, _MESSAGE_ID, *_STACKTRACES))
_USUAL_LEVELS: Final = frozenset(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", ""))
_PLAIN: Final = frozenset((str, int))
_are_plain: Final = _PLAIN.issuperset
_OWN_LOGGER: Final = "femtomp"
_DEFAULT_IDENTIFIER: Final = "python"
_INT64: Final = 1 << 63

Field: TypeAlias = "tuple[str, str | bytes]"


class _Shape(NamedTuple):
    template: str
    lines: int


class Encoder:
    r"""Encode records for one journal.

    Parameters
    ----------
    identifier : str, optional
        SYSLOG_IDENTIFIER, what `journalctl -t` selects. Not given: the service's name,
        else "python".
    prefix : str
        Before the name of every extra; itself the beginning of a name.
    nested : {"json", "fields"}
        "json": a dict or list is one field with JSON. "fields": each member of a dict
        is a field of its own (CART_ITEMS), each item of a list a value of its field.
    traceback : {"message", "fields"}
        "message": a stack trace follows the text in MESSAGE, as `journalctl -u` shows
        only that. "fields": it is in EXCEPTION_STACKTRACE alone.

    Notes
    -----
    Extras become fields of their own under a sanitised name. Of keys that fall together
    all values are kept in one field, and from the second on in EXTRA as ``key=value``
    too, as is a key of which no name is left. At most `MAX_FIELDS` are sent, and
    DROPPED_FIELDS tells how many were not. What is not Unicode in a str is written as
    its backslash escape; bytes are written as they are.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> record = Record(2000, 17, "ERROR", "a", "hi", {"user id": 7}, Resource({}), "e")
    >>> for line in Encoder("shop").datagram(record).splitlines():
    ...     print(line.decode())
    SYSLOG_IDENTIFIER=shop
    MESSAGE=hi
    PRIORITY=3
    LOGGER=a
    EVENT_TIMESTAMP_USEC=2
    LOG_RECORD_UID=e
    USER_ID=7
    """

    def __init__(
        self,
        identifier: str | None = None,
        prefix: str = "",
        nested: str = "json",
        traceback: str = "message",
    ) -> None:
        self._identifier = identifier
        self._names = Names(prefix)
        self._is_flat = nested == "fields"
        self._shows_traces = traceback == "message"
        self._shapes: dict[tuple[str, ...], _Shape | None] = {}
        self._static = ByResource(self._of_resource)

    def datagram(self, record: Record) -> bytes:
        """Return a record as one entry.

        Parameters
        ----------
        record : Record
            Any record.

        Returns
        -------
        bytes
            The datagram. One above the socket's limit has to be sent as a memfd.
        """
        (
            timestamp, number, level, logger, body, attributes, resource, uid,
            trace_id, span_id, _, event_name, _, dropped, _,
        ) = record  # fmt: skip
        keys = tuple(attributes)
        try:
            shape = self._shapes[keys]
        except KeyError:
            shape = self._learn(keys)
        values = tuple(attributes.values())
        if (
            shape is None
            or type(body) is not str
            or not uid
            or not _are_plain(map(type, values))
            or event_name is not None
            or dropped
            or number == SEVERITY_MAX
            or level not in _USUAL_LEVELS
        ):
            return self._with_care(record)
        head = (
            f"MESSAGE={body}\nPRIORITY={priority(number)}\nLOGGER={logger}\n"
            f"EVENT_TIMESTAMP_USEC={timestamp // 1000}\nLOG_RECORD_UID={uid}\n"
        )
        lines = shape.lines
        if trace_id is not None:
            head = f"{head}TRACE_ID={trace_id}\n"
            lines += 1
        if span_id is not None:
            head = f"{head}SPAN_ID={span_id}\n"
            lines += 1
        try:
            text = head + shape.template % values
            # As many newlines as fields: no value has one. Looked for once, not in
            # each value.
            if text.count("\n") == lines:
                return self._static.get(resource) + text.encode()
        except ValueError:
            pass  # a lone surrogate, an integer of more digits than are converted
        return self._with_care(record)

    def _learn(self, keys: tuple[str, ...]) -> _Shape | None:
        """Find the names for a set of attributes; None if it needs care each time."""
        names = [self._names.of(key) for key in keys]
        shape = None
        if (
            _NEED_CARE.isdisjoint(keys)
            and all(names)
            and len(set(names)) == len(names)
            and len(names) < MAX_FIELDS - _MOST_OTHERS
        ):
            template = "".join([f"{name}=%s\n" for name in names])
            shape = _Shape(template, _HEAD_FIELDS + len(names))
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        self._shapes[keys] = shape
        return shape

    def _of_resource(self, resource: Resource) -> bytes:
        service = resource.get("service.name")
        identifier = self._identifier or (_string(service) if service else "")
        fields = [("SYSLOG_IDENTIFIER", identifier or _DEFAULT_IDENTIFIER)]
        fields += [
            (name, _string(resource[key]))
            for name, key in _OF_RESOURCE
            if key in resource
        ]
        return b"".join([_field(name, value) for name, value in fields])

    def _with_care(self, record: Record) -> bytes:
        fields = [*_head(record, shows_traces=self._shows_traces)]
        # One is kept for DROPPED_FIELDS.
        room = MAX_FIELDS - _MOST_OF_RESOURCE - len(fields) - 1
        extras = self._extras(record.attributes)
        fields += islice(extras, room)
        if dropped := sum(1 for _ in extras):
            fields.append(("DROPPED_FIELDS", str(dropped)))
        head = self._static.get(record.resource)
        return head + b"".join([_field(name, value) for name, value in fields])

    def _extras(self, attributes: Mapping[str, AnyValue]) -> Iterator[Field]:
        # The journal's readers are people: the text says what the structure does.
        without = ATTRIBUTE if "exception.stacktrace" in attributes else None
        taken: dict[str, str] = {}
        for key, value in attributes.items():
            if key == without:
                continue
            for path, leaf in self._leaves(key, value):
                text = _plain(leaf)
                name = self._names.of(path)
                if path == _MESSAGE_ID:
                    name, text = self._message_id(name, text)
                if name:
                    yield name, text
                if not name or taken.setdefault(name, path) != path:
                    yield EXTRA, _joined(path, text)

    def _message_id(self, name: str, text: str | bytes) -> Field:
        """Return an id as journald has it; what is none becomes an extra."""
        match = _UUID.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            # In another case it is no standard name.
            return self._names.of(_MESSAGE_ID.lower()), text
        return name, match[2].replace("-", "").lower()

    def _leaves(self, key: str, value: AnyValue) -> Iterator[tuple[str, AnyValue]]:
        """Take a value apart if the user wants it; an empty one stays as it is."""
        if not self._is_flat or type(value) not in (dict, list) or not value:
            yield key, value
        elif type(value) is dict:
            for sub, inner in value.items():
                yield from self._leaves(f"{key}.{sub}", inner)
        else:
            for inner in value:
                yield from self._leaves(key, inner)


def _head(record: Record, *, shows_traces: bool) -> Iterator[Field]:
    body = _plain(record.body)
    yield "MESSAGE", _with_traces(body, record.attributes) if shows_traces else body
    yield "PRIORITY", priority_of(record)
    yield "LOGGER", record.logger
    yield "EVENT_TIMESTAMP_USEC", str(record.timestamp // 1000)
    if record.uid:
        yield "LOG_RECORD_UID", record.uid
    if record.trace_id is not None:
        yield "TRACE_ID", record.trace_id
    if record.span_id is not None:
        yield "SPAN_ID", record.span_id
    if record.severity_text not in _USUAL_LEVELS:
        yield "LEVEL", record.severity_text
    if record.event_name is not None:
        yield "EVENT_NAME", record.event_name
        if record.logger == _OWN_LOGGER and record.event_name in MESSAGE_IDS:
            yield "MESSAGE_ID", MESSAGE_IDS[record.event_name]
    if record.dropped_attributes_count:
        yield "DROPPED_ATTRIBUTES_COUNT", str(record.dropped_attributes_count)


def priority(number: int) -> str:
    """Return the syslog priority of any severity number.

    Examples
    --------
    >>> [priority(number) for number in (-1, 0, 5, 9, 12, 13, 17, 21, 99)]
    ['6', '6', '7', '6', '5', '4', '3', '2', '2']
    """
    return _PRIORITIES[min(max(number, 0), _LAST_PRIORITY)]


def priority_of(record: Record) -> str:
    """Return the syslog priority of a record: of levels above CRITICAL, too."""
    level = record.attributes.get(LEVEL)
    if type(level) is int and level > LAST_LEVEL:
        if level >= _EMERGENCY_LEVEL:
            return _EMERGENCY
        if level >= _ALERT_LEVEL:
            return _ALERT
    return priority(record.severity_number)


def _with_traces(body: str | bytes, attributes: Mapping[str, AnyValue]) -> str | bytes:
    """Return a message with its stack traces behind it, as `logging` does."""
    traces = [attributes[key] for key in _STACKTRACES if attributes.get(key)]
    parts = [body, *[_plain(trace) for trace in traces]]
    if not body:
        del parts[0]
    if all(isinstance(part, str) for part in parts):
        return "\n".join(map(str, parts))
    return b"\n".join([p if isinstance(p, bytes) else _encoded(p) for p in parts])


def _field(name: str, value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else _encoded(value)
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


def _joined(key: str, value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return b"%b=%b" % (_encoded(key), value)
    return f"{key}={value}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _plain(value: AnyValue) -> str | bytes:
    return value if type(value) is bytes else _string(value)


def _string(value: AnyValue) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is int and -_INT64 <= value < _INT64:
        return str(value)
    if value is None:
        return ""
    text = json_value(value)
    # What json_value makes a string of (NaN, a huge integer) stands alone, unquoted.
    return text[1:-1] if text.startswith('"') else text
