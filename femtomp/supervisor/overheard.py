"""Descriptor 2 of a supervisor: a pipe to itself; nobody waits for the master's stderr.

In: what libraries, `faulthandler`, tracebacks and the user's own sinks print there.
Out: the same on the master's stderr, as far as that takes it at once; what it does not
take is counted. Guardian and engines share the pipe: the engine forwards what is in it
at each look at the lanes, the guardian what a dead engine left.

What must never happen: a thread that waits for who reads the master's stderr, or that
gets an exception because nobody does.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final

from femtomp.nowait import Mouth

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# As much as a pipe holds.
_READ_BYTES: Final = 65536


class Overheard:
    """The pipe, and the stream that it leads to.

    Parameters
    ----------
    stderr : int
        The master's; not closed.

    Raises
    ------
    OSError
        If no pipe can be made.
    """

    def __init__(self, stderr: int) -> None:
        self.mouth: Final = Mouth(stderr, patience_s=0.0)
        self._end, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(write, 2)
        os.close(write)
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Printed()),
            "utf-8",
            errors="backslashreplace",
            write_through=True,
            line_buffering=True,
        )

    def forward(self) -> None:
        """Say what was printed since, and how much of what was said could not be."""
        try:
            while printed := os.read(self._end, _READ_BYTES):
                self.mouth.say(printed)
        except BlockingIOError:
            pass  # that was all
        self.mouth.settle()


class _Printed(io.RawIOBase):
    """Descriptor 2 for `print`, which must not fail because the pipe is full."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        try:
            os.write(2, data)
        except OSError:
            pass  # more in one go than a library has to say
        return size
