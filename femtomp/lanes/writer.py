"""The `write` writer: one process's end of its lane.

In: payloads. Out: frames in `E.N.seg`, each by one `write` to an O_APPEND descriptor, so
that a record is in the kernel when `append` returns. Owner of every file it creates
until the engine unlinks them. Safe under threads (a lock of this process only), under
re-entry from signal handlers, `__del__` and the collector (those go to the side file)
and under exceptions thrown into it: a frame is one system call, there is no half-done
state to be left behind. Not fork safe by itself: a child must forget it (`worker.fork`).

What must never happen: a frame in a file that is not ours. User code closes descriptors
(`os.closerange` in daemonisers) and opens others under the same number. `os.fstat` before
each write would tell, for 900 ns; `os.lseek` tells as well for 250: after an append to an
O_APPEND descriptor its position is the file's end, which only we know. If the position is
not what we left, device and inode decide (docs/adr/0002).
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import frame
from femtomp.lanes.segment import (
    DROP_REASONS,
    DROPPED,
    EPOCH_BYTES,
    FRAMES_AT,
    IDENTITY_AT,
    OWN_BYTES,
    RETIRED,
    SEGMENT_BYTES,
    SIDE,
    STARTED,
    STARTED_SIDE,
    WORDS_AT,
    WRITER_WRITE,
    create,
    known_as,
    pack_own,
    pack_segment_header,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# `mmap` holds a duplicate descriptor of `.own` before 3.13, and closing any descriptor of
# that file drops its lock; so a mapping lives as long as its process.
_kept_for_life: Final[list[Any]] = []
# Lanes of this process: their `.own` must not be opened again by it, for the same reason.
owned: Final[dict[str, LaneWriter]] = {}

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS: Final = (errno.EBADF, errno.EPIPE, errno.ESPIPE, errno.EINVAL)


class LaneLostError(Exception):
    """The lane cannot be used any more; the caller opens another one."""


class LaneWriter:
    """Append payloads to a new lane of a spool.

    Parameters
    ----------
    directory : int
        Descriptor of the spool's `lanes/`; not owned, stays open as long as the writer.
    identity : bytes
        Who this process is, at most 3584 bytes.

    Raises
    ------
    OSError
        If the lane's files cannot be made.
    """

    append: Callable[[bytes], bool]

    def __init__(self, directory: int, identity: bytes) -> None:
        epoch = os.urandom(EPOCH_BYTES)
        self.epoch: Final = epoch.hex()
        self._epoch_bytes = epoch
        self._directory = directory
        own = create(directory, f"{self.epoch}.own", pack_own(epoch, identity), lock=True)
        track: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        mapping = mmap.mmap(own, OWN_BYTES, **track)
        _kept_for_life.append(mapping)
        self._known = {"own": known_as(own)}
        self._mapping = mapping
        self.words: memoryview = memoryview(mapping)[WORDS_AT:IDENTITY_AT].cast("Q")
        self._number = 0
        self._side: int | None = None
        self._side_end = 0
        self._segment = self._create_segment(0)
        owned[self.epoch] = self
        self.append = self._bind_append()

    def _create_segment(self, number: int) -> int:
        header = pack_segment_header(self._epoch_bytes, number, WRITER_WRITE)
        name = segment_name(self.epoch, number)
        descriptor = create(self._directory, name, header)
        self._known["side" if number == SIDE else "segment"] = known_as(descriptor)
        return descriptor

    def descriptors(self) -> list[tuple[int, int, int]]:
        """Return (descriptor, device, inode) of the open files, for a forked child."""
        return list(self._known.values())

    def own_bytes(self) -> bytes:
        """Return the content of `.own`, which this process must not open again."""
        return self._mapping[:]

    def drop(self, reason: str) -> None:
        """Count one record that could not be kept. Safe anywhere `append` is."""
        self.words[DROPPED + DROP_REASONS.index(reason)] += 1

    def dropped(self) -> dict[str, int]:
        """Return the drops of this lane by reason."""
        return {r: self.words[DROPPED + i] for i, r in enumerate(DROP_REASONS)}

    def _bind_append(self) -> Callable[[bytes], bool]:
        """Make `append`, the hot path: locals instead of attributes save 0.4 us a call.

        `append(payload)` returns True when the frame is in the file, False when it was
        counted as dropped, and raises LaneLostError when another lane is needed: then
        the record is not in this one, or it is and the server had stopped.
        """
        lock = threading.RLock()
        next_sequence = itertools.count().__next__
        words = self.words
        encode, lane_seed = frame.encode, frame.seed(self._epoch_bytes)
        write, lseek, current = os.write, os.lseek, os.SEEK_CUR
        descriptor, end = self._segment, FRAMES_AT
        busy = False

        def append(payload: bytes) -> bool:
            nonlocal busy, descriptor, end
            with lock:
                if busy:
                    # This very thread is inside append: a signal handler, __del__ or
                    # the collector logs in the middle of it.
                    return self._append_side(payload, next_sequence(), lane_seed)
                try:
                    busy = True
                    sequence = next_sequence()
                    words[STARTED] = sequence + 1
                    data = encode(payload, sequence, lane_seed)
                    try:
                        if end + len(data) > SEGMENT_BYTES and end > FRAMES_AT:
                            full, descriptor = descriptor, -1
                            try:
                                descriptor, end = self._roll(full), FRAMES_AT
                            except OSError:
                                descriptor = full  # no next segment: try again later
                                raise
                        if lseek(descriptor, 0, current) != end:
                            end = self._position(descriptor)
                        written = write(descriptor, data)
                    except OSError as exc:
                        return self._failed(exc, descriptor, end)
                    if written != len(data):
                        return self._failed(None, descriptor, end)
                    end += written
                finally:
                    busy = False
            if words[RETIRED]:
                # Read after the write: either the engine's last look at this lane sees
                # the frame, or we see the word and the caller says it again elsewhere.
                raise LaneLostError
            return True

        return append

    def _append_side(self, payload: bytes, sequence: int, lane_seed: int) -> bool:
        self.words[STARTED_SIDE] = sequence + 1
        data = frame.encode(payload, sequence, lane_seed)
        try:
            if self._side is None:
                self._side = self._create_segment(SIDE)
                self._side_end = FRAMES_AT
            if os.lseek(self._side, 0, os.SEEK_CUR) != self._side_end:
                self._side_end = self._position(self._side, SIDE)
            written = os.write(self._side, data)
        except OSError as exc:
            return self._failed(exc, self._side, self._side_end)
        if written != len(data):
            return self._failed(None, self._side, self._side_end)
        self._side_end += written
        if self.words[RETIRED]:
            raise LaneLostError
        return True

    def _roll(self, full: int) -> int:
        """Begin the next segment; the full one is never written to again.

        The number is taken first, and the caller holds no descriptor meanwhile: should
        an exception be thrown in here, the next append finds neither and opens another
        lane, so that nothing is written behind a reader that has moved on.
        """
        self._position(full)
        number = self._number + 1
        descriptor = self._create_segment(number)
        self._number = number
        self._segment = descriptor
        os.close(full)
        return descriptor

    def _position(self, descriptor: int, number: int | None = None) -> int:
        """Find out whether the descriptor is still our file, and where its end is.

        Raises
        ------
        LaneLostError
            If it is not, or the file's name is gone.
        """
        name = segment_name(self.epoch, self._number if number is None else number)
        try:
            here = os.fstat(descriptor)
            there = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError as exc:
            raise LaneLostError from exc
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise LaneLostError
        return here.st_size

    def _failed(self, exc: OSError | None, descriptor: int | None, end: int) -> bool:
        """Judge a write that did not happen, or only in part: count it, or give up."""
        if exc is not None and exc.errno in _NOT_OURS:
            raise LaneLostError from exc
        if descriptor is not None and descriptor >= 0:
            try:
                # Take back what a full disk let through, so the lane stays readable.
                os.ftruncate(descriptor, end)
                os.lseek(descriptor, end, os.SEEK_SET)
            except OSError as undo:
                raise LaneLostError from undo
        self.drop("no_space" if exc is None or exc.errno in _NO_SPACE else "io")
        return False

    def check(self) -> None:
        """Make sure that the lane's files are still there.

        Raises
        ------
        LaneLostError
            If the directory or the segment was deleted or replaced.
        """
        self._position(self._segment)
