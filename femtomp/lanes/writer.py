"""One process's end of its lane: what both writers share, and the choice between them.

In: payloads. Out: frames in `E.N.seg`, in the kernel's hands when `append` returns.
Owner of every file it creates until the engine unlinks them. Safe under threads (a lock
of this process only), under re-entry from signal handlers, `__del__` and the collector
(those go to the side file) and under exceptions thrown into it. Not fork safe by
itself: a child must forget it (`worker.fork`).

`append(payload)` returns True when the frame is in the lane, False when it was counted
as dropped, and raises LaneLostError when another lane is needed: then the record is not
in this one, or it is and the server had stopped.

Two writers, one format: `mapped` stores into a preallocated mapping and makes no system
call; `appending` makes one `write` a record, works everywhere, and is the reference.
The server chooses for its spool (`spool.choose_writer`), the manifest tells the
workers. Where these are another user than root's master, whoever is root, or may be it
again, has the `write` writer in the form of `guarded`, which maps nothing.
"""

from __future__ import annotations

import errno
import itertools
import os
from logging import ERROR
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Protocol

from femtomp.codec import frame
from femtomp.codec.wire import level_of
from femtomp.lanes.mapping import is_closable, kept_for_life, map_file, unmap
from femtomp.lanes.segment import (
    EPOCH_BYTES,
    FRAMES_AT,
    IDENTITY_AT,
    LEFT_OUT,
    LEFT_OUT_WAYS,
    OWN_BYTES,
    RETIRED,
    SEGMENT_BYTES,
    SIDE,
    SIDE_SEQUENCE,
    STARTED_SIDE,
    WORDS_AT,
    WRITER_WRITE,
    close_known,
    create,
    drop_word,
    known_as,
    pack_own,
    pack_segment_header,
    segment_name,
)
from femtomp.lanes.space import (
    Overflow,
    add_used,
    ask_for_room,
    read_space,
    whole_pages,
)
from femtomp.lanes.thrown import thrown_in
from femtomp.native import RLock, sleep

if TYPE_CHECKING:
    from collections.abc import Callable

# The first segment is small: many workers log a few lines and end, and 500 idle ones
# fit a /dev/shm of 64 MB, which is what containers get.
FIRST_BYTES: Final = 32 * 1024
# How much room is taken at a time for calls inside calls.
SIDE_STEP_BYTES: Final = 4096
# Between looks of a writer that waits for room.
BLOCK_CHECK_S: Final = 0.002
# For room that an engine makes by giving up the oldest: twice its idle interval.
MADE_WITHIN_NS: Final = 100_000_000
# Lanes of this process. Closing any descriptor of an `.own` drops its lock, so this
# process must not open these again, not even to read them.
owned: Final[dict[str, LaneWriter]] = {}
# By the name that the manifest has; each module adds its own.
writers: Final[dict[str, type[LaneWriter]]] = {}

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The descriptor is somebody else's or nobody's, the directory gone or closed to us.
_UNUSABLE: Final = (
    errno.EBADF, errno.EPIPE, errno.ESPIPE, errno.EINVAL,
    errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM,
)  # fmt: skip


class Words(Protocol):
    """The numbers in `.own`, by their place."""

    def __getitem__(self, at: int, /) -> int:
        """Return one."""

    def __setitem__(self, at: int, value: int, /) -> None:
        """Store one where every reader sees it."""


class LaneLostError(Exception):
    """The lane cannot be used any more; the caller opens another one."""


class QuotaReachedError(OSError):
    """The spool's limit, or the lane's, leaves no room for another file."""

    def __init__(self) -> None:
        super().__init__(errno.EDQUOT, "the spool's quota is reached")


def _let_go(_: bytes) -> bool:
    raise LaneLostError


class LaneWriter:
    """Own a new lane of a spool; a subclass fills its segments.

    Parameters
    ----------
    directory : int
        Descriptor of the spool's `lanes/`; not owned, stays open as long as the writer.
    identity : bytes
        Who this process is, at most 3584 bytes.
    important : bool
        The lane is opened for a record of ERROR or above: it may take the room that is
        kept for these.

    Raises
    ------
    OSError
        If the lane's files cannot be made; QuotaReachedError where there is no room.
    """

    append: Callable[[bytes], bool]
    _then: Callable[[], None] | None = None

    def __init__(
        self, directory: int, identity: bytes, *, important: bool = False
    ) -> None:
        self.epoch_bytes: Final = os.urandom(EPOCH_BYTES)
        self.epoch: Final = self.epoch_bytes.hex()
        self.seed: Final = frame.seed(self.epoch_bytes)
        self._directory = directory
        # Sizes of the segments that were made, until they are seen to be freed.
        self._taken: dict[int, int] = {}
        self._size = 0
        self.is_full = False
        """Whether the record that needed room last was dropped for want of it."""
        first_bytes = self._take_first(important=important)
        content = pack_own(self.epoch_bytes, identity)
        own = create(directory, f"{self.epoch}.own", content, lock=True)
        # Locked for life: the descriptor is closed by the process's end alone.
        self._known = {"own": known_as(own)}
        self.words: Words = self._open_words(own, content)
        self._lock = RLock()
        self._next_side = itertools.count().__next__
        self._number = -1
        # Made now: no file is created in the middle of calls inside calls.
        header = pack_segment_header(self.epoch_bytes, SIDE, WRITER_WRITE)
        self._side = create(directory, f"{self.epoch}.side", header)
        self._known["side"] = known_as(self._side)
        self._side_end = FRAMES_AT
        self._side_limit = SIDE_STEP_BYTES
        self._last_side = -1
        self._open_first(first_bytes)
        owned[self.epoch] = self

    def _take_first(self, *, important: bool) -> int:
        space = read_space(self._directory)
        size = space.segment_bytes(FIRST_BYTES)
        taken = OWN_BYTES + SIDE_STEP_BYTES + size
        if not space.has_room(taken, 0, important=important):
            ask_for_room(self._directory)
            raise QuotaReachedError
        add_used(self._directory, taken)
        return size

    def _open_words(self, own: int, content: bytes) -> Words:  # noqa: ARG002 - see `guarded`
        """Return the words of `.own`: what is stored there every reader sees."""
        self._own = map_file(own, OWN_BYTES)
        kept_for_life.append(self._own)
        return memoryview(self._own)[WORDS_AT:IDENTITY_AT].cast("Q")

    def _open_first(self, size: int) -> None:
        """Make the first segment, and `append`."""
        raise NotImplementedError

    def _create_segment(self, number: int, size: int) -> None:
        """Make a segment's file and call `_set_segment`."""
        raise NotImplementedError

    def _make_segment(self, wanted: int, least: int) -> int:
        """Make the next segment, or a smaller one where the disk has no more room.

        A number is used once, even if that fails half-way. Room for `wanted` bytes was
        taken before.
        """
        while True:
            self._number = number = self._number + 1
            try:
                self._create_segment(number, wanted)
            except OSError as exc:
                smaller = whole_pages(max(least, wanted // 8))
                if exc.errno not in _NO_SPACE or smaller >= wanted:
                    add_used(self._directory, -wanted)
                    self._size = FIRST_BYTES // 2
                    raise
                add_used(self._directory, smaller - wanted)
                wanted = smaller
            else:
                self._taken[number] = wanted
                self._size = min(wanted, SEGMENT_BYTES)
                return wanted

    def _set_segment(self, name: str, known: tuple[int, int, int]) -> None:
        self._known["segment"] = known
        self._current = (name, *known[1:])

    def own_bytes(self) -> bytes:
        """Return the content of `.own`, which this process must not open again."""
        return self._own[:]

    def descriptors(self) -> list[tuple[int, int, int]]:
        """Return (descriptor, device, inode) of the open files, for a forked child."""
        return list(self._known.values())

    keeps_in_children = True
    """Whether forked children hold on to what they inherited until they log."""

    def forget(self) -> None:
        """Let go of what a forked child inherited. Its parent's lane is not its own."""

    def close(self) -> None:
        """End the lane and release everything; nothing may be appended after it.

        Workers never need it, their end does the same. For tests, which open many.
        """
        self.forget()
        owned.pop(self.epoch, None)
        self._close_words()
        for known in self._known.values():
            close_known(known)

    def _close_words(self) -> None:
        if isinstance(self.words, memoryview):
            self.words.release()
        kept_for_life.remove(self._own)
        unmap(self._own, None, *self._known["own"][1:])

    def let_go(self, then: Callable[[], None]) -> None:
        """Release everything once no thread is inside `append`; its files are gone.

        A thread that is, keeps this object, and with it what it writes to, until it has
        come out: it finds that the server had stopped.

        Parameters
        ----------
        then : callable
            Called when that is so, from whichever thread.
        """
        owned.pop(self.epoch, None)
        self.append = _let_go  # which breaks the cycle: the old one holds this object
        self._let_words_go()
        self._then = then

    def _let_words_go(self) -> None:
        # A mapping that is closed with its last user, or kept as by `unmap`.
        if is_closable(*self._known["own"][1:]):
            kept_for_life.remove(self._own)

    def __del__(self) -> None:
        """Close what `let_go` left open; without that it is for the process's end."""
        if self._then is not None:
            for known in self._known.values():
                close_known(known)
            self._then()

    def drop(self, reason: str, payload: bytes = b"") -> None:
        """Count one record that could not be kept. Safe anywhere `append` is."""
        self.words[drop_word(reason, level_of(payload))] += 1

    def leave_out(self, way: str) -> None:
        """Count one record that was not to be kept. Safe anywhere `append` is."""
        with self._lock:
            self.words[LEFT_OUT + LEFT_OUT_WAYS.index(way)] += 1

    def room(self, least: int, payload: bytes) -> int:
        """Take room for the next segment, `least` bytes or more; return its size.

        Raises
        ------
        QuotaReachedError
        """
        wish = min(SEGMENT_BYTES, self._size * 2)
        important = level_of(payload) >= ERROR
        deadline_ns = 0
        while True:
            space = read_space(self._directory)
            patience_ns = space.block_ns
            if space.overflow != Overflow.BLOCK:
                # An engine that looks makes room at once. One that did not is not
                # waited for again.
                is_made = space.overflow == Overflow.DROP_OLD and not self.is_full
                patience_ns = MADE_WITHIN_NS if is_made else 0
            size = whole_pages(max(least, space.segment_bytes(wish)))
            if space.has_room(size, self._held(), important=important):
                add_used(self._directory, size)
                self.is_full = False
                return size
            ask_for_room(self._directory)
            now = monotonic_ns()
            deadline_ns = deadline_ns or now + patience_ns
            if now >= deadline_ns or not space.has_engine():
                raise QuotaReachedError
            sleep(BLOCK_CHECK_S)

    def _held(self) -> int:
        """Return what this lane takes now: the engine frees its oldest segments."""
        for number in list(self._taken):
            name = segment_name(self.epoch, number)
            try:
                os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                break
            except FileNotFoundError as exc:
                if thrown_in(exc):
                    raise
                # A call inside this one may have come here as well.
                self._taken.pop(number, None)
            except OSError as exc:
                if thrown_in(exc):
                    raise
                break  # privileges were dropped: nothing can be seen
        return OWN_BYTES + self._side_limit + sum([*self._taken.values()])

    def check(self) -> None:
        """Make sure that the lane's files are still there.

        Raises
        ------
        LaneLostError
            If the directory or the segment was deleted or replaced.
        """
        name, device, inode = self._current
        try:
            there = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError as exc:
            if thrown_in(exc):
                raise
            if isinstance(exc, PermissionError):
                # Privileges were dropped: nothing can be seen, what is open works.
                return
            raise LaneLostError from exc
        if (device, inode) != (there.st_dev, there.st_ino):
            raise LaneLostError

    def append_side(self, payload: bytes) -> bool:
        """Append while this very thread is inside `append`: one write, to `E.side`."""
        # Calls within calls within calls: each must have a number of its own.
        number = self._last_side = self._next_side()
        sequence = SIDE_SEQUENCE + number
        # Again if a call inside this one went on meanwhile: the word never goes back.
        while self.words[STARTED_SIDE] <= self._last_side:
            self.words[STARTED_SIDE] = self._last_side + 1
        data = frame.encode(payload, sequence, self.seed)
        if self._side_end + len(data) > self._side_limit and not self._more_side(
            len(data), payload
        ):
            return False
        try:
            if os.lseek(self._side, 0, os.SEEK_CUR) != self._side_end:
                self._side_end = self.position("side")
            written = os.write(self._side, data)
        except OSError as exc:
            return self.failed(exc, payload, "side", self._side_end)
        if written != len(data):
            return self.failed(None, payload, "side", self._side_end)
        self._side_end += written
        if self.words[RETIRED]:
            raise LaneLostError
        return True

    def _more_side(self, needed: int, payload: bytes) -> bool:
        space = read_space(self._directory)
        more = max(SIDE_STEP_BYTES, whole_pages(needed))
        if not space.has_room(more, self._held(), important=level_of(payload) >= ERROR):
            self.drop("quota", payload)
            return False
        add_used(self._directory, more)
        self._side_limit += more
        return True

    def position(self, which: str) -> int:
        """Find out whether a descriptor is still our file, and where its end is.

        Raises
        ------
        LaneLostError
            If it is not.
        """
        descriptor, device, inode = self._known[which]
        try:
            here = os.fstat(descriptor)
        except OSError as exc:
            if thrown_in(exc):
                raise
            raise LaneLostError from exc
        if (here.st_dev, here.st_ino) != (device, inode):
            raise LaneLostError
        return here.st_size

    def failed(
        self, exc: OSError | None, payload: bytes, which: str = "", end: int = 0
    ) -> bool:
        """Judge a write that did not happen, or only in part: count it, or give up."""
        if exc is not None and thrown_in(exc):
            raise exc
        if exc is not None and exc.errno in _UNUSABLE:
            raise LaneLostError from exc
        if isinstance(exc, QuotaReachedError):
            self.is_full = True
            self.drop("quota", payload)
            return False
        if which:
            try:
                # Take back what a full disk let through, so the lane stays readable.
                if self.position(which) > end:
                    os.ftruncate(self._known[which][0], end)
                os.lseek(self._known[which][0], end, os.SEEK_SET)
            except OSError as undo:
                if thrown_in(undo):
                    raise
                raise LaneLostError from undo
        reason = "no_space" if exc is None or exc.errno in _NO_SPACE else "io"
        self.drop(reason, payload)
        return False


def open_writer(
    kind: str, directory: int, identity: bytes, *, important: bool = False
) -> LaneWriter:
    """Make a new lane with the writer that the server chose.

    Parameters
    ----------
    kind : {"mmap", "write", "guarded"}
    directory, identity, important
        As for `LaneWriter`.
    """
    if kind not in writers:
        # All, and never at the end of the interpreter, where nothing can be imported.
        from femtomp.lanes import appending, guarded, mapped  # noqa: F401
    make = writers.get(kind, writers["write"])
    return make(directory, identity, important=important)
