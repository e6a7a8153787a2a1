r"""Driver of a file: one os.write a batch, and only whole lines.

In: a path. The driver owns the descriptor; it is opened with O_APPEND, so that others
may append to the file too and `copytruncate` works, and is opened anew when the path
names another file (logrotate's `create`, or a deletion). A line that was cut, by a full
disk or a crash of the engine, is taken back or ended: two records never share a line.
Nothing is taken back while another engine has the file open: what looks like half a
line may be in the middle of its write. Each says so by a shared flock(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, RetryAfter
from femtomp.sinks.lines import batch_encoder, line_encoder, whole_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.config import FileSink
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome

# A log is for its owner and a group of readers; the supervisor's own umask is 077.
FILE_MODE: Final = 0o640
# A full disk or a lost mount takes an administrator longer than this.
RETRY_DELAY_S: Final = 1.0
# The longest line that is looked at for a cut: a record has at most 1 MiB.
MAX_MENDED_BYTES: Final = 4 * 1024 * 1024
# With so many equal bytes a line begins as ours do: the key of a JSON timestamp, or a
# day and hour.
_OURS_BYTES: Final = 12
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY


def open_driver(options: FileSink) -> Driver:
    """Open the file, or create it with mode 0640.

    Raises
    ------
    ConfigError
        If it cannot be opened for appending: names the path and the error.
    """
    path = os.fspath(options.path)
    try:
        return _File(path, options.format)
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, "?")
        msg = (
            f"FileSink: cannot append to {path}: {name} ({exc.strerror}); "
            "its directory must exist and be writable"
        )
        raise ConfigError(msg) from exc


class _File:
    def __init__(self, path: str, format_name: str) -> None:
        self._path = path
        self._encode = line_encoder(format_name)
        self._encode_all = batch_encoder(format_name)
        self._fd = -1
        # A line that was taken back and has not come again yet.
        self._owed = b""
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            self._fd = os.open(self._path, _FLAGS | os.O_CREAT, FILE_MODE)
            os.fchmod(self._fd, FILE_MODE)
        self._flock(fcntl.LOCK_SH)
        self._stat = os.fstat(self._fd)
        self._regular = stat.S_ISREG(self._stat.st_mode)
        size = self._stat.st_size
        self._cut = (
            self._regular and size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        )

    def _flock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError:
            return False  # somebody else's, or a file system without
        return True

    def _truncate(self, size: int) -> bool:
        """Cut the file, unless another engine may be writing to it."""
        is_alone = self._flock(fcntl.LOCK_EX)
        try:
            if is_alone:
                os.ftruncate(self._fd, size)
        finally:
            # One that could not be made exclusive is lost, too.
            self._flock(fcntl.LOCK_SH)
        return is_alone

    def write(self, batch: Sequence[Record]) -> Outcome:
        encoded = memoryview(self._encode_all(batch))
        written = 0
        try:
            self._follow()
            if self._cut:
                self._mend(bytes(encoded))
            if self._owed and _holds(encoded, self._owed):
                self._owed = b""
            while written < len(encoded):
                written += os.write(self._fd, encoded[written:])
        except OSError as exc:
            lines = [self._encode(record) for record in batch]
            accepted, rest = whole_lines(lines, written)
            if rest:
                self._take_back(rest)
            reason = f"{self._path}: {exc.strerror}"
            return RetryAfter(RETRY_DELAY_S, reason, accepted)
        return Delivered()

    def _mend(self, encoded: bytes) -> None:
        """End a line that was cut, or take it back if it is about to come again.

        SIGKILL cuts a large `write` at a page's end: the record was not committed, so
        the next engine writes it once more, and half of it would only be in the way. It
        need not be in the first batch: what looks like ours, in a file that nobody has
        touched since, is held back until it comes, or until the end.
        """
        end = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, MAX_MENDED_BYTES, max(0, end - MAX_MENDED_BYTES))
        start = tail.rfind(b"\n") + 1
        line = tail[start:]
        if not line:
            self._cut = False
            return  # another engine was in the middle of it, and has ended it
        comes_again = _holds(encoded, line)
        if not comes_again and end == self._stat.st_size and _looks_like(line, encoded):
            self._owed = line
        is_wanted = (comes_again or self._owed) and (start or end <= MAX_MENDED_BYTES)
        if not is_wanted or not self._truncate(end - len(line)):
            self._owed = b""
            os.write(self._fd, b"\n")
        self._cut = False

    def _follow(self) -> None:
        # 2 µs a batch; without it records go to a file that has no name any more.
        if not self._regular:
            return
        try:
            there = os.stat(self._path)  # noqa: PTH116 - as fstat beside it
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, self._stat):
            old = self._fd
            self._open()
            os.close(old)

    def _take_back(self, size: int) -> None:
        # Only if nobody has appended since: an O_APPEND write leaves the offset at its
        # own end. Where the part cannot be removed, the next write ends its line.
        self._cut = True
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if self._regular and os.fstat(self._fd).st_size == end:
                self._cut = not self._truncate(end - size)
        except OSError:
            return

    def close(self) -> None:
        """Close the file, with the cut line that never came again in it."""
        try:
            if self._owed:
                os.write(self._fd, self._owed + b"\n")
        except OSError:
            pass  # it was no whole line anyway
        os.close(self._fd)


def _holds(encoded: bytes | memoryview, line: bytes) -> bool:
    """Tell whether a line that begins like this one is among these."""
    lines = bytes(encoded)
    return lines.startswith(line) or b"\n" + line in lines


def _looks_like(line: bytes, encoded: bytes) -> bool:
    size = min(len(line), _OURS_BYTES)
    return line[:size] == encoded[:size]
