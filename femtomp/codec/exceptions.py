"""Exceptions with their structure: from tuples in a payload to an attribute, and text.

Pure. In: what `worker/exceptions` took of an exception, as tuples without names, which
are half as long in a lane. Out: the value of the attribute `femtomp.exception`, and a
stack trace as Python writes it. Version 1::

    {"version": 1,
     "exceptions": [                       the logged one first
        {"type", "message",
         "frames": [{"file", "line", "function", "module", "source",
                     "left_out_before"}],  oldest first
         "frames_left_out", "notes", "syntax",
         "cause" or "context",             index of the exception that is shown above it
         "chain_left_out",                 how many between the two were not kept
         "suppress_context",
         "members", "members_left_out"}],  of a group: indexes
     "exceptions_left_out"}

A flat list with indexes, which always point further on: the chain of causes of a chain
of groups nests no deeper than a single exception, and cannot be a circle. What has
nothing to say is absent. Additions need no new version; readers ignore what they do not
know (`exception_tree`).
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from femtomp.record import AnyValue

VERSION: Final = 1
ATTRIBUTE: Final = "femtomp.exception"
# How far the root of a chain is looked for: 60 ms on a busy machine.
MAX_CHAIN: Final = 1 << 18

_CAUSE: Final = (
    "\nThe above exception was the direct cause of the following exception:\n\n"
)
_CONTEXT: Final = (
    "\nDuring handling of the above exception, another exception occurred:\n\n"
)
_HEAD: Final = "Traceback (most recent call last):\n"
_RULE: Final = "----------------"
# As Python: of lines that repeat three are shown.
_SHOWN_REPEATS: Final = 3


def to_value(taken: Any) -> dict[str, AnyValue]:
    """Give names to what a payload holds.

    Parameters
    ----------
    taken : tuple
        ``(version, exceptions, left out)``; an exception is ``(type, message, frames,
        more)``, a frame ``(file, line, function, module, source, left out before)``.

    Raises
    ------
    TypeError, ValueError
        If it is of another shape.

    Examples
    --------
    >>> to_value((1, [("KeyError", "1", [("a.py", 7, "f", "a", None, 0)], {})], 0))
    {'version': 1, 'exceptions': [{'type': 'KeyError', 'message': '1',
    'frames': [{'file': 'a.py', 'line': 7, 'function': 'f', 'module': 'a'}]}]}
    """
    version, exceptions, left_out = taken
    value = {
        "version": int(version),
        "exceptions": [
            {"type": kind, "message": message, "frames": [*map(_frame, frames)], **more}
            for kind, message, frames, more in exceptions
        ],
    }
    if left_out:
        value["exceptions_left_out"] = left_out
    return value


def _frame(taken: tuple[Any, ...]) -> dict[str, AnyValue]:
    file, line, function, module, source, left_out = taken
    frame = {"file": file, "line": line, "function": function}
    if module is not None:
        frame["module"] = module
    if source is not None:
        frame["source"] = source
    if left_out:
        frame["left_out_before"] = left_out
    return frame


def render(value: dict[str, AnyValue]) -> str:
    """Write an exception as Python does, but for the marks of positions in a line.

    Parameters
    ----------
    value : dict
        Of version 1, and sound: the worker's own, or one that was read.

    Returns
    -------
    str
        Ends in a newline. What was left out is said where it was.

    Examples
    --------
    >>> taken = (1, [("KeyError", "1", [("a.py", 7, "f", "a", "d[1]", 0)], {})], 0)
    >>> print(render(to_value(taken)), end="")
    Traceback (most recent call last):
      File "a.py", line 7, in f
        d[1]
    KeyError: 1
    """
    text = _Text(value["exceptions"])
    text.chain(0)
    told = sum(one.get("chain_left_out", 0) for one in value["exceptions"])
    if (left_out := value.get("exceptions_left_out", 0) - told) > 0:
        text.parts.append(f"[{left_out} or more exceptions left out]\n")
    return "".join(text.parts)


class _Text:
    """The lines so far, and how deep in groups the next one is."""

    def __init__(self, exceptions: list[dict[str, AnyValue]]) -> None:
        self._exceptions = exceptions
        self._depth = 0
        self._is_open = False
        self.parts: list[str] = []

    def _add(self, text: str, margin: str = "|") -> None:
        indent = "  " * self._depth + f"{margin} " if self._depth else ""
        self.parts += [indent + line for line in text.splitlines(keepends=True)]

    def chain(self, index: int) -> None:
        """Write an exception, and before it those that led to it."""
        found: list[tuple[str, dict[str, AnyValue]]] = []
        following: int | None = index
        while following is not None:
            one = self._exceptions[following]
            said = _CAUSE if "cause" in one else _CONTEXT
            if left_out := one.get("chain_left_out"):
                more = " or more" if left_out >= MAX_CHAIN else ""
                gap = f"{left_out}{more} exception{_s(left_out)} left out"
                said = f"\n[{gap}]\n{said}"
            following = one.get("cause", one.get("context"))
            found.append(("" if following is None else said, one))
        for said, one in reversed(found):
            # Not splitlines for the empty lines around: they are lines themselves.
            self._add(said)
            self._one(one)

    def _one(self, one: dict[str, AnyValue]) -> None:
        is_group = "members" in one
        is_outermost = is_group and not self._depth
        self._depth += is_outermost
        frames = "".join(_frame_lines(one))
        if frames:
            head = f"Exception Group {_HEAD}" if is_group else _HEAD
            self._add(head, "+" if is_outermost else "|")
        self._add(frames)
        self._add("".join(_last_lines(one)))
        if is_group:
            self._members(one["members"], one.get("members_left_out", 0))
        self._depth -= is_outermost

    def _members(self, members: list[int], left_out: int) -> None:
        last = len(members) + bool(left_out) - 1
        self._is_open = False
        for number in range(last + 1):
            is_more = number == len(members)
            self._is_open |= number == last
            title = "..." if is_more else str(number + 1)
            joint = "  " if number else "+-"
            indent = "  " * self._depth
            self.parts.append(f"{indent}{joint}+{_RULE} {title} {_RULE}\n")
            self._depth += 1
            if is_more:
                self._add(f"and {left_out} more exception{_s(left_out)}\n")
            else:
                self.chain(members[number])
            if number == last and self._is_open:
                # A group that comes last closes those that it is in.
                self.parts.append("  " * self._depth + f"+{'-' * 36}\n")
                self._is_open = False
            self._depth -= 1


def _frame_lines(one: dict[str, AnyValue]) -> Iterator[str]:
    rest = one.get("frames_left_out", 0)
    for (left_out, *_), same in groupby(one["frames"], _place):
        if left_out:
            yield _gap(left_out)
            rest -= left_out
        frames = list(same)
        for frame in frames[:_SHOWN_REPEATS]:
            yield _frame_line(frame)
        if (more := len(frames) - _SHOWN_REPEATS) > 0:
            times = "time" if more == 1 else "times"
            yield f"  [Previous line repeated {more} more {times}]\n"
    if rest > 0:
        yield _gap(rest)


def _place(frame: dict[str, AnyValue]) -> tuple[AnyValue, ...]:
    left_out = frame.get("left_out_before", 0)
    return left_out, frame["file"], frame["line"], frame["function"]


def _gap(count: int) -> str:
    return f"  [{count} frame{_s(count)} left out]\n"


def _s(count: int) -> str:
    return "s" if count > 1 else ""


def _frame_line(frame: dict[str, AnyValue]) -> str:
    # Python shows the name alone: of `Cart.pay` the last part, if it is one.
    function = str(frame["function"])
    name = function.rpartition(".")[2]
    if not name.isidentifier() and not name.startswith("<"):
        name = function
    line = f'  File "{frame["file"]}", line {frame["line"]}, in {name}\n'
    source = str(frame.get("source") or "").strip()
    return f"{line}    {source}\n" if source else line


def _last_lines(one: dict[str, AnyValue]) -> Iterable[str]:
    kind = str(one["type"]).removeprefix("__main__.")
    message = str(one["message"])
    if (syntax := one.get("syntax")) is not None:
        yield from _syntax_lines(syntax)
        message = str(syntax.get("message") or "<no detail available>")
        if "line" not in syntax and "file" in syntax:
            message += f" ({syntax['file']})"
    yield f"{kind}: {message}\n" if message else f"{kind}\n"
    for note in one.get("notes", ()):
        yield f"{note}\n"


def _syntax_lines(syntax: dict[str, AnyValue]) -> Iterator[str]:
    line = syntax.get("line")
    if line is not None:
        yield f'  File "{syntax.get("file") or "<string>"}", line {line}\n'
    text = str(syntax.get("text") or "").rstrip("\n")
    if not text:
        return
    shown = text.lstrip(" \n\f")
    yield f"    {shown}\n"
    offset = syntax.get("column")
    if offset is None:
        return
    end = len(text) + 1
    if line == syntax.get("end_line"):
        end = syntax.get("end_column") or offset
    offset, end = min(offset, len(text) + 1), min(end, len(text) + 1)
    at = offset - 1 - (len(text) - len(shown))
    if at >= 0:
        # Tabs stay, so that the marks stand below what they mark.
        space = "".join(c if c.isspace() else " " for c in shown[:at])
        yield f"    {space}{'^' * max(1, end - offset)}\n"
