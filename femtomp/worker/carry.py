"""The context of a call, carried to where the work is done: a thread, or a process.

In: a function, and the context of whoever hands it over: fields of `log_context`, and
where OpenTelemetry is loaded, its span and baggage, as the W3C headers `traceparent`,
`tracestate` and `baggage`. Out: a function that can be pickled, whose calls have that
context, and leave nothing behind: each runs in a copy of its thread's context, so even
what the work itself forgot to take back is gone for the next one.
"""

from __future__ import annotations

import os
import sys
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from femtomp.worker.channel import say
from femtomp.worker.context import fields, follow, traceparent
from femtomp.worker.plain import described

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_P = ParamSpec("_P")
_R = TypeVar("_R")


def with_context(function: Callable[_P, _R], /) -> Callable[_P, _R]:
    """Return the function with the context of now, for a pool to call.

    The trace and the log context are taken when `with_context` is called, not when its
    result is; so it is no decorator. The result can be pickled if the function can.
    `femtomp.ProcessPoolExecutor` does this by itself.

    Parameters
    ----------
    function : callable

    Raises
    ------
    TypeError
        For what cannot be called, and for coroutine and generator functions, whose call
        does not yet do the work.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import femtomp
    >>> from femtomp.testing import captured_records
    >>> log = femtomp.get_logger("shop")
    >>> with captured_records() as records, ThreadPoolExecutor() as pool:
    ...     with femtomp.log_context(request_id="r1"):
    ...         task = pool.submit(femtomp.with_context(log.warning), "low stock")
    ...     task.result()
    >>> records[0].attributes["request_id"]
    'r1'
    """
    if not callable(function):
        msg = f"with_context takes a function, not a {type(function).__name__}"
        raise TypeError(msg)
    # 11 ms, and only where it is used.
    import inspect

    if (
        inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.iscoroutinefunction(function)
    ):
        msg = (
            "with_context carries plain functions: asyncio's tasks have the context by "
            "themselves, and a generator's caller would have it between its steps"
        )
        raise TypeError(msg)
    context, headers = _current_trace()
    made = _Carried(function, fields.get(), headers, traceparent())
    made.context = context
    return made


class _Carried(Generic[_P, _R]):
    """A function and the context of its calls.

    Attributes
    ----------
    function : callable
    bound : mapping
        Fields of the log context, plain values.
    headers : mapping
        Of W3C; None where OpenTelemetry was not loaded.
    trace : str or None
        The header `traceparent`, for records where it is not.
    context
        OpenTelemetry's own, for calls in this very process.
    """

    def __init__(
        self,
        function: Callable[_P, _R],
        bound: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        trace: str | None,
    ) -> None:
        self.function = function
        self.bound = bound
        self.headers = headers
        self.trace = trace
        self.context: Any = None
        self._pid = os.getpid()
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__doc__ = getattr(function, "__doc__", None)
        self.__wrapped__ = function

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return copy_context().run(self._run, args, kwargs)

    def _run(self, args: Any, kwargs: Any) -> _R:
        self.enter()
        return self.function(*args, **kwargs)

    def enter(self) -> None:
        """Set the context, in a context of the caller's making."""
        fields.set({**fields.get(), **self.bound})
        follow(self.trace)
        if self.headers is None:
            return
        try:
            from opentelemetry.context import attach
        except ImportError:  # it was there where the call came from
            return
        if self.context is not None and self._pid == os.getpid():
            attach(self.context)
        else:
            attach(_extracted(self.headers))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.function,
            dict(self.bound),
            self.headers,
            self.trace,
        )

    def __repr__(self) -> str:
        """Show the function; values of the context may be secrets."""
        return f"<femtomp.with_context({self.function!r})>"


def _current_trace() -> tuple[Any, dict[str, str] | None]:
    """Return OpenTelemetry's context, and what of it can travel; None if not loaded."""
    if "opentelemetry.trace" not in sys.modules:
        return None, None
    from opentelemetry.context import get_current

    context = get_current()
    headers: dict[str, str] = {}
    for propagator in _propagators():
        try:
            propagator.inject(headers, context)
        except Exception as exc:
            # Code of the baggage's values, or one that is no text for a header.
            names = ", ".join(sorted(propagator.fields))
            say(f"{names} not carried to a task: {described(exc)}")
    return context, headers


def _extracted(headers: Mapping[str, str]) -> Any:
    """Return a context of nothing but the headers: no span that a fork has left."""
    from opentelemetry.context import Context

    context = Context()
    for propagator in _propagators():
        context = propagator.extract(headers, context)
    return context


def _propagators() -> tuple[Any, Any]:
    # W3C's, whatever OTEL_PROPAGATORS says of requests: both ends are femtomp's.
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator(), W3CBaggagePropagator()
