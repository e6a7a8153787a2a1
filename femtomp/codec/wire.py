"""Payloads: a record as a pickled tuple of plain types, and back.

In: a tuple made by the worker's capture. Out: bytes; and in the supervisor a `Record`.
Pure: no I/O, no clock. Version 1::

    (
        1,
        timestamp_ns,
        levelno,
        levelname,
        logger,
        body,
        template,
        path,
        line,
        function,
        thread_id,
        thread_name,
        attributes,
        more,
    )

`template`, `attributes` and `more` may be None; `more` is a dict of what most records
do not have: "exception" (type, message, stacktrace), "structure" (of the exception, see
`exceptions`), "stack", "trace" (trace id, span id, flags, as integers), "process" (pid,
name; of a record made in another process), "severity", "event_name", "scope",
"dropped", "observed" (nanoseconds), "plain" (True: not from a log call, so no code or
thread).

What must never happen: one record coming out with another one's values. Ordinary
pickles give every str a memo number, the memo of an Unpickler outlives its `load()`,
and so one Unpickler over many such pickles mixes them up without an error (5 of 6
records, measured on 512). Here payloads are made by a Pickler with `fast = True` (no
memo opcodes); the decoder refuses memo opcodes, checks the stream's position after each
record, and begins anew with a fresh Unpickler after anything unexpected. Bytes that
another user may have made are looked through by `opcodes` before they are loaded.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from femtomp.codec import opcodes
from femtomp.codec.exceptions import ATTRIBUTE, to_value
from femtomp.errors import CodecError
from femtomp.record import LAST_LEVEL, LEVEL, Record, Scope, severity_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.codec.frame import Frame
    from femtomp.record import AnyValue, Resource

VERSION: Final = 1
PROTOCOL: Final = 5
_FIELDS: Final = 14
_LEVEL_AT: Final = 24
_INFO: Final = 20
_new_tuple: Final = tuple.__new__
_SEVERITIES: Final = {level: severity_number(level) for level in (10, 20, 30, 40, 50)}

# Hostile bytes make pickle raise nearly anything; each of these was seen.
_LOAD_ERRORS: Final = (
    pickle.UnpicklingError,
    CodecError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)

# ECMA-48: control sequences, and operating system commands (links).
_ansi: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.?)"
)

_Encoder = tuple["Callable[[object], None]", list[bytes]]
# As many as were ever inside `encode` at once. An encoder whose call raised is not put
# back.
free: list[_Encoder] = []


class _Plain(pickle.Pickler):
    """Dumps plain types only: an object that would need an import is refused here.

    `reducer_override` is asked for those objects alone, so plain ones do not pay.
    """

    def reducer_override(self, obj: object) -> NoReturn:
        msg = f"a {type(obj).__name__} is not a plain type"
        raise CodecError(msg)


def uncoloured(level: str) -> str:
    r"""Return a level's name without the colours that some programs give it.

    Examples
    --------
    >>> uncoloured("\x1b[1;32m INFO \x1b[0m")
    'INFO'
    """
    return _ansi.sub("", level).strip()


def new_encoder() -> _Encoder:
    """Make a Pickler in fast mode, and the list that receives its output."""
    # The Pickler hands its output to `write` in one piece, or a few for very long
    # strings; a list's `append` is the cheapest `write` there is (130 ns less than
    # BytesIO with getvalue, seek and truncate).
    pieces: list[bytes] = []

    class Output:
        write = staticmethod(pieces.append)

    pickler = _Plain(Output, PROTOCOL)
    pickler.fast = True
    return pickler.dump, pieces


def encode(fields: tuple[Any, ...]) -> bytes:
    """Pickle a tuple of plain types.

    Safe under threads, signals and re-entry: every call uses an encoder of its own, and
    one whose call raised is not used again.

    Raises
    ------
    CodecError
        If a value is not of a plain type; capture prevents it.

    Examples
    --------
    >>> decode(encode((1, "a", "a")))
    (1, 'a', 'a')
    """
    try:
        encoder = free.pop()
    except IndexError:
        encoder = new_encoder()
    dump, pieces = encoder
    dump(fields)
    payload = pieces.pop() if len(pieces) == 1 else joined(pieces)
    free.append(encoder)
    return payload


def level_of(payload: bytes) -> int:
    """Return the level number of a payload of our own, without loading all of it.

    Its first opcodes are always the same: PROTO, FRAME, MARK, the version, a timestamp
    of eight bytes, and then the level's number. What looks otherwise counts as INFO.

    Examples
    --------
    >>> level_of(encode((1, 1700000000000000000, 40, "ERROR")))
    40
    """
    if payload[_LEVEL_AT : _LEVEL_AT + 1] == pickle.BININT1:
        return payload[_LEVEL_AT + 1]
    if payload[_LEVEL_AT : _LEVEL_AT + 1] == pickle.BININT2:
        return int.from_bytes(payload[_LEVEL_AT + 1 : _LEVEL_AT + 3], "little")
    return _INFO


def joined(pieces: list[bytes]) -> bytes:
    """Empty an encoder that gave its output in more than one piece."""
    payload = b"".join(pieces)
    pieces.clear()
    return payload


class _Refusing(pickle.Unpickler):
    """Loads plain types only: whatever would import or call something is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        msg = f"payload names a global, {module}.{name}: refused"
        raise CodecError(msg)

    def persistent_load(self, pid: object) -> NoReturn:
        msg = f"payload has a persistent id, a {type(pid).__name__}: refused"
        raise CodecError(msg)


def decode(payload: bytes) -> object:
    """Load one payload by an Unpickler of its own.

    Raises
    ------
    CodecError
        If it is not exactly one pickle of plain types, each value written once.
    """
    opcodes.check(payload)
    try:
        return _Refusing(io.BytesIO(payload)).load()
    except _LOAD_ERRORS as exc:
        msg = f"payload cannot be decoded: {type(exc).__name__}: {exc}"
        raise CodecError(msg) from exc


def _has_more(unpickler: pickle.Unpickler) -> bool:
    """Tell whether anything is left to load.

    Where a pickle has a FRAME, all of it is read at once, and what stands behind the
    STOP in it waits inside the Unpickler, unseen by the stream's `tell`.
    """
    try:
        unpickler.load()
    except EOFError:
        return False
    except _LOAD_ERRORS:
        return True
    return True


def decode_chunk(
    chunk: bytes, frames: Sequence[Frame], *, hostile: bool = False
) -> list[tuple[Any, ...] | CodecError]:
    """Load the payloads of many frames by one Unpickler; the result is `decode`'s.

    Parameters
    ----------
    chunk : bytes
    frames : sequence of Frame
        Where in it the payloads are.
    hostile : bool
        Look at each payload's opcodes before anything is loaded. Without it, one that
        is made to grow or to nest without end is loaded before it is refused.

    Returns
    -------
    list
        For each frame its tuple, or the error that says why it has none.
    """
    if hostile and not all(_is_plain(chunk, frame) for frame in frames):
        return [_alone(chunk[frame.start : frame.end]) for frame in frames]
    stream = io.BytesIO(chunk)
    unpickler = _Refusing(stream)
    load, seek, tell = unpickler.load, stream.seek, stream.tell
    loaded: list[tuple[Any, ...] | CodecError] = []
    try:
        for frame in frames:
            seek(frame.start)
            fields = load()
            if tell() != frame.end or type(fields) is not tuple:
                break
            loaded.append(fields)
        # Should one have left bytes in the Unpickler, the next one was loaded from
        # these, which `tell` shows; the last one's are asked for here.
        seek(0, io.SEEK_END)
        if (
            len(loaded) == len(frames)
            and not unpickler.memo.copy()
            and not _has_more(unpickler)
        ):
            return loaded
    except _LOAD_ERRORS:
        pass  # each one is tried again alone, with an Unpickler of its own
    return [_alone(chunk[frame.start : frame.end]) for frame in frames]


def _is_plain(chunk: bytes, frame: Frame) -> bool:
    try:
        opcodes.check(chunk, frame.start, frame.end)
    except CodecError:
        return False
    return True


def _alone(payload: bytes) -> tuple[Any, ...] | CodecError:
    try:
        fields = decode(payload)
    except CodecError as exc:
        return exc
    if isinstance(fields, tuple):
        return fields
    return CodecError(f"payload is a {type(fields).__name__}, not a tuple")


def to_record(
    fields: tuple[Any, ...],
    uid: str,
    resource: Resource,
    of_process: Callable[[int, str], Resource],
) -> Record:
    """Turn a payload's tuple into a `Record`.

    Parameters
    ----------
    fields : tuple
        As in the module's docstring.
    uid : str
        The record's identifier.
    resource : Resource
        Of the lane's owner.
    of_process : callable
        Gives the resource for a record that another process made (pid, name).

    Raises
    ------
    CodecError
        If the tuple is not of a version and shape that this release knows.
    """
    if not fields or fields[0] != VERSION or len(fields) != _FIELDS:
        version = fields[0] if fields else None
        msg = f"payload of version {version!r} with {len(fields)} fields: not known"
        raise CodecError(msg)
    (_, timestamp, levelno, level, logger, body, template, path, line, function,
     thread, thread_name, extras, more) = fields  # fmt: skip
    if (
        type(timestamp) is not int
        or type(levelno) is not int
        or type(level) is not str
        or type(logger) is not str
        or not (extras is None or type(extras) is dict)
    ):
        msg = "payload has fields of unexpected types"
        raise CodecError(msg)
    if "\x1b" in level:
        level = uncoloured(level)
    attributes: dict[str, AnyValue] = (
        {
            "code.file.path": path,
            "code.line.number": line,
            "code.function.name": function,
            "thread.id": thread,
            "thread.name": thread_name,
        }
        if path is not None
        else {}
    )
    if template is not None:
        attributes["femtomp.template"] = template
    severity = _SEVERITIES.get(levelno)
    if severity is None:
        severity = severity_number(levelno)
        if levelno > LAST_LEVEL:
            attributes[LEVEL] = levelno
    if more is None:
        if extras:
            attributes.update(extras)
        # Past NamedTuple's own constructor, and one table for the usual levels: 0.5 us.
        return _new_tuple(Record, (
            timestamp, severity, level, logger, body, attributes, resource, uid, None,
            None, None, None, None, 0, None,
        ))  # fmt: skip
    return _with_more(
        Record(timestamp, severity, level, logger, body, attributes, resource, uid),
        extras,
        more,
        of_process,
    )  # fmt: skip


def _with_more(  # noqa: C901 - one branch a key
    record: Record,
    extras: dict[str, AnyValue] | None,
    more: dict[str, Any],
    of_process: Callable[[int, str], Resource],
) -> Record:
    attributes = record.attributes
    changes: dict[str, Any] = {}
    try:
        if (exception := more.get("exception")) is not None:
            kind, message, stacktrace = exception
            attributes["exception.type"] = kind
            attributes["exception.message"] = message
            attributes["exception.stacktrace"] = stacktrace
        if (structure := more.get("structure")) is not None:
            attributes[ATTRIBUTE] = to_value(structure)
        if (stack := more.get("stack")) is not None:
            attributes["code.stacktrace"] = stack
        if extras:
            attributes.update(extras)
        if (trace := more.get("trace")) is not None:
            trace_id, span_id, flags = trace
            changes["trace_id"] = f"{trace_id:032x}"
            changes["span_id"] = f"{span_id:016x}"
            changes["trace_flags"] = int(flags)
        if (process := more.get("process")) is not None:
            pid, name = process
            if type(pid) is not int or type(name) is not str:
                msg = f"process is {process!r}"[:200]
                raise TypeError(msg)  # noqa: TRY301 - one error for the whole shape
            changes["resource"] = of_process(pid, name)
        if (severity := more.get("severity")) is not None:
            changes["severity_number"] = int(severity)
        if (scope := more.get("scope")) is not None:
            changes["scope"] = Scope(*scope)
        if (event_name := more.get("event_name")) is not None:
            changes["event_name"] = str(event_name)
        if (observed := more.get("observed")) is not None:
            changes["observed_timestamp"] = int(observed)
        changes["dropped_attributes_count"] = int(more.get("dropped", 0))
    except (TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        msg = f"payload has fields of unexpected types: {exc}"
        raise CodecError(msg) from exc
    return record._replace(**changes)
