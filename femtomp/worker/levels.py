"""Levels that the server gives to this process's loggers while it runs.

In: the file `levels` of the spool, looked at when the channel looks after its lane
anyway: once a second at most, at a record. Out: `Logger.setLevel`, and what was there
before when the time is over or the level is taken back. A level that the program sets
itself meanwhile is the program's: it is not set back.

What must never happen: an exception in a log call, or one that waits for another.
"""

from __future__ import annotations

import json
import logging
import os
from time import monotonic_ns
from typing import Any, Final, NamedTuple

from femtomp.lanes.thrown import thrown_in

LEVELS: Final = "levels"
_MAX_BYTES: Final = 256 * 1024
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What a file may give that is not one of ours, beside what its reading may.
_FAULTS: Final = (
    OSError, ValueError, TypeError, LookupError, AttributeError,
    RecursionError,  # the caller's stack is at its end: the next look does it
)  # fmt: skip
_UNKNOWN: Final = (0, 0)


class _Given(NamedTuple):
    """A logger's level before, and the one it was given."""

    before: int
    level: int


class Levels:
    """The levels of one spool, as far as this process has heard of them."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._wanted: dict[str, tuple[int, int | None]] = {}
        self._given: dict[str, _Given] = {}
        # What the server has said itself: its own level, and its loggers'.
        self._least = 0
        self._said: dict[str, int] = {}
        # Of the root logger, if `worker_init` has set it to the server's.
        self._server: int | None = None
        # The next time that one of them is over, of the monotonic clock.
        self._until_ns: int | None = None
        # Whose it is took it out. No lock: an exception that a signal handler throws in
        # behind `acquire` would leave that locked for ever, behind `del` none can come.
        self._turn = [True]

    def heed(self, directory: int, *, again: bool = False) -> None:
        """Do what the file says, if it is new or a time is over.

        Parameters
        ----------
        directory : int
            Descriptor of the spool.
        again : bool
            Though nothing is new: the program has just set levels of its own.
        """
        # A thread that looks now will do: nobody waits. Nor does a call inside this.
        try:
            del self._turn[0]
        except IndexError:
            return
        try:
            seen = self._look(directory)
            if seen != self._seen or again or self._is_over():
                # Until all is done, so that what is cut short is done again.
                self._seen = _UNKNOWN
                self._apply()
                self._seen = seen
        except _FAULTS as exc:
            if thrown_in(exc):
                raise
        finally:
            self._turn.append(True)

    def know(self, manifest: dict[str, Any]) -> None:
        """Take the levels that the server began with."""
        self._least = int(manifest.get("level", 0))
        self._said = {name: int(n) for name, n in manifest.get("levels", {}).items()}

    def least(self, name: str) -> int:
        """Return the level from which on the server wants what a logger logs."""
        now = monotonic_ns()
        while True:
            level, until = self._wanted.get(name, (None, None))
            if level is not None and (until is None or now < until):
                return level
            if not name:
                return self._least
            if name in self._said:
                return self._said[name]
            name = name.rpartition(".")[0]

    def follow(self, level: int) -> None:
        """Note that the root logger has the server's level, and is to keep to it."""
        self._server = level

    def forget_turn(self) -> None:
        """Begin anew in a forked child; levels and what was before are inherited."""
        self._turn = [True]

    def _is_over(self) -> bool:
        return self._until_ns is not None and monotonic_ns() >= self._until_ns

    def _look(self, directory: int) -> tuple[int, int] | None:
        """Read the file if it is another one; return which it is."""
        try:
            there = os.stat(LEVELS, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError as exc:
            if thrown_in(exc):
                raise
            seen = None
        else:
            seen = (there.st_ino, there.st_mtime_ns)
        if seen == self._seen:
            return seen
        said = {} if seen is None else _read(directory)
        self._wanted = {
            str(name): (int(level), None if until is None else int(until))
            for name, (level, until) in said.get("levels", {}).items()
        }
        if (server := said.get("server")) is not None:
            self._least = int(server)
        self._follow_server(server)
        return seen

    def _follow_server(self, level: int | None) -> None:
        if level is None or self._server in (None, level):
            return
        root = logging.getLogger()
        given = self._given.get("")
        if given is not None and given.before == self._server:
            self._given[""] = given._replace(before=level)
        elif root.level == self._server:
            root.setLevel(level)
        self._server = level

    def _apply(self) -> None:
        now = monotonic_ns()
        wanted = {
            name: level
            for name, (level, until) in self._wanted.items()
            if until is None or now < until
        }
        ends = [until for _, until in self._wanted.values() if until and until > now]
        self._until_ns = min(ends, default=None)
        for name, given in list(self._given.items()):
            if name not in wanted:
                logger = logging.getLogger(name)
                if logger.level == given.level:
                    logger.setLevel(given.before)
                del self._given[name]
        for name, level in wanted.items():
            self._give(name, level)

    def _give(self, name: str, level: int) -> None:
        logger = logging.getLogger(name)
        given = self._given.get(name)
        is_ours = given is not None and logger.level == given.level
        before = given.before if given is not None and is_ours else logger.level
        self._given[name] = _Given(before, level)
        if logger.level != level:
            logger.setLevel(level)


def _read(directory: int) -> dict[str, Any]:
    descriptor = os.open(LEVELS, _FLAGS, dir_fd=directory)
    try:
        return dict(json.loads(os.read(descriptor, _MAX_BYTES)))
    finally:
        os.close(descriptor)
