"""The files of a lane: names, headers, and the words that writer and engine share.

In and out: bytes and numbers; the only I/O is `create`, which makes a file under a
temporary name and renames it when it is whole, so that no reader ever sees half of one,
and `open_regular`, which opens one that anybody may have put there.

::

    lanes/E.own      header 0..64, words 64..512, identity 512..4096     (4 KiB, fixed)
    lanes/E.N.seg    header 0..64, u64 commit at 64, frames from 128     (N = 0, 1, ...)
    lanes/E.side     the same, N = 0xffffffff: frames of re-entrant calls
    lanes/E.cur      see `cursor`; E.pull the same, for `Server.queue.get`

    .own header  8s magic | u32 version | 12s E | u32 length and u32 crc of the identity
    .seg header  8s magic | u32 version | 12s E | u32 N | u32 writer | u32 crc of these

E is 96 random bits, 24 hex digits in names. The `mmap` writer says in the commit word
where a segment ends; with the `write` writer that is the file's size. A segment is
closed when one with a higher number exists: its writer never comes back to it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from femtomp.errors import CodecError
from femtomp.lanes.thrown import thrown_in

if TYPE_CHECKING:
    from collections.abc import Callable, Container

FORMAT_VERSION: Final = 1
EPOCH_BYTES: Final = 12
PAGE_BYTES: Final = mmap.PAGESIZE
OWN_BYTES: Final = 4096
WORDS_AT: Final = 64
IDENTITY_AT: Final = 512
MAX_IDENTITY_BYTES: Final = OWN_BYTES - IDENTITY_AT
COMMIT_AT: Final = 64
FRAMES_AT: Final = 128
SIDE: Final = 0xFFFFFFFF
# A closed segment is the unit of freeing: small enough that a lagging sink pins little.
SEGMENT_BYTES: Final = 1024 * 1024
WRITER_WRITE: Final = 1
WRITER_MMAP: Final = 2

# Words of `.own`, as indices of u64 from offset 64; all the writer's but RETIRED, which
# the engine sets. STARTED and STARTED_SIDE: how many appends were begun, to the
# segments and to the side file; the latter with its own base is also the next sequence
# there. COMMITTED: how many are whole in the segments, and so the next sequence there;
# what interrupts an append behind its commit leaves it one short until the next. From
# LEFT_OUT on a word for each way to thin records out, before a lane ever has them.
# CLOSED: its process goes on in another lane. From DROPPED on one for each reason and
# level.
SIDE_SEQUENCE: Final = 1 << 63
STARTED: Final = 0
STARTED_SIDE: Final = 1
RETIRED: Final = 2
COMMITTED: Final = 3
LEFT_OUT: Final = 4
CLOSED: Final = 6
DROPPED: Final = 8
DROP_REASONS: Final = ("no_space", "io", "size", "encode", "quota")
LEFT_OUT_WAYS: Final = ("limited", "sampled")
DROP_LEVELS: Final = ("NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
WORDS: Final = (IDENTITY_AT - WORDS_AT) // 8

_OWN: Final = struct.Struct("<8sI12sII")
_SEG: Final = struct.Struct("<8sI12sIII")
_OWN_MAGIC: Final = b"FMTPOWN\0"
_SEG_MAGIC: Final = b"FMTPSEG\0"
_NAME: Final = re.compile(
    r"([0-9a-f]{24})\.(?:(own|side|cur|pull)|(0|[1-9][0-9]{0,8})\.seg)"
)

# What opening a symbolic link, a directory, a socket or a device may say.
_NOT_REGULAR: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
# More than any number of records: sums of what a lane says of itself do not overflow.
_MOST_COUNTED: Final = 1 << 40

# User code closes descriptors wholesale (daemonisers) and starts at the low ones.
_FIRST_DESCRIPTOR: Final = 512
# Of a process that has closed its standard streams: who writes to one of these numbers
# does not mean a file of ours.
_FIRST_AFTER_STREAMS: Final = 3


class LaneName(NamedTuple):
    """What a file name in `lanes/` says. `kind` is own, side, cur, pull or seg."""

    epoch: str
    kind: str
    number: int


def parse_name(name: str) -> LaneName | None:
    """Read a file name; None for anything that is not a lane's.

    Examples
    --------
    >>> parse_name("0123456789abcdef01234567.4.seg")
    LaneName(epoch='0123456789abcdef01234567', kind='seg', number=4)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    epoch, kind, number = match.groups()
    return LaneName(epoch, kind or "seg", int(number or 0))


def segment_name(epoch: str, number: int) -> str:
    """Return the file name of a segment, or of the side file for `SIDE`."""
    return f"{epoch}.side" if number == SIDE else f"{epoch}.{number}.seg"


def pack_segment_header(epoch: bytes, number: int, writer: int) -> bytes:
    """Return the first 128 bytes of a segment: header, commit word, zeros."""
    fields = (_SEG_MAGIC, FORMAT_VERSION, epoch, number, writer)
    crc = crc32(_SEG.pack(*fields, 0))
    commit = FRAMES_AT if writer == WRITER_MMAP else 0
    header = _SEG.pack(*fields, crc).ljust(COMMIT_AT, b"\0")
    return (header + commit.to_bytes(8, "little")).ljust(FRAMES_AT, b"\0")


def check_segment_header(header: bytes, epoch: bytes, number: int) -> int:
    """Check a segment's first bytes and return its writer.

    Raises
    ------
    CodecError
        If they are not the header of this segment of this lane.
    """
    if len(header) < _SEG.size:
        msg = f"segment header has {len(header)} bytes"
        raise CodecError(msg)
    magic, version, found_epoch, found, writer, crc = _SEG.unpack_from(header)
    if (magic, version) != (_SEG_MAGIC, FORMAT_VERSION):
        msg = f"segment of unknown format {magic!r} version {version}"
        raise CodecError(msg)
    expected = crc32(_SEG.pack(magic, version, found_epoch, found, writer, 0))
    if crc != expected or found_epoch != epoch or found != number:
        msg = "segment header is damaged, or of another segment"
        raise CodecError(msg)
    return int(writer)


def pack_own(epoch: bytes, identity: bytes) -> bytes:
    """Return the 4096 bytes of a new `.own` file.

    Raises
    ------
    CodecError
        If the identity does not fit.
    """
    if len(identity) > MAX_IDENTITY_BYTES:
        msg = f"identity has {len(identity)} bytes, at most {MAX_IDENTITY_BYTES} fit"
        raise CodecError(msg)
    header = _OWN.pack(
        _OWN_MAGIC, FORMAT_VERSION, epoch, len(identity), crc32(identity)
    )
    return (header.ljust(IDENTITY_AT, b"\0") + identity).ljust(OWN_BYTES, b"\0")


def unpack_own(content: bytes, epoch: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the identity's bytes and the words of an `.own` file.

    Raises
    ------
    CodecError
        If it is damaged, of another lane, or of a version not known.
    """
    if len(content) != OWN_BYTES:
        msg = f".own has {len(content)} bytes instead of {OWN_BYTES}"
        raise CodecError(msg)
    magic, version, found, length, crc = _OWN.unpack_from(content)
    if (magic, version) != (_OWN_MAGIC, FORMAT_VERSION):
        msg = f".own of unknown format {magic!r} version {version}"
        raise CodecError(msg)
    identity = content[IDENTITY_AT : IDENTITY_AT + min(length, MAX_IDENTITY_BYTES)]
    if found != epoch or crc32(identity) != crc:
        msg = ".own is damaged, or of another lane"
        raise CodecError(msg)
    words = struct.unpack_from(f"<{WORDS}Q", content, WORDS_AT)
    return identity, tuple(min(word, _MOST_COUNTED) for word in words)


def started(words: tuple[int, ...] | memoryview) -> int:
    """Return how many appends were begun in the lane whose words these are."""
    return int(words[STARTED] + words[STARTED_SIDE])


def level_class(levelno: int) -> int:
    """Return the index in DROP_LEVELS of the highest level that a number reaches."""
    return min(max(levelno, 0) // 10, len(DROP_LEVELS) - 1)


def drop_word(reason: str, levelno: int) -> int:
    """Return the index of the word that counts such drops."""
    return (
        DROPPED + DROP_REASONS.index(reason) * len(DROP_LEVELS) + level_class(levelno)
    )


def drops(words: tuple[int, ...] | memoryview) -> dict[str, int]:
    """Return how many records were dropped, by reason."""
    count = len(DROP_LEVELS)
    starts = range(DROPPED, DROPPED + count * len(DROP_REASONS), count)
    return {
        r: sum(words[at : at + count])
        for r, at in zip(DROP_REASONS, starts, strict=True)
    }


def left_out(words: tuple[int, ...] | memoryview) -> dict[str, int]:
    """Return how many records were left out on purpose, by the way that was done."""
    return {way: words[LEFT_OUT + at] for at, way in enumerate(LEFT_OUT_WAYS)}


def drops_by_level(words: tuple[int, ...] | memoryview) -> dict[str, int]:
    """Return how many records were dropped, by level, for whatever reason."""
    count = len(DROP_LEVELS)
    behind = DROPPED + count * len(DROP_REASONS)
    return {
        level: sum(words[DROPPED + at : behind : count])
        for at, level in enumerate(DROP_LEVELS)
    }


def high(descriptor: int) -> int:
    """Move a descriptor to 512 or above, close-on-exec, where the limit allows it.

    Where it does not, above the standard streams.
    """
    for first in (_FIRST_DESCRIPTOR, _FIRST_AFTER_STREAMS):
        if descriptor >= first:
            return descriptor
        try:
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, first)
        except OSError as exc:
            if thrown_in(exc):
                raise
            continue
        os.close(descriptor)
        return moved
    return descriptor


def known_as(descriptor: int) -> tuple[int, int, int]:
    """Return a descriptor with the device and inode that it stands for now."""
    status = os.fstat(descriptor)
    return descriptor, status.st_dev, status.st_ino


def is_known(known: tuple[int, int, int]) -> bool:
    """Tell whether a descriptor is still open, and of the same file."""
    try:
        status = os.fstat(known[0])
    except OSError as exc:
        if thrown_in(exc):
            raise
        return False
    return (status.st_dev, status.st_ino) == known[1:]


def close_known(known: tuple[int, int, int]) -> None:
    """Close a descriptor, unless something else has that number by now."""
    if is_known(known):
        os.close(known[0])


def create(
    directory: int,
    name: str,
    content: bytes,
    *,
    size: int = 0,
    lock: bool = False,
    before_rename: Callable[[int], object] = lambda _: None,
) -> int:
    """Make a file that is whole when its name appears; return its descriptor.

    Parameters
    ----------
    directory : int
        Descriptor of the directory.
    name : str
        The file's name there.
    content : bytes
        Its first bytes.
    size : int
        Space to allocate; none: the descriptor is in append mode.
    lock : bool
        Take a record lock on the whole file first, as `.own` needs; allocates too.
    before_rename : callable
        Called with the descriptor when everything else is done.

    Raises
    ------
    OSError
        If there is no room, no permission or no directory; nothing is left behind.
    """
    temporary = f".{name}.tmp"
    size = size or (len(content) if lock else 0)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    if not size:
        flags |= os.O_APPEND
    descriptor = high(os.open(temporary, flags, 0o600, dir_fd=directory))
    try:
        os.fchmod(descriptor, 0o600)  # a umask may leave its owner nothing
        if size:
            # Space first: a store to a page that a full tmpfs cannot give is SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
        if lock:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)  # noqa: TRY301
        before_rename(descriptor)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.close(descriptor)
        _unlink_quietly(directory, temporary)
        raise
    return descriptor


def open_regular(
    directory: int, name: str, flags: int = os.O_RDONLY, *, owners: Container[int]
) -> int:
    """Open a file of `lanes/`: never waits, follows no link, and looks before it reads.

    Raises
    ------
    CodecError
        If it is no regular file with one name, has a lease on it, or belongs to
        somebody else.
    OSError
        If it is not there or cannot be opened now.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = high(os.open(name, flags, 0o600, dir_fd=directory))
    except BlockingIOError as exc:
        # Only its owner, or root, can have put one there; it may never end.
        msg = f"{name} has a lease on it, or cannot be opened without waiting"
        raise CodecError(msg) from exc
    except OSError as exc:
        if exc.errno not in _NOT_REGULAR:
            raise
        msg = f"{name} is not a regular file with one name: delete it"
        raise CodecError(msg) from exc
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        if status.st_uid in owners:
            if flags & os.O_CREAT:
                permit_owner(descriptor, status)
            return descriptor
        msg = f"{name} belongs to uid {status.st_uid}: delete or chown it"
    else:
        msg = f"{name} is not a regular file with one name: delete it"
    os.close(descriptor)
    raise CodecError(msg)


def permit_owner(descriptor: int, status: os.stat_result) -> None:
    """Let a new file's owner read and write it: a umask may have left it nothing."""
    if ~status.st_mode & 0o600 and status.st_uid == os.geteuid():
        os.fchmod(descriptor, 0o600)


def discard(directory: int, name: str) -> None:
    """Have nothing of that name in a directory; what cannot be unlinked is put aside.

    Raises
    ------
    OSError
        If neither can be done.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError:
        # A directory, that a worker made: it goes with the spool.
        aside = f".{name}.{os.urandom(4).hex()}.refused"
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)


def _unlink_quietly(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError as exc:
        if thrown_in(exc):
            raise
