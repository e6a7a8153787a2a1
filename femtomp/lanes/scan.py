"""The names in `lanes/`: which lanes there are, and of what files.

In: directories. Out: a table of `Lane`s that agrees with them. No file is opened here.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

from femtomp.lanes import segment as seg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from femtomp.lanes.reader import Lane
    from femtomp.lanes.spool import Spool

_LISTED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# No lane's: the sums of all that were reaped are in a cursor file of this name.
TOTALS: Final = "f" * 2 * seg.EPOCH_BYTES


def names(directory: int) -> list[str]:
    """List a directory.

    By a descriptor of its own: the place where reading one goes on is shared with
    whoever inherited it.
    """
    listed = os.open(".", _LISTED, dir_fd=directory)
    try:
        return os.listdir(listed)
    finally:
        os.close(listed)


def scan_all(
    spool: Spool, lanes: dict[str, Lane], make: Callable[[int, str], Lane | None]
) -> dict[str, tuple[int, list[str]]]:
    """Bring a table of all lanes of a spool up to date.

    Parameters
    ----------
    spool : Spool
    lanes : dict
        By name; a name that is in two directories is the first one's.
    make : callable
        Gets directory and name of a lane that is new; None where there is none to be
        had.

    Returns
    -------
    dict
        By name the directory and files of the lanes that there are none of.
    """
    left: dict[str, tuple[int, list[str]]] = {}
    for directory in spool.directories:
        found = scan(directory, lanes, partial(make, directory))
        left.update({epoch: (directory, files) for epoch, files in found.items()})
    return left


def scan(
    directory: int, lanes: dict[str, Lane], make: Callable[[str], Lane | None]
) -> dict[str, list[str]]:
    """Bring a table of lanes up to date with the names in one directory.

    Returns
    -------
    dict
        The files of the lanes for which `make` gave none.
    """
    segments, sides, owns, begun = _sorted(names(directory))
    left: dict[str, list[str]] = {}
    for epoch in owns - {TOTALS}:
        lane = lanes.get(epoch)
        if lane is None:
            lane = make(epoch)
            if lane is None:
                left[epoch] = _files(epoch, segments.get(epoch, ()))
                continue
            lanes[epoch] = lane
        elif lane.directory != directory:
            continue  # somebody made files of the name of a lane elsewhere
        lane.segments = tuple(sorted(segments.get(epoch, ())))
        lane.has_side = epoch in sides
        lane.begun = tuple(begun.get(epoch, ()))
    return left


def _sorted(
    found: list[str],
) -> tuple[dict[str, list[int]], set[str], set[str], dict[str, list[str]]]:
    """Return numbers of segments, who has a side file, an `.own`, and what is begun."""
    segments: dict[str, list[int]] = {}
    sides: set[str] = set()
    owns: set[str] = set()
    begun: dict[str, list[str]] = {}
    for name in found:
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
    return segments, sides, owns, begun


def _files(epoch: str, numbers: Iterable[int]) -> list[str]:
    segments = [seg.segment_name(epoch, number) for number in numbers]
    return [*segments, f"{epoch}.own", f"{epoch}.side"]
