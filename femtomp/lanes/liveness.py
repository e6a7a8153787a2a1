"""Whether a process lives, told by more than its pid.

In: /proc. Out: numbers and answers. A pid is used again within minutes where workers
are recycled; (boot id, pid, start time) is not. Both 0 and "" mean "cannot be known
here".
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from femtomp.lanes.thrown import thrown_in

if TYPE_CHECKING:
    from femtomp.record import Identity

# /proc/PID/stat is 52 numbers and a name of 64 bytes at most.
_MAX_BYTES: Final = 4096


def start_ticks(pid: int | str = "self") -> int:
    """Return a process's start time, in clock ticks since boot; 0 if there is none.

    Field 22 of /proc/PID/stat (proc_pid_stat(5)), behind the last ")", since a
    command's name may hold spaces and parentheses. A zombie has ended: 0.
    """
    is_zombie, ticks = _state(pid)
    return 0 if is_zombie else ticks


def zombie_ticks(pid: int) -> int:
    """Return the start time of a process that has ended and was not reaped; else 0."""
    is_zombie, ticks = _state(pid)
    return ticks if is_zombie else 0


def _state(pid: int | str) -> tuple[bool, int]:
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return fields[0] in (b"Z", b"X"), int(fields[19])
    except (OSError, ValueError, IndexError) as exc:
        if thrown_in(exc):
            raise
        return True, 0


def _read(path: str) -> bytes:
    """Return a small file's content, by `os` alone.

    At the end of the interpreter there is no `open` any more, and objects still log.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)


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
        return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
    except (OSError, ValueError) as exc:
        if thrown_in(exc):
            raise
        return ""


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace; 0 if unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError as exc:
        if thrown_in(exc):
            raise
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
