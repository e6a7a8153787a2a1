"""Driver of the console: lines to the stream that the master's stderr or stdout is.

In: the descriptor, which the engine owns and this driver never closes. The stream is
shared with the master and its workers, so it keeps its flags: making it non-blocking
would make their `print` fail. Instead poll(2) is asked before each write, and a write
is at most PIPE_BUF bytes, which a pipe that polls writable takes without blocking and
in one piece (pipe(7)); who else fills it meanwhile makes `write_now` give up, not wait.
A line cut by a full pipe is completed at the next call, so that no other line is ever
glued to its middle.

The stream's other end may be gone for good: a pipe or socket without a reader, a
terminal that was closed. Then the sink ends, and what comes is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError
from femtomp.nowait import PIECE_BYTES, can_take, write_now
from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.lines import line_encoder, whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.config import ConsoleSink
    from femtomp.formats import Format
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome

WRITE_BYTES: Final = PIECE_BYTES
# How long a full pipe or a stopped terminal may hold the sink's thread.
WRITE_TIMEOUT_S: Final = 0.5
# Full: its reader is slow. Broken: it is gone, and seldom comes back.
FULL_DELAY_S: Final = 0.1
BROKEN_DELAY_S: Final = 5.0
READER_GONE: Final = "the reader has gone"
TERMINAL_GONE: Final = "the terminal has gone"
# How the kernel names a pipe that has no name: nobody can open its other end anew.
_ANONYMOUS: Final = "pipe:"


def open_driver(options: ConsoleSink, *, fd: int, environ: Mapping[str, str]) -> Driver:
    """Build the driver for one stream.

    Parameters
    ----------
    options : ConsoleSink
        Which format; the stream itself is given by `fd`.
    fd : int
        Descriptor of the master's stream. It is not closed.
    environ : mapping of str to str
        Looked at for NO_COLOR, FORCE_COLOR and TERM.

    Raises
    ------
    ConfigError
        If the descriptor is not open.
    """
    try:
        os.fstat(fd)
    except OSError as exc:
        msg = f"ConsoleSink: the master's {options.stream} is closed: {exc.strerror}"
        raise ConfigError(msg) from exc
    colour = wants_colour(fd, environ)
    return lines_driver(fd, line_encoder(options.format, colour=colour))


def stream_driver(fd: int, form: Format) -> Driver:
    """Build the driver for a pipe or device that is not the master's; never coloured.

    The descriptor is not closed.
    """
    return _Console(fd, line_encoder(form), may_end=False)


def lines_driver(fd: int, encode: Callable[[Record], bytes]) -> Driver:
    """Build the driver for a stream of the master's, with lines of one's own making."""
    return _Console(fd, encode, may_end=True)


def wants_colour(fd: int, environ: Mapping[str, str]) -> bool:
    """Decide whether ANSI colours may be sent to a descriptor.

    A non-empty NO_COLOR says no (https://no-color.org), a non-empty FORCE_COLOR yes,
    in this order, as CPython does; else it must be a terminal that is not "dumb".
    """
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return environ.get("TERM") != "dumb" and os.isatty(fd)


def who_has_gone(fd: int, problem: OSError) -> str:
    """Return who will not come back to a stream that fails so; "" if somebody may.

    A pipe with a name may find another reader. A descriptor of a terminal that hung up
    never leads to another one (tty's EIO; its job control does not concern a process of
    a session of its own).
    """
    try:
        mode = os.fstat(fd).st_mode
        if problem.errno == errno.EIO:
            return TERMINAL_GONE if stat.S_ISCHR(mode) else ""
        if problem.errno not in (errno.EPIPE, errno.ECONNRESET):
            return ""
        if stat.S_ISFIFO(mode) and not _is_anonymous(fd):
            return ""
    except OSError:
        return ""
    return READER_GONE


def _is_anonymous(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(_ANONYMOUS)
    except OSError:
        return True  # no /proc: by far most pipes are


class _Console:
    """One stream.

    Parameters
    ----------
    fd : int
    encode : callable
    may_end : bool
        Whether a reader that has gone is gone for good.
    """

    def __init__(
        self, fd: int, encode: Callable[[Record], bytes], *, may_end: bool
    ) -> None:
        self._fd = fd
        self._encode = encode
        self._may_end = may_end
        self.gone_for_good = ""
        # The line that was cut, and how much of it is out already.
        self._cut_line = b""
        self._cut_at = 0

    def write(self, batch: Sequence[Record]) -> Outcome:
        if self.gone_for_good:
            return Refused(self.gone_for_good)
        lines = [self._encode(record) for record in batch]
        done = 0
        try:
            while done < len(lines):
                piece, ends = self._piece(lines, done)
                written = self._write(piece)
                done += self._account(lines[done : done + ends], written)
        except BlockingIOError:
            return RetryAfter(FULL_DELAY_S, "the console's reader is slow", done)
        except OSError as exc:
            if self._may_end:
                self.gone_for_good = who_has_gone(self._fd, exc)
            if self.gone_for_good and not done:
                return Refused(self.gone_for_good)
            delay_s = 0.0 if self.gone_for_good else BROKEN_DELAY_S
            return RetryAfter(delay_s, f"console: {exc.strerror}", done)
        return Delivered()

    def _piece(self, lines: list[bytes], done: int) -> tuple[bytes, int]:
        # Whole lines while they fit, so that one write is one or more lines; of a line
        # that never fits, its next part.
        first = lines[done]
        if self._cut_at:
            if first != self._cut_line:
                # Its record was evicted meanwhile: end the line before the next one.
                self._write(b"\n")
                self._cut_at = 0
            first = first[self._cut_at :]
        if len(first) > WRITE_BYTES:
            return first[:WRITE_BYTES], 1
        size, ends = len(first), 1
        while done + ends < len(lines):
            size += len(lines[done + ends])
            if size > WRITE_BYTES:
                break
            ends += 1
        return first + b"".join(lines[done + 1 : done + ends]), ends

    def _account(self, lines: list[bytes], written: int) -> int:
        whole, rest = whole_lines(lines, self._cut_at + written)
        self._cut_at = rest
        self._cut_line = lines[whole] if rest else b""
        return whole

    def _write(self, data: bytes) -> int:
        if not can_take(self._fd, WRITE_TIMEOUT_S):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return write_now(self._fd, data)

    def close(self) -> None:
        """Release nothing: the descriptor is the engine's."""
