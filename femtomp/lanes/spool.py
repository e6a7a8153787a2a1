"""The spool: the directory of one server's lanes, where it lies and who may use it.

In: options and environment. Out: a checked directory descriptor, or a `SpoolError` that
says what to fix. The master creates and removes it; workers open it; nobody follows a
symbolic link into it.

::

    PARENT/femtomp-NAME-UID-XXXXXXXX/    0700, owner and mode checked at every open
        manifest.json                    format, name, level, sinks, master: for workers
        control                          words of the supervisor's state, see below
        lanes/                           one lane a process

    control: u64 words: state | guardian pid | engine pid | engine starts | deadline_ns
             | engine's start time | pid that pulls
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import SpoolError
from femtomp.lanes.segment import FORMAT_VERSION, high, known_as

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_MANIFEST_BYTES: Final = 64 * 1024
_MAX_NAME_CHARS: Final = 48
# A lane needs locks, appends and renames that mean what they say.
_REFUSED_FILE_SYSTEMS: Final = ("nfs", "nfs4", "9p", "fuse", "cifs", "smb3", "afs")


_MAPPABLE: Final = ("tmpfs", "ext4", "xfs")


class State(IntEnum):
    """What the supervisor is doing, word 0 of the control page."""

    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    STOPPED = 3


STATE: Final = 0
GUARDIAN: Final = 1
ENGINE: Final = 2
ENGINE_STARTS: Final = 3
DEADLINE: Final = 4
ENGINE_TICKS: Final = 5
# Pid of the process whose `Server.queue.get` wants the lanes kept until it has read them.
PULLER: Final = 6
_CONTROL_WORDS: Final = 64


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
        self.path: Final = Path(path)
        self.descriptor = _open_checked(self.path)
        self._known = [known_as(self.descriptor)]
        try:
            self.lanes = high(os.open("lanes", _DIRECTORY, dir_fd=self.descriptor))
            self._known.append(known_as(self.lanes))
            self.manifest: dict[str, Any] = self._read_manifest()
        except OSError as exc:
            self.close()
            msg = f"{self.path} is not a femtomp spool: {exc}"
            raise SpoolError(exc.errno or 0, msg) from exc

    def _read_manifest(self) -> dict[str, Any]:
        import json  # noqa: PLC0415 - a worker that never logs does not need it

        descriptor = os.open("manifest.json", os.O_RDONLY | _FILE, dir_fd=self.descriptor)
        try:
            text = os.read(descriptor, _MAX_MANIFEST_BYTES)
        finally:
            os.close(descriptor)
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

    @property
    def sinks(self) -> tuple[str, ...]:
        """Names of the server's sinks, in order."""
        return tuple(self.manifest.get("sinks", ()))

    def control(self) -> tuple[int, ...]:
        """Return the words of the control page; zeros if it cannot be read."""
        try:
            descriptor = os.open("control", os.O_RDONLY | _FILE, dir_fd=self.descriptor)
        except OSError:
            return (0,) * _CONTROL_WORDS
        try:
            content = os.read(descriptor, 8 * _CONTROL_WORDS)
        finally:
            os.close(descriptor)
        return struct.unpack(f"<{_CONTROL_WORDS}Q", content.ljust(8 * _CONTROL_WORDS, b"\0"))

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
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        here = os.fstat(self.descriptor)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def remove(self) -> None:
        """Delete the directory with all in it, if the path still leads to it."""
        if self.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def descriptors(self) -> list[tuple[int, int, int]]:
        """Return (descriptor, device, inode) of the directories, for a forked child."""
        return list(self._known)

    def close(self) -> None:
        """Close the descriptors."""
        while self._known:
            os.close(self._known.pop()[0])


def create(
    parent: Path, name: str, *, level: int, sinks: tuple[str, ...], master: Mapping[str, Any]
) -> Spool:
    """Make a new spool below `parent` and open it.

    Raises
    ------
    SpoolError
        If the parent cannot be used, with the path and what to do.
    """
    import json  # noqa: PLC0415

    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_MAX_NAME_CHARS].strip("-.") or "app"
    _refuse_odd_file_systems(parent)
    try:
        path = Path(tempfile.mkdtemp("", f"femtomp-{slug}-{os.geteuid()}-", parent))
    except OSError as exc:
        msg = (
            f"cannot create a spool in {parent}: {exc.strerror}; "
            "give another spool_parent= or set FEMTOMP_SPOOL_PARENT"
        )
        raise SpoolError(exc.errno or 0, msg) from exc
    manifest = {
        "format": FORMAT_VERSION,
        "name": name,
        "level": level,
        "sinks": sinks,
        "writer": choose_writer(parent),
        "master": dict(master),
    }
    try:
        (path / "lanes").mkdir(mode=0o700)
        (path / "control").write_bytes(bytes(8 * _CONTROL_WORDS))
        (path / "manifest.json").write_text(json.dumps(manifest, indent=1))
        return Spool(path)
    except OSError as exc:
        shutil.rmtree(path, ignore_errors=True)
        msg = f"cannot fill the spool {path}: {exc.strerror or exc}"
        raise SpoolError(exc.errno or 0, msg) from exc


def choose_parent(given: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """Decide where spools lie.

    `given`, else FEMTOMP_SPOOL_PARENT (both must exist), else the first of
    STATE_DIRECTORY/femtomp, RUNTIME_DIRECTORY, XDG_RUNTIME_DIR/femtomp, /dev/shm and the
    temporary directory that can be written to.

    Raises
    ------
    SpoolError
        If the one asked for is not a directory.
    """
    asked = given or environ.get("FEMTOMP_SPOOL_PARENT")
    if asked:
        path = Path(asked).absolute()
        if not path.is_dir():
            msg = f"spool_parent {path} is not a directory: create it, or name another"
            raise SpoolError(20, msg)
        return path
    for variable, below in (
        ("STATE_DIRECTORY", "femtomp"),
        ("RUNTIME_DIRECTORY", ""),
        ("XDG_RUNTIME_DIR", "femtomp"),
    ):
        # systemd may name several, separated by colons: the first is ours.
        base = environ.get(variable, "").partition(":")[0]
        if base and _usable(path := Path(base, below)):
            return path
    shm = Path("/dev/shm")  # noqa: S108 - a directory of our own is made below it
    return shm if _usable(shm) else Path(tempfile.gettempdir())


def choose_writer(parent: Path) -> str:
    """Return which writer the lanes below a directory get: "mmap" or "write".

    Mappings where stores become visible in order and preallocated space is kept for
    good; file systems that copy on write may refuse a later store even then.
    """
    ordered = os.uname().machine in ("x86_64", "AMD64")
    return "mmap" if ordered and _file_system(parent) in _MAPPABLE else "write"


def _usable(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _open_checked(path: Path) -> int:
    try:
        descriptor = high(os.open(path, _DIRECTORY))
    except OSError as exc:
        msg = f"cannot open the spool {path}: {exc.strerror}"
        raise SpoolError(exc.errno or 0, msg) from exc
    status = os.fstat(descriptor)
    problem = None
    if status.st_uid not in (os.geteuid(), 0):
        problem = f"belongs to uid {status.st_uid}, not to {os.geteuid()}"
    elif stat.S_IMODE(status.st_mode) & 0o066:
        problem = f"has mode {stat.S_IMODE(status.st_mode):04o}: chmod 0700 it"
    if problem:
        os.close(descriptor)
        msg = f"the spool {path} {problem}"
        raise SpoolError(13, msg)
    return descriptor


def _refuse_odd_file_systems(parent: Path) -> None:
    kind = _file_system(parent)
    if kind.partition(".")[0] in _REFUSED_FILE_SYSTEMS:
        msg = f"{parent} is on {kind}, where locks and appends cannot be trusted"
        raise SpoolError(95, msg)


def _file_system(path: Path) -> str:
    """Return the type of the file system a path is on, by the longest mount point."""
    best, kind = "", ""
    real = f"{path.resolve()}/"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].rstrip("/") + "/"
        if real.startswith(point) and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind
