"""The `write` writer: each frame by one `write` to an O_APPEND descriptor.

Simple, without mappings and commit words, right on every file system; the reference for
the other one. A segment's end is its size. There is no half-done state for an exception
or a crash to leave behind: a frame is one system call.

What must never happen: a frame in a file that is not ours. User code closes descriptors
(`os.closerange` in daemonisers) and opens others under the same number. `os.fstat`
before each write would tell, for 900 ns; `os.lseek` tells as well for 250: after an
append to an O_APPEND descriptor its position is the file's end, which only we know. If
the position is not what we left, device and inode decide (docs/adr/0002).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from femtomp.codec import frame
from femtomp.lanes.segment import (
    COMMITTED,
    FRAMES_AT,
    RETIRED,
    STARTED,
    WRITER_WRITE,
    close_known,
    create,
    known_as,
    pack_segment_header,
    segment_name,
)
from femtomp.lanes.signals import undisturbed
from femtomp.lanes.writer import LaneLostError, LaneWriter, writers

if TYPE_CHECKING:
    from collections.abc import Callable


class AppendingWriter(LaneWriter):
    """Append by `write`."""

    def _open_first(self, size: int) -> None:
        self._make_segment(size, size)
        self.append = self._bind_append(self._known["segment"][0], size)

    def _create_segment(self, number: int, size: int) -> None:  # noqa: ARG002 - it grows
        header = pack_segment_header(self.epoch_bytes, number, WRITER_WRITE)
        name = segment_name(self.epoch, number)
        descriptor = create(self._directory, name, header)
        self._set_segment(name, known_as(descriptor))

    def _bind_append(  # noqa: C901 - as long as the other writer's
        self, descriptor: int, size: int
    ) -> Callable[[bytes], bool]:
        """Make `append`, the hot path: locals for attributes save 0.4 us a call."""
        lock, append_side = self._lock, self.append_side
        words, lane_seed, encode = self.words, self.seed, frame.encode
        write, lseek, current = os.write, os.lseek, os.SEEK_CUR
        end = FRAMES_AT
        busy = False
        # Where the last frame ends that was counted, and the sequence of the next.
        counted = FRAMES_AT, 0

        def roll(wanted: int, least: int) -> None:
            # Nothing fits until this has succeeded: after an error, or an exception
            # thrown in, the next append comes here again, never writes behind a reader.
            nonlocal descriptor, end, size, counted
            full, size = self._known["segment"], 0
            made = self._make_segment(wanted, least)
            descriptor = self._known["segment"][0]
            end, size = FRAMES_AT, made
            counted = FRAMES_AT, counted[1]
            close_known(full)

        def append(payload: bytes) -> bool:
            nonlocal busy, end, counted
            with lock:
                if busy:
                    # This very thread is inside append: a signal handler, __del__ or
                    # the collector logs in the middle of it.
                    return append_side(payload)
                try:
                    busy = True
                    words[STARTED] += 1
                    try:
                        if lseek(descriptor, 0, current) != end:
                            end = self.position("segment")
                    except OSError as exc:
                        return self.failed(exc, payload, "segment", end)
                    if end != counted[0]:
                        # One was thrown out behind its write: its frame is there.
                        counted = end, counted[1] + 1
                    sequence = counted[1]
                    data = encode(payload, sequence, lane_seed)
                    if end + len(data) > size:
                        try:
                            # The wait for room, if there is one, can be disturbed.
                            least = FRAMES_AT + len(data)
                            undisturbed(roll, self.room(least, payload), least)
                        except OSError as exc:
                            return self.failed(exc, payload)
                    try:
                        written = write(descriptor, data)
                    except OSError as exc:
                        return self.failed(exc, payload, "segment", end)
                    if written != len(data):
                        return self.failed(None, payload, "segment", end)
                    end += written
                    counted = end, sequence + 1
                    words[COMMITTED] = sequence + 1
                finally:
                    busy = False
            if words[RETIRED]:
                # Read after the write: either the engine's last look at this lane sees
                # the frame, or we see the word and the caller says it again elsewhere.
                raise LaneLostError
            return True

        return append


writers["write"] = AppendingWriter
