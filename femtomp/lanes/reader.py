"""Reading a lane: its files, where its end is, and the records behind a position.

In: the directory, positions. Out: `Chunk`s of decoded records, with the position behind
each. One `Lane` serves all sinks of an engine; each sink reads for itself, from its own
position. Only `pread` is used, every number is checked as if hostile, and no damage
stops a lane: bad bytes are skipped to the next place that validates. A lane's records
are numbered without a gap, so the next one's sequence tells how many were lost, and
COMMITTED in `.own` how many at the end; one that comes again is not taken.

What must never happen: a lane being called finished before its end was read *after* its
owner was seen dead. `is_orphaned`, then `refresh`, then reading: in this order.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from femtomp.codec import frame, wire
from femtomp.codec.frame import Tail
from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes.chunk import Chunk, End, Found
from femtomp.lanes.owner import Owner
from femtomp.lanes.segment import FRAMES_AT, SIDE, segment_name
from femtomp.native import Lock

if TYPE_CHECKING:
    from femtomp.lanes.cursor import Position

# Whole chunks: one system call for some hundreds of records.
CHUNK_BYTES: Final = 256 * 1024
# How long a bad frame in a live lane is read again before it is stepped over.
BAD_FRAME_GRACE_S: Final = 0.1
# What one gap can count: what a hostile sequence says must not overflow the sums.
MAX_LOST: Final = 1 << 32
_START: Final = (0, FRAMES_AT)
# Enough for the largest frame there is, wherever in a chunk it begins.
_MAX_FRAME_READ: Final = seg.SEGMENT_BYTES + frame.MAX_FRAME_PAYLOAD_BYTES + 4096
# No writer makes larger files: a sparse one is gone through no further.
_MOST_BYTES: Final = _MAX_FRAME_READ
_MOST_SIDE_BYTES: Final = 1 << 30


class Lane(Owner):
    """The files of one lane, opened for reading.

    Parameters
    ----------
    directory : int
        Descriptor of `lanes/`; not owned.
    epoch : str
        24 hex digits.
    hostile : bool
        As for `Owner`.
    """

    def __init__(self, directory: int, epoch: str, *, hostile: bool = False) -> None:
        super().__init__(directory, epoch, hostile=hostile)
        self._seed = frame.seed(self._bytes)
        self._files: dict[int, tuple[int, int | None]] = {}
        self._lock = Lock()
        # Numbers of the segments whose names were seen, ascending; by the poller.
        self.segments: tuple[int, ...] = ()
        self.has_side = False
        # What its owner was making when it was killed has a temporary name still.
        self.begun: tuple[str, ...] = ()
        self.end = End()
        # Set by the poller once the owner is known to be gone, before the last refresh.
        self.ended = False
        # Besides, its process was dead before that: it cannot have gone on without the
        # lock, and what COMMITTED says and the files do not hold is lost.
        self.final = False
        self._committed: int | None = None
        self._bad: dict[int, tuple[int, float]] = {}

    # -- the end ---------------------------------------------------------------------

    def refresh(self) -> bool:
        """Look where the lane ends now; True if it grew. `segments` must be current."""
        if not self.segments:
            return False
        last = self.segments[-1]
        size = self._size(last)
        side = self._size(SIDE) if self.has_side else 0
        if size is None or side is None:
            return False
        end = End(last, size, side)
        grew = end != self.end
        self.end = end
        return grew

    def _size(self, number: int) -> int | None:
        """Return where a segment or the side file ends now.

        0 if it is gone or no lane's file, None if it cannot be opened for now.
        """
        try:
            descriptor, capacity = self._file(number)
            if capacity is None:
                size = os.fstat(descriptor).st_size
                return min(size, _MOST_SIDE_BYTES if number == SIDE else _MOST_BYTES)
            # Torn by nothing: the writer stores it by one aligned store.
            commit = os.pread(descriptor, 8, seg.COMMIT_AT)
            most = min(capacity, _MOST_BYTES)
            return min(most, int.from_bytes(commit, "little"))
        except (FileNotFoundError, CodecError):
            return 0
        except OSError:
            return None

    def _file(self, number: int) -> tuple[int, int | None]:
        """Return a descriptor of a segment or the side file, and its allocated size.

        The size is None where the `write` writer appends, and the file's size tells.

        Raises
        ------
        OSError, CodecError
            If it is not there, or not a lane's regular file.
        """
        file = self._files.get(number)
        if file is None:
            with self._lock:
                file = self._files.get(number)
                if file is None:
                    file = self._open_segment(number)
                    self._files[number] = file
        return file

    def _open_segment(self, number: int) -> tuple[int, int | None]:
        descriptor = self._open(segment_name(self.epoch, number))
        try:
            header = os.pread(descriptor, seg.COMMIT_AT, 0)
            writer = seg.check_segment_header(header, self._bytes, number)
            mapped = writer == seg.WRITER_MMAP
            return descriptor, os.fstat(descriptor).st_size if mapped else None
        except BaseException:
            os.close(descriptor)
            raise

    def close(self, below: int | None = None) -> None:
        """Close the files: all, or those of segments below a number."""
        with self._lock:
            for number in list(self._files):
                if below is None or (number < below and number != SIDE):
                    os.close(self._files.pop(number)[0])
            if below is None:
                self.close_own()

    def __del__(self) -> None:
        # A reaped lane is closed when the last thread that reads it lets go of it: a
        # number closed under a reader would soon be another file's.
        self.close()

    # -- records ---------------------------------------------------------------------

    def is_behind(self, position: Position) -> bool:
        """Tell whether anything was seen that lies behind the position."""
        return (position.segment, position.offset) < self.end[:2] or (
            position.side < self.end.side
        )

    def has_more(self, position: Position) -> bool:
        """Tell whether a record lies behind the position, or is missing at the end."""
        return self.is_behind(position) or (
            self.final and position.sequence < self._committed_at_end()
        )

    def _committed_at_end(self) -> int:
        """Return how many records a dead owner had committed to the segments."""
        if self._committed is None:
            committed = self.word(seg.COMMITTED)
            is_sound = committed <= self.word(seg.STARTED)
            self._committed = committed if is_sound else 0
        return self._committed

    def normalised(self, position: Position) -> Position:
        """Step from the end of a segment that is closed to the start of the next.

        A segment that cannot be looked at now (no descriptor left) is not stepped over.
        Who is new to a lane whose first segments were freed begins with what is there:
        what others had before is not lost to it.
        """
        if position[:2] == _START and self.segments and self.segments[0] > 0:
            first = self.segments[0]
            began = self._first_sequence(first) if position.sequence == 0 else None
            if began is not None:
                return position._replace(segment=first, sequence=began)
        for later in [n for n in self.segments if n > position.segment]:
            if position.segment in self.segments:
                size = self._size(position.segment)
                if size is None or position.offset < size:
                    break
            position = position._replace(segment=later, offset=FRAMES_AT)
        return position

    def _first_sequence(self, number: int) -> int | None:
        """Return the sequence of a segment's first whole frame; None if none is."""
        try:
            size = self._size(number)
            if size is None or size <= FRAMES_AT:
                return None
            descriptor, _ = self._file(number)
            data = os.pread(descriptor, min(_MAX_FRAME_READ, size), FRAMES_AT)
        except (OSError, CodecError):
            return None
        frames, _, _ = frame.split(data, 0, self._seed)
        place = 0 if frames else frame.resync(data, 0, self._seed)
        if place is None:
            return None
        frames, _, _ = frame.split(data, place, self._seed)
        first = frames[0].sequence
        return first if first < seg.SIDE_SEQUENCE else None

    def read(self, position: Position) -> Chunk | None:
        """Load the next frames of the segment at a normalised position.

        None: nothing whole is there yet.
        """
        return self._loaded(self.find_next(position))

    def find_next(self, position: Position) -> Found | None:
        """Find what `read` loads."""
        return self.find(position.segment, position.offset, position.sequence)

    def read_side(self, position: Position) -> Chunk | None:
        """Load the next frames of the side file; None: nothing whole is there yet."""
        return self._loaded(self.find_side(position))

    def find_side(self, position: Position) -> Found | None:
        """Find what `read_side` loads."""
        return self.find(SIDE, position.side) if self.has_side else None

    def _is_closed(self, number: int) -> bool:
        return self.ended or (number != SIDE and number < self.end.segment)

    def exists(self) -> bool:
        """Tell whether the lane's `.own` still has its name: it is unlinked last."""
        try:
            os.stat(f"{self.epoch}.own", dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def is_there(self, position: Position) -> bool:
        """Tell whether a position's segment still has its name, or never had one."""
        if not self.segments or position.segment > self.segments[-1]:
            return True
        name = segment_name(self.epoch, position.segment)
        try:
            os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return False
        return True

    def count(self, position: Position) -> int:
        """Return how many whole frames lie behind a position, without loading them."""
        total = 0
        while True:
            position = self.normalised(position)
            found = self.find(*position[:2], position.sequence)
            if found is None:
                break
            total += len(found.frames) + found.corrupt
            position = position.behind(found.number, found.after, found.sequence)
        side = position.side
        while self.has_side and (found := self.find(SIDE, side)) is not None:
            total += len(found.frames) + found.corrupt
            side = found.after
        return total

    def _loaded(self, found: Found | None) -> Chunk | None:
        return None if found is None else self.load(found)

    def load(self, found: Found) -> Chunk:
        """Decode the frames that were found."""
        number, offset, data, frames, after, sequence, corrupt = found
        fields = wire.decode_chunk(data, frames, hostile=self._hostile)
        return Chunk(number, frames, fields, after, corrupt, offset, sequence)

    def find(self, number: int, offset: int, sequence: int = 0) -> Found | None:
        """Find frames from an offset on; None if nothing whole is there yet.

        In a segment the first of them has this sequence, and each other one more.
        """
        # Asked before reading: what is written later than this is for the next time.
        closed = self._is_closed(number)
        expected = None if number == SIDE else sequence
        try:
            size = self._size(number)
            if size is None:
                return None
            if offset >= size:
                return self._missing(number, offset, sequence)
            descriptor, _ = self._file(number)
            data = os.pread(descriptor, min(CHUNK_BYTES, size - offset), offset)
            frames, behind, tail = frame.split(data, 0, self._seed, expected)
            if not frames and tail is Tail.INCOMPLETE and len(data) < size - offset:
                data = os.pread(descriptor, min(_MAX_FRAME_READ, size - offset), offset)
                frames, behind, tail = frame.split(data, 0, self._seed, expected)
            if frames:
                last = frames[-1].sequence
                return Found(number, offset, data, frames, offset + behind, last + 1)
            if tail is Tail.END:
                return None
            if tail is Tail.GAP:
                found = self._step(number, offset, data, sequence)
                if found is not None:
                    return found
            elif not (closed or self._is_lasting(number, offset, sequence, tail)):
                return None
            return self._salvage(number, offset, size, sequence, closed=closed)
        except (OSError, CodecError):
            return None

    def _missing(self, number: int, offset: int, sequence: int) -> Found | None:
        """Count what was committed and is not there, behind a lane's last byte."""
        if not self.final or number == SIDE:
            return None
        committed = self._committed_at_end()
        if sequence >= committed:
            return None
        return self._lost(number, offset, sequence, committed)

    def _step(
        self, number: int, offset: int, data: bytes, sequence: int
    ) -> Found | None:
        """Step over a gap in the sequence, or over records that were there before.

        None where the frame has a sequence that no segment's frame has.
        """
        frames, _, _ = frame.split(data, 0, self._seed)
        there = frames[0].sequence
        if there < sequence:
            again = [each for each in frames if each.sequence < sequence]
            return Found(number, offset, b"", [], offset + again[-1].next, sequence)
        if there < seg.SIDE_SEQUENCE:
            return self._lost(number, offset, sequence, there)
        return None

    @staticmethod
    def _lost(number: int, offset: int, sequence: int, there: int) -> Found:
        corrupt = min(there - sequence, MAX_LOST)
        return Found(number, offset, b"", [], offset, there, corrupt)

    def _is_lasting(self, number: int, offset: int, sequence: int, tail: Tail) -> bool:
        """Tell whether damage in a live lane has been there for long enough to be real.

        A writer that takes a half-written frame back and writes another one may be seen
        in the middle of it; and a large `write` is seen growing, until it has returned.
        """
        if (
            tail is Tail.INCOMPLETE
            and self._file(number)[1] is None
            and (number == SIDE or self.word(seg.COMMITTED) <= sequence)
        ):
            return False
        now = time.monotonic()
        place, since = self._bad.get(number, (-1, now))
        if place != offset:
            self._bad[number] = (offset, now)
            return False
        return now - since >= BAD_FRAME_GRACE_S

    def _salvage(
        self, number: int, offset: int, size: int, sequence: int, *, closed: bool
    ) -> Found | None:
        """Step over bytes that are no frame, to the next place that validates.

        What was lost there, the next sequence tells. In the side file calls inside
        calls are out of order: there it is one, but for a tail that never returned.
        """
        descriptor, capacity = self._file(number)
        data = os.pread(descriptor, min(_MAX_FRAME_READ, size - offset), offset)
        place = frame.resync(data, 0, self._seed)
        if place is not None:
            corrupt = int(number == SIDE)
            return Found(number, offset, b"", [], offset + place, sequence, corrupt)
        if closed or capacity is not None:
            return Found(number, offset, b"", [], offset + len(data), sequence)
        return None
