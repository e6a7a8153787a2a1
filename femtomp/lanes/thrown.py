"""Whether an exception was thrown into a log call by a signal handler.

In: an exception that was caught. Out: whether it is the caller's: a task's time limit,
which Celery and many others raise in a handler, must be heard of, wherever in a log
call it strikes. Any other exception is the record's doing, or femtomp's, and no
caller's business.

An exception was thrown in if its traceback passes through the code of a signal handler.
That is one that is installed, or a function that was called as only the interpreter
calls handlers: with a number and the very frame that it interrupts. The latter finds
one that has put another in its place before it raised.

Asked only where something has gone wrong. What must never happen: an exception of its
own.
"""

from __future__ import annotations

import signal

# The function in C, which makes no enumeration's member of each answer.
from _signal import getsignal  # type: ignore[import-not-found]
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS: Final = tuple(int(number) for number in signal.valid_signals())
# Partials of methods of partials: no program has more around its handler.
_MAX_WRAPPINGS: Final = 8
_NO_HANDLERS: Final = (int, type(None), type(getsignal))
_HAS_VARARGS: Final = 0x04  # inspect.CO_VARARGS

# The interpreter's own: a class may answer in its place.
_trace: Final = BaseException.__dict__["__traceback__"].__get__


def thrown_in(exc: BaseException) -> bool:
    """Tell whether a signal handler raised an exception; then let it pass.

    Examples
    --------
    >>> try:
    ...     int("x")
    ... except ValueError as exc:
    ...     thrown_in(exc)
    False
    """
    trace = _trace(exc)
    codes = _installed()
    outer: FrameType | None = None
    while trace is not None:
        frame = trace.tb_frame
        if id(frame.f_code) in codes or _handles(frame, outer):
            return True
        outer, trace = frame, trace.tb_next
    return False


def _installed() -> set[int]:
    """Return the code objects of the installed handlers, by their ids."""
    # SIG_DFL and SIG_IGN are numbers here, and None is a handler of C's.
    handlers = [h for h in map(getsignal, _SIGNALS) if type(h) not in _NO_HANDLERS]
    return {id(code) for handler in handlers for code in _codes_of(handler)}


def _codes_of(handler: Any) -> list[Any]:
    """Return the code of a function, method, partial, class or callable object."""
    for _ in range(_MAX_WRAPPINGS):
        if type(handler) is FunctionType:
            return [handler.__code__]
        if type(handler) is MethodType:
            handler = handler.__func__
        elif isinstance(handler, partial):
            handler = handler.func
        elif isinstance(handler, type):
            made_by = (_of_class(handler, name) for name in ("__new__", "__init__"))
            return [one.__code__ for one in made_by if type(one) is FunctionType]
        else:
            handler = _of_class(type(handler), "__call__")
    return []


def _of_class(kind: type, name: str) -> Any:
    """Return what a class has under a name, without running any of its code."""
    for each in type.__dict__["__mro__"].__get__(kind):
        found = each.__dict__.get(name)
        if found is not None:
            return getattr(found, "__func__", found)  # of a static or class method
    return None


def _handles(frame: FrameType, interrupted: FrameType | None) -> bool:
    """Tell whether a function was called as a signal handler is."""
    code = frame.f_code
    count = code.co_argcount
    has_more = code.co_flags & _HAS_VARARGS
    if interrupted is None or (count <= 1 and not has_more):
        return False
    given = frame.f_locals
    names = code.co_varnames
    values = [given.get(name) for name in names[:count]]
    if has_more:
        more = given.get(names[count + code.co_kwonlyargcount])
        if type(more) is tuple:
            values += more
    return any(
        value is interrupted and isinstance(values[at], int)
        for at, value in enumerate(values[1:])
    )
