"""Dask: one server for the workers of a nanny's process, and tasks by their keys.

In: Dask's hooks. Out: a femtomp server on each node, in the process of the nannies (or
in the worker, where it has none), a handler on the root logger of each worker, and on
every record of a task the task's key.

    client.register_plugin(femtomp.integrations.dask.Plugin(["journald"]))

once, from the client: workers that come later, and those that a nanny restarts, get it
as well. A server that the nannies' process has already, as a `LocalCluster`'s may, is
used.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import pickle
from distributed.utils import thread_state

import femtomp

KEY: Final = "dask.task.key"


class Plugin(WorkerPlugin):  # type: ignore[misc]
    """Dask's worker plugin: have workers log to their node's server.

    Parameters
    ----------
    sinks, **options
        As for `femtomp.start_server`, on each node.

    Examples
    --------
    >>> Plugin("console:json").name
    'femtomp'
    """

    name = "femtomp"
    idempotent = True

    def __init__(self, sinks: object = None, **options: Any) -> None:
        self._serve = partial(_serve, sinks, options)

    async def setup(self, worker: Any) -> None:
        """Find or start the server, and attach this worker; called in each."""
        # A worker that was started after the first has it from its nanny.
        spool = femtomp.worker_handler(missing="ignore").spool
        if spool is None:
            spool = await self._asked(worker)
        if spool is None:
            return  # FEMTOMP_DISABLED
        name = str(worker.name) if isinstance(worker.name, str) else f"w{worker.name}"
        femtomp.identify(
            {"femtomp.worker.name": name, "dask.worker.address": worker.address}
        )
        handler = _Handler(spool=spool)
        logging.getLogger().addHandler(handler)
        femtomp.worker_init(spool=spool)
        # Dask gave some of its own loggers a stream, and stopped them there.
        for name in ("distributed", "distributed.client", "distributed.worker"):
            if not (logger := logging.getLogger(name)).propagate:
                logger.addHandler(handler)

    async def _asked(self, worker: Any) -> str | None:
        if worker.nanny is None:
            return self._serve()
        # The plugin runs in the worker, which may be killed; its nanny is asked.
        nanny = worker.rpc(worker.nanny)
        answer = await nanny.run(function=pickle.dumps(self._serve))
        if answer["status"] == "error":
            raise answer["exception"]
        return answer["result"]  # type: ignore[no-any-return]


def _serve(sinks: object, options: dict[str, Any]) -> str | None:
    """Start the server of this process, if there is none yet; return its address."""
    try:
        femtomp.start_server(sinks, **options)
    except femtomp.AlreadyStartedError:
        pass  # of another nanny of this process, or the user's own
    return femtomp.worker_handler(missing="ignore").spool


class _Handler(femtomp.WorkerHandler):
    """Adds the key of the task that this thread is working on."""

    def handle(self, record: logging.LogRecord) -> Any:
        key = getattr(thread_state, "key", None)
        if key is None:
            return super().handle(record)
        with femtomp.log_context(**{KEY: str(key)}):
            return super().handle(record)
