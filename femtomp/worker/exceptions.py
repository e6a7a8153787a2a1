"""An exception at the log call: its type, message, stack trace and structure.

In: `exc_info`, in whatever state. Out: plain values, and nothing that keeps a frame
with its locals alive. Bounded in frames, exceptions and length; what is left out is
counted. Never raises, whatever the exception's own code does.

The text is that of `traceback.format_exception`, character for character, within
bounds: over 100,000 frames or exceptions it takes seconds. Above them, and where it
fails, the text is made from the structure.
"""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from types import WrapperDescriptorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.codec.exceptions import MAX_CHAIN, VERSION, render, to_value
from femtomp.lanes.signals import undisturbed
from femtomp.lanes.thrown import thrown_in
from femtomp.record import ALL_FRAMES, APPLICATION_FRAMES, DEFAULT_LIMITS
from femtomp.worker.plain import exact, text, type_name

if TYPE_CHECKING:
    from types import TracebackType

    from femtomp.record import Limits

# Kept of one exception: the oldest half and the newest half.
MAX_FRAMES: Final = 128
# Of all exceptions of a record, but for a few of each: more is no log line.
MAX_ALL_FRAMES: Final = 1024
_LEAST_FRAMES: Final = 4
# Kept of a record: causes, contexts, and members of groups. Of a longer chain those
# nearest to what was logged, and the root, where it all began.
MAX_EXCEPTIONS: Final = 64
# Of a group and of groups in groups: what Python's own stack traces show.
MAX_MEMBERS: Final = 15
MAX_GROUP_DEPTH: Final = 10
# A note or a message in the structure; the whole message has an attribute of its own.
MAX_TEXT_CHARS: Final = 4096
MAX_SOURCE_CHARS: Final = 512
MAX_NOTES: Final = 16
# Above these the text is not `format_exception`'s: it takes 20 us a frame or more.
MAX_EXACT_FRAMES: Final = 2048
MAX_EXACT_EXCEPTIONS: Final = 256
# Where a filter looks for frames to keep.
_MAX_LOOKED_AT: Final = 4096
_EXC_INFO_LENGTH: Final = 3  # type, value, traceback
_MOST_LINES: Final = 1 << 31

# cx_Freeze's modules have no file.
_LIBRARY: Final = (
    os.path.dirname(getattr(os, "__file__", ""))  # noqa: PTH120 - not loaded here
    or f"{sys.prefix}/lib"
) + "/"
_PACKAGES: Final = ("/site-packages/", "/dist-packages/")

# What the interpreter keeps, whatever a class answers in its place.
_cause: Final = BaseException.__dict__["__cause__"].__get__
_context: Final = BaseException.__dict__["__context__"].__get__
_is_suppressed: Final = BaseException.__dict__["__suppress_context__"].__get__
_trace: Final = BaseException.__dict__["__traceback__"].__get__
_members: Final = BaseExceptionGroup.__dict__["exceptions"].__get__


class Taken(NamedTuple):
    """What a record says of an exception; `structure` is for `codec.exceptions`."""

    kind: str
    message: str
    stacktrace: str
    structure: tuple[Any, ...] | None


def take(
    exc_info: Any, exc_text: Any = None, limits: Limits = DEFAULT_LIMITS
) -> Taken | None:
    """Return what is to be known of an exception, or None where there is none.

    Parameters
    ----------
    exc_info : tuple, exception or anything
        As a LogRecord has it.
    exc_text : str, optional
        What is left of an exception that came through a queue.
    limits : Limits
    """
    is_triple = isinstance(exc_info, tuple) and len(exc_info) == _EXC_INFO_LENGTH
    error = exc_info[1] if is_triple else exc_info
    # By its type: `__class__` may lie.
    if not issubclass(
        type(error), BaseException
    ):  # exc_info=True outside of an `except`
        return Taken("", "", text(exc_text), None) if exc_text else None
    trace = exc_info[2] if is_triple else _trace(error)
    walk = _Walk(limits)
    try:
        structure = walk.take(error, trace)
    except Exception as exc:
        if thrown_in(exc):
            raise
        kind, message = type_of(error), text(error)
        said = f"<stack trace cannot be rendered: {type_name(exc)}>"
        return Taken(kind, message, said, None)
    shown = None
    if walk.is_whole:
        shown = _exact_text(error, trace, has_code=walk.has_code)
    if shown is None:
        shown = render(to_value(structure))
    kind, message = structure[1][0][:2]
    if len(message) >= walk.text_chars:
        message = text(error)
    return Taken(kind, message, shown.removesuffix("\n"), structure)


def _exact_text(error: BaseException, trace: Any, *, has_code: bool) -> str | None:
    """Return what the standard library makes of an exception.

    It catches whatever comes out of `str(error)`, also what a signal handler throws in:
    so signals wait, if no code of the user's can make them wait for long.
    """
    given = type(error), error, trace
    try:
        if has_code:
            lines = traceback.format_exception(*given)
        else:
            lines = undisturbed(traceback.format_exception, *given)
        return exact("".join(lines))
    except Exception as exc:
        if thrown_in(exc):
            raise
        return None


def _lines(file: str, names: dict[str, Any]) -> list[str]:
    """Return a source file's lines; none where they cannot be had."""
    if file in linecache.cache:
        return linecache.getlines(file, names)
    try:
        # It takes an OSError for the file's, also one that a signal handler throws in.
        return undisturbed(linecache.getlines, file, names)
    except Exception as exc:
        if thrown_in(exc):
            raise
        return []  # what that imports cannot be, at the end of the interpreter


def type_of(error: BaseException) -> str:
    """Return the name of an exception's class with its module, but for builtins."""
    # Not getattr: a metaclass may answer with code of its own.
    get = type.__getattribute__
    kind = type(error)
    name = text(get(kind, "__qualname__"))
    module = text(get(kind, "__module__"))
    return name if module == "builtins" else f"{module}.{name}"


class _Walk:
    """One look at an exception and all that led to it, nearest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left_out = 0
        # With the depth of the groups that each is in.
        self._found: list[tuple[BaseException, Any, int]] = []
        self._seen: set[int] = set()
        self._looked_at = 0
        self._frames_seen = 0
        self._room = MAX_ALL_FRAMES
        self._sources: dict[str, list[str]] = {}
        allowed = limits.attribute_value_length
        self.text_chars = (
            MAX_TEXT_CHARS if allowed is None else min(allowed, MAX_TEXT_CHARS)
        )
        # Nothing is so large, or filtered, that the text must be made from this.
        self.is_whole = True
        # One of them says by code of the user's what it is.
        self.has_code = False

    def take(self, error: BaseException, trace: Any) -> tuple[Any, ...]:
        self._follow(error, trace, 0)
        entries = []
        at = 0
        while at < len(self._found):
            entries.append(self._entry(*self._found[at]))
            at += 1
        if self._looked_at + self._left_out > MAX_EXACT_EXCEPTIONS:
            self.is_whole = False
        return (VERSION, entries, self._left_out)

    def _follow(self, error: Any, trace: Any, depth: int) -> int | None:
        """Return the index of an exception; None for one that was met, or is none."""
        if id(error) in self._seen:
            return None
        if len(self._found) == MAX_EXCEPTIONS:
            self._count_left_out(error)
            return None
        self._seen.add(id(error))
        self._found.append((error, trace, depth))
        return len(self._found) - 1

    def _count_left_out(self, error: Any) -> None:
        """Count a chain that is not followed, as far as its length still matters."""
        while (
            error is not None
            and id(error) not in self._seen
            and self._left_out <= MAX_EXACT_EXCEPTIONS
        ):
            self._seen.add(id(error))
            self._left_out += 1
            error = _before(error)

    def _entry(
        self, error: BaseException, trace: Any, depth: int
    ) -> tuple[str, str, list[Any], dict[str, Any]]:
        self._looked_at += 1
        said_by = type.__getattribute__(type(error), "__str__")
        if type(said_by) is not WrapperDescriptorType:
            self.has_code = True
        frames, left_out = self._frames(trace)
        more: dict[str, Any] = {"frames_left_out": left_out} if left_out else {}
        if notes := self._notes(error):
            more["notes"] = notes
        if isinstance(error, SyntaxError):
            more["syntax"] = self._syntax(error)
        self._chain(error, depth, more)
        if isinstance(error, BaseExceptionGroup):
            self._members(error, depth, more)
        return type_of(error), self._short(text(error)), frames, more

    def _chain(self, error: BaseException, depth: int, more: dict[str, Any]) -> None:
        """Follow what Python shows above it: the cause, else the context."""
        name, other = "cause", _cause(error)
        if _is_suppressed(error):
            more["suppress_context"] = True
        elif other is None:
            name, other = "context", _context(error)
        if other is None:
            return
        left_out = 0
        if len(self._found) == MAX_EXCEPTIONS - 1:
            other, left_out = self._root(other)
        if (index := self._follow(other, _trace(other), depth)) is not None:
            more[name] = index
            if left_out:
                more["chain_left_out"] = left_out
                self._left_out += left_out

    def _root(self, error: BaseException) -> tuple[BaseException, int]:
        """Return where a chain began, and how many are between; the last place's."""
        seen = self._seen
        if id(error) in seen:
            return error, 0
        # A chain may be a circle: each mark is left behind twice as far as the last.
        mark, next_mark, left_out = error, 1, 0
        while left_out < MAX_CHAIN:
            # `_before`, without the call: a third of the time.
            other = _cause(error)
            if other is None and not _is_suppressed(error):
                other = _context(error)
            if other is None or other is mark or id(other) in seen:
                break
            error = other
            left_out += 1
            if left_out == next_mark:
                mark, next_mark = error, 2 * next_mark
        return error, left_out

    def _members(
        self, group: BaseExceptionGroup[Any], depth: int, more: dict[str, Any]
    ) -> None:
        members = _members(group)
        shown = members[:MAX_MEMBERS] if depth < MAX_GROUP_DEPTH else ()
        found = [self._follow(one, _trace(one), depth + 1) for one in shown]
        more["members"] = kept = [index for index in found if index is not None]
        if left_out := len(members) - len(kept):
            more["members_left_out"] = left_out
            self._looked_at += left_out

    def _short(self, said: str) -> str:
        limit = self.text_chars
        return said if len(said) <= limit else said[: max(0, limit - 1)] + "…"

    def _notes(self, error: BaseException) -> list[str]:
        try:
            notes = getattr(error, "__notes__", None)
        except Exception as exc:
            if thrown_in(exc):
                raise
            return [f"<notes cannot be read: {type_name(exc)}>"]
        if notes is None:
            return []
        if not isinstance(notes, (list, tuple)):
            return [self._short(text(notes))]
        kept = [self._short(text(note)) for note in notes[:MAX_NOTES]]
        if (left_out := len(notes) - len(kept)) > 0:
            kept.append(f"[{left_out} notes left out]")
        return kept

    def _syntax(self, error: SyntaxError) -> dict[str, Any]:
        """Return where in which text the error is: what of it is of its usual type."""
        numbers = {
            "line": error.lineno, "column": error.offset,
            "end_line": error.end_lineno, "end_column": error.end_offset,
        }  # fmt: skip
        texts = {"file": error.filename, "text": error.text}
        kept: dict[str, Any] = {
            name: number
            for name, number in numbers.items()
            if type(number) is int and 0 <= number < _MOST_LINES
        }
        for name, said in texts.items():
            if type(said) is str:
                kept[name] = self._short(said)
        if error.msg:
            kept["message"] = self._short(text(error.msg))
        return kept

    def _frames(self, trace: TracebackType | None) -> tuple[list[Any], int]:
        """Return the frames to keep, oldest first, and how many others there are."""
        found: list[TracebackType] = []
        while trace is not None:
            found.append(trace)
            trace = trace.tb_next
        total = len(found)
        self._frames_seen += total
        if self._frames_seen > MAX_EXACT_FRAMES:
            self.is_whole = False
        keep = self._limits.exception_frames
        most = max(_LEAST_FRAMES, min(MAX_FRAMES, self._room))
        self._room -= min(total, most)
        if keep == ALL_FRAMES and total <= most:
            return [self._frame(one, 0) for one in found], 0
        chosen = _chosen(found, keep, most)
        if len(chosen) < total and keep != ALL_FRAMES:
            self.is_whole = False
        frames, behind = [], 0
        for at in chosen:
            frames.append(self._frame(found[at], at - behind))
            behind = at + 1
        return frames, total - len(chosen)

    def _frame(self, trace: TracebackType, left_out: int) -> tuple[Any, ...]:
        frame = trace.tb_frame
        code = frame.f_code
        file, line, name = code.co_filename, trace.tb_lineno, code.co_qualname
        if not name.endswith(code.co_name):  # a template's, that was given another one
            name = code.co_name
        lines = self._sources.get(file)
        if lines is None:
            # Read from the file once; `traceback` asks for the same lines.
            lines = _lines(file, frame.f_globals)
            self._sources[file] = lines
        source = None
        # None: code that has no place.
        if line is not None and 0 < line <= len(lines):
            source = lines[line - 1].strip()[:MAX_SOURCE_CHARS]
        return exact(file), line, exact(name), _module(trace), source, left_out


def _before(error: Any) -> Any:
    """Return what Python shows above an exception: its cause, else its context."""
    cause = _cause(error)
    if cause is not None or _is_suppressed(error):
        return cause
    return _context(error)


def _module(trace: TracebackType) -> str | None:
    # dict's own: the globals of `exec` may be of another class.
    name = dict.get(trace.tb_frame.f_globals, "__name__")
    return name if type(name) is str else None


def _chosen(
    found: list[TracebackType], keep: str | tuple[str, ...], most: int
) -> list[int]:
    """Return the positions of the frames to keep, at most so many."""
    positions = _ends(range(len(found)), _MAX_LOOKED_AT)
    if keep != ALL_FRAMES and positions:
        kept = [at for at in positions if _is_kept(found[at], keep)]
        positions = kept or positions[-1:]  # where it was raised, at least
    return _ends(positions, most)


def _ends(positions: range | list[int], most: int) -> list[int]:
    if len(positions) <= most:
        return [*positions]
    half = most // 2
    return [*positions[:half], *positions[-half:]]


def _is_kept(trace: TracebackType, keep: str | tuple[str, ...]) -> bool:
    file = trace.tb_frame.f_code.co_filename
    if keep == APPLICATION_FRAMES:
        return not (
            file.startswith((_LIBRARY, "<frozen "))
            or any(folder in file for folder in _PACKAGES)
        )
    module = _module(trace) or ""
    return any(
        file.startswith(name)
        if name.startswith("/")
        else module == name or module.startswith(f"{name}.")
        for name in keep
    )
