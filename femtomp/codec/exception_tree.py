"""Exceptions read again: the attribute `femtomp.exception` as a tree of values.

Pure. In: the attribute's value, from a `Record` or from a JSON line of any version so
far. Out: frozen dataclasses, or a `CodecError` that says what is wrong. Whoever reads
may trust indexes and types; nothing that was read runs code or makes a circle.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.exceptions import render
from femtomp.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Far above what a worker takes: what was made otherwise is bounded all the same.
MAX_EXCEPTIONS: Final = 1024


@dataclass(frozen=True)
class Frame:
    """One line of a stack trace.

    Attributes
    ----------
    file, function : str
        The function with its class or outer function: ``Cart.pay``.
    line : int or None
    module : str or None
    source : str or None
        The first line of the statement, stripped.
    left_out_before : int
        Frames between the one before and this, which were not kept.
    """

    file: str
    line: int | None
    function: str
    module: str | None = None
    source: str | None = None
    left_out_before: int = 0


@dataclass(frozen=True)
class SyntaxPlace:
    """Where a SyntaxError is; each None where the error does not say."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    text: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class ExceptionTree:
    """An exception with all that led to it.

    Attributes
    ----------
    type : str
        With its module, but for builtins.
    message : str
    frames : tuple of Frame
        Oldest first.
    frames_left_out : int
        Of this exception, all together.
    notes : tuple of str
    syntax : SyntaxPlace or None
    cause, context : ExceptionTree or None
        At most one: the cause, or the context where that is not suppressed.
    suppress_context : bool
    chain_left_out : int
        Between this one and its cause or context, which is where the chain began then.
    members : tuple of ExceptionTree
        Of a group; `is_group` tells an empty one from none.
    members_left_out : int
    exceptions_left_out : int
        Of the whole tree, at least; only the root has it.
    """

    type: str
    message: str
    frames: tuple[Frame, ...] = ()
    frames_left_out: int = 0
    notes: tuple[str, ...] = ()
    syntax: SyntaxPlace | None = None
    cause: ExceptionTree | None = None
    context: ExceptionTree | None = None
    suppress_context: bool = False
    is_group: bool = False
    members: tuple[ExceptionTree, ...] = ()
    members_left_out: int = 0
    exceptions_left_out: int = 0
    chain_left_out: int = 0

    def text(self) -> str:
        """Return the stack trace as Python writes it, but for marks in source lines."""
        return render(_flat(self))


def read_exception(value: object) -> ExceptionTree:
    """Read the attribute `femtomp.exception`, as this version or an older one wrote it.

    Parameters
    ----------
    value : dict
        ``record.attributes["femtomp.exception"]``, or what a JSON line has there.

    Returns
    -------
    ExceptionTree

    Raises
    ------
    CodecError
        If it is of a newer version, or no such value.

    Examples
    --------
    >>> value = {
    ...     "version": 1,
    ...     "exceptions": [
    ...         {
    ...             "type": "KeyError",
    ...             "message": "'a'",
    ...             "frames": [{"file": "a.py", "line": 7, "function": "f"}],
    ...         }
    ...     ],
    ... }
    >>> tree = read_exception(value)
    >>> tree.type, tree.frames[0].line
    ('KeyError', 7)
    """
    version = value.get("version") if isinstance(value, dict) else None
    reader = _READERS.get(version) if type(version) is int else None
    if reader is None or not isinstance(value, dict):
        known = ", ".join(map(str, _READERS))
        msg = (
            f"an exception of version {version!r} cannot be read, this femtomp knows "
            f"{known}: use the version that wrote it"
        )
        raise CodecError(msg)
    try:
        return reader(value)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        msg = f"the exception cannot be read: {type(exc).__name__}: {exc}"
        raise CodecError(msg) from exc


def _read_1(value: dict[str, Any]) -> ExceptionTree:
    entries = value["exceptions"]
    if type(entries) is not list or not 0 < len(entries) <= MAX_EXCEPTIONS:
        msg = f"exceptions must be a list of 1 to {MAX_EXCEPTIONS}"
        raise ValueError(msg)
    _check_indexes(entries)
    # From the last one back: indexes point further on, so all that one needs is there.
    made: dict[int, ExceptionTree] = {}
    for index in range(len(entries) - 1, -1, -1):
        made[index] = _exception(entries[index], made)
    left_out = _count(value.get("exceptions_left_out", 0))
    return replace(made[0], exceptions_left_out=left_out)


def _check_indexes(entries: list[dict[str, Any]]) -> None:
    """Refuse what is no tree: each but the first is meant once, by one before it."""
    meant: set[int] = set()
    for at, entry in enumerate(entries):
        indexes = [entry[name] for name in ("cause", "context") if name in entry]
        if len(indexes) > 1:
            msg = "one has both a cause and a context"
            raise ValueError(msg)
        for index in [*indexes, *entry.get("members", ())]:
            if type(index) is not int or not at < index < len(entries):
                msg = f"exception {at} refers to {index!r}"
                raise ValueError(msg)
            if index in meant:
                msg = f"exception {index} is referred to twice"
                raise ValueError(msg)
            meant.add(index)


def _exception(
    entry: dict[str, Any], made: Mapping[int, ExceptionTree]
) -> ExceptionTree:
    syntax = entry.get("syntax")
    return ExceptionTree(
        type=_text(entry["type"]),
        message=_text(entry["message"]),
        frames=tuple(_frame(frame) for frame in entry["frames"]),
        frames_left_out=_count(entry.get("frames_left_out", 0)),
        notes=tuple(_text(note) for note in entry.get("notes", ())),
        syntax=None if syntax is None else _syntax(syntax),
        cause=made.get(entry.get("cause", -1)),
        context=made.get(entry.get("context", -1)),
        suppress_context=entry.get("suppress_context") is True,
        chain_left_out=_count(entry.get("chain_left_out", 0)),
        is_group="members" in entry,
        members=tuple(made[member] for member in entry.get("members", ())),
        members_left_out=_count(entry.get("members_left_out", 0)),
    )


def _frame(value: dict[str, Any]) -> Frame:
    line, module, source = value["line"], value.get("module"), value.get("source")
    return Frame(
        file=_text(value["file"]),
        line=None if line is None else _count(line),
        function=_text(value["function"]),
        module=None if module is None else _text(module),
        source=None if source is None else _text(source),
        left_out_before=_count(value.get("left_out_before", 0)),
    )


def _syntax(value: dict[str, Any]) -> SyntaxPlace:
    known = {k: v for k, v in value.items() if k in SyntaxPlace.__dataclass_fields__}
    for name, found in known.items():
        if name in ("file", "text", "message"):
            _text(found)
        else:
            _count(found)
    return SyntaxPlace(**known)


def _text(value: object) -> str:
    if type(value) is str:
        return value
    msg = f"a {type(value).__name__} where a text should be"
    raise TypeError(msg)


def _count(value: object) -> int:
    if type(value) is int and value >= 0:
        return value
    msg = f"{value!r} where a number should be"
    raise TypeError(msg)


def _flat(root: ExceptionTree) -> dict[str, Any]:
    """Return the value that a tree was read from."""
    trees = [root]
    entries: list[dict[str, Any]] = []
    while len(entries) < len(trees):
        tree = trees[len(entries)]
        entry: dict[str, Any] = {
            "type": tree.type,
            "message": tree.message,
            "frames": [asdict(frame) for frame in tree.frames],
            "frames_left_out": tree.frames_left_out,
            "notes": tree.notes,
        }
        if tree.syntax is not None:
            place = asdict(tree.syntax)
            entry["syntax"] = {k: v for k, v in place.items() if v is not None}
        if tree.chain_left_out:
            entry["chain_left_out"] = tree.chain_left_out
        for name, other in (("cause", tree.cause), ("context", tree.context)):
            if other is not None:
                entry[name] = len(trees)
                trees.append(other)
        if tree.is_group:
            entry["members"] = list(range(len(trees), len(trees) + len(tree.members)))
            entry["members_left_out"] = tree.members_left_out
            trees += tree.members
        entries.append(entry)
    return {"exceptions": entries, "exceptions_left_out": root.exceptions_left_out}


# What each version is read by. A version that was ever written stays here.
_READERS: Final[dict[int, Callable[[dict[str, Any]], ExceptionTree]]] = {1: _read_1}
