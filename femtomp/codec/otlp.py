"""Records as an OTLP export request: the bytes of an `ExportLogsServiceRequest`.

In: a batch of `Record`. Out: protobuf, with one ResourceLogs for each worker and in it
one ScopeLogs for each scope, or logger where there is no scope. It is written directly:
the SDK's encoder wants SDK log records first, and even protobuf's own classes cost more
than all the rest (docs/adr/0016-otlp.md has the figures). Needs no protobuf. Tags are
field numbers shifted by three, as in ``opentelemetry/proto/logs/v1/logs.proto``::

    ExportLogsServiceRequest  1 resource_logs
    ResourceLogs              1 resource, 2 scope_logs       Resource    1 attributes
    ScopeLogs                 1 scope, 2 log_records, 3 schema_url
    InstrumentationScope      1 name, 2 version, 3 attributes
    LogRecord                 1 time (fixed64), 2 severity_number, 3 severity_text,
                              5 body, 6 attributes, 7 dropped_attributes_count,
                              8 flags (fixed32), 9 trace_id, 10 span_id,
                              11 observed_time (fixed64), 12 event_name
    KeyValue                  1 key, 2 value
    AnyValue                  1 string, 2 bool, 3 int, 4 double, 5 array, 6 kvlist,
                              7 bytes

https://opentelemetry.io/docs/specs/otlp/, https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.resources import ByResource
from femtomp.record import Record, Resource, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.record import AnyValue

UID_KEY: Final = "log.record.uid"
# Collectors refuse a whole request for one id of another size.
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
# A lone surrogate, an integer beyond 64 bits, an unknown type, a cycle.
_REFUSED: Final = (TypeError, ValueError, RecursionError)
_INT64: Final = 1 << 63
_UINT32_MAX: Final = (1 << 32) - 1
_UINT64_MAX: Final = (1 << 64) - 1
# What says where a record was made comes again and again, one call site after another,
# and is kept encoded, all in one: 1 us a record less. The template is not always there.
_SITE: Final = (
    "code.file.path", "code.line.number", "code.function.name", "thread.id",
    "thread.name", "femtomp.template",
)  # fmt: skip
_SITE_TYPES: Final = (str, int, str, int, str, str)
_LINE: Final = _SITE.index("code.line.number")
_THREAD: Final = _SITE.index("thread.id")
# As many as a large program has call sites; emptied when full.
_MAX_KEPT: Final = 2048
_MAX_KEPT_CHARS: Final = 512
_MAX_SITE_BYTES: Final = 2048
_MAX_SHAPE_CHARS: Final = 2048
# A text whose size, and that of two messages around it, is one byte.
_SHORT: Final = 125
# A name, encoded, that with a number is no longer.
_SHORT_NAME: Final = _SHORT - 11

_fixed32: Final = Struct("<BI").pack
_fixed64: Final = Struct("<BQ").pack
_double: Final = Struct("<Bd").pack


def _varint(value: int) -> bytes:
    if 1 << 28 <= value < 1 << 35:  # a number such as others' ids: half the time
        return bytes((
            value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128,
            value >> 21 & 127 | 128, value >> 28,
        ))  # fmt: skip
    pieces = bytearray()
    while value > 127:  # noqa: PLR2004 - seven bits a byte
        pieces.append(value & 127 | 128)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)


# Nearly every length there is: 20 ns against 250.
_SIZES: Final = tuple(map(_varint, range(2048)))
_N: Final = len(_SIZES)

_names: dict[str, bytes] = {}
_shapes: Final[dict[tuple[str, ...], tuple[int, tuple[bytes, ...]]]] = {}
_sites: Final[dict[tuple[AnyValue, ...], bytes]] = {}
_severities: dict[tuple[int, str], bytes] = {}


def encode_request(batch: Sequence[Record], observed_time_unix_nano: int) -> bytes:
    """Encode the request that exports a batch.

    Parameters
    ----------
    batch : sequence of Record
        In order; order is kept within a scope of a worker.
    observed_time_unix_nano : int
        When the supervisor had the batch in hand, nanoseconds since the epoch; what a
        record itself says of it counts.

    Returns
    -------
    bytes
        Of any size: the caller looks.

    Examples
    --------
    >>> encode_request([Record(5, 0, "", "a", None, {}, Resource({}))], 6).hex(" ", 8)
    '0a 1f0a00121b0a030a 0161121409050000 00000000002a0059 0600000000000000'
    """
    observed = _fixed64(0x59, observed_time_unix_nano)
    # id() of a resource: its object, and for each scope its header and its records.
    workers: dict[int, tuple[Resource, dict[Any, tuple[Record, list[bytes]]]]] = {}
    for record in batch:
        worker = workers.get(id(record.resource))
        if worker is None:
            worker = workers[id(record.resource)] = (record.resource, {})
        # A scope's attributes cannot be hashed; its repr holds them.
        key = record.logger if record.scope is None else (repr(record.scope),)
        scope = worker[1].get(key)
        if scope is None:
            scope = worker[1][key] = (record, [])
        try:
            encoded = _record(record, observed)
        except _REFUSED:
            encoded = _record(scrubbed(record, keep_floats=True), observed)
        scope[1].append(encoded)
    return b"".join(
        _sized(b"\x0a", _resources.get(resource) + b"".join(map(_scope, scopes)))
        for resource, scopes in ((r, s.values()) for r, s in workers.values())
    )


def _scope(scope: tuple[Record, list[bytes]]) -> bytes:
    first, records = scope
    known = first.scope
    if known is None:
        header = _text(b"\x0a", first.logger)
        schema = b""
    else:
        header = _text(b"\x0a", known.name) + _text(b"\x12", known.version or "")
        header += _mended(b"\x1a", known.attributes or {})
        schema = _text(b"\x1a", known.schema_url or "")
    pieces = [_sized(b"\x0a", header)]
    for record in records:
        size = len(record)
        pieces += b"\x12", _SIZES[size] if size < _N else _varint(size), record
    pieces.append(schema)
    return _sized(b"\x12", b"".join(pieces))


def _record(record: Record, observed: bytes) -> bytes:
    (timestamp, number, level, _, body, attributes, _, uid, trace_id, span_id, flags,
     event_name, _, dropped, seen) = record  # fmt: skip
    pieces = [
        # fixed64: a clock before 1970 is no reason to lose a record.
        _fixed64(9, min(timestamp, _UINT64_MAX)) if timestamp > 0 else b"",
        _severities.get((number, level)) or _severity(number, level),
    ]
    add = pieces.append
    add(_sized(b"\x2a", _value(body)))
    if attributes:
        _add_attributes(add, attributes)
    if uid:
        add(_text_pair(b"\x32", _UID, uid))
    if dropped:
        add(b"\x38" + _varint(min(dropped, _UINT32_MAX)))
    if flags:
        add(_fixed32(0x45, flags & _UINT32_MAX))
    if trace_id is not None:
        add(_id(b"\x4a\x10", trace_id, _TRACE_ID_BYTES))
    if span_id is not None:
        add(_id(b"\x52\x08", span_id, _SPAN_ID_BYTES))
    if seen is not None:
        observed = _fixed64(0x59, min(seen, _UINT64_MAX)) if seen > 0 else b""
    add(observed)
    if event_name:
        add(_sized(b"\x62", event_name.encode()))
    return b"".join(pieces)


def _add_attributes(
    add: Callable[[bytes], None], attributes: Mapping[str, AnyValue]
) -> None:
    """Add the pairs of a record, those of its call site at once; the hot path."""
    keys = (*attributes,)
    shape = _shapes.get(keys) or _learn(keys)
    values = (*attributes.values(),)
    count, names = shape
    at = 0
    if count:
        site = values[:count]
        encoded = b""
        # 1, True and 1.0 are one key of a dict: no other types than these are in it.
        if type(site[_LINE]) is int and type(site[_THREAD]) is int:
            try:
                encoded = _sites.get(site) or _site(keys, site)
            except TypeError:
                pass  # there is a list, say, in the place of a text
        if encoded:
            add(encoded)
            at = count
        else:
            names = tuple(map(_name, keys))
    for name in names:  # counted, as `zip` costs 0.3 us
        value = values[at]
        at += 1
        kind = type(value)
        if kind is str:
            data = value.encode()
            size = len(data)
            total = len(name) + size + 4
            if total <= _SHORT:
                add(b"\x32%c%b\x12%c\x0a%c%b" % (total, name, size + 2, size, data))
            else:
                add(_text_pair(b"\x32", name, value))
        elif kind is int and 0 <= value <= _UINT32_MAX and len(name) <= _SHORT_NAME:
            digits = _SIZES[value] if value < _N else _varint(value)
            size = len(digits) + 1
            total = len(name) + size + 2
            add(b"\x32%c%b\x12%c\x18%b" % (total, name, size, digits))
        elif kind is float and len(name) <= _SHORT_NAME:
            total = len(name) + 11
            add(b"\x32%c%b\x12\x09%b" % (total, name, _double(0x21, value)))
        else:
            add(_sized(b"\x32", name + _sized(b"\x12", _value(value))))


def _learn(keys: tuple[str, ...]) -> tuple[int, tuple[bytes, ...]]:
    """Find out how many attributes say where a record is from, and name the others."""
    count = next((n for n in (len(_SITE), len(_SITE) - 1) if keys[:n] == _SITE[:n]), 0)
    shape = count, tuple(map(_name, keys[count:]))
    if sum(map(len, keys)) <= _MAX_SHAPE_CHARS:
        if len(_shapes) >= _MAX_KEPT:
            _shapes.clear()
        _shapes[keys] = shape
    return shape


def _site(keys: tuple[str, ...], site: tuple[AnyValue, ...]) -> bytes:
    pairs = [_pair(b"\x32", k, v) for k, v in zip(keys, site, strict=False)]
    encoded = b"".join(pairs)
    are_usual = all(map(isinstance, site, _SITE_TYPES))
    if are_usual and len(encoded) <= _MAX_SITE_BYTES:
        if len(_sites) >= _MAX_KEPT:
            _sites.clear()
        _sites[site] = encoded
    return encoded


def _severity(number: int, text: str) -> bytes:
    encoded = b"\x10" + _varint(number) if number else b""
    if text:
        encoded += _sized(b"\x1a", text.encode())
    if len(_severities) < _N and len(text) <= _MAX_KEPT_CHARS:
        _severities[(number, text)] = encoded
    return encoded


def _id(head: bytes, text: str, size: int) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return b""
    return head + data if len(data) == size else b""


def _pairs(tag: bytes, attributes: Mapping[str, AnyValue]) -> bytes:
    return b"".join([_pair(tag, key, value) for key, value in attributes.items()])


def _pair(tag: bytes, key: str, value: AnyValue) -> bytes:
    name = _names.get(key) or _name(key)
    if type(value) is str:
        return _text_pair(tag, name, value)
    return _sized(tag, name + _sized(b"\x12", _value(value)))


def _text_pair(tag: bytes, name: bytes, value: str) -> bytes:
    data = value.encode()
    size = len(data)
    length = _SIZES[size] if size < _N else _varint(size)
    whole = 1 + len(length) + size
    outer = _SIZES[whole] if whole < _N else _varint(whole)
    total = len(name) + 1 + len(outer) + whole
    head = _SIZES[total] if total < _N else _varint(total)
    return b"%b%b%b\x12%b\x0a%b%b" % (tag, head, name, outer, length, data)


def _name(key: str) -> bytes:
    if type(key) is not str:
        msg = f"a key is a {type(key).__name__}"
        raise TypeError(msg)
    encoded = _sized(b"\x0a", key.encode()) if key else b""
    if len(key) <= _MAX_KEPT_CHARS:
        if len(_names) >= _MAX_KEPT:
            _names.clear()
        _names[key] = encoded
    return encoded


def _value(value: AnyValue) -> bytes:  # noqa: C901 - one branch a type
    """Encode an AnyValue, without its tag and size."""
    kind = type(value)
    if kind is str:
        return _sized(b"\x0a", value.encode())
    if value is None:
        return b""  # there, and empty: how OTLP says null
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        if 0 <= value < _N:
            return b"\x18" + _SIZES[value]
        if not -_INT64 <= value < _INT64:
            msg = "an integer beyond 64 bits"
            raise ValueError(msg)
        return b"\x18" + _varint(value & _UINT64_MAX)
    if kind is float:
        return _double(0x21, value)
    if kind is bytes:
        return _sized(b"\x3a", value)
    if kind is list:
        items = (_sized(b"\x0a", _value(item)) for item in value)
        return _sized(b"\x2a", b"".join(items))
    if kind is dict:
        return _sized(b"\x32", _pairs(b"\x0a", value))
    msg = f"not a plain type: {kind.__name__}"
    raise TypeError(msg)


def _sized(tag: bytes, data: bytes) -> bytes:
    size = len(data)
    return tag + (_SIZES[size] if size < _N else _varint(size)) + data


def _text(tag: bytes, text: str) -> bytes:
    return _sized(tag, text.encode("utf-8", "backslashreplace")) if text else b""


def _mended(tag: bytes, attributes: Mapping[str, AnyValue]) -> bytes:
    try:
        return _pairs(tag, attributes)
    except _REFUSED:
        holder = Record(0, 0, "", "", None, dict(attributes), Resource({}))
        return _pairs(tag, scrubbed(holder, keep_floats=True).attributes)


def _resource(resource: Resource) -> bytes:
    return _sized(b"\x0a", _mended(b"\x0a", resource))


_UID: Final = _sized(b"\x0a", UID_KEY.encode())
_resources: Final = ByResource(_resource)
