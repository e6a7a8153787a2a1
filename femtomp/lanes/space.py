"""How much room a spool may take, and who may still take some.

In and out: the words of `space`, which all processes of a directory share. The engine
writes the limits once and what is used as often as it looks; a writer that is about to
make a file reads them, and adds what it takes. So a limit holds although the engine is
dead or stopped: then nobody gives room back, and new records are dropped and counted.

::

    u64 words: used | asked_ns | quota | lane_quota | overflow | block_ns
             | engine pid | its start

`used` is a tally, not a lock: two writers that add at once may lose one addition, and
the engine writes what is true twice a second. It is off by a few files at most.
`asked_ns` is the monotonic time when a writer last found no room: an engine that makes
room does so when it is asked, as a sink that lags may still catch up.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from enum import IntEnum
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.errors import CodecError
from femtomp.lanes.liveness import start_ticks
from femtomp.lanes.segment import (
    DROP_LEVELS,
    PAGE_BYTES,
    discard,
    level_class,
    open_regular,
    permit_owner,
)
from femtomp.lanes.thrown import thrown_in

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME: Final = "space"
# Records that came to no lane, a byte each that says the level: an append of one byte
# is atomic, so the file's size is their number, whoever was killed.
_UNKEPT: Final = "unkept"
_MOST_UNKEPT_BYTES: Final = 1024 * 1024
_WORDS: Final = struct.Struct("<8Q")
# Of these words writers write the first two.
_WRITERS: Final = struct.Struct("<2Q")

# Below, a spool holds no more than a few lanes' first files.
_LEAST_QUOTA_BYTES: Final = 1024 * 1024
_MOST_QUOTA_BYTES: Final = 1024 * 1024 * 1024
# A writer that waits, or drops, asks again and again.
_ASKED_NS: Final = 200_000_000
# The last eighth is for records of ERROR and above.
_RESERVED: Final = 8
# A lane has that many segments at least before it is full: the oldest can be given up.
_SEGMENTS_A_LANE: Final = 8


class Overflow(IntEnum):
    """What is done when a quota is reached."""

    DROP_OLD = 0
    DROP_NEW = 1
    BLOCK = 2


class Space(NamedTuple):
    """The words of `lanes/space`; a quota of 0 is none."""

    used: int = 0
    asked_ns: int = 0
    quota: int = 0
    lane_quota: int = 0
    overflow: int = Overflow.DROP_OLD
    block_ns: int = 0
    engine_pid: int = 0
    engine_ticks: int = 0

    def has_engine(self) -> bool:
        """Tell whether the engine that wrote this lives."""
        return bool(self.engine_pid) and start_ticks(self.engine_pid) == (
            self.engine_ticks
        )

    def segment_bytes(self, wish: int) -> int:
        """Return how large a segment may be, if one of `wish` bytes is wanted."""
        if not self.quota:
            return wish
        return max(4 * PAGE_BYTES, min(wish, self.lane_quota // _SEGMENTS_A_LANE))

    def is_asked(self) -> bool:
        """Tell whether a writer found no room a moment ago."""
        return monotonic_ns() - self.asked_ns < _ASKED_NS

    def has_room(self, more: int, held: int, *, important: bool) -> bool:
        """Tell whether a lane that holds `held` bytes may take `more`."""
        if not self.quota:
            return True
        share = _RESERVED if important else _RESERVED - 1
        return (
            self.used + more <= self.quota * share // _RESERVED
            and held + more <= self.lane_quota * share // _RESERVED
        )


NO_LIMITS: Final = Space()


def whole_pages(size: int) -> int:
    """Return how many bytes a file of that size takes.

    Examples
    --------
    >>> whole_pages(1), whole_pages(4096)
    (4096, 4096)
    """
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def read_space(directory: int) -> Space:
    """Read the words; where there is no such file, there are no limits."""
    try:
        descriptor = _open(directory, NAME)
    except (OSError, CodecError) as exc:
        if thrown_in(exc):
            raise
        return NO_LIMITS
    try:
        content = os.pread(descriptor, _WORDS.size, 0)
    finally:
        os.close(descriptor)
    return Space(*_WORDS.unpack(content.ljust(_WORDS.size, b"\0")))


def publish(directory: int, space: Space) -> None:
    """Write all words but `asked_ns`: the engine's part.

    Raises
    ------
    OSError
        If the spool is gone.
    """
    try:
        descriptor = _open(directory, NAME, os.O_WRONLY)
    except (FileNotFoundError, CodecError):
        descriptor = _make(directory)
    try:
        words = _WORDS.pack(*space)
        os.pwrite(descriptor, words[_WRITERS.size :], _WRITERS.size)
        os.pwrite(descriptor, words[:8], 0)
    finally:
        os.close(descriptor)


def _make(directory: int) -> int:
    """Make the file, instead of a trap if that is there; it is the directory's owner's.

    Only what was made this very moment is given away.
    """
    discard(directory, NAME)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(NAME, flags, 0o600, dir_fd=directory)
    try:
        owner = os.fstat(directory)
        if owner.st_uid != os.geteuid():
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def add_used(directory: int, more: int) -> None:
    """Add what this process is about to take to the tally, or failed to take."""
    try:
        descriptor = _open(directory, NAME, os.O_RDWR)
    except (OSError, CodecError) as exc:
        if thrown_in(exc):
            raise
        return  # no limits: nobody asks
    try:
        used = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        os.pwrite(descriptor, struct.pack("<Q", max(0, used + more)), 0)
    finally:
        os.close(descriptor)


def ask_for_room(directory: int) -> None:
    """Say that this process finds no room now."""
    try:
        descriptor = _open(directory, NAME, os.O_RDWR)
    except (OSError, CodecError) as exc:
        if thrown_in(exc):
            raise
        return
    try:
        os.pwrite(descriptor, struct.pack("<Q", monotonic_ns()), 8)
    finally:
        os.close(descriptor)


def count_unkept(spool: str, levelno: int) -> None:
    """Count a record for which no lane could be opened.

    Parameters
    ----------
    spool : str
        Path of the spool.
    levelno : int
        The record's.
    """
    lanes = f"{spool}/lanes"
    if os.geteuid() == 0 and os.path.isdir(f"{lanes}-root"):
        lanes += "-root"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(f"{lanes}/{_UNKEPT}", flags, 0o600)
        try:
            status = os.fstat(descriptor)
            permit_owner(descriptor, status)
            if status.st_size < _MOST_UNKEPT_BYTES:
                os.write(descriptor, bytes((level_class(levelno),)))
        finally:
            os.close(descriptor)
    except OSError as exc:
        if thrown_in(exc):
            raise
        # Else the spool is gone, or full to the last byte: stderr says it


def read_unkept(directories: Iterable[int]) -> dict[str, int]:
    """Return how many records came to no lane, by level."""
    counts = Counter(dict.fromkeys(DROP_LEVELS, 0))
    for directory in directories:
        counts.update(_unkept(directory))
    return dict(counts)


def _unkept(directory: int) -> dict[str, int]:
    try:
        descriptor = _open(directory, _UNKEPT)
    except (OSError, CodecError):
        return {}
    try:
        content = os.pread(descriptor, _MOST_UNKEPT_BYTES, 0)
    finally:
        os.close(descriptor)
    return {name: content.count(at) for at, name in enumerate(DROP_LEVELS)}


def _open(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    owners = (os.geteuid(), os.fstat(directory).st_uid)
    return open_regular(directory, name, flags, owners=owners)


def default_quota(parent: Path, *, in_memory: bool) -> int:
    """Return what a spool in a directory may take: half of what is free, at most 1 GiB.

    In memory (tmpfs) at most a tenth of the limit on memory, which it counts against.
    """
    status = os.statvfs(parent)
    quota = min(_MOST_QUOTA_BYTES, status.f_bavail * status.f_frsize // 2)
    if in_memory:
        quota = min(quota, _memory_limit() // 10)
    return max(_LEAST_QUOTA_BYTES, quota)


def _memory_limit() -> int:
    """Return the container's memory limit (cgroups(7)), else the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                return min(total, int(file.read()))
        except (OSError, ValueError):
            continue  # no such cgroup, or "max"
    return total
