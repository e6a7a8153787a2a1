"""Who this process is, read afresh whenever it may have changed.

In: the operating system. Out: `Identity`. About 60 us, once per lane; psutil would cost
18 to 45 ms to import and is left to the supervisor.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from femtomp.lanes.liveness import boot_id, pid_namespace, start_ticks
from femtomp.record import Identity


def read_identity(role: str) -> Identity:
    """Return the identity of the calling process.

    Parameters
    ----------
    role : str
        "master" or "worker".
    """
    argv = getattr(sys, "argv", None) or [sys.executable or ""]
    return Identity(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        pid_namespace=pid_namespace(),
        start_ticks=start_ticks(),
        boot_id=boot_id(),
        name=process_name(),
        role=role,
        host=os.uname().nodename,
        command=argv[0],
        instance_id=_instance_id(),
    )


def process_name() -> str:
    """Return `multiprocessing`'s name of this process, without importing it."""
    process = sys.modules.get("multiprocessing.process")
    current = getattr(process, "current_process", None)
    return str(current().name) if current is not None else "MainProcess"


def _instance_id() -> str:
    """Return the `service.instance.id` that this process's spans have, if they do.

    Read from the provider that is set, if OpenTelemetry is loaded: to ask for it could
    make one.
    """
    trace = sys.modules.get("opentelemetry.trace")
    try:
        resource: Any = trace._TRACER_PROVIDER.resource  # type: ignore[union-attr]  # noqa: SLF001
        found = resource.attributes.get("service.instance.id")
    except Exception:
        return ""
    return found if type(found) is str else ""
