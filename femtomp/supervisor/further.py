"""Further spools that servers of one name left: served one after another.

A master adopts one spool. Each other one gets what it would have had, had the pair of
its dead master lived on: a guardian and an engine, which serve the workers that still
live, deliver what is there, remove the spool, and end.

In: the paths that the master found, the configuration of its server. Out: nothing that
anybody waits for. The process that guards them is forked by the server's guardian, is
nobody's child, and belongs to no server: `stop()` does not wait for it. What is left
when it ends is an orphan as before, for the next server of that name.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from femtomp.lanes.liveness import boot_id, start_ticks
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.supervisor.adoption import Wanted, adopt_this, workers_of
from femtomp.supervisor.guardian import become, guard
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from femtomp.supervisor.guardian import Launch

# Behind the server's own engine, which delivers what is logged now.
_NICENESS: Final = 10
_LOOK_S: Final = 0.01
# As long as a start may take: a server that has failed delivers nothing.
_MAX_WAIT_S: Final = 10.0


def begin(launch: Launch) -> None:
    """Fork the process that sees to the server's further spools, from its guardian."""
    try:
        pid = os.fork()
    except OSError as exc:
        note("further", f"other spools of this name are left alone: {exc}")
        return
    if pid == 0:
        become(_detach, launch)
    os.waitpid(pid, 0)


def _detach(launch: Launch) -> int:
    # The guardian waits for its engine, and for nobody else.
    if os.fork() == 0:
        become(_serve_all, launch)
    return 0


def _serve_all(launch: Launch) -> int:
    os.close(launch.ready)
    own = Spool(launch.spool)
    if not _is_served(own):
        return 0
    wanted = _wanted(own)
    own.close()
    os.nice(_NICENESS)
    # Its other end is closed: beside the workers no member will ever be left.
    lifetime, end = os.pipe()
    os.close(end)
    paths = launch.further
    launch = replace(launch, ready=-1, lifetime=lifetime, further=())
    for path in paths:
        taken = adopt_this(path, wanted)
        if taken is None:
            continue
        was_told_to_end = guard(replace(launch, spool=path))
        taken.spool.close()
        taken.lock.release()
        if was_told_to_end:
            break
    return 0


def _is_served(own: Spool) -> bool:
    """Wait until the server is ready: a master waits for that, nobody for the rest."""
    until = time.monotonic() + _MAX_WAIT_S
    while own.exists() and time.monotonic() < until:
        if own.control()[STATE] != State.STARTING:
            return True
        time.sleep(_LOOK_S)
    return False


def _wanted(own: Spool) -> Wanted:
    """Say of a further spool what the server's own says, but that it is this one's."""
    manifest = own.manifest
    return Wanted(
        manifest["name"],
        manifest.get("script"),
        manifest["level"],
        own.sinks,
        {"pid": os.getpid(), "start_ticks": start_ticks(), "boot_id": boot_id()},
        workers_of(manifest),
        own.resource(),
        manifest.get("limits", {}),
        manifest.get("levels", {}),
    )
