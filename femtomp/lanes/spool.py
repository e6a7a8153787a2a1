"""The spool: the directory of one server's lanes, opened and checked.

In: a path. Out: checked directory descriptors, or a `SpoolError` that says what to fix.
The master makes it (`place`) and removes it; workers open it; nobody follows a symbolic
link into it.

::

    PARENT/femtomp-NAME-UID-XXXXXXXX/    0700, owner and mode checked at every open
        manifest.json                    format, name, level, sinks, master: for workers
        control                          words of the supervisor's state, see below
        resource.json                    of the server's records: for who takes it over
        levels                           of the workers' loggers, see `set_level`
        master.lock, guardian.lock,
        engine.lock                      held for life by the three, see `lock`
        said, marks, quarantine/         the engine's, see `losses`, `poison`
        lanes/                           0700, one lane a process

    Of workers with another uid only `lanes/` is, and all in it but cursors; above it is
    root's, 0711, with files that they may read.

    control: u64 words: state | guardian pid | engine pid | engine starts | deadline_ns
             | engine's start time | pid that pulls | how the engine before it ended
             | reopening asked for | reopening done
             | pid of the guardian that is to leave | how often a flush was asked for
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from enum import IntEnum
from typing import Any, Final

from femtomp.errors import SpoolError
from femtomp.lanes.segment import FORMAT_VERSION, high, known_as

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_MANIFEST_BYTES: Final = 64 * 1024
_MAX_MANIFEST_VALUES: Final = 500
_MAX_RESOURCE_BYTES: Final = 4 * 1024 * 1024


class State(IntEnum):
    """What the supervisor is doing, word 0 of the control page."""

    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    STOPPED = 3
    REMOVING = 4  # all was delivered


STATE: Final = 0
GUARDIAN: Final = 1
ENGINE: Final = 2
ENGINE_STARTS: Final = 3
DEADLINE: Final = 4
ENGINE_TICKS: Final = 5
# Pid of the process whose `Server.queue.get` wants the lanes kept until it has read
# them.
PULLER: Final = 6
# Wait status of the engine that died last, plus one; 0: not known.
ENGINE_ENDED: Final = 7
# Who wants files opened anew adds one to the first, signals the engine, and waits until
# the second is not less.
REOPEN: Final = 8
REOPENED: Final = 9
# Pid of the guardian that is to leave the spool to another, its engine with it.
LEAVER: Final = 10
# Who waits for records to be delivered adds one: sinks then gather no more for a batch.
FLUSH: Final = 11
CONTROL_WORDS: Final = 64


class Spool:
    """An opened spool directory.

    Parameters
    ----------
    path : path-like
        Of the directory, absolute.

    Raises
    ------
    SpoolError
        If it is missing, foreign, open to others, or of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = os.fspath(path)
        self.descriptor = _open_checked(self.path)
        self._known = [known_as(self.descriptor)]
        try:
            self.lanes = high(os.open("lanes", _DIRECTORY, dir_fd=self.descriptor))
            self._known.append(known_as(self.lanes))
            self.manifest: dict[str, Any] = self._read_manifest()
            self._check_lanes()
        except BaseException as exc:
            self.close()
            if not isinstance(exc, OSError) or exc.errno is None:
                raise  # thrown in by a signal handler, or at the end of the stack
            msg = f"{self.path} is not a femtomp spool: {exc}"
            raise SpoolError(exc.errno, msg) from exc

    def _read_manifest(self) -> dict[str, Any]:
        descriptor = os.open(
            "manifest.json", os.O_RDONLY | _FILE, dir_fd=self.descriptor
        )
        try:
            text = os.read(descriptor, _MAX_MANIFEST_BYTES)
        finally:
            os.close(descriptor)
        if text.count(b"[") + text.count(b"{") > _MAX_MANIFEST_VALUES:
            # Depth must not look like the end of the caller's stack.
            msg = f"{self.path}/manifest.json is not one of femtomp's"
            raise SpoolError(0, msg)
        try:
            manifest = json.loads(text)
            version = manifest["format"]
        except (ValueError, TypeError, KeyError) as exc:
            msg = f"{self.path}/manifest.json cannot be read: {exc}"
            raise SpoolError(0, msg) from exc
        if version != FORMAT_VERSION:
            msg = (
                f"{self.path} has format {version}, this femtomp knows "
                f"{FORMAT_VERSION}: use the version that made it"
            )
            raise SpoolError(0, msg)
        return dict(manifest)

    def _check_lanes(self) -> None:
        problem = _problem(
            os.fstat(self.lanes), (os.geteuid(), 0, self.manifest.get("worker_uid"))
        )
        if problem:
            msg = f"the spool {self.path}/lanes {problem}"
            raise SpoolError(errno.EACCES, msg)

    def refresh(self) -> None:
        """Read anew what the spool says of itself; nothing is changed if it is gone."""
        try:
            self.manifest = self._read_manifest()
        except OSError:
            pass

    @property
    def sinks(self) -> tuple[str, ...]:
        """Names of the server's sinks, in order."""
        return tuple(self.manifest.get("sinks", ()))

    def control(self) -> tuple[int, ...]:
        """Return the words of the control page; zeros if it cannot be read."""
        try:
            descriptor = os.open("control", os.O_RDONLY | _FILE, dir_fd=self.descriptor)
        except OSError:
            return (0,) * CONTROL_WORDS
        try:
            content = os.read(descriptor, 8 * CONTROL_WORDS)
        finally:
            os.close(descriptor)
        return struct.unpack(
            f"<{CONTROL_WORDS}Q", content.ljust(8 * CONTROL_WORDS, b"\0")
        )

    def resource(self) -> dict[str, Any]:
        """Return what its server was told of its resource; the name at least."""
        try:
            descriptor = os.open(
                "resource.json", os.O_RDONLY | _FILE, dir_fd=self.descriptor
            )
            with open(descriptor, "rb") as file:
                found = json.loads(file.read(_MAX_RESOURCE_BYTES))
        except (OSError, ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        return {"service.name": str(self.manifest.get("name", "unknown"))}

    def set_control(self, word: int, value: int) -> None:
        """Write one word of the control page.

        Raises
        ------
        OSError
            If the spool is gone.
        """
        descriptor = os.open("control", os.O_WRONLY | _FILE, dir_fd=self.descriptor)
        try:
            os.pwrite(descriptor, struct.pack("<Q", value), 8 * word)
        finally:
            os.close(descriptor)

    def exists(self) -> bool:
        """Tell whether the path still leads to this very directory."""
        return self._is_at(self.path)

    def _is_at(self, path: str) -> bool:
        try:
            there = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        here = os.fstat(self.descriptor)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def is_being_left(self) -> bool:
        """Tell whether guardian and engine are to make way for others."""
        control = self.control()
        return control[LEAVER] != 0 and control[LEAVER] == control[GUARDIAN]

    def is_deleted(self) -> bool:
        """Tell whether the directory was deleted, rather than moved away."""
        return os.fstat(self.descriptor).st_nlink == 0

    def remove(self) -> None:
        """Delete the directory with all in it, if the path still leads to it.

        The lanes first: a spool without them has nothing to keep (`was_removing`).
        """
        import shutil

        # Another name first: half of it must not be found, and taken for an orphan
        # because its lock files are gone already.
        parent, name = os.path.split(self.path)
        aside = os.path.join(parent, f".{name}.removed")
        if self.exists():
            try:
                os.rename(self.path, aside)
            except OSError:
                aside = self.path
        elif not self._is_at(aside):
            return
        shutil.rmtree(os.path.join(aside, "lanes"), ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)

    def was_removing(self) -> bool:
        """Tell whether somebody began to delete the spool, and may have died then."""
        removing = self.control()[STATE] == State.REMOVING
        return removing or os.fstat(self.lanes).st_nlink == 0

    def descriptors(self) -> list[tuple[int, int, int]]:
        """Return (descriptor, device, inode) of the directories, for a forked child."""
        return list(self._known)

    def close(self) -> None:
        """Close the descriptors."""
        while self._known:
            os.close(self._known.pop()[0])


def _open_checked(path: str) -> int:
    try:
        # O_PATH: workers of another uid may pass through it, not list it.
        descriptor = high(os.open(path, os.O_PATH | _DIRECTORY))
    except OSError as exc:
        msg = f"cannot open the spool {path}: {exc.strerror}"
        raise SpoolError(exc.errno or 0, msg) from exc
    problem = _problem(os.fstat(descriptor), (os.geteuid(), 0))
    if problem:
        os.close(descriptor)
        msg = f"the spool {path} {problem}"
        raise SpoolError(errno.EACCES, msg)
    return descriptor


def _problem(status: os.stat_result, owners: tuple[int | None, ...]) -> str:
    """Say what is wrong with a directory's owner or mode, if anything is."""
    if status.st_uid not in owners:
        return f"belongs to uid {status.st_uid}, not to {os.geteuid()}"
    if stat.S_IMODE(status.st_mode) & 0o066:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}: chmod 0700 it"
    return ""
