"""Quarantine: the bytes of records that killed the engine, kept for a human.

In: a frame's bytes and the record's uid. Out: `quarantine/UID.frame` in the spool,
0600, whole or not there. It goes with the spool: a server that drained removes it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool

# Enough to find a fault by; a bug that everything meets must not fill the disk.
MAX_FILES: Final = 256
MAX_BYTES: Final = 16 * 1024 * 1024
_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def keep(spool: Spool, uid: str, frame: bytes) -> str:
    """Keep a frame's bytes; return where they are, or why they are not.

    The same record of another sink, or of an engine that died over this, is kept once.
    """
    try:
        try:
            os.mkdir("quarantine", 0o700, dir_fd=spool.descriptor)
        except FileExistsError:
            pass
        directory = os.open("quarantine", _DIRECTORY, dir_fd=spool.descriptor)
        try:
            return _keep_in(directory, uid, frame, f"{spool.path}/quarantine")
        finally:
            os.close(directory)
    except OSError as exc:
        return f"its bytes cannot be kept: {exc.strerror}"


def _keep_in(directory: int, uid: str, frame: bytes, path: str) -> str:
    name = f"{uid}.frame"
    kept = [n for n in os.listdir(directory) if n.endswith(".frame")]
    if name not in kept:
        size = sum(os.stat(n, dir_fd=directory).st_size for n in kept)
        if len(kept) >= MAX_FILES or size + len(frame) > MAX_BYTES:
            return f"its bytes are not kept: {path} is full"
        descriptor = os.open(f".{name}", _NEW, 0o600, dir_fd=directory)
        with open(descriptor, "wb") as file:
            file.write(frame)
        os.rename(f".{name}", name, src_dir_fd=directory, dst_dir_fd=directory)
    return f"its bytes are in {path}/{name}"
