"""Driver of a file: one os.write a batch, whole lines, and rotation.

In: a path. The driver owns the descriptor; it is opened with O_APPEND, so that others
may append to the file too and `copytruncate` works, and is opened anew when the path
names another file (logrotate's `create`, or a deletion). It alone rotates: with the
file's lock held it gives the file another name and opens a new one, and leaves the rest
to the housekeeper. Pipes and devices are written to as the console is.

What must never happen: a line that is torn over two files, or written to a file that
was already rotated.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, RetryAfter, rotated
from femtomp.sinks.devices import unfit
from femtomp.sinks.lines import batch_encoder, line_encoder, whole_lines
from femtomp.sinks.log_file import LogFile
from femtomp.sinks.rotated import Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.config import FileSink
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome
    from femtomp.sinks.housekeeping import Housekeeper

# A full disk or a lost mount takes an administrator longer than this.
RETRY_DELAY_S: Final = 1.0
# Another supervisor has the file for a batch: a millisecond, or as long as its disk
# takes. One that was stopped has it until it goes on, which is worth a word.
_TURN_S: Final = 0.001
_MOST_TURNS: Final = 200
# What made a rotation fail is seldom gone in the next batch.
_ROTATE_AGAIN_S: Final = 5.0

_log: Final = logging.getLogger(__name__)


def open_driver(options: FileSink) -> Driver:
    """Open the file, or create it.

    Raises
    ------
    ConfigError
        If it cannot be opened for appending, or cannot be rotated: names the path and
        the error.
    """
    path = os.fspath(options.path)
    try:
        if (status := _status(path)) is None:
            return _File(path, options)
        if reason := unfit(status):
            msg = f"FileSink: cannot append to {path}: {reason}"
            raise ConfigError(msg)
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
            return _open_stream(path, options)
        return _File(path, options)
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, "?")
        msg = (
            f"FileSink: cannot append to {path}: {name} ({exc.strerror}); "
            "its directory must exist and be writable"
        )
        raise ConfigError(msg) from exc


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_stream(path: str, options: FileSink) -> Driver:
    from femtomp.sinks.stream import Stream

    if options.rotate_bytes or options.rotate_interval_s or options.fsync != "never":
        msg = f"FileSink: {path} is a pipe or a device: it has no rotation and no fsync"
        raise ConfigError(msg)
    return Stream(path, options.format)


class _File:
    def __init__(self, path: str, options: FileSink) -> None:
        self._path = path
        self._options = options
        self._encode = line_encoder(options.format)
        self._encode_all = batch_encoder(options.format)
        self._schedule = Schedule(options)
        # After one that failed.
        self._rotate_from = 0.0
        self._file = self._open()
        self._housekeeper: Housekeeper | None = None
        if options.rotate_bytes or options.rotate_interval_s:
            from femtomp.sinks.housekeeping import Housekeeper

            self._housekeeper = Housekeeper(options)
            self._housekeeper.start()

    def _open(self) -> LogFile:
        options = self._options
        file = LogFile(self._path, mode=options.mode, sync=options.fsync == "batch")
        self._schedule.opened(file.opened)
        return file

    def reopen(self) -> None:
        """Open the file that the path names now, or make it.

        Raises
        ------
        OSError
            If it cannot be opened. No batch is written before it can be.
        """
        old = self._file
        self._file = self._open()
        self._file.owe(old)
        old.close()

    def write(self, batch: Sequence[Record]) -> Outcome:
        encoded = self._encode_all(batch)
        try:
            size = self._take_turn(encoded)
            if self._is_due(size, len(encoded)):
                return self._write_across(batch, size)
            return self._append(batch, encoded) or Delivered()
        except OSError as exc:
            return self._failed(exc)
        finally:
            self._file.unlock()

    def _take_turn(self, encoded: bytes) -> int:
        """Get the lock of the file that the path names, and return its size.

        Raises
        ------
        OSError
            If there is no such file and none can be made, or another process keeps it.
        """
        for _ in range(_MOST_TURNS):
            is_mine = self._file.lock()
            there = self._file.named()
            if there is None:
                # Rotated, by somebody else or by logrotate, or deleted.
                self.reopen()
            elif is_mine:
                return self._file.settle(there.st_size, encoded)
            else:
                time.sleep(_TURN_S)
        raise BlockingIOError(errno.EAGAIN, "another process holds its lock")

    def _append(self, batch: Sequence[Record], encoded: bytes) -> RetryAfter | None:
        written, problem = self._file.append(encoded)
        self._schedule.wrote()
        if problem is None:
            return None
        lines = [self._encode(record) for record in batch]
        accepted, rest = whole_lines(lines, written)
        if rest:
            self._file.take_back(rest)
        return self._failed(problem, accepted)

    def _failed(self, problem: OSError, accepted: int = 0) -> RetryAfter:
        return RetryAfter(RETRY_DELAY_S, f"{self._path}: {problem.strerror}", accepted)

    # -- rotation ----------------------------------------------------------------------

    def _may_rotate(self) -> bool:
        return self._housekeeper is not None and time.monotonic() >= self._rotate_from

    def _is_due(self, size: int, more: int) -> bool:
        return self._may_rotate() and (
            self._schedule.is_past(size) or not self._schedule.has_room(size, more)
        )

    def _write_across(self, batch: Sequence[Record], size: int) -> Outcome:
        """Write a batch to several files, as many lines to each as fit."""
        lines = [self._encode(record) for record in batch]
        done = 0
        try:
            while done < len(lines):
                count = len(lines) - done
                if self._may_rotate():
                    count = self._schedule.fitting(size, lines[done:])
                if not count:
                    size = self._rotate(size)
                    continue
                part = b"".join(lines[done : done + count])
                problem = self._append(batch[done : done + count], part)
                if problem is not None:
                    return problem._replace(accepted=done + problem.accepted)
                done += count
                size += len(part)
        except OSError as exc:
            return self._failed(exc, done)
        return Delivered()

    def _rotate(self, size: int) -> int:
        """Go on with an empty file, or with this one where that cannot be had.

        Raises
        ------
        OSError
            If the file has its new name and another one cannot be made yet.
        """
        if self._housekeeper is not None:
            self._housekeeper.make_room()
        try:
            rotated.rename(self._path)
        except FileNotFoundError:
            pass  # somebody else moved it, or deleted it
        except OSError as exc:
            _log.warning("%s cannot be rotated: %s", self._path, exc.strerror)
            self._rotate_from = time.monotonic() + _ROTATE_AGAIN_S
            return size
        try:
            return self._take_turn(b"")
        finally:
            # Not before this sink has let go of the file.
            if self._housekeeper is not None:
                self._housekeeper.wake()

    def close(self) -> None:
        """Close the file, and let the housekeeper come to its end."""
        if self._housekeeper is not None:
            self._housekeeper.close()
        self._file.close()
