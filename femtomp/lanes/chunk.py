"""What reading a lane gives: where it ends, frames that were found, records of them.

Values only; `reader` makes them.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from femtomp.codec.frame import Frame
    from femtomp.errors import CodecError


class End(NamedTuple):
    """Where a lane ended when it was looked at: last segment, its size, the side's."""

    segment: int = 0
    size: int = 0
    side: int = 0


class Chunk(NamedTuple):
    """Consecutive frames of one file of a lane, loaded.

    Attributes
    ----------
    number : int
        The segment, or SIDE.
    frames : list of Frame
        Offsets within the chunk; `next` is the place behind each.
    fields : list
        For each frame the payload's tuple, or the error that says why there is none.
    after : int
        The offset behind all that was looked at, skipped bytes included.
    corrupt : int
        Frames that were skipped because their bytes are damaged.
    base : int
        Where in the file the chunk begins: add it to the frames' offsets.
    sequence : int
        Of the segments' next frame; of no meaning for the side file.
    """

    number: int
    frames: list[Frame]
    fields: list[tuple[Any, ...] | CodecError]
    after: int
    corrupt: int = 0
    base: int = 0
    sequence: int = 0


class Found(NamedTuple):
    """Frames in bytes that were read; offsets of the frames are within `data`.

    Without frames something was stepped over: damaged bytes, or records that are lost,
    which `corrupt` counts. `sequence` as for `Chunk`.
    """

    number: int
    offset: int
    data: bytes
    frames: list[Frame]
    after: int
    sequence: int
    corrupt: int = 0

    def first(self) -> Found:
        """Return the first frame alone."""
        return self._first(1)

    def size(self) -> int:
        """Return how many bytes the frames are, headers included."""
        return self.frames[-1].next - self.frames[0].start if self.frames else 0

    def within(self, size: int) -> Found | None:
        """Return the first frames that are no more bytes than this; None if none is."""
        if self.size() <= size:
            return self
        end = self.frames[0].start + size
        count = bisect_right(self.frames, end, key=attrgetter("next"))
        return self._first(count) if count else None

    def _first(self, count: int) -> Found:
        last = self.frames[count - 1]
        return self._replace(
            frames=self.frames[:count],
            after=self.offset + last.next,
            sequence=last.sequence + 1,
        )
