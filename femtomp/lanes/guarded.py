"""The `write` writer of root, where its workers are another user: nothing is mapped.

A worker that was forked from root's master inherits the descriptors of its master's
lane. A file that somebody else can truncate must not be mapped: the next store would be
SIGBUS. So frames are written by `pwrite` to the place where they belong, and the words
of `.own` as well, from memory: what was written over there comes back. What somebody
else truncated is given up, and the next record goes to another lane.

Besides, this process may become another user (gunicorn's workers log, and then drop
root's privileges). Each append asks for the effective uid, 0.1 us, and where it is
another one, or root's again, closes the lane and says so in it: no descriptor of root's
lane stays. Forked children close theirs at once (docs/adr/0021).
"""

from __future__ import annotations

import os
import struct
from typing import Final

from femtomp.codec import frame
from femtomp.lanes.segment import (
    CLOSED,
    COMMITTED,
    FRAMES_AT,
    OWN_BYTES,
    RETIRED,
    STARTED,
    WORDS,
    WORDS_AT,
    WRITER_WRITE,
    close_known,
    create,
    is_known,
    known_as,
    pack_segment_header,
    segment_name,
)
from femtomp.lanes.signals import undisturbed
from femtomp.lanes.thrown import thrown_in
from femtomp.lanes.writer import LaneLostError, LaneWriter, Words, owned, writers

_WORD: Final = struct.Struct("<Q")
_RETIRED_AT: Final = WORDS_AT + 8 * RETIRED


class WrittenWords:
    """The words of an `.own` that is not mapped.

    Parameters
    ----------
    known : tuple
        The file's descriptor, device and inode.
    content : bytes
        What was written to it.
    """

    def __init__(self, known: tuple[int, int, int], content: bytes) -> None:
        self._known = known
        self._content = bytearray(content)
        self._values = [0] * WORDS

    def __getitem__(self, at: int) -> int:
        """Return a word; RETIRED is the engine's, and read."""
        if at != RETIRED:
            return self._values[at]
        if not is_known(self._known):
            return 0
        word = os.pread(self._known[0], _WORD.size, _RETIRED_AT)
        return int.from_bytes(word, "little")

    def __setitem__(self, at: int, value: int) -> None:
        """Write a word; where the file is not ours any more it is in memory alone."""
        self._values[at] = value
        place = WORDS_AT + 8 * at
        while True:
            value = self._values[at]
            _WORD.pack_into(self._content, place, value)
            if is_known(self._known):
                os.pwrite(self._known[0], _WORD.pack(value), place)
            if value == self._values[at]:
                return  # no call inside this one wrote another one meanwhile

    def content(self) -> bytes:
        """Return what the whole file holds, or should."""
        if is_known(self._known):
            return os.pread(self._known[0], len(self._content), 0)
        return bytes(self._content)

    def mend(self) -> None:
        """Write all anew, but for what is the engine's."""
        if is_known(self._known):
            behind = _RETIRED_AT + _WORD.size
            os.pwrite(self._known[0], self._content[:_RETIRED_AT], 0)
            os.pwrite(self._known[0], self._content[behind:], behind)


class GuardedWriter(LaneWriter):
    """Append by `pwrite`, as one user, for as long as nobody else meddles."""

    keeps_in_children = False

    def _open_words(self, own: int, content: bytes) -> Words:
        self._uid = os.geteuid()
        self._written = WrittenWords(known_as(own), content)
        return self._written

    def _open_first(self, size: int) -> None:
        self._busy = False
        # Where the last frame ends that was counted, and the sequence of the next.
        self._counted = FRAMES_AT, 0
        self._limit = self._make_segment(size, size)
        self.append = self._append

    def _create_segment(self, number: int, size: int) -> None:  # noqa: ARG002 - it grows
        header = pack_segment_header(self.epoch_bytes, number, WRITER_WRITE)
        name = segment_name(self.epoch, number)
        self._set_segment(name, known_as(create(self._directory, name, header)))

    def own_bytes(self) -> bytes:
        """Return the content of `.own`, which this process must not open again."""
        return self._written.content()

    def _close_words(self) -> None:
        """Nothing is mapped."""

    def _let_words_go(self) -> None:
        """Nothing is mapped."""

    def check(self) -> None:
        """Make sure that the lane's files are there, and `.own` what was written."""
        if os.geteuid() == self._uid:  # who is not finds out at the append
            super().check()
            with self._lock:
                self._written.mend()

    def _append(self, payload: bytes) -> bool:
        with self._lock:
            if self._busy:
                # This very thread is inside: a signal handler, __del__ or the collector
                # logs in the middle of it.
                return self.append_side(payload)
            try:
                self._busy = True
                if os.geteuid() != self._uid:
                    self._leave()
                    raise LaneLostError
                self.words[STARTED] += 1
                if not self._write(payload):
                    return False
            finally:
                self._busy = False
        if self.words[RETIRED]:
            # As the other writers: either the engine's last look at this lane sees the
            # frame, or we see the word and the caller says it again elsewhere.
            raise LaneLostError
        return True

    def _write(self, payload: bytes) -> bool:
        end, sequence = self._found_end()
        data = frame.encode(payload, sequence, self.seed)
        if end + len(data) > self._limit:
            try:
                # The wait for room, if there is one, can be disturbed.
                least = FRAMES_AT + len(data)
                undisturbed(self._roll, self.room(least, payload), least)
            except OSError as exc:
                return self.failed(exc, payload)
            end = FRAMES_AT
        try:
            written = os.pwrite(self._known["segment"][0], data, end)
        except OSError as exc:
            return self.failed(exc, payload, "segment", end)
        if written != len(data):
            return self.failed(None, payload, "segment", end)
        self._counted = end + written, sequence + 1
        self.words[COMMITTED] = sequence + 1
        return True

    def _found_end(self) -> tuple[int, int]:
        """Return where the next frame goes, and its sequence."""
        end, sequence = self._counted
        if not self._limit:
            return self._counted  # in the middle of going on to the next segment
        size = self.position("segment")
        if size < end or self.position("own") != OWN_BYTES:
            self._leave()
            raise LaneLostError
        if size != end:
            # One was thrown out behind its write: its frame is there.
            self._counted = size, sequence + 1
        return self._counted

    def _roll(self, wanted: int, least: int) -> None:
        # Nothing fits until this has succeeded, as with the other writers.
        full, self._limit = self._known["segment"], 0
        made = self._make_segment(wanted, least)
        self._counted = FRAMES_AT, self._counted[1]
        self._limit = made
        close_known(full)

    def _leave(self) -> None:
        """Close the lane for good, and say in it that it is: its process lives on."""
        self._uid = -1  # nobody's
        try:
            self._written.mend()
            self.words[CLOSED] = 1
        except OSError as exc:
            if thrown_in(exc):
                raise
            # Else no room for it: the engine finds it out when the process has ended.
        finally:
            owned.pop(self.epoch, None)
            for known in self._known.values():
                close_known(known)


writers["guarded"] = GuardedWriter
