"""Who serves a spool, if anybody does: locks that its processes hold for life.

Guardian and engine say by theirs that the spool is served, the master by its that it is
its own, to be served again: who wants to take a spool over takes the master's lock and
then looks at the others.

In: an opened spool. Out: a lock that only the holder's end releases, and answers that
never wait for one. A record lock belongs to a process and a file: a forked child does
not inherit it, and closing *any* descriptor of the file drops it. So the holder never
opens the file again, and whoever asks does so from a process that holds nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final, Protocol

from femtomp.errors import SpoolError
from femtomp.lanes.liveness import start_ticks
from femtomp.lanes.segment import close_known, high, permit_owner

MASTER_LOCK: Final = "master.lock"
GUARDIAN_LOCK: Final = "guardian.lock"
ENGINE_LOCK: Final = "engine.lock"
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux

# (device, inode) of locks held, with the pid that took each: a forked child finds its
# parent's here, which are not its own.
_held: Final[dict[tuple[int, int], int]] = {}


class Directory(Protocol):
    """What is asked of a spool here: it need not be one that can be read."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def descriptor(self) -> int:
        """By which it is open."""


class Lock:
    """A lock that this process holds until it ends or lets go of it.

    Parameters
    ----------
    spool : Spool
    name : {"master.lock", "guardian.lock", "engine.lock"}

    Raises
    ------
    SpoolError
        If somebody else holds it, or the spool is gone.
    """

    def __init__(self, spool: Directory, name: str) -> None:
        self._descriptor = -1
        if _is_held_here(spool, name):
            msg = f"the spool {spool.path} is served by this very process"
            raise SpoolError(11, msg)
        try:
            descriptor = high(
                os.open(
                    name, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600,
                    dir_fd=spool.descriptor,
                )
            )  # fmt: skip
        except OSError as exc:
            msg = f"cannot open {spool.path}/{name}: {exc.strerror}"
            raise SpoolError(exc.errno or 0, msg) from exc
        permit_owner(descriptor, os.fstat(descriptor))
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            holder = name.partition(".")[0]
            msg = (
                f"the spool {spool.path} is in use: the {holder} of a running server "
                f"holds {name}"
            )
            raise SpoolError(exc.errno or 0, msg) from exc
        status = os.fstat(descriptor)
        self._key = (status.st_dev, status.st_ino)
        self._descriptor = descriptor
        _held[self._key] = os.getpid()

    def release(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            # A daemoniser in the master closed it, and something else has the number.
            close_known((self._descriptor, *self._key))
            self._descriptor = -1
            del _held[self._key]


def is_orphaned(spool: Directory) -> bool:
    """Tell whether nobody serves a spool: neither a guardian nor an engine lives."""
    return _is_free(spool, GUARDIAN_LOCK) and _is_free(spool, ENGINE_LOCK)


def has_master(spool: Directory) -> bool:
    """Tell whether the master whose spool this is lives, and has not let go of it."""
    return not _is_free(spool, MASTER_LOCK)


def has_engine(spool: Directory) -> bool:
    """Tell whether an engine reads a spool."""
    return not _is_free(spool, ENGINE_LOCK)


def is_ending(spool: Directory) -> bool:
    """Tell whether a lock of a spool is held by a process that was just killed.

    It is a zombie already while the kernel ends its other threads, and keeps its locks
    until the last of them is gone: some milliseconds.
    """
    return any(
        (holder := _holder(spool, name)) and not start_ticks(holder)
        for name in (GUARDIAN_LOCK, ENGINE_LOCK)
        if not _is_held_here(spool, name)
    )


def is_unlocked(descriptor: int) -> bool:
    """Tell whether no other process holds a lock on an open file."""
    return _pid_of_holder(descriptor) is None


def _pid_of_holder(descriptor: int) -> int | None:
    """Return who holds a lock; 0 for a process that cannot be seen from here."""
    ask = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, ask))
    return None if kind == fcntl.F_UNLCK else pid


def _is_free(spool: Directory, name: str) -> bool:
    if _is_held_here(spool, name):
        return False
    return _holder(spool, name) is None


def _holder(spool: Directory, name: str) -> int | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=spool.descriptor)
    except FileNotFoundError:
        return None  # never served
    try:
        return _pid_of_holder(descriptor)
    finally:
        os.close(descriptor)


def _is_held_here(spool: Directory, name: str) -> bool:
    try:
        status = os.stat(name, dir_fd=spool.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return _held.get((status.st_dev, status.st_ino)) == os.getpid()
