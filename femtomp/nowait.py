"""Writing to a stream that others share, without ever waiting for its reader.

In: a descriptor that somebody else owns, and bytes. Out: as many of them as the stream
takes at once. Its flags are never changed: they belong to every process that shares it,
and a `print` of the user's must not fail with EAGAIN. Instead the kernel is asked not
to wait for this one write; where it cannot be asked, the stream is opened once more,
non-blocking, for the time of the write.

`Mouth` says whole lines to such a stream, and counts what it could not say.
"""

from __future__ import annotations

import errno
import itertools
import os
import posix
import select
import stat
import time
from types import BuiltinFunctionType
from typing import Any, Final

from femtomp.native import unpatched

# What a pipe that polls writable takes without blocking, pipe(7).
PIECE_BYTES: Final = select.PIPE_BUF
# For a reader that is there and slow: a busy machine gives it its turn in this time.
# One that does not read costs this once, not once a line.
PATIENCE_S: Final = 0.05
# The C library may lack it, a seccomp filter forbid it; pipes and sockets know it since
# Linux 6.4, terminals do not.
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_UNKNOWN: Final = (
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
    errno.ESPIPE,
)
_HERE: Final = -1  # pwritev2's offset for "where the stream is"
_OPEN: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# eventlet removes it from `select`, gevent puts another one there, which may run other
# tasks in the midst of a log call; eventlet's `os.write` does that, too, hence `posix`.
_given: Final[Any] = getattr(select, "poll", None)
_poll: Final[Any] = (
    _given if isinstance(_given, BuiltinFunctionType) else unpatched("select").poll
)


def write_now(descriptor: int, data: bytes | memoryview) -> int:
    """Write what goes without waiting; return how much that was.

    Parameters
    ----------
    descriptor : int
        A pipe, terminal, socket, device or file that may be shared.
    data : bytes or memoryview
        At least one byte.

    Raises
    ------
    BlockingIOError
        If nothing goes now.
    OSError
        If nothing goes at all: EPIPE where the reader has gone.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return posix.write(descriptor, data)
    if _NOWAIT is not None:
        try:
            return os.pwritev(descriptor, (data,), _HERE, _NOWAIT)
        except OSError as exc:
            if exc.errno not in _UNKNOWN:
                raise
    if stat.S_ISSOCK(mode):
        return _send(descriptor, data)
    if stat.S_ISCHR(mode) and not os.isatty(descriptor):
        return posix.write(descriptor, data)
    return _write_reopened(descriptor, data)


def _send(descriptor: int, data: bytes | memoryview) -> int:
    import socket

    # With SOCK_NONBLOCK in its type the object leaves the descriptor's flags alone,
    # whatever `socket.setdefaulttimeout` says.
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    borrowed = socket.socket(socket.AF_UNIX, kind, 0, descriptor)
    try:
        return borrowed.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        borrowed.detach()


def _write_reopened(descriptor: int, data: bytes | memoryview) -> int:
    """Write by a description of one's own, or a little, if there is room."""
    try:
        own = posix.open(f"/proc/self/fd/{descriptor}", _OPEN)
    except OSError as exc:
        if exc.errno == errno.ENXIO and not os.isatty(descriptor):
            # A pipe without a reader.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from exc
        # Another user's, as of a worker that has changed its own; or no /proc.
        if not can_take(descriptor, 0.0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from exc
        return posix.write(descriptor, data[:PIECE_BYTES])
    try:
        return posix.write(own, data)
    finally:
        os.close(own)


def can_take(descriptor: int, timeout_s: float) -> bool:
    """Wait until a stream takes something, or says that it never will."""
    poll = _poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout_s * 1000))


class Mouth:
    """Say lines to a shared stream; what it does not take is counted, and said later.

    Safe under threads, forks and signals: it has no lock.

    Parameters
    ----------
    descriptor : int
        Never closed here.
    patience_s : float
        For the first line that a stream does not take, until it takes one again.
    """

    def __init__(self, descriptor: int = 2, *, patience_s: float = PATIENCE_S) -> None:
        self.descriptor = descriptor
        self._patience_s: Final = patience_s
        self._is_patient = True
        # Whether the last line was cut: the next one begins with the end of it.
        self._is_cut = False
        self._numbers = itertools.count(1)
        # Of all lines that were not said, and of those of them that were counted aloud.
        self._last = self._told = 0
        self._pid = 0

    @property
    def unsaid(self) -> int:
        """How many lines could not be said, and were not counted aloud since."""
        # A parent's are for the parent to tell.
        return self._last - self._told if self._pid == os.getpid() else 0

    def say(self, data: bytes) -> bool:
        """Say one or more whole lines; False if the stream did not take them all.

        Never waits for longer than the patience, never raises for what the stream does.
        """
        unsaid, now = self.unsaid, self._last
        preface = self._preface(unsaid)
        rest = self._put(preface + data)
        if unsaid and len(rest) <= len(data):
            self._told = now
        lost = rest[-len(data) :].count(b"\n")  # without the preface
        for _ in range(max(1, lost) if rest else 0):
            self._last = next(self._numbers)
            self._pid = os.getpid()
        return not rest

    def settle(self) -> None:
        """Count aloud what could not be said, if there is something and it can be."""
        if unsaid := self.unsaid:
            now = self._last
            if not self._put(self._preface(unsaid)):
                self._told = now

    def _preface(self, unsaid: int) -> bytes:
        if not unsaid:
            return b"\n" if self._is_cut else b""
        lines = "1 line" if unsaid == 1 else f"{unsaid} lines"
        text = (
            f"femtomp[{os.getpid()}]: {lines} before this one could not be written "
            "here, as nobody read what was there"
        )
        return (b"\n" if self._is_cut else b"") + text.encode() + b"\n"

    def _put(self, data: bytes) -> bytes:
        """Write it, and return what could not be written."""
        view = memoryview(data)
        until = 0.0
        while view:
            try:
                written = write_now(self.descriptor, view)
            except BlockingIOError:
                if not self._is_patient:
                    break
                now = time.monotonic()
                until = until or now + self._patience_s
                if now >= until or not can_take(self.descriptor, until - now):
                    self._is_patient = False
                continue
            except OSError as exc:
                if exc.errno is None:
                    raise  # no call's failure: thrown in by a signal handler
                break
            if not written:
                break  # a device that takes nothing, and says nothing
            view = view[written:]
            self._is_cut = bool(view)
        else:
            self._is_patient = True
        return bytes(view)


stderr: Final = Mouth(2)
"""Of this process, past whatever `sys.stderr` was replaced by."""
