"""Context of a log call: fields bound to it, and the active span.

In: the calling thread's or task's context. Out: plain values, read at the call and
never later, because another thread cannot see them. OpenTelemetry is asked only if the
application has loaded it.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar, Token
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from femtomp.worker.fork import on_fork
from femtomp.worker.plain import key, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    Fields = dict[str, Any]
    Trace = tuple[int, int, int]
    Tokens = tuple[int, Token[Fields], Token[Fields] | None, Token[Trace | None] | None]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NOTHING: Final[Fields] = {}
fields: Final[ContextVar[Fields]] = ContextVar("femtomp_log_context", default=_NOTHING)
# What a log call reads them by, with those of the active span if that was asked for.
# A cell: who calls it keeps the list, and one index costs 10 ns.
read_fields: Final[list[Callable[[], Fields]]] = [fields.get]
# What a forked child begins with.
_inherited: Final[ContextVar[Fields]] = ContextVar(
    "femtomp_inherited_context", default=_NOTHING
)
# A trace that came with a message or a request: ids and flags.
_remote: Final[ContextVar[Trace | None]] = ContextVar("femtomp_trace", default=None)
# Not empty once there was one; until then log calls need not look.
is_traced: Final[list[bool]] = []
_TRACEPARENT_HEX: Final = (2, 32, 16, 2)
_is_watching_forks = False
# How many forks lie behind this process: a block that began before one ends as none.
_generation = 0

_get_current_span: Callable[[], Any] | None = None
# The server's option of that name.
_span_after_fork = "drop"
PARENT_TRACE_ID: Final = "femtomp.parent.trace_id"
PARENT_SPAN_ID: Final = "femtomp.parent.span_id"


class log_context:  # noqa: N801 - used as a function, as `contextlib`'s own
    """Add fields to every record made inside the block, in this thread or task.

    Nested blocks add up and the inner one wins; fields of a logger or a call win over
    all of them. Asyncio tasks inherit a copy, threads and pools' processes nothing. A
    forked child starts with none, but for those of `log_context(...).inherited()`.
    Also a decorator, of functions and coroutine functions.

    Parameters
    ----------
    **values
        Names and values, as in a log call's `extra`. They are made plain here, once.

    Examples
    --------
    >>> with log_context(request_id="r1"):
    ...     fields.get()
    {'request_id': 'r1'}
    >>> @log_context(job="nightly")
    ... def work():
    ...     return fields.get()
    >>> work()
    {'job': 'nightly'}
    """

    __slots__ = ("_bound", "_is_inherited", "_tokens", "_trace")

    def __init__(self, /, **values: object) -> None:
        self._bound = {key(name): plain(value) for name, value in values.items()}
        self._is_inherited = False
        self._trace: Trace | None = None
        self._tokens: list[Tokens] = []

    def inherited(self) -> log_context:
        """Return the same for forked children too: what they log has these fields."""
        made = self._again()
        made._is_inherited = True  # noqa: SLF001 - one of its own kind
        return made

    def traced(self, traceparent: object) -> log_context:
        """Return the same, whose records belong to a trace that began elsewhere.

        Parameters
        ----------
        traceparent : str or None
            The header of W3C's Trace Context, as a message or a request brought it.
            One that is malformed means none, as the specification has it. An active
            span of OpenTelemetry's wins over it.

        Examples
        --------
        >>> header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        >>> with log_context().traced(header):
        ...     traceparent() == header
        True
        """
        made = self._again()
        made._trace = _known(traceparent)  # noqa: SLF001
        return made

    def __enter__(self) -> None:
        """Add the fields."""
        global _is_watching_forks  # noqa: PLW0603 - at the first use
        if not _is_watching_forks:
            _is_watching_forks = True
            on_fork(_reset_fields)
        kept = None
        if self._is_inherited:
            kept = _inherited.set({**_inherited.get(), **self._bound})
        token = fields.set({**fields.get(), **self._bound})
        trace = None if self._trace is None else _remote.set(self._trace)
        self._tokens.append((_generation, token, kept, trace))

    def __exit__(self, *_: object) -> None:
        """Take them back."""
        for entered in reversed(self._tokens.copy()):
            generation, token, kept, trace = entered
            if generation == _generation:
                try:
                    fields.reset(token)
                except ValueError:
                    continue  # another thread's or task's, which is in there as well
                if kept is not None:
                    _inherited.reset(kept)
                if trace is not None:
                    _remote.reset(trace)
            # Else a forked child leaves a block of its parent's.
            self._tokens.remove(entered)
            return
        # Another context than the one that was entered: a generator that another task
        # closes, a web framework's dependency. It never had these fields.
        self._tokens.pop()

    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R]:
        """Return a function whose calls are such blocks.

        Raises
        ------
        TypeError
            For a generator function: its caller would have the fields, between its
            steps.
        """
        # 11 ms, and only where it is used.
        import inspect

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        ):
            msg = "log_context cannot decorate a generator: use `with` where it works"
            raise TypeError(msg)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def made(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self._again():
                    return await function(*args, **kwargs)
        else:

            @wraps(function)
            def made(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self._again():
                    return function(*args, **kwargs)

        return made  # type: ignore[return-value]

    def _again(self) -> log_context:
        """Return another one, as calls may overlap."""
        made = log_context()
        made._bound, made._is_inherited = self._bound, self._is_inherited
        made._trace = self._trace
        return made


def current_trace() -> tuple[int, int, int] | None:
    """Return (trace id, span id, flags) of the active span, or None without one."""
    global _get_current_span  # noqa: PLW0603 - found once, then called every time
    get = _get_current_span
    if get is None:
        module = sys.modules.get("opentelemetry.trace")
        get = getattr(module, "get_current_span", None)
        if get is None:
            return _remote.get()
        _get_current_span = get
    context = get().get_span_context()
    # An invalid context (no active span) has zero ids.
    if not context.trace_id or not context.span_id:
        return _remote.get()
    return context.trace_id, context.span_id, int(context.trace_flags)


def set_span_after_fork(what: str) -> None:
    """Say what forked children keep of the active span: drop, link or inherit."""
    global _span_after_fork  # noqa: PLW0603 - of this process and its forks
    _span_after_fork = what


def traceparent() -> str | None:
    """Return the header that says which trace this code belongs to; None if to none.

    For a message or a request to another process, whose records then belong to the
    same trace: by `log_context(...).traced(header)`, or OpenTelemetry.

    Examples
    --------
    >>> traceparent() is None
    True
    """
    trace = current_trace()
    return None if trace is None else "00-{:032x}-{:016x}-{:02x}".format(*trace)


def follow(header: str | None) -> None:
    """Belong to the trace of a header from here on, or to none, in this context."""
    _remote.set(_known(header))


def _known(header: object) -> Trace | None:
    """Return the trace of a header; log calls look for one from the first on."""
    trace = _parsed(header)
    if trace is not None and not is_traced:
        is_traced.append(True)
    return trace


def _parsed(header: object) -> Trace | None:
    """Return the ids of a traceparent header (version 00, or a later one's begin)."""
    parts = header.split("-")[:4] if isinstance(header, str) else []
    if tuple(map(len, parts)) != _TRACEPARENT_HEX or parts[0] == "ff":
        return None
    try:
        _, trace_id, span_id, flags = (int(part, 16) for part in parts)
    except ValueError:
        return None
    return (trace_id, span_id, flags) if trace_id and span_id else None


def reset_after_fork() -> None:
    """Forget the parent's fields and span: they were about the parent's work."""
    ids = None if _span_after_fork == "drop" else current_trace()
    if ids is not None and _span_after_fork == "link":
        # Inherited, for children's children too, until one has a span of its own.
        link = {PARENT_TRACE_ID: f"{ids[0]:032x}", PARENT_SPAN_ID: f"{ids[1]:016x}"}
        _inherited.set({**_inherited.get(), **link})
    _reset_fields()
    context = sys.modules.get("opentelemetry.context")
    attach = getattr(context, "attach", None)
    empty = getattr(context, "Context", None)
    if attach is None or empty is None:
        return
    trace = sys.modules.get("opentelemetry.trace")
    if ids is None or _span_after_fork == "link" or trace is None:
        attach(empty())
        return
    # One that says the same and can neither be changed nor ended: the span itself is
    # the parent's, who will export it.
    same = trace.NonRecordingSpan(trace.get_current_span().get_span_context())
    attach(trace.set_span_in_context(same, empty()))


def _reset_fields() -> None:
    global _generation  # noqa: PLW0603 - of this process
    _generation += 1
    fields.set(_inherited.get())
    _remote.set(None)
