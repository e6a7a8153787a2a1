"""`concurrent.futures.ProcessPoolExecutor`, whose tasks know who asked for them.

In: tasks. Out: the same, with the trace and log context of their submission, in workers
that log to the server. Everything else is the standard class.
"""

from __future__ import annotations

import logging
from concurrent import futures
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from femtomp.worker.carry import with_context
from femtomp.worker.handler import WorkerHandler, find_spool
from femtomp.worker.init import worker_init

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ProcessPoolExecutor(futures.ProcessPoolExecutor):
    """The standard executor; its tasks have the context in which they were submitted.

    That is the fields of `log_context`, and where OpenTelemetry is loaded, its span and
    baggage. Tasks of `map` have that of the call of `map`. A task leaves nothing of its
    own context to the next one. Workers log to the server that lives when the executor
    is made, if one does, whatever the start method.

    Parameters
    ----------
    max_workers, mp_context, initializer, initargs, max_tasks_per_child
        As in `concurrent.futures`. The initializer runs after `worker_init`.

    Examples
    --------
    >>> import femtomp
    >>> with femtomp.ProcessPoolExecutor(1) as pool:
    ...     with femtomp.log_context(request_id="r1"):
    ...         pool.submit(pow, 2, 10).result()
    1024
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            msg = "initializer must be a callable"  # as the standard class has it
            raise TypeError(msg)
        super().__init__(
            max_workers,
            mp_context,
            _begin,
            (find_spool(), initializer, initargs),
            max_tasks_per_child=max_tasks_per_child,
        )

    def submit(
        self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> futures.Future[_R]:
        """Schedule a call with the context of now."""
        return super().submit(with_context(fn), *args, **kwargs)


def _begin(
    spool: str | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Set up a worker."""
    handlers = logging.getLogger().handlers
    # A fork has its parent's, and perhaps a level that somebody chose.
    if spool is not None and not any(isinstance(h, WorkerHandler) for h in handlers):
        worker_init(spool=spool)
    if initializer is not None:
        initializer(*initargs)
