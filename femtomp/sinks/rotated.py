"""Rotated files: their names, when a file becomes one, and which there are.

A rotated file lies beside its file and is named after the time when it was rotated, in
UTC and microseconds, so that names sort as the lines in them do::

    app.jsonl                                  written to
    app.jsonl.20261121T235959.123456Z          rotated
    app.jsonl.20261120T235959.654321Z.gz       rotated and compressed
    app.jsonl.20261121T235959.123456Z.gz.part  being compressed, or left by a crash

In: a path and a clock. Out: names. A name that exists is never given again, and a new
one sorts behind all others although the clock was set back.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from femtomp.config import FileSink

PLAIN: Final = ""
PACKED: Final = ".gz"
PART: Final = ".gz.part"
_NAME: Final = re.compile(r"\.(\d{8}T\d{6}\.\d{6}Z)(|\.gz|\.gz\.part)")
_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
# The time of a file's last change is that of the kernel's last tick, which may be so
# long ago: a file that was begun at midnight must not look like yesterday's.
_TICK_S: Final = 0.01
# 1 January 1970 was a Thursday; weeks begin with Monday.
_MONDAY_S: Final = 3 * 86400


class Schedule:
    """When a file is full, or of the past.

    Parameters
    ----------
    options : FileSink
    """

    def __init__(self, options: FileSink) -> None:
        self._most_bytes = options.rotate_bytes
        self._interval_s = options.rotate_interval_s
        self._is_utc = options.utc
        self._period = 0

    def opened(self, status: os.stat_result) -> None:
        """Note when a file was last written to, at its opening."""
        self._period = self._period_of(status.st_mtime + _TICK_S)

    def wrote(self) -> None:
        """Note that it was written to now."""
        self._period = self._period_of(time.time())

    def is_past(self, size: int) -> bool:
        """Tell whether what is in the file belongs to another interval than now."""
        if self._interval_s is None or not size:
            return False
        return self._period_of(time.time()) != self._period

    def has_room(self, size: int, more: int) -> bool:
        """Tell whether so many bytes more still fit."""
        return self._most_bytes is None or size + more <= self._most_bytes

    def fitting(self, size: int, lines: Sequence[bytes]) -> int:
        """Tell how many of the lines still fit; none into a file of the past.

        Into an empty file one does, whatever its length.
        """
        if self.is_past(size):
            return 0
        for count, line in enumerate(lines):
            if size and not self.has_room(size, len(line)):
                return count
            size += len(line)
        return len(lines)

    def _period_of(self, at: float) -> int:
        if self._interval_s is None:
            return 0
        shift = 0 if self._is_utc else time.localtime(at).tm_gmtoff
        return int((at + shift + _MONDAY_S) // self._interval_s)


def rename(path: str) -> None:
    """Rotate a file: give it a name of its own. Its lock must be held.

    Raises
    ------
    OSError
        If that cannot be done; the file has its old name then.
    """
    path = os.path.realpath(path)
    os.rename(path, f"{path}.{new_stamp(time.time(), find(path))}")


def new_stamp(now: float, stamps: Iterable[str]) -> str:
    """Return the stamp of a time, or the next one behind the newest there is.

    Examples
    --------
    >>> new_stamp(0.5, [])
    '19700101T000000.500000Z'
    >>> new_stamp(0.0, ["19700101T000000.500000Z"])
    '19700101T000000.500001Z'
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime(_STAMP)
    for newest in sorted(stamps, reverse=True):
        if stamp > newest:
            break
        try:
            time_of_it = datetime.strptime(newest, _STAMP).replace(tzinfo=UTC)
            after = time_of_it + timedelta(microseconds=1)
        except (ValueError, OverflowError):
            continue  # 30 February, or the end of time: nobody's rotated file
        return after.strftime(_STAMP)
    return stamp


def find(path: str) -> dict[str, set[str]]:
    """Return the rotated files of a real path: by stamp, with which endings.

    Raises
    ------
    OSError
        If the directory cannot be listed.
    """
    directory, base = os.path.split(path)
    found: dict[str, set[str]] = {}
    for name in os.listdir(directory):
        match = name.startswith(base) and _NAME.fullmatch(name, len(base))
        if match:
            found.setdefault(match[1], set()).add(match[2])
    return found
