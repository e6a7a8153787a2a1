"""A lane's `.own`, seen from outside: whose it is, the lock and the words.

In: the directory and the lane's name. Out: identity, counts, and whether the owner is
gone. The descriptor is opened when it is first asked for. What must never happen:
`.own` opened by the process that owns it, whose lock any closing would drop.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes.lock import is_unlocked
from femtomp.lanes.writer import owned


class Owner:
    """Who writes a lane.

    Parameters
    ----------
    directory : int
        Descriptor of `lanes/`; not owned.
    epoch : str
        24 hex digits.
    hostile : bool
        Look through what is there even if the directory is this process's user's: who
        inherited a descriptor may have written it.
    """

    def __init__(self, directory: int, epoch: str, *, hostile: bool = False) -> None:
        self.epoch: Final = epoch
        self._bytes = bytes.fromhex(epoch)
        self.directory: Final = directory
        # `lanes/` belongs to the workers: what they wrote is looked through first where
        # they are not who reads it.
        workers = os.fstat(directory).st_uid
        self._owners: Final = (os.geteuid(), workers)
        self._hostile: Final = hostile or workers != os.geteuid()
        self.refused = ""
        """Why a file of the lane was left alone, if one was."""
        self._own: int | None = None

    def read_own(self) -> tuple[bytes, tuple[int, ...]]:
        """Return the owner's identity bytes and the words, even of one's own lane.

        Raises
        ------
        CodecError, OSError
            If the file is damaged or gone.
        """
        writer = owned.get(self.epoch)
        if writer is not None:
            return seg.unpack_own(writer.own_bytes(), self._bytes)
        return seg.unpack_own(os.pread(self.own, seg.OWN_BYTES, 0), self._bytes)

    @property
    def own(self) -> int:
        """Descriptor of `.own`. Never ask for it in the process that owns the lane."""
        if self._own is None:
            self._own = self._open(f"{self.epoch}.own", os.O_RDWR)
        return self._own

    def is_orphaned(self) -> bool:
        """Tell whether nobody holds the lane's lock: its owner died, or lost it."""
        return is_unlocked(self.own)

    def retire(self) -> None:
        """Tell the writer, which looks after each append, that nobody will read on."""
        os.pwrite(self.own, struct.pack("<Q", 1), seg.WORDS_AT + 8 * seg.RETIRED)

    def readmit(self) -> None:
        """Tell the writer, if it did not look yet, that somebody reads on after all."""
        os.pwrite(self.own, struct.pack("<Q", 0), seg.WORDS_AT + 8 * seg.RETIRED)

    def word(self, index: int) -> int:
        """Return a word of the owner's; 0 if it cannot be read."""
        try:
            return self.read_own()[1][index]
        except (OSError, CodecError):
            return 0

    def _open(self, name: str, flags: int = os.O_RDONLY) -> int:
        try:
            return seg.open_regular(self.directory, name, flags, owners=self._owners)
        except CodecError as exc:
            self.refused = str(exc)
            raise

    def close_own(self) -> None:
        """Close `.own`."""
        descriptor, self._own = self._own, None
        if descriptor is not None:
            os.close(descriptor)
