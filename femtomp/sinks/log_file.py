"""A regular file that lines are appended to, by one of several processes in turn.

In: a path. Out: whole lines at its end. The owner holds the file's `flock` while it
writes, and has made sure, with the lock held, that the path still names this very file:
so whoever renames the file with the lock held knows that nobody writes to it any more.
A line that was cut, by a full disk or a crash of the engine, is taken back or ended:
two records never share a line.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final, NamedTuple

from femtomp.sinks.devices import unfit

# The longest line that is looked at for a cut: a record has at most 1 MiB.
MAX_MENDED_BYTES: Final = 4 * 1024 * 1024
# With so many equal bytes a line begins as ours do: the key of a JSON timestamp, or a
# day and hour.
_OURS_BYTES: Final = 12
# O_NONBLOCK: a pipe in the place of the file must not be waited for.
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Appended(NamedTuple):
    """How much was written, and why no more was."""

    written: int
    problem: OSError | None = None


class LogFile:
    """One opened file; made if there is none.

    Parameters
    ----------
    path : str
    mode : int
        Of a file that is made, whatever the umask.
    sync : bool
        Whether what is appended must be on the disk.

    Raises
    ------
    OSError
        If it cannot be opened, or is no regular file.
    """

    def __init__(self, path: str, *, mode: int, sync: bool) -> None:
        self.path: Final = path
        self._sync = sync
        try:
            # Another file may be there by now, which opening alone would disturb.
            if reason := unfit(os.stat(path)):
                raise OSError(errno.EINVAL, reason)
            self._fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            self._fd = self._make(mode)
        self.opened: Final = os.fstat(self._fd)
        if not stat.S_ISREG(self.opened.st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "it is no regular file")
        # Where the file ended when it was known to end with a whole line.
        self._end = -1
        # A line that was taken back and has not come again yet.
        self._owed = b""

    def _make(self, mode: int) -> int:
        descriptor = os.open(self.path, _FLAGS | os.O_CREAT, mode)
        os.fchmod(descriptor, mode)  # the supervisor's own umask is 077
        if self._sync:
            sync_directory(os.path.dirname(os.path.realpath(self.path)))
        return descriptor

    # -- turns -------------------------------------------------------------------------

    def lock(self) -> bool:
        """Take the file for this process, without waiting; False if another has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: nobody else could hold one either
        return True

    def unlock(self) -> None:
        """Let others have it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            pass  # as in `lock`

    def named(self) -> os.stat_result | None:
        """Return the file's status if the path still names it."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return None
        return there if os.path.samestat(there, self.opened) else None

    # -- lines -------------------------------------------------------------------------

    def settle(self, size: int, encoded: bytes) -> int:
        """Have the file end with a whole line; return its size then.

        SIGKILL cuts a large `write` at a page's end: the record was not committed, so
        the next engine writes it once more, and half of it would only be in the way. It
        need not be in the first batch: what looks like ours, in a file that nobody has
        touched since, is held back until it comes, or until the end.
        """
        if size and size != self._end and os.pread(self._fd, 1, size - 1) != b"\n":
            size = self._mend(size, encoded)
        self._end = size
        if self._owed and _holds(encoded, self._owed):
            self._owed = b""
        return size

    def _mend(self, size: int, encoded: bytes) -> int:
        tail = os.pread(self._fd, MAX_MENDED_BYTES, max(0, size - MAX_MENDED_BYTES))
        start = tail.rfind(b"\n") + 1
        line = tail[start:]
        comes_again = _holds(encoded, line)
        is_ours = size == self.opened.st_size and _looks_like(line, encoded)
        if not (comes_again or is_ours) or not (start or size <= MAX_MENDED_BYTES):
            return size + os.write(self._fd, b"\n")
        if not comes_again:
            self._owed = line
        os.ftruncate(self._fd, size - len(line))
        return size - len(line)

    def append(self, data: bytes) -> Appended:
        """Write as much as the disk takes, and have it there if `sync` says so."""
        view = memoryview(data)
        written, problem = 0, None
        try:
            while written < len(view):
                written += os.write(self._fd, view[written:])
        except OSError as exc:
            problem = exc
        self._end += written
        if self._sync and written:
            try:
                os.fdatasync(self._fd)
            except OSError as exc:
                # What the kernel dropped then, it says once: all of it must come again.
                self.take_back(written)
                return Appended(0, exc)
        return Appended(written, problem)

    def take_back(self, size: int) -> None:
        """Remove the last bytes that were written, if nobody has appended since.

        An O_APPEND write leaves the offset at its own end. Where the part cannot be
        removed, the next `settle` ends its line.
        """
        self._end = -1
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size == end:
                os.ftruncate(self._fd, end - size)
        except OSError:
            return

    def owe(self, before: LogFile) -> None:
        """Take over the cut line that another file was waiting for."""
        self._owed, before._owed = before._owed, b""

    def close(self) -> None:
        """Close the file, with the cut line that never came again in it."""
        try:
            if self._owed:
                os.write(self._fd, self._owed + b"\n")
        except OSError:
            pass  # it was no whole line anyway
        os.close(self._fd)


def sync_directory(path: str) -> None:
    """Have the names in a directory survive power loss."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(encoded: bytes, line: bytes) -> bool:
    """Tell whether a line that begins like this one is among these."""
    return encoded.startswith(line) or b"\n" + line in encoded


def _looks_like(line: bytes, encoded: bytes) -> bool:
    size = min(len(line), _OURS_BYTES)
    return line[:size] == encoded[:size]
