"""Spools that nobody serves: found, told apart, claimed, and what they still hold.

In: a directory of spools. Out: opened spools whose master's lock this process holds,
so that nobody else takes them, and answers from their files alone. Nothing is changed
here.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from femtomp.errors import CodecError, SpoolError
from femtomp.lanes.cursor import Cursor, read_cursors, sink_key
from femtomp.lanes.liveness import boot_id, start_ticks
from femtomp.lanes.lock import MASTER_LOCK, Lock, is_ending, is_orphaned
from femtomp.lanes.removal import remove_tree
from femtomp.lanes.segment import FORMAT_VERSION, RETIRED, high
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.lanes.writer import owned
from femtomp.native import sleep
from femtomp.supervisor.stats import open_lanes

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from femtomp.lanes.cursor import Position
    from femtomp.lanes.lock import Directory
    from femtomp.lanes.reader import Lane

# How long the kernel may take to end a killed process's threads.
_ENDING_S: Final = 1.0
_MAX_MANIFEST_BYTES: Final = 64 * 1024
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Found(NamedTuple):
    """A directory that says it is a spool, of whatever format, and is open."""

    path: str
    descriptor: int
    manifest: dict[str, Any]


class Claimed(NamedTuple):
    """An orphaned spool that is this process's to take over."""

    spool: Spool
    lock: Lock

    def release(self) -> None:
        """Leave it as it was found."""
        self.spool.close()
        self.lock.release()


def find(parent: Path) -> list[Found]:
    """Return the spools of this user below a directory, served or not; close them.

    A directory without a manifest is no spool yet, or not any more.
    """
    pattern = re.compile(rf"femtomp-.*-{os.geteuid()}-[^-]+")
    try:
        names = sorted(name for name in os.listdir(parent) if pattern.fullmatch(name))
    except OSError:
        return []
    return [found for name in names if (found := look_at(parent / name))]


def finish_removals(parent: Path) -> None:
    """Delete what a server that was killed had begun to delete (`Spool.remove`)."""
    pattern = re.compile(rf"\.femtomp-.*-{os.geteuid()}-[^-]+\.removed")
    try:
        names = [name for name in os.listdir(parent) if pattern.fullmatch(name)]
    except OSError:
        return
    for name in names:
        path = parent / name
        try:
            if path.lstat().st_uid == os.geteuid():
                remove_tree(str(path))
        except FileNotFoundError:
            continue  # it went on by itself


def look_at(path: Path) -> Found | None:
    """Return what a directory says of itself; None if it is no spool of this user."""
    try:
        descriptor = high(os.open(path, os.O_DIRECTORY | _FLAGS))
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            file = os.open("manifest.json", os.O_RDONLY | _FLAGS, dir_fd=descriptor)
            with open(file, "rb") as text:
                manifest = json.loads(text.read(_MAX_MANIFEST_BYTES))
            if isinstance(manifest, dict) and "format" in manifest:
                return Found(str(path), descriptor, manifest)
    except (OSError, ValueError, RecursionError):
        pass  # half made, half deleted, or nothing of ours
    os.close(descriptor)
    return None


def is_left(found: Found) -> bool:
    """Tell whether neither guardian, engine nor master of a spool are there any more.

    A master that lives starts another pair by itself, unless it was stopped.
    """
    deadline = time.monotonic() + _ENDING_S
    while is_ending(found) and time.monotonic() < deadline:
        sleep(0.002)
    return is_orphaned(found) and not _has_master(found)


def _has_master(found: Found) -> bool:
    master = found.manifest.get("master")
    if not isinstance(master, dict) or master.get("pid") == os.getpid():
        return False  # a server of this very process has ended: `start` knows that
    ticks = master.get("start_ticks")
    lives = (
        type(ticks) is int
        and ticks != 0
        and master.get("boot_id") == boot_id()
        and start_ticks(str(master.get("pid"))) == ticks
    )
    return lives and not _has_stopped(found)


def _has_stopped(found: Found) -> bool:
    try:
        descriptor = os.open("control", os.O_RDONLY | _FLAGS, dir_fd=found.descriptor)
    except OSError:
        return False
    try:
        state = os.pread(descriptor, 8, 8 * STATE)
    finally:
        os.close(descriptor)
    return int.from_bytes(state, "little") >= State.STOPPING


def is_known_format(found: Found) -> bool:
    """Tell whether this version of femtomp can read a spool."""
    return bool(found.manifest["format"] == FORMAT_VERSION)


def claim(found: Found) -> Claimed:
    """Take the master's lock of a spool that `is_left`, and open it.

    Raises
    ------
    SpoolError
        If somebody was faster, or it cannot be read.
    """
    lock = Lock(found, MASTER_LOCK)
    try:
        spool = open_same(found)
        if not is_orphaned(spool):
            spool.close()
            _refuse(found.path)
    except BaseException:
        lock.release()
        raise
    return Claimed(spool, lock)


def open_same(place: Directory) -> Spool:
    """Open a spool whose locks are held, if it is still where it was.

    It may have been adopted, served and removed since it was found. A removal begins
    with another name, before the first lock file goes.

    Raises
    ------
    SpoolError
        If it is not there any more, or cannot be read.
    """
    spool = Spool(place.path)
    if not os.path.samestat(os.fstat(place.descriptor), os.fstat(spool.descriptor)):
        spool.close()
        _refuse(place.path)
    return spool


def _refuse(path: str) -> NoReturn:
    msg = f"the spool {path} is in use: a running server has it"
    raise SpoolError(11, msg)


# -- what it holds -------------------------------------------------------------------


def sinks_with_records(spool: Spool, sinks: Iterable[str]) -> list[str]:
    """Return which of these sinks have a record before them.

    One record is looked for and not counted: a gigabyte takes no longer.
    """
    left, found = list(sinks), set()
    for lane in open_lanes(spool):
        lane.ended = True  # half a frame at the end is no record
        found |= {s for s in left if s not in found and _has_record(spool, lane, s)}
        if len(found) == len(left):
            break
    return [name for name in left if name in found]


def count_before(spool: Spool, sink: str, *, besides: Container[str]) -> int:
    """Count the records before a sink, in all lanes but some that are known."""
    total = 0
    for lane in open_lanes(spool):
        if lane.epoch in besides:
            continue
        try:
            cursors = read_cursors(spool.cursors, lane.epoch)
            total += lane.count(cursors.get(sink_key(sink), Cursor()).position)
        except (OSError, CodecError):
            continue  # damaged, or no descriptor is left: nobody can count it
    return total


def _has_record(spool: Spool, lane: Lane, sink: str) -> bool:
    cursors = read_cursors(spool.cursors, lane.epoch)
    position = cursors.get(sink_key(sink), Cursor()).position
    return _next_in_segments(lane, position) or _next_in_side(lane, position)


def _next_in_segments(lane: Lane, position: Position) -> bool:
    while True:
        position = lane.normalised(position)
        chunk = lane.read(position)
        if chunk is None or chunk.frames:
            return chunk is not None
        position = position.behind(chunk.number, chunk.after, chunk.sequence)


def _next_in_side(lane: Lane, position: Position) -> bool:
    while True:
        chunk = lane.read_side(position)
        if chunk is None or chunk.frames:
            return chunk is not None
        position = position._replace(side=chunk.after)


def readmit(spool: Spool) -> None:
    """Take back what an engine told the lanes' writers when it stopped.

    Before they find the spool running again: who looks in between would log twice.
    """
    for lane in open_lanes(spool):
        try:
            if lane.epoch in owned:
                owned[lane.epoch].words[RETIRED] = 0
            else:
                lane.readmit()
        except (OSError, CodecError):
            continue  # damaged: it is left alone


def has_workers(spool: Spool) -> bool:
    """Tell whether a process still writes to a spool, by the locks of its lanes."""
    for lane in open_lanes(spool):
        try:
            # Of a lane of this process's own, `.own` must not be opened.
            if lane.epoch in owned or not lane.is_orphaned():
                return True
        except (OSError, CodecError):
            continue  # damaged: it has no owner that anybody could know of
    return False
