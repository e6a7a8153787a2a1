"""A small file with one slot a sink: what an engine leaves to the one after it.

In and out: each sink's bytes, as the last engine wrote them. Owner: the engine; each
slot is written by its sink's thread alone. The file lies beside `lanes/`, out of the
workers' reach::

    file   64 bytes: 8s magic | u32 version | 12s E | u32 crc         then the slots
    slot   16s sink | the sink's bytes | zeros | u32 crc in the last four bytes

A slot is one `pwrite` within a page, which SIGKILL cannot tear; one that is not whole
counts as never written.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from femtomp.lanes.cursor import MAX_SINKS, sink_key
from femtomp.lanes.segment import EPOCH_BYTES, FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = struct.Struct("<8sI12sI")
_HEADER_BYTES: Final = 64
_KEY_BYTES: Final = 16
_CRC_BYTES: Final = 4
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Slots:
    """The file, opened or made.

    Parameters
    ----------
    directory : int
        Descriptor of the spool's directory; not owned.
    name : str
        Of the file.
    magic : bytes
        Eight, for what is in it.
    slot_bytes : int
        A power of two of at most a page: no slot lies across two.
    sinks : tuple of str
        Of this server. Slots of others stay, for a server that has them again.

    Attributes
    ----------
    epoch : str
        24 hex digits, for life those of this file.
    found : dict of str to bytes
        What was written for sinks before, with the zeros behind it.

    Raises
    ------
    OSError
        If the file can be neither opened nor made.
    """

    def __init__(
        self,
        directory: int,
        name: str,
        magic: bytes,
        slot_bytes: int,
        sinks: tuple[str, ...],
    ) -> None:
        self._bytes: Final = slot_bytes
        self._descriptor = -1
        self._descriptor = os.open(name, _FLAGS, 0o600, dir_fd=directory)
        content = os.pread(self._descriptor, _HEADER_BYTES + MAX_SINKS * slot_bytes, 0)
        epoch = content[12:24]
        if content[:_HEADER_BYTES] != _header(magic, epoch):
            epoch = os.urandom(EPOCH_BYTES)
            content = _header(magic, epoch)
            # The slots' room now: a write must not fail because the disk filled up.
            os.pwrite(self._descriptor, content + bytes(slot_bytes * len(sinks)), 0)
        self.epoch: Final = epoch.hex()
        known = {key: (index, body) for index, key, body in self._whole(content)}
        free = max((index for index, _ in known.values()), default=-1) + 1
        self._index: dict[str, int] = {}
        self.found: Final[dict[str, bytes]] = {}
        for sink in sinks:
            index, body = known.get(sink_key(sink), (free, b""))
            free += index == free
            self._index[sink] = index
            if body:
                self.found[sink] = body

    def _whole(self, content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (index, sink key, bytes) of the whole slots."""
        for index in range((len(content) - _HEADER_BYTES) // self._bytes):
            at = _HEADER_BYTES + index * self._bytes
            slot = content[at : at + self._bytes]
            body, crc = slot[:-_CRC_BYTES], slot[-_CRC_BYTES:]
            if crc32(body) == int.from_bytes(crc, "little"):
                yield index, body[:_KEY_BYTES], body[_KEY_BYTES:]

    def write(self, sink: str, body: bytes) -> None:
        """Write a sink's bytes: one system call; after it they survive SIGKILL.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        slot = (sink_key(sink) + body).ljust(self._bytes - _CRC_BYTES, b"\0")
        slot += crc32(slot).to_bytes(_CRC_BYTES, "little")
        at = _HEADER_BYTES + self._index[sink] * self._bytes
        os.pwrite(self._descriptor, slot, at)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _header(magic: bytes, epoch: bytes) -> bytes:
    fields = (magic, FORMAT_VERSION, epoch)
    crc = crc32(_HEADER.pack(*fields, 0))
    return _HEADER.pack(*fields, crc).ljust(_HEADER_BYTES, b"\0")
