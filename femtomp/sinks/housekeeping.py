"""Housekeeping of rotated files: compressing, deleting, and tidying after a crash.

In: a file's path and what to keep. Out: fewer and smaller files beside it, made by a
thread of its own at the lowest priority, so that no record waits for it. Each step
leaves files that the next start knows what to do with: a compressed file gets its name
when it is whole and on the disk, and only then the plain one goes.

What must never happen: a line that is in no file, or in two; a file deleted that
somebody writes to, or that is not one of ours.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import struct
import threading
import time
import zlib
from typing import TYPE_CHECKING, Final

from femtomp.sinks import rotated
from femtomp.sinks.log_file import sync_directory
from femtomp.sinks.rotated import PACKED, PART, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.config import FileSink

# A step of compressing: some milliseconds, in which zlib lets other threads run.
_STEP_BYTES: Final = 256 * 1024
# deflate in a gzip wrapper, zlib.h.
_GZIP_WBITS: Final = 31
# CRC-32 and size of what was compressed, RFC 1952 section 2.3.1.
_TRAILER: Final = struct.Struct("<II")
_LEAST_GZIP_BYTES: Final = 18
_NICE: Final = 19
# How often the age of files is looked at; what another supervisor has in hand, and what
# failed, is tried again. A full disk is not worth compressing a gigabyte for at once.
LOOK_S: Final = 600.0
BUSY_S: Final = 2.0
FAILED_S: Final = 60.0
# For the step in hand when the sink is closed.
_CLOSE_S: Final = 1.0
_DAY_S: Final = 86400.0

_log: Final = logging.getLogger(__name__)


class Housekeeper(threading.Thread):
    """Look after the rotated files of one path until told to stop.

    Parameters
    ----------
    options : FileSink
    """

    def __init__(self, options: FileSink) -> None:
        super().__init__(name=f"femtomp-{options.name}-files", daemon=True)
        self._options = options
        self._wake = threading.Event()
        self._stopped = False

    def run(self) -> None:
        """Tidy now, after each rotation, and from time to time."""
        # Of this thread alone, setpriority(2) on Linux.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._stopped:
            self._wake.clear()
            wait_s = tidy(self._options, lambda: self._stopped)
            self._wake.wait(wait_s)

    def wake(self) -> None:
        """Say that a file was rotated."""
        self._wake.set()

    def make_room(self) -> None:
        """Delete what this thread had no time for: a further file is about to come."""
        delete_surplus(self._options)

    def close(self) -> None:
        """Stop, in the middle of a file if need be: the next start does it again."""
        self._stopped = True
        self._wake.set()
        if self.is_alive():
            self.join(_CLOSE_S)
        delete_surplus(self._options)


def tidy(options: FileSink, is_stopped: Callable[[], bool]) -> float:
    """Do what is to be done now; return after how many seconds there may be more.

    What fails is said, and keeps nothing else from being done. Old files are deleted
    before each compression: the next ones come while it goes on.
    """
    path = os.path.realpath(options.path)
    wait_s = LOOK_S
    seen: set[str] = set()
    try:
        while not is_stopped():
            found = rotated.find(path)
            for stamp in _old(path, found, options):
                endings = found.pop(stamp)
                if stamp not in seen:
                    seen.add(stamp)
                    wait_s = min(wait_s, _delete(f"{path}.{stamp}", endings))
            stamp = min(found.keys() - seen, default="")
            if not stamp:
                break
            seen.add(stamp)
            name = f"{path}.{stamp}"
            wait_s = min(wait_s, _finish(name, found[stamp], options, is_stopped))
    except OSError as exc:
        return _failed(path, exc)
    return wait_s


def delete_surplus(options: FileSink) -> None:
    """Delete what is beyond `keep_files`.

    It says nothing of what fails: the next `tidy` meets it, too.
    """
    if options.keep_files is None:
        return
    path = os.path.realpath(options.path)
    try:
        found = rotated.find(path)
        for stamp in sorted(found)[: -options.keep_files]:
            for ending in found[stamp]:
                _unlink(f"{path}.{stamp}{ending}")
    except OSError:
        pass


def _delete(name: str, endings: set[str]) -> float:
    # Nobody writes to it: it was renamed with its lock held.
    try:
        for ending in endings:
            _unlink(name + ending)
    except OSError as exc:
        return _failed(name, exc)
    return LOOK_S


def _finish(
    name: str, endings: set[str], options: FileSink, is_stopped: Callable[[], bool]
) -> float:
    """Bring a file into the form that it is to be kept in."""
    try:
        if PLAIN in endings and (options.compress or PACKED in endings):
            return LOOK_S if compress(name, is_stopped) else BUSY_S
        if PART in endings:  # nobody wants it any more
            _unlink(name + PART)
    except OSError as exc:
        return _failed(name, exc)
    return LOOK_S


def _failed(name: str, problem: OSError) -> float:
    _log.warning("%s is left as it is: %s", name, problem.strerror)
    return FAILED_S


def _old(path: str, found: dict[str, set[str]], options: FileSink) -> list[str]:
    """Return the stamps of the files that are not to be kept."""
    old = set()
    if options.keep_files is not None:
        old.update(sorted(found)[: -options.keep_files])
    if options.keep_days is not None:
        before = time.time() - options.keep_days * _DAY_S
        for stamp, endings in found.items():
            if all(_changed(f"{path}.{stamp}{e}") < before for e in endings):
                old.add(stamp)
    return sorted(old)


def compress(path: str, is_stopped: Callable[[], bool]) -> bool:
    """Replace a rotated file by a compressed one; False if it must wait.

    The file is locked meanwhile: another supervisor may want to do the same.

    Raises
    ------
    OSError
        If it cannot be done. The file is as it was.
    """
    try:
        source = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return True  # somebody else was faster
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            return True  # nothing of ours
        if not _lock(source):
            return False
        if _is_there(path, status):
            _replace(path, source, status, is_stopped)
    finally:
        os.close(source)
    return True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _is_there(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except FileNotFoundError:
        return False


def _replace(
    path: str, source: int, status: os.stat_result, is_stopped: Callable[[], bool]
) -> None:
    packed, part = path + PACKED, path + PART
    if os.path.lexists(packed):
        # A crash came between the two names, or somebody compresses it by hand.
        if _is_copy(source, packed):
            _unlink(path)
            return
        _log.warning("%s is not what %s holds: both are left alone", packed, path)
        return
    _unlink(part)
    copy = os.open(
        part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        is_whole = _pack(source, copy, is_stopped)
        if is_whole:
            _make_alike(copy, status)
            os.fsync(copy)
    except BaseException:
        _unlink(part)
        raise
    finally:
        os.close(copy)
    # Deleted meanwhile, where files come faster than they are compressed.
    if not is_whole or not _is_there(path, status):
        _unlink(part)
        return
    os.rename(part, packed)
    sync_directory(os.path.dirname(path))
    _unlink(path)


def _pack(source: int, copy: int, is_stopped: Callable[[], bool]) -> bool:
    """Compress one open file into another; False if told to stop before the end."""
    packer = zlib.compressobj(wbits=_GZIP_WBITS)
    while data := os.read(source, _STEP_BYTES):
        if is_stopped():
            return False
        _write_all(copy, packer.compress(data))
    _write_all(copy, packer.flush())
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _make_alike(copy: int, status: os.stat_result) -> None:
    """Give the copy the owner, mode and time of the original."""
    try:
        os.fchown(copy, status.st_uid, status.st_gid)
    except PermissionError:
        pass  # a file that was another user's is ours now
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _is_copy(source: int, packed: str) -> bool:
    """Tell whether a compressed file says that it holds just what this one does."""
    try:
        descriptor = os.open(
            packed, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if size < _LEAST_GZIP_BYTES:
            return False
        trailer = os.pread(descriptor, _TRAILER.size, size - _TRAILER.size)
    finally:
        os.close(descriptor)
    crc = count = 0
    while data := os.read(source, _STEP_BYTES):
        crc = zlib.crc32(data, crc)
        count += len(data)
    return trailer == _TRAILER.pack(crc, count & 0xFFFFFFFF)


def _changed(path: str) -> float:
    """Return when a file was last written to; never, if it is gone."""
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody else was faster
