"""Context of a log call: fields bound to it, and the active span.

In: the calling thread's or task's context. Out: plain values, read at the call and
never later, because another thread cannot see them. OpenTelemetry is asked only if the
application has loaded it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from femtomp.worker.plain import key, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOTHING: Final[dict[str, Any]] = {}
fields: Final[ContextVar[dict[str, Any]]] = ContextVar(
    "femtomp_log_context", default=_NOTHING
)

_get_current_span: Callable[[], Any] | None = None


@contextmanager
def log_context(**values: object) -> Iterator[None]:
    """Add fields to every record made inside the block, in this thread or task.

    Nested blocks add up, the inner one wins; asyncio tasks and threads started with
    `contextvars.copy_context` inherit a copy. A forked child starts with none.

    Parameters
    ----------
    **values
        Names and values, as in a log call's `extra`.

    Examples
    --------
    >>> with log_context(request_id="r1"):
    ...     fields.get()
    {'request_id': 'r1'}
    """
    bound = {key(name): plain(value) for name, value in values.items()}
    token = fields.set({**fields.get(), **bound})
    try:
        yield
    finally:
        fields.reset(token)


def current_trace() -> tuple[int, int, int] | None:
    """Return (trace id, span id, flags) of the active span, or None without one."""
    global _get_current_span  # noqa: PLW0603 - found once, then called every time
    get = _get_current_span
    if get is None:
        module = sys.modules.get("opentelemetry.trace")
        get = getattr(module, "get_current_span", None)
        if get is None:
            return None
        _get_current_span = get
    context = get().get_span_context()
    # An invalid context (no active span) has zero ids.
    if not context.trace_id or not context.span_id:
        return None
    return context.trace_id, context.span_id, int(context.trace_flags)


def reset_after_fork() -> None:
    """Forget the parent's fields and span: they were about the parent's work."""
    fields.set(_NOTHING)
    context = sys.modules.get("opentelemetry.context")
    attach = getattr(context, "attach", None)
    empty = getattr(context, "Context", None)
    if attach is not None and empty is not None:
        attach(empty())
