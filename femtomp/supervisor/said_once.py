"""Spools that were left behind: said once for each, however many servers start.

In: what nobody serves and no server of this name takes. Out: one line on stderr for
each, with its name, its age and the command that delivers it. What was said stands in
one file for each user, beside the spools and never in them: they are as they were left.
Where that file cannot be written, or is another user's, things are said again.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import time
from typing import TYPE_CHECKING, Final

from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from femtomp.supervisor.orphans import Found

_MAX_BYTES: Final = 1024 * 1024
# Of those that were found together: more than a screen has, nobody reads.
_MAX_LINES: Final = 10
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Sinks whose whole address is their name; of a file the path is not in the spool.
_BY_NAME: Final = ("console", "journald", "otlp")
_AGES: Final = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


class SaidOnce:
    """What this user's servers have said of spools below one directory.

    Parameters
    ----------
    parent : Path
    """

    def __init__(self, parent: Path) -> None:
        self._path = parent / f".femtomp-{os.geteuid()}.said"
        self._parent = parent
        self._said = self._read()

    def is_new(self, found: Found) -> bool:
        """Return whether nothing was said of a spool yet; from now on it was."""
        name = os.path.basename(found.path)
        inode = os.fstat(found.descriptor).st_ino
        if self._said.get(name) == inode:
            return False
        self._said[name] = inode
        return True

    def keep(self) -> None:
        """Write it down, without spools that are gone."""
        kept = {n: i for n, i in self._said.items() if (self._parent / n).exists()}
        content = json.dumps(kept).encode()
        temporary = f"{self._path}.{os.urandom(4).hex()}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(content)
            os.rename(temporary, self._path)
        except OSError:
            # A full disk, or a name that somebody else has taken in a shared directory.
            try:
                os.unlink(temporary)
            except OSError:
                pass

    def _read(self) -> dict[str, int]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | _FLAGS)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                    return {}
                said = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}


def say_of_others(parent: Path, others: Iterable[Found]) -> None:
    """Say which spools servers of other names left, those that were not said yet."""
    others = list(others)
    if not others:
        return
    said = SaidOnce(parent)
    new = [found for found in others if said.is_new(found)]
    if not new:
        return
    said.keep()
    for found in new[:_MAX_LINES]:
        note(
            f"orphan:{found.path}",
            f"the server {shown_name(found)} left its spool behind {age(found)} ago, "
            f"and this one is another: `{command(found)}` delivers what is there "
            "(said once)",
        )
    more = len(new) - _MAX_LINES
    if more > 0:
        note(
            f"orphans:{parent}",
            f"so did {more} more in {parent}: `femtomp recover "
            f"{shlex.quote(str(parent))} --sink SINK` delivers all (said once)",
        )


def say_once(parent: Path, found: Found, text: str) -> None:
    """Say something of one spool, unless something was said of it before."""
    said = SaidOnce(parent)
    if said.is_new(found):
        said.keep()
        note(f"orphan:{found.path}", f"{text} (said once)")


def shown_name(found: Found) -> str:
    """Return the name of a spool's server, for a message."""
    return repr(str(found.manifest.get("name", "?"))[:80])


def command(found: Found) -> str:
    """Return the command that delivers a spool to the sinks that its server had."""
    sinks = found.manifest.get("sinks")
    names = [str(n) for n in sinks] if isinstance(sinks, list) else []
    told = [n if n in _BY_NAME else "file:PATH" for n in names] or ["SINK"]
    words = [f"--sink {each}" for each in dict.fromkeys(told)]
    return f"femtomp recover {shlex.quote(found.path)} {' '.join(words)}"


def age(found: Found) -> str:
    """Return how long ago a spool was last changed, in words."""
    seconds = max(0.0, time.time() - _changed(found))
    for unit_s, unit in _AGES:
        if seconds >= unit_s:
            number = int(seconds // unit_s)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "less than a minute"


def _changed(found: Found) -> float:
    times = [os.fstat(found.descriptor).st_mtime]
    for name in ("control", "lanes"):
        try:
            status = os.stat(name, dir_fd=found.descriptor, follow_symlinks=False)
        except OSError:
            continue
        times.append(status.st_mtime)
    return max(times)
