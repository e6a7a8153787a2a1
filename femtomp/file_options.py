"""What a `FileSink` is checked for, in the master, before anything is opened.

In: its options. Out: nothing, or a `ConfigError` that names the option, what was given
and what is allowed. Only links of the path are read.
"""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from femtomp.config import FileSink

# Below, a file holds a record or two, and a directory fills with names.
LEAST_ROTATE_BYTES: Final = 1024
LEAST_ROTATE_INTERVAL_S: Final = 0.1
# The supervisor opens the file again and again, to read its end and to append.
_OWNER_MODE: Final = stat.S_IRUSR | stat.S_IWUSR
_MOST_MODE: Final = 0o777
_COMPRESSIONS: Final = (None, "gzip")
_FSYNCS: Final = ("never", "batch")
# What leads to a stream of whoever opens it: in the supervisor, to another one.
_OWN_STREAMS: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
# As the kernel's own limit, path_resolution(7).
_MOST_LINKS: Final = 40


def check_file_options(sink: FileSink) -> None:
    """Refuse what a `FileSink` cannot be, by the option's name.

    Raises
    ------
    ConfigError
        Naming the option and what is allowed.
    """
    _at_least("rotate_bytes", sink.rotate_bytes, LEAST_ROTATE_BYTES, "bytes")
    _at_least(
        "rotate_interval_s", sink.rotate_interval_s, LEAST_ROTATE_INTERVAL_S, "seconds"
    )
    _at_least("keep_files", sink.keep_files, 1, "files")
    _at_least("keep_days", sink.keep_days, 0, "days")
    _one_of("compress", sink.compress, _COMPRESSIONS)
    _one_of("fsync", sink.fsync, _FSYNCS)
    if not isinstance(sink.utc, bool):
        msg = f"FileSink: utc must be True or False, not {sink.utc!r}"
        raise ConfigError(msg)
    _check_mode(sink.mode)
    _check_company(sink)


def check_path(path: Path) -> None:
    """Refuse a path that leads to a stream of the process that opens it.

    Raises
    ------
    ConfigError
        Saying what to use instead.
    """
    for _ in range(_MOST_LINKS):
        if os.fspath(path).startswith(_OWN_STREAMS):
            break
        try:
            path = path.parent / path.readlink()
        except OSError:
            return  # no link: a file, or none yet
    else:
        return  # a loop: said when it is opened
    msg = (
        f"FileSink: {path} would be the supervisor's own stream, not yours: use "
        "ConsoleSink('stdout', format='json')"
    )
    raise ConfigError(msg)


def _at_least(option: str, value: float | None, least: float, unit: str) -> None:
    if value is None:
        return
    kinds = (int,) if unit in ("bytes", "files") else (int, float)
    # NaN is neither; no file is large or old enough for infinity.
    if type(value) not in kinds or not least <= value < math.inf:
        whole = "a whole number" if kinds == (int,) else "a number"
        msg = (
            f"FileSink: {option} must be {whole} of {unit}, {least:g} or more, or "
            f"None, not {value!r}"
        )
        raise ConfigError(msg)


def _one_of(option: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        words = ", ".join(map(repr, allowed))
        msg = f"FileSink: {option} must be one of {words}, not {value!r}"
        raise ConfigError(msg)


def _check_mode(mode: object) -> None:
    if (
        type(mode) is not int
        or not 0 <= mode <= _MOST_MODE
        or mode & _OWNER_MODE != _OWNER_MODE
    ):
        shown = oct(mode) if type(mode) is int else repr(mode)
        msg = (
            "FileSink: mode must be a number from 0o600 to 0o777 that lets the owner "
            f"read and write, such as 0o640, not {shown}"
        )
        raise ConfigError(msg)


def _check_company(sink: FileSink) -> None:
    """Refuse what would do nothing because no file is ever rotated."""
    if sink.rotate_bytes is not None or sink.rotate_interval_s is not None:
        return
    for option in ("compress", "keep_files", "keep_days"):
        if getattr(sink, option) is not None:
            msg = (
                f"FileSink: {option} is for rotated files: give rotate_bytes= or "
                "rotate_interval_s= too"
            )
            raise ConfigError(msg)
