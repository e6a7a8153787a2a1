"""This process's way into one spool: its lane, opened when needed, and what else happens.

In: payloads. Out: frames in the lane; where there is none to be had, a line on stderr and
a count. One channel per spool and process. It opens the lane at the first record, again
in a forked child, again when the lane was lost, and at most every five seconds when it
cannot. What must never happen: an exception in a log call, or a silent loss.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from femtomp.codec import identity as identity_codec
from femtomp.errors import CodecError, SpoolError
from femtomp.lanes.spool import STATE, Spool, State
from femtomp.lanes.writer import LaneLostError, LaneWriter, owned
from femtomp.worker import context, fork
from femtomp.worker.identity import read_identity

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a spool that could not be used is left alone.
RETRY_S: Final = 5.0
# How often the lane's files are looked after: what is deleted meanwhile is lost.
CHECK_S: Final = 1.0


class Channel:
    """The lane of this process in one spool.

    Parameters
    ----------
    path : str
        The spool's directory.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.pid = os.getpid()
        self.dropped = 0
        self._spool: Spool | None = None
        self._lane: LaneWriter | None = None
        self._append: Callable[[bytes], bool] | None = None
        self._inherited: list[tuple[int, int, int]] = []
        self._opening = threading.RLock()
        self._retry_at = 0.0
        self._check_at = 0.0
        self._warned = False

    def send(self, payload: bytes) -> bool:
        """Append a payload to the lane; True when it is kept or counted in the lane.

        False: there is no lane, and the caller should say the record elsewhere.
        """
        if not fork.mark[0]:
            fork.catch_up()
        append = self._append
        if append is not None and time.monotonic() < self._check_at:
            try:
                append(payload)
            except LaneLostError:
                return self._send_anew(payload)
            return True
        return self._send_checked(payload)

    def _send_checked(self, payload: bytes) -> bool:
        self._check_at = time.monotonic() + CHECK_S
        lane = self._lane
        if lane is not None:
            try:
                lane.check()
                lane.append(payload)
            except LaneLostError:
                return self._send_anew(payload)
            return True
        return self._send_anew(payload)

    def _send_anew(self, payload: bytes) -> bool:
        lane = self._open_lane()
        if lane is not None:
            try:
                lane.append(payload)
            except LaneLostError:
                self._append = self._lane = None
            else:
                return True
        self.dropped += 1
        return False

    def _open_lane(self) -> LaneWriter | None:
        """Open a new lane, unless that failed a moment ago."""
        with self._opening:
            self._append = self._lane = None
            if time.monotonic() < self._retry_at:
                return None
            self._retry_at = time.monotonic() + RETRY_S
            try:
                self._close_inherited()
                spool = Spool(self.path)
                role = "master" if spool.manifest["master"]["pid"] == self.pid else "worker"
                who = identity_codec.to_bytes(read_identity(role))
                lane = LaneWriter(spool.lanes, who)
                # Asked last: a server that stopped before this has looked for lanes.
                if spool.control()[STATE] >= State.STOPPING:
                    self._warn("its server has stopped")
                    return None
            except (OSError, SpoolError, CodecError, KeyError, TypeError) as exc:
                self._warn(str(exc))
                return None
            self._spool, self._lane, self._append = spool, lane, lane.append
            self._retry_at = 0.0
            self._warned = False
            return lane

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            say(
                f"cannot log to {self.path} as uid {os.geteuid()}: {problem}; "
                f"records go to stderr until it can be used (tried every {RETRY_S:g} s)"
            )

    def _close_inherited(self) -> None:
        """Close the parent's descriptors, unless the user has put others there."""
        while self._inherited:
            descriptor, device, inode = self._inherited.pop()
            try:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == (device, inode):
                    os.close(descriptor)
            except OSError:
                pass  # closed already

    def forget(self) -> None:
        """Begin anew in a forked child: no lane, no lock, the parent's counts gone."""
        self.pid = os.getpid()
        self.dropped = 0
        if self._lane is not None and self._spool is not None:
            self._inherited = [*self._lane.descriptors(), *self._spool.descriptors()]
        self._spool = self._lane = self._append = None
        self._opening = threading.RLock()
        self._retry_at = self._check_at = 0.0
        self._warned = False


_channels: Final[dict[str, Channel]] = {}


def channel(path: str) -> Channel:
    """Return this process's channel into a spool; the same one each time."""
    found = _channels.get(path)
    if found is None:
        if not _channels:
            fork.on_fork(_reset_all)
        found = _channels.setdefault(path, Channel(path))
    return found


def _reset_all() -> None:
    owned.clear()
    context.reset_after_fork()
    for each in list(_channels.values()):
        each.forget()


def say(text: str) -> None:
    """Write one line to descriptor 2, past whatever `sys.stderr` was replaced by."""
    line = f"femtomp: {text}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, line)
    except OSError:
        pass  # nowhere left to say it


