"""Which files that are none a `FileSink` may open: pipes, terminals and /dev/null.

In: what stat(2) says of a path, before it is opened: opening alone starts a watchdog,
makes a pseudo-terminal, or rewinds a tape. Out: why it cannot be a destination of
lines, or nothing.
"""

from __future__ import annotations

import os
import stat
from typing import Final

_NULL: Final = (1, 3)
# Of the kernel's terminal drivers the one whose file makes another terminal.
_PTMX: Final = (5, 2)
_MASTER: Final = "pty:master"
_DRIVERS: Final = "/proc/tty/drivers"
# Where that cannot be read: consoles, the controlling terminal, and pseudo-terminals
# (devices.txt of the kernel's documentation).
_CONSOLES: Final = 4
_CURRENT: Final = ((5, 0), (5, 1))
_PSEUDO: Final = range(136, 144)


def unfit(status: os.stat_result) -> str:
    """Return why lines cannot be written to what has this status; "" if they can."""
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    named = f"{number[0]}:{number[1]}"
    if stat.S_ISBLK(status.st_mode):
        return f"it is a block device ({named}): lines would overwrite what is on it"
    if not stat.S_ISCHR(status.st_mode) or number == _NULL or is_terminal(*number):
        return ""
    return (
        f"it is a character device ({named}) that is no terminal: what it does with "
        "lines is not known; of devices a FileSink writes to terminals and /dev/null"
    )


def is_terminal(major: int, minor: int) -> bool:
    """Tell whether a character device of these numbers is a terminal, without it."""
    if (major, minor) == _PTMX:
        return False
    try:
        with open(_DRIVERS) as file:
            drivers = [line.split() for line in file]
    except OSError:
        drivers = []
    if not drivers:
        known = major == _CONSOLES or major in _PSEUDO
        return known or (major, minor) in _CURRENT
    return any(
        fields[-1] != _MASTER
        and int(fields[-3]) == major
        and _in_range(minor, fields[-2])
        for fields in drivers
    )


def _in_range(minor: int, numbers: str) -> bool:
    """Look a number up in "64", "0-1048575"."""
    first, _, last = numbers.partition("-")
    return int(first) <= minor <= int(last or first)
