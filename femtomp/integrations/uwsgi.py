"""uWSGI: one server for its master and workers, however they are forked.

In: uWSGI's own module, which exists in its processes only. Out: a femtomp server in the
master, its handler on the root logger of all processes, and names for them: "master",
"worker-2", "mule-1". uWSGI's own lines, which C writes, stay where they are.

    # logs.py
    from femtomp.integrations import uwsgi
    uwsgi.install(["journald", "file:shop.jsonl"])

    # uwsgi.ini
    shared-import = logs

`shared-import` is what the master imports, whatever becomes of applications; without
`lazy-apps` the application's module may call `install` as well. uWSGI forks without
Python's knowledge: a worker finds out at its first record. A reload (HUP) executes
the master anew in place: it gets a new server, and the old one delivers and ends.
"""

from __future__ import annotations

from typing import Any

import femtomp


def install(sinks: object = None, **options: Any) -> None:
    """Start the server in the master, or attach to it. Idempotent.

    Parameters
    ----------
    sinks, **options
        As for `femtomp.start_server`.

    Raises
    ------
    FemtompError
        As `femtomp.start_server`; `NoServerError` in a worker whose master has none.
    """
    import uwsgi

    femtomp.identify(_who)
    if uwsgi.worker_id() == 0 and uwsgi.mule_id() == 0:
        try:
            femtomp.start_server(sinks, **options)
        except femtomp.AlreadyStartedError:
            pass  # imported twice, as a shared module and by the application
    elif femtomp.worker_handler(missing="ignore").spool is None:
        msg = (
            "install() was called in a worker, as lazy-apps has it, and the master has "
            "no server: add `shared-import = MODULE`, with the module that calls it"
        )
        raise femtomp.NoServerError(msg)
    femtomp.worker_init()


def _who() -> dict[str, str | int]:
    import uwsgi

    if mule := uwsgi.mule_id():
        return {"femtomp.worker.name": f"mule-{mule}", "uwsgi.mule.id": mule}
    if worker := uwsgi.worker_id():
        return {"femtomp.worker.name": f"worker-{worker}", "uwsgi.worker.id": worker}
    return {"femtomp.worker.name": "master"}
