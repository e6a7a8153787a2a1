"""Dying exactly at the k-th thing that a process does to the world.

In a forked child the functions that change files, and stores into mappings, are
replaced by ones that count. At the k-th the process kills itself, before it is done or,
where a thing can be done in part, when half of it is. Between two of them nothing
changes that a survivor could see, so all k together are all the crashes there are.
Nothing in femtomp knows of this.
"""

from __future__ import annotations

import builtins
import fcntl
import itertools
import mmap
import os
import signal
import time
from typing import TYPE_CHECKING

from femtomp.codec import frame
from femtomp.lanes import mapped, mapping, writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes.harness import Returned

WHOLE = ("rename", "unlink", "rmdir", "mkdir", "ftruncate", "posix_fallocate", "fchmod")
IN_PART = ("write", "pwrite")
STDERR = 2


class Points:
    """Counts, and kills at one of the points.

    Parameters
    ----------
    at : int
        The point to die at, from 1; 0 for none.
    reached : Returned
        A shared word: how many there were.
    ignored : str
        Name of a file that does not count.
    """

    def __init__(self, at: int, reached: Returned, ignored: str = "") -> None:
        self._at = at
        self._ignored = ignored
        self._reached = reached
        self._next = itertools.count(1).__next__
        # Called once, at the next point: where it is inside an append, a call inside.
        self.inside: Callable[[], None] | None = None

    def step(self) -> None:
        """Pass a point, or die at it."""
        inside, self.inside = self.inside, None
        if inside is not None:
            inside()
        if self.is_last():
            die()

    def is_last(self) -> bool:
        """Count a point; tell whether it is the one to die at."""
        number = self._next()
        self._reached.set(0, number)
        return number == self._at

    def install(self) -> None:
        """Count from now on, in this process."""
        for name in WHOLE:
            setattr(os, name, self._whole(getattr(os, name)))
        for name in IN_PART:
            setattr(os, name, self._in_part(getattr(os, name)))
        os.open = self._opening(os.open)
        fcntl.lockf = self._whole(fcntl.lockf)
        frame.HEADER = _Header(self, frame.HEADER)
        map_file = self._mapping(mapping.map_file)
        for module in (mapped, writer):
            module.map_file = map_file
            module.memoryview = lambda of: _View(self, of)

    def _whole(self, call):
        def counted(*args, **more):
            self.step()
            return call(*args, **more)

        return counted

    def _in_part(self, call):
        def counted(descriptor, data, *more):
            if descriptor == STDERR or self._is_ignored(descriptor):
                return call(descriptor, data, *more)
            self.step()
            if len(data) > 1 and self.is_last():
                call(descriptor, bytes(data)[: len(data) // 2], *more)
                die()
            return call(descriptor, data, *more)

        return counted

    def _is_ignored(self, descriptor: int) -> bool:
        if not self._ignored:
            return False
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return path.endswith(f"/{self._ignored}")

    def _opening(self, call):
        def counted(path, flags, *args, **more):
            if flags & (os.O_CREAT | os.O_TRUNC) and path != self._ignored:
                self.step()
            return call(path, flags, *args, **more)

        return counted

    def _mapping(self, call):
        def counted(descriptor, size):
            made = call(descriptor, size)
            made.close()
            self.step()
            mapping = _Mapping(descriptor, size)
            mapping.points = self
            return mapping

        return counted


class _Mapping(mmap.mmap):
    """A mapping whose stores are counted; a long one may be made in part."""

    def __setitem__(self, at, data) -> None:
        self.points.step()
        if isinstance(at, slice) and self.points.is_last():
            half = (at.stop - at.start) // 2
            super().__setitem__(slice(at.start, at.start + half), data[:half])
            die()
        super().__setitem__(at, data)


class _View:
    """A view of words whose stores are counted."""

    def __init__(self, points: Points, of) -> None:
        self._points = points
        self._view = of if isinstance(of, memoryview) else builtins.memoryview(of)

    def cast(self, kind: str) -> _View:
        return _View(self._points, self._view.cast(kind))

    def release(self) -> None:
        self._view.release()

    def __getitem__(self, at):
        found = self._view[at]
        return _View(self._points, found) if isinstance(at, slice) else found

    def __setitem__(self, at, value) -> None:
        self._points.step()
        self._view[at] = value


class _Header:
    """A frame's header: its store into a mapping is counted, and may be in part."""

    def __init__(self, points: Points, of) -> None:
        self._points = points
        self._of = of
        self.size, self.pack, self.unpack_from = of.size, of.pack, of.unpack_from

    def pack_into(self, where, at: int, *values: int) -> None:
        self._points.step()
        if self._points.is_last():
            half = self._of.pack(*values)[: self._of.size // 2]
            mmap.mmap.__setitem__(where, slice(at, at + len(half)), half)
            die()
        self._of.pack_into(where, at, *values)


def die() -> None:
    """Be gone, without a chance for anything else."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # pending until a system call returns
