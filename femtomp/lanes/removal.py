"""Deleting a directory that somebody else may have filled, and still fills.

In: a path. Out: no such directory, as far as that can be had. Links are not followed.
It ends whatever was put there: directories within directories by the thousand are
taken apart from the top, not descended into, and who does not own a directory any more
can put nothing more into it.
"""

from __future__ import annotations

import os
import stat
from typing import Final

_OPENED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Directories that may be taken apart in one: each costs a few system calls.
_MOST: Final = 100_000


def remove_tree(path: str) -> None:
    """Delete a directory with all in it, if it is there; what cannot go stays."""
    try:
        descriptor = os.open(path, _OPENED)
    except OSError:
        return  # gone, or no directory
    try:
        _take(descriptor)
        _empty(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.rmdir(path)
    except OSError:
        pass  # what is in it could not be deleted


def _take(descriptor: int) -> None:
    """Make a directory this process's own, so that nobody else adds to it."""
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            os.fchown(descriptor, os.geteuid(), -1)
        os.fchmod(descriptor, stat.S_IRWXU)
    except OSError:
        pass  # it is tried all the same


def _empty(top: int) -> None:
    """Delete all in a directory; what directories hold is moved up first."""
    moved = 0
    stuck: set[str] = set()
    while left := [name for name in os.listdir(top) if name not in stuck]:
        for name in left:
            try:
                os.unlink(name, dir_fd=top)
                continue
            except FileNotFoundError:
                continue
            except OSError:
                pass
            moved += 1
            if moved > _MOST or not _take_apart(top, name):
                stuck.add(name)


def _take_apart(top: int, name: str) -> bool:
    """Move what a directory holds beside it, and delete it."""
    try:
        inner = os.open(name, _OPENED, dir_fd=top)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        _take(inner)
        for each in os.listdir(inner):
            aside = f".{os.urandom(8).hex()}"
            os.rename(each, aside, src_dir_fd=inner, dst_dir_fd=top)
        os.rmdir(name, dir_fd=top)
    except OSError:
        return False
    finally:
        os.close(inner)
    return True
