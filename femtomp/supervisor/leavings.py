"""What a worker leaves that is killed while it makes its lane: `.E.own.tmp`.

In: `lanes/`. Out: such files unlinked whose maker is dead. A lane has no `.own` yet
then, so nobody would ever reap it. Other files under a temporary name go with the lane
that they were made for.

What must never happen: the file of a living worker unlinked, who may be stopped at any
point between making it and locking it. So neither age nor lock is asked, but whether
anybody still has it open: a write lease, fcntl(2), is given only if nobody does.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
from typing import Final

from femtomp.errors import CodecError
from femtomp.lanes.scan import names
from femtomp.lanes.segment import EPOCH_BYTES, open_regular

_BEGUN: Final = re.compile(rf"\.[0-9a-f]{{{2 * EPOCH_BYTES}}}\.own\.tmp")


def sweep(directory: int) -> None:
    """Unlink the half-made `.own` files of `lanes/` that nobody has open.

    Where no lease can be had (another user's files without CAP_LEASE, a file system
    without leases) they stay until the spool goes.
    """
    owners = (os.geteuid(), os.fstat(directory).st_uid)
    for name in filter(_BEGUN.fullmatch, names(directory)):
        try:
            descriptor = open_regular(directory, name, owners=owners)
        except (OSError, CodecError):
            continue  # it has its real name by now, or is nothing of ours
        try:
            # Who opens it now would have the default signal, SIGIO, end this process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            os.unlink(name, dir_fd=directory)
        except OSError:
            continue  # its maker lives
        finally:
            os.close(descriptor)
