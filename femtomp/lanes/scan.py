"""The names in `lanes/`: which lanes there are, and of what files.

In: a directory. Out: a table of `Lane`s that agrees with it. Nothing is opened here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from femtomp.lanes import segment as seg

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.lanes.reader import Lane


def scan(
    directory: int, lanes: dict[str, Lane], make: Callable[[str], Lane | None]
) -> None:
    """Bring a table of lanes up to date with the names in the directory."""
    segments: dict[str, list[int]] = {}
    sides: set[str] = set()
    owns: set[str] = set()
    begun: dict[str, list[str]] = {}
    for name in os.listdir(directory):
        parsed = seg.parse_name(name)
        if parsed is None:
            if name.endswith(".tmp"):
                begun.setdefault(name[1:25], []).append(name)
            continue
        if parsed.kind == "seg":
            segments.setdefault(parsed.epoch, []).append(parsed.number)
        elif parsed.kind == "side":
            sides.add(parsed.epoch)
        elif parsed.kind == "own":
            owns.add(parsed.epoch)
    for epoch in owns:
        lane = lanes.get(epoch)
        if lane is None:
            lane = make(epoch)
            if lane is None:
                continue
            lanes[epoch] = lane
        lane.segments = tuple(sorted(segments.get(epoch, ())))
        lane.has_side = epoch in sides
        lane.begun = tuple(begun.get(epoch, ()))
