"""Driver of a file that is none: a pipe with a name, or a device.

In: a path. Out: lines, written as to the console: at most PIPE_BUF bytes at once, never
waiting for the reader. Nobody reads: the records wait in the lanes. The pipe is opened
for writing alone, so that what is in it was taken by somebody who can read it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from femtomp.sinks import RetryAfter
from femtomp.sinks.console import stream_driver
from femtomp.sinks.devices import unfit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.formats import Format
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
# A reader that is started again takes a moment.
NO_READER_DELAY_S: Final = 1.0


class Stream:
    """Write to what a path names, and follow it when it names another one.

    Parameters
    ----------
    path : str
    lines : str or formatter
        Their format.

    Raises
    ------
    OSError
        If it cannot be opened for writing; a pipe without a reader can.
    """

    def __init__(self, path: str, lines: Format) -> None:
        self._path = path
        self._format: Final = lines
        self._fd = -1
        self._lines: Driver | None = None
        try:
            self._open()
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise

    def _open(self) -> Driver:
        # Whatever the path names by now.
        if reason := unfit(os.stat(self._path)):
            raise OSError(errno.EINVAL, reason)
        descriptor = os.open(self._path, _FLAGS)
        self.close()
        self._fd = descriptor
        self._lines = stream_driver(descriptor, self._format)
        return self._lines

    def write(self, batch: Sequence[Record]) -> Outcome | None:
        """Hand over a batch, as much of it as the reader takes."""
        try:
            outcome = self._opened().write(batch)
        except OSError as exc:
            reason = "nobody reads it" if exc.errno == errno.ENXIO else exc.strerror
            return RetryAfter(NO_READER_DELAY_S, f"{self._path}: {reason}")
        if isinstance(outcome, RetryAfter):
            reason = f"{self._path}: its reader is slow, or gone"
            return outcome._replace(reason=reason)
        return outcome

    def _opened(self) -> Driver:
        there = os.stat(self._path)
        if self._lines and os.path.samestat(there, os.fstat(self._fd)):
            return self._lines
        return self._open()

    def close(self) -> None:
        """Close what is open."""
        if self._lines is not None:
            self._lines.close()
            os.close(self._fd)
            self._lines = None
