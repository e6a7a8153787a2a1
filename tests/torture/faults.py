"""The faults, by the names that the command line takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.torture import (
    black_hole,
    crash_points,
    damage,
    engine_kills,
    forks,
    no_room,
    reentry,
    rotation_points,
    sink_down,
    soak,
    stall,
    supervisor_kills,
    worker_kills,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.torture.figures import Given, Outcome

FAULTS: Final[dict[str, Callable[[Given], list[Outcome]]]] = {
    "worker": worker_kills.run,
    "engine": engine_kills.run,
    "engine-bare": engine_kills.run_bare,
    "supervisor": supervisor_kills.run,
    "truncation": damage.run_truncation,
    "bits": damage.run_bit_flips,
    "pages": damage.run_pages,
    "worker-points": crash_points.run_workers,
    "engine-points": crash_points.run_engines,
    "rotation-points": rotation_points.run,
    "forks": forks.run,
    "stall": stall.run,
    "re-entry": reentry.run,
    "no-room": no_room.run,
    "soak": soak.run,
    "black-hole": black_hole.run,
    "sink-down": sink_down.run,
}
