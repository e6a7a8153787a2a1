"""Exceptions made again: `exc_info` for formatters and handlers, from a record.

In: a record's attributes. Out: a triple of type, exception and traceback, as `logging`
and whoever reads it (Sentry, a formatter of JSON) know it: causes, contexts, groups and
notes included. No class of the application is imported: an exception of that name is
made, a subclass of the builtin one where that is known. The frames have file, line and
function, and no variables. Why not by tblib: docs/adr/0025-exc-info.md.
"""

from __future__ import annotations

import builtins
from functools import lru_cache
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from femtomp.codec.exception_tree import read_exception
from femtomp.codec.exceptions import ATTRIBUTE
from femtomp.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from femtomp.codec.exception_tree import ExceptionTree, Frame
    from femtomp.record import AnyValue

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


def _generator() -> Iterator[None]:
    yield


_STUB: Final = _generator.__code__
_REFUSED: Final = (
    CodecError,
    ArithmeticError,  # a line number beyond C's
    AttributeError,
    RecursionError,
    TypeError,
    ValueError,
)


def exc_info(attributes: Mapping[str, AnyValue]) -> ExcInfo | None:
    """Return what a record's `exc_info` was, as far as a record tells.

    Never raises. Where only type and message are known, there is no traceback.

    Parameters
    ----------
    attributes : mapping
        Of a record.

    Examples
    --------
    >>> kind, error, trace = exc_info(
    ...     {
    ...         "exception.type": "shop.StockError",
    ...         "exception.message": "no tea",
    ...     }
    ... )
    >>> kind.__name__, kind.__module__, str(error), trace
    ('StockError', 'shop', 'no tea', None)
    """
    error = None
    if (structure := attributes.get(ATTRIBUTE)) is not None:
        try:
            error = _made(read_exception(structure))
        except _REFUSED:
            pass  # a value of the user's own, or of a later version
    if error is None:
        kind = attributes.get("exception.type")
        if type(kind) is not str or not kind:
            return None
        error = _error(kind, str(attributes.get("exception.message") or ""))
    return type(error), error, error.__traceback__


def _made(tree: ExceptionTree) -> BaseException:
    members = [_made(member) for member in tree.members]
    if tree.is_group and not members:
        members = [_error("Exception", f"{tree.members_left_out} exceptions left out")]
    error = _error(tree.type, tree.message, members)
    for note in tree.notes:
        error.add_note(note)
    if tree.syntax is not None and isinstance(error, SyntaxError):
        place = tree.syntax
        error.msg = place.message or ""
        error.filename, error.text = place.file, place.text
        error.lineno, error.offset = place.line, place.column
        error.end_lineno, error.end_offset = place.end_line, place.end_column
    if tree.context is not None:
        error.__context__ = _made(tree.context)
    if tree.cause is not None:
        error.__cause__ = _made(tree.cause)  # which suppresses the context
    error.__suppress_context__ = tree.suppress_context or tree.cause is not None
    return error.with_traceback(_traceback(tree.frames))


def _error(
    kind: str, message: str, members: list[BaseException] | None = None
) -> BaseException:
    if not members:
        made = _class(kind, None)
        error: BaseException = made.__new__(made, message)
    else:
        is_usual = all(isinstance(member, Exception) for member in members)
        made = _class(kind, ExceptionGroup if is_usual else BaseExceptionGroup)
        # What `str` adds to a group's message is there already.
        own = message.rpartition(" (")[0] if message.endswith(")") else message
        error = made.__new__(made, own, members)
    error.args = (message,) if not members else error.args
    error._said = message  # type: ignore[attr-defined]  # noqa: SLF001 - its own class
    return error


@lru_cache(maxsize=256)
def _class(kind: str, group: type[BaseException] | None) -> Any:
    """Make a class of that name; a group, or one of the builtin class of that name."""
    # What a type's name may not have.
    fit = kind.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    module, _, name = fit.rpartition(".")
    base = getattr(builtins, name, None) if not module else None
    is_known = isinstance(base, type) and issubclass(base, BaseException)
    if group is not None:
        base = group
    elif not is_known or issubclass(base, BaseExceptionGroup):  # type: ignore[arg-type]
        base = Exception
    own = {"__module__": module or "builtins", "__str__": lambda self: self._said}
    return type(name, (base,), own)  # type: ignore[arg-type]


def _traceback(frames: tuple[Frame, ...]) -> TracebackType | None:
    made = None
    for frame in reversed(frames):
        made = TracebackType(made, _frame(frame), -1, frame.line or 0)
    return made


def _frame(frame: Frame) -> FrameType:
    code = _STUB.replace(
        co_filename=frame.file,
        co_name=frame.function.rpartition(".")[2],
        co_qualname=frame.function,
        co_firstlineno=frame.line or 1,
    )
    made: Any = FunctionType(code, {"__name__": frame.module, "__file__": frame.file})
    # A generator's, as nobody has called it: one that ran would hold its callers, which
    # hold it, until the collector comes.
    found: FrameType = made().gi_frame
    return found
