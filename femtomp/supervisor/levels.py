"""Levels of the workers' loggers, as the master says them: the file `levels`.

In: a logger's name, a level, for how long. Out: a file of the spool, written whole and
renamed, which the workers look at once a second at most (`worker.levels` reads it)::

    {"server": 20, "levels": {"shop.cart": [10, 123456789]}}

the server's own level, and for each logger its level and until when, in ns of the
monotonic clock, which all processes of a machine share; null: until it is taken back.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from femtomp.config import level_number
from femtomp.errors import ConfigError, SpoolError
from femtomp.lanes import place
from femtomp.native import Lock

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool

LEVELS: Final = "levels"
# What a worker reads in one go, in the middle of a log call.
MAX_LOGGERS: Final = 1000
_MAX_NAME_CHARS: Final = 200
_MAX_S: Final = 1e9  # what is longer is for ever, and no number of ns


class ToldLevels:
    """What the master has said of its workers' levels. Safe under threads.

    Parameters
    ----------
    spool : Spool
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._levels: dict[str, tuple[int, int | None]] = {}
        self._lock = Lock()

    def set(self, name: str | None, level: object, duration_s: float | None) -> None:
        """Write a logger's level; None takes it back.

        Raises
        ------
        ConfigError, SpoolError
        """
        name = _checked(name)
        until = _until(level, duration_s)
        number = None if level is None else level_number(level)
        with self._lock:
            now = time.monotonic_ns()
            levels = {
                key: (value, end)
                for key, (value, end) in self._levels.items()
                if key != name and (end is None or now < end)
            }
            if number is not None:
                levels[name] = (number, until)
            if len(levels) > MAX_LOGGERS:
                msg = f"set_level: more than {MAX_LOGGERS} loggers: take some back"
                raise ConfigError(msg)
            self._write(levels)
            self._levels = levels

    def write(self) -> None:
        """Write all anew: the server's own level may have changed.

        Raises
        ------
        SpoolError
        """
        with self._lock:
            self._write(self._levels)

    def _write(self, levels: dict[str, tuple[int, int | None]]) -> None:
        manifest = self._spool.manifest
        said = {"server": manifest["level"], "levels": levels}
        readable = manifest["worker_uid"] is not None
        try:
            place.replace(self._spool.descriptor, LEVELS, said, readable=readable)
        except OSError as exc:
            msg = f"cannot write {self._spool.path}/{LEVELS}: {exc.strerror or exc}"
            raise SpoolError(exc.errno or 0, msg) from exc


def clear(spool: Spool) -> None:
    """Take back what was said: the server has ended, or another one takes over."""
    try:
        os.unlink(LEVELS, dir_fd=spool.descriptor)
    except OSError:
        pass  # nothing was ever said, or all of it is gone


def _checked(name: object) -> str:
    if name is None or name == "root":
        return ""
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS:
        msg = (
            "set_level: name must be a logger's, of at most "
            f"{_MAX_NAME_CHARS} characters, not {name!r:.300}"
        )
        raise ConfigError(msg)
    return name


def _until(level: object, duration_s: object) -> int | None:
    if duration_s is None:
        return None
    is_number = isinstance(duration_s, (int, float)) and not isinstance(
        duration_s, bool
    )
    if level is None or not is_number or not 0 < float(str(duration_s)) <= _MAX_S:
        msg = (
            "set_level: duration_s must be a number of seconds above 0, and go with a "
            f"level, not {duration_s!r}"
        )
        raise ConfigError(msg)
    return time.monotonic_ns() + int(float(str(duration_s)) * 1e9)
