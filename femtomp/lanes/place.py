"""Where a spool lies, and making one: the master's part.

In: options and environment. Out: a new directory, or a `SpoolError` that says what to
fix.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError, SpoolError
from femtomp.lanes.scan import names
from femtomp.lanes.segment import FORMAT_VERSION, parse_name
from femtomp.lanes.spool import (
    CONTROL_WORDS,
    LANES,
    LANES_OF_ROOT,
    MAX_MANIFEST_BYTES,
    Spool,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_NAME_CHARS: Final = 48
_FILES: Final = ("control", "resource.json", "manifest.json")
# A lane needs locks, appends and renames that mean what they say.
_REFUSED_FILE_SYSTEMS: Final = ("nfs", "nfs4", "9p", "fuse", "cifs", "smb3", "afs")
# Here space that was allocated is kept for good; file systems that copy on write may
# refuse a later store.
_MAPPABLE: Final = ("tmpfs", "ext4", "xfs")


def create(
    parent: Path,
    name: str,
    *,
    level: int,
    levels: Mapping[str, int] | None = None,
    sinks: tuple[str, ...],
    master: Mapping[str, Any],
    writer: str | None = None,
    workers: tuple[int, int] | None = None,
    script: str | None = None,
    resource: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Spool:
    """Make a new spool below `parent` and open it.

    `workers` are uid and gid of workers that drop root's privileges; `script` goes with
    a name that nobody gave, and was guessed from it; `limits` are those on records.

    Raises
    ------
    SpoolError
        If the parent cannot be used, with the path and what to do.
    ConfigError
        If what the manifest is to say is more than one can hold.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_MAX_NAME_CHARS].strip("-.") or "app"
    _refuse_odd_file_systems(parent)
    if workers is not None and (barrier := _barrier(parent, *workers)):
        msg = (
            f"workers of uid {workers[0]} cannot pass {barrier}, which spools in "
            f"{parent} are below: chmod o+x it, or give another spool_parent="
        )
        raise SpoolError(errno.EACCES, msg)
    manifest = {
        "format": FORMAT_VERSION,
        "name": name,
        "script": script,
        "level": level,
        "limits": dict(limits or {}),
        "levels": dict(levels or {}),
        "sinks": sinks,
        "writer": writer or choose_writer(parent),
        "master": dict(master),
        "worker_uid": workers and workers[0],
        "worker_gid": workers and workers[1],
    }
    check_size(manifest)
    try:
        path = _made_directory(parent, f"femtomp-{slug}-{os.geteuid()}-")
    except OSError as exc:
        msg = (
            f"cannot create a spool in {parent}: {exc.strerror}; "
            "give another spool_parent= or set FEMTOMP_SPOOL_PARENT"
        )
        raise SpoolError(exc.errno or 0, msg) from exc
    try:
        _fill(path, manifest, resource or {}, workers)
        return Spool(path)
    except OSError as exc:
        _discard(path)
        msg = f"cannot fill the spool {path}: {exc.strerror or exc}"
        raise SpoolError(exc.errno or 0, msg) from exc


def _made_directory(parent: Path, prefix: str) -> Path:
    path = Path(tempfile.mkdtemp("", prefix, parent))
    try:
        _permit_owner(path)
    except BaseException:
        path.rmdir()
        raise
    return path


def _permit_owner(path: Path) -> None:
    """Let the owner of a new directory use it: a umask may have left it nothing."""
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(directory)
        if ~status.st_mode & 0o700 and status.st_uid == os.geteuid():
            # Of the very directory: `chmod` by a name would follow a link.
            os.chmod(f"/proc/self/fd/{directory}", 0o700)
    finally:
        os.close(directory)


def _discard(path: Path) -> None:
    """Delete a spool that is not whole, without a descriptor: there may be none."""
    for name in _FILES:
        with suppress(OSError):
            (path / name).unlink()
    for name in (LANES, LANES_OF_ROOT):
        with suppress(OSError):
            (path / name).rmdir()
    with suppress(OSError):
        path.rmdir()


def _make_directory(name: str, directory: int) -> None:
    os.mkdir(name, 0o700, dir_fd=directory)
    os.chmod(name, 0o700, dir_fd=directory)  # a umask may leave its owner nothing


def _fill(
    path: Path,
    manifest: Mapping[str, Any],
    resource: Mapping[str, Any],
    workers: tuple[int, int] | None,
) -> None:
    """Put everything into the new directory, and into no other that took its name."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(path, flags)
    try:
        if os.fstat(directory).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it was replaced by somebody else")
        _make_directory(LANES, directory)
        if workers:
            _make_directory(LANES_OF_ROOT, directory)
            lanes = os.open(LANES, flags, dir_fd=directory)
            try:
                os.fchown(lanes, *workers)
            finally:
                os.close(lanes)
            os.fchmod(directory, 0o711)
        _write(directory, "control", bytes(8 * CONTROL_WORDS), readable=bool(workers))
        _write(directory, "resource.json", _json(resource), readable=False)
        # Last: a directory without one is no spool yet.
        _write(directory, "manifest.json", _json(manifest), readable=bool(workers))
    finally:
        os.close(directory)


def give_root_lanes(spool: Spool) -> None:
    """Give a spool of an older version what is root's, if its workers are others.

    The cursors, which were among the workers' files, go there; who opens one makes sure
    that it is root's. Done again if it was interrupted.

    Raises
    ------
    OSError
        If there is no room for it.
    """
    if not spool.has_other_workers or spool.lanes_of_root is not None:
        return
    begun = f".{LANES_OF_ROOT}"
    try:
        os.mkdir(begun, 0o700, dir_fd=spool.descriptor)
    except FileExistsError:
        pass
    new = os.open(begun, os.O_PATH | os.O_DIRECTORY, dir_fd=spool.descriptor)
    try:
        for name in names(spool.lanes):
            if (parsed := parse_name(name)) and parsed.kind in ("cur", "pull"):
                os.rename(name, name, src_dir_fd=spool.lanes, dst_dir_fd=new)
    finally:
        os.close(new)
    at = {"src_dir_fd": spool.descriptor, "dst_dir_fd": spool.descriptor}
    os.rename(begun, LANES_OF_ROOT, **at)


def check_size(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that workers could not read.

    Raises
    ------
    ConfigError
        With the option that takes most of it.
    """
    size = len(_json(manifest))
    if size <= MAX_MANIFEST_BYTES:
        return
    sizes = {key: len(_json({key: value})) for key, value in manifest.items()}
    most = max(sizes, key=lambda key: sizes[key])
    msg = (
        f"the server's options take {size} bytes in its spool's manifest, which holds "
        f"{MAX_MANIFEST_BYTES}: {sizes[most]} of them are {most!r}; give fewer or "
        "shorter ones"
    )
    raise ConfigError(msg)


def describe(
    directory: int, manifest: Mapping[str, Any], resource: Mapping[str, Any]
) -> None:
    """Write anew what a spool says of itself, each file as a whole or not at all.

    The manifest is read by the workers, the resource by nobody but the spool's owner.
    """
    readable = manifest["worker_uid"] is not None
    replace(directory, "resource.json", resource, readable=False)
    replace(directory, "manifest.json", manifest, readable=readable)


def replace(
    directory: int, name: str, values: Mapping[str, Any], *, readable: bool
) -> None:
    """Write a file of the spool as a whole, or not at all.

    Raises
    ------
    OSError
        If there is no room for it, or no place.
    """
    temporary = f".{name}.{os.urandom(4).hex()}"
    try:
        _write(directory, temporary, _json(values), readable=readable)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:
            pass
        raise


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(values), indent=1).encode()


def _write(directory: int, name: str, content: bytes, *, readable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644 if readable else 0o600)


def choose_parent(
    given: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    workers: tuple[int, int] | None = None,
) -> Path:
    """Decide where spools lie.

    `given`, else FEMTOMP_SPOOL_PARENT (both must exist), else the first of
    STATE_DIRECTORY/femtomp, RUNTIME_DIRECTORY, XDG_RUNTIME_DIR/femtomp, /dev/shm and
    the temporary directory that can be written to, and passed by `workers`.

    Raises
    ------
    SpoolError
        If the one asked for is not a directory, or there is none that can be used.
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
        path = Path(base, below)
        if base and _usable(path) and not (workers and _barrier(path, *workers)):
            return path
    shm = Path("/dev/shm")  # noqa: S108 - a directory of our own is made below it
    return shm if _usable(shm) else _temporary()


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError as exc:
        msg = (
            f"no place for a spool: /dev/shm cannot be written to, and {exc.strerror}; "
            "mount a writable directory, and give it as spool_parent= or in "
            "FEMTOMP_SPOOL_PARENT"
        )
        raise SpoolError(exc.errno or 0, msg) from exc


def choose_writer(parent: Path) -> str:
    """Return which writer the lanes below a directory get: "mmap" or "write".

    Mappings where stores become visible in order and preallocated space is kept for
    good; file systems that copy on write may refuse a later store even then.
    """
    ordered = os.uname().machine in ("x86_64", "AMD64")
    return "mmap" if ordered and _file_system(parent) in _MAPPABLE else "write"


def is_in_memory(parent: Path) -> bool:
    """Tell whether what lies below a directory takes memory."""
    return _file_system(parent) in ("tmpfs", "ramfs")


def _usable(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
        _permit_owner(path)
    except FileExistsError:
        pass
    except OSError:
        return False
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _barrier(path: Path, uid: int, gid: int) -> Path | None:
    """Return the directory above or at a path that a user cannot pass, if any."""
    for place in (path.resolve(), *path.resolve().parents):
        status = place.stat()
        bit = 0o001
        if status.st_uid == uid:
            bit = 0o100
        elif status.st_gid == gid:
            bit = 0o010
        if uid != 0 and not status.st_mode & bit:
            return place
    return None


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
