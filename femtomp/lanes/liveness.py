"""Whether a process lives, told by more than its pid.

In: /proc. Out: numbers and answers. A pid is used again within minutes where workers
are recycled; (boot id, pid, start time) is not. Both 0 and "" mean "cannot be known
here".
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from femtomp.record import Identity


def start_ticks(pid: int | str = "self") -> int:
    """Return a process's start time, in clock ticks since boot; 0 if there is none.

    Field 22 of /proc/PID/stat (proc_pid_stat(5)), behind the last ")", since a
    command's name may hold spaces and parentheses. A zombie has ended: 0.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal, and waits for SIGCONT."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return False


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the id of this boot of the machine, or nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace; 0 if unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def is_alive(identity: Identity) -> bool:
    """Tell whether the very process that this identity describes is still running.

    False too where it cannot be known: in another pid namespace, after a reboot.
    """
    return (
        identity.start_ticks != 0
        and identity.pid_namespace == pid_namespace()
        and identity.boot_id == boot_id()
        and start_ticks(identity.pid) == identity.start_ticks
    )
