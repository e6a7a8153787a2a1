"""Mappings of a lane's files, closed only where that closes nothing of the user's.

In: open descriptors. Out: `mmap` objects. Before Python 3.13 a mapping holds a
duplicate descriptor of its file, whose number user code may close and use again: a
mapping that cannot be closed safely is kept for life.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any, Final

from femtomp.lanes.thrown import thrown_in

_STDERR: Final = 2
kept_for_life: Final[list[Any]] = []
_TRACKS: Final = sys.version_info < (3, 13)


def map_file(descriptor: int, size: int) -> mmap.mmap:
    """Map a file for reading and writing, its pages made present at once."""
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, flags=flags, trackfd=False)
    taken: list[int] = []
    try:
        _take_streams(taken)
        return mmap.mmap(descriptor, size, flags=flags)
    finally:
        for number in taken:
            os.close(number)


def _take_streams(taken: list[int]) -> None:
    """Take what is free of 0, 1 and 2, where the mapping's own descriptor would be.

    Who writes to a closed standard stream would write into the file. Not by duplicates
    of it: to close one drops the lock on it.
    """
    while (number := os.open("/", os.O_PATH)) <= _STDERR:
        taken.append(number)
    os.close(number)


def unmap(mapping: mmap.mmap, view: memoryview | None, device: int, inode: int) -> None:
    """Close a mapping, or keep it for life if that could close somebody's descriptor.

    Before Python 3.13 the mapping's own descriptor has a number that only /proc tells.
    """
    if not is_closable(device, inode):
        kept_for_life.append((mapping, view))
        return
    if view is not None:
        view.release()
    mapping.close()


def is_closable(device: int, inode: int) -> bool:
    """Tell whether a mapping of this file can be closed, or go with its last user."""
    return not _TRACKS or _has_descriptor(device, inode)


def _has_descriptor(device: int, inode: int) -> bool:
    """Tell whether a file is open here under any number: then nobody took it."""
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError as exc:
        if thrown_in(exc):
            raise
        return False
    for number in numbers:
        try:
            status = os.fstat(int(number))
        except OSError as exc:
            if thrown_in(exc):
                raise
            continue
        if (status.st_dev, status.st_ino) == (device, inode):
            return True
    return False
