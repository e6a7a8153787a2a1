"""Zombies of a supervisor whose master is also its init: reaped, and nobody else's.

Guardian and engine are nobody's children: their parent has gone, and whoever is init
for it reaps them. In a container without an init that is the master itself, as it is
after prctl(PR_SET_CHILD_SUBREAPER). Everywhere else these calls find no child.

What must never happen: the status of a child of the user's is taken.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from femtomp.lanes.liveness import zombie_ticks
from femtomp.lanes.spool import ENGINE, ENGINE_TICKS

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool

# For those of a start that failed: they have been killed, or end by themselves.
PATIENCE_S: Final = 1.0
_LOOK_S: Final = 0.005


def reap_pair(spool: Spool, guardian: int) -> None:
    """Reap guardian and engine, if they have ended and are this process's to reap.

    Parameters
    ----------
    spool : Spool
        Names the engine, with what tells it from another of that pid.
    guardian : int
        Its pidfd.
    """
    try:
        os.waitid(os.P_PIDFD, guardian, os.WEXITED | os.WNOHANG)
    except OSError:
        pass  # as usual: no child of this process
    control = spool.control()
    engine = control[ENGINE]
    if engine and zombie_ticks(engine) == control[ENGINE_TICKS] != 0:
        try:
            os.waitpid(engine, os.WNOHANG)
        except ChildProcessError:
            pass  # the same


def reap_group(group: int) -> None:
    """Reap those of a start that failed; waits a moment for their end.

    Parameters
    ----------
    group : int
        The process group, whose first process was reaped only now: so it is no other's.
    """
    until = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < until:
            if os.waitpid(-group, os.WNOHANG)[0] == 0:
                time.sleep(_LOOK_S)
    except ChildProcessError:
        pass  # none is left
