"""A whole lane, read and held to its promises: for tests, by `femtomp.testing`.

In: the files of one lane. Out: all that is in them, or an `AssertionError`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from femtomp.codec import frame
from femtomp.lanes import segment as seg
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan


def hold(condition: object, otherwise: str) -> None:
    """Raise AssertionError where something is not so; `python -O` leaves this in."""
    if not condition:
        raise AssertionError(otherwise)


class LaneContent(NamedTuple):
    """What `check_lane` found.

    Attributes
    ----------
    payloads : dict of int to bytes
        Every frame's payload by its sequence, of the segments and then the side file.
    started : int
        Calls begun.
    dropped : dict of str to int
        Calls that ended in a counted drop, by reason.
    damaged : int
        Places that hold bytes but no frame.
    """

    payloads: dict[int, bytes]
    started: int
    dropped: dict[str, int]
    damaged: int


def check_lane(directory: str | os.PathLike[str], epoch: str) -> LaneContent:
    """Hold a lane to its promises, from its files alone.

    No sequence comes twice, none is above what was begun, and what is there and what
    was dropped together are no more than that. Meant for a lane whose segments are all
    still there: without a server, or before one has read them.

    Parameters
    ----------
    directory : path-like
        The spool's `lanes/`.
    epoch : str
        The lane: the 24 hex digits in its files' names.

    Raises
    ------
    AssertionError
        If it breaks one.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    lanes: dict[str, Lane] = {}
    try:
        scan(descriptor, lanes, lambda e: Lane(descriptor, e) if e == epoch else None)
        hold(epoch in lanes, f"there is no {epoch}.own in {directory}")
        _, words = lanes[epoch].read_own()
        names = [seg.segment_name(epoch, n) for n in lanes[epoch].segments]
        names += [seg.segment_name(epoch, seg.SIDE)] * lanes[epoch].has_side
        payloads: dict[int, bytes] = {}
        damaged = 0
        for name in names:
            damaged += _read_frames(Path(directory, name), epoch, payloads)
    finally:
        for lane in lanes.values():
            lane.close()
        os.close(descriptor)
    begun = seg.started(words)
    # Calls within calls are numbered apart, from SIDE_SEQUENCE on.
    ends = words[seg.STARTED], seg.SIDE_SEQUENCE + words[seg.STARTED_SIDE]
    late = [s for s in payloads if s >= ends[s >= seg.SIDE_SEQUENCE]]
    hold(not late, f"lane {epoch} has sequences {late[:9]}; begun were {ends}")
    dropped = seg.drops(words)
    kept = len(payloads)
    hold(kept + sum(dropped.values()) <= begun, f"over {begun} in lane {epoch}")
    return LaneContent(payloads, begun, dropped, damaged)


def _read_frames(path: Path, epoch: str, payloads: dict[int, bytes]) -> int:
    """Add a file's frames to `payloads`; return the number of damaged places."""
    data = path.read_bytes()
    lane_seed = frame.seed(bytes.fromhex(epoch))
    name = path.name.split(".")
    which = seg.SIDE if name[1] == "side" else int(name[1])
    writer = seg.check_segment_header(data, bytes.fromhex(epoch), which)
    if writer == seg.WRITER_MMAP:
        end = int.from_bytes(data[seg.COMMIT_AT : seg.COMMIT_AT + 8], "little")
        hold(seg.FRAMES_AT <= end <= len(data), f"{path} ends at {end}")
        data = data[:end]
    damaged, offset = 0, seg.FRAMES_AT
    while True:
        frames, offset, tail = frame.split(data, offset, lane_seed)
        for each in frames:
            hold(each.sequence not in payloads, f"{path}: {each.sequence} twice")
            payloads[each.sequence] = data[each.start : each.end]
        if tail is frame.Tail.END:
            return damaged
        damaged += 1
        place_of_next = frame.resync(data, offset, lane_seed)
        if place_of_next is None:
            return damaged
        offset = place_of_next
