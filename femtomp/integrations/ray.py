"""Ray: workers that log to their node's server, and tasks and actors by their ids.

In: Ray's set-up hook, which runs in each worker before any task. Out: femtomp's handler
on the worker's root logger, and on every record of a task or an actor's method the ids
that Ray gave them. Nothing of the user's runs in Ray's own processes, so the server is
started around them: Ray's workers inherit its address.

    femtomp run --sink journald -- ray start --head --block    # on each node

or, where the program starts Ray by itself, ``femtomp.start_server(...)`` before it; and

    ray.init(runtime_env={"worker_process_setup_hook": femtomp.integrations.ray.setup})
"""

from __future__ import annotations

import logging
from typing import Any, Final

import femtomp

_IDS: Final = {
    "ray.task.id": "get_task_id",
    "ray.actor.id": "get_actor_id",
    "ray.job.id": "get_job_id",
}


def setup() -> None:
    """Attach this worker; for `worker_process_setup_hook`. Idempotent.

    Without a server on the node, records go to stderr, where Ray looks for them.
    """
    femtomp.identify(_who)
    spool = femtomp.worker_handler(missing="ignore").spool
    if spool is not None:
        logging.getLogger().addHandler(_Handler(spool=spool))
    femtomp.worker_init()


def _context() -> Any:
    import ray  # it changes logging, and is there in Ray's workers

    return ray.get_runtime_context()


def _who() -> dict[str, str]:
    context = _context()
    worker, node = context.get_worker_id(), context.get_node_id()
    return {
        "femtomp.worker.name": f"ray-{worker[:8]}",
        "ray.worker.id": worker,
        "ray.node.id": node,
    }


class _Handler(femtomp.WorkerHandler):
    """Adds the ids of the task or actor that this thread is working for."""

    def handle(self, record: logging.LogRecord) -> Any:
        context = _context()
        said = {name: getattr(context, ask)() for name, ask in _IDS.items()}
        with femtomp.log_context(**{k: v for k, v in said.items() if v is not None}):
            return super().handle(record)
