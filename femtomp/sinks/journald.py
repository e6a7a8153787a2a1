"""Driver of systemd-journald: one datagram a record, to its native socket.

In: the socket's path. The driver owns a non-blocking datagram socket. There is no
acknowledgement: delivered means that the kernel has queued the datagram. The queue is
short (11 datagrams where net.unix.max_dgram_qlen is 10), so the driver polls for room
before it reports that journald is slow. What is too large for a datagram travels as a
sealed memfd, whose descriptor is passed in an empty one.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ and unix(7)
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from typing import TYPE_CHECKING, Final

from femtomp.codec.journald import datagram
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, RetryAfter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.config import JournaldSink
    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome

# Asked for; the kernel grants net.core.wmem_max. With it a 1 MB record needs no memfd.
SEND_BUFFER_BYTES: Final = 8 * 1024 * 1024
# How long a full queue may hold the sink's thread; journald empties it in under a ms.
POLL_TIMEOUT_S: Final = 0.1
SLOW_DELAY_S: Final = 0.02
# journald restarts in well under a second.
GONE_DELAY_S: Final = 0.25
DEFAULT_IDENTIFIER: Final = "python"

_GONE: Final = frozenset(
    {
        errno.ECONNREFUSED,  # nobody has it bound
        errno.ECONNRESET,
        errno.ENOTCONN,  # the kernel forgot a peer that was refused
        errno.EDESTADDRREQ,
        errno.ENOENT,
        errno.EPIPE,
    }
)
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_ALL_SEALS: Final = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)


def open_driver(options: JournaldSink) -> Driver:
    """Open a socket to journald.

    A socket that exists but has no listener is accepted: journald may be restarting.

    Raises
    ------
    ConfigError
        If there is no such socket or it may not be written: names path and error.
    """
    driver = _Journald(options.path)
    try:
        driver.connect()
    except OSError as exc:
        if exc.errno in {errno.ECONNREFUSED, errno.EAGAIN}:
            return driver
        driver.close()
        name = errno.errorcode.get(exc.errno or 0, "?")
        msg = (
            f"JournaldSink: cannot reach {options.path}: {name} "
            f"({exc.strerror or exc}); is systemd-journald running here?"
        )
        raise ConfigError(msg) from exc
    return driver


class _Journald:
    def __init__(self, path: str) -> None:
        self._path = path
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def connect(self) -> None:
        self._socket.connect(self._path)

    def write(self, batch: Sequence[Record]) -> Outcome:
        for accepted, record in enumerate(batch):
            identifier = record.resource.get("service.name") or DEFAULT_IDENTIFIER
            try:
                self._deliver(datagram(record, str(identifier)))
            except BlockingIOError:
                reason = "journald is slow: its queue is full"
                return RetryAfter(SLOW_DELAY_S, reason, accepted)
            except OSError as exc:
                reason = f"{self._path}: {exc.strerror or exc}"
                return RetryAfter(GONE_DELAY_S, reason, accepted)
        return Delivered()

    def _deliver(self, data: bytes) -> None:
        try:
            self._send(data)
        except BlockingIOError:
            # A connected socket polls writable when the receiver's queue has room.
            if not self._poll.poll(POLL_TIMEOUT_S * 1000):
                raise
            self._send(data)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            self.connect()
            self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as exc:
            if exc.errno not in _TOO_LARGE:
                raise
            self._send_memfd(data)

    def _send_memfd(self, data: bytes) -> None:
        fd = os.memfd_create("femtomp-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            # journald maps the file: from others than root it takes sealed ones only.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
            # journald wants an empty datagram beside the descriptor.
            socket.send_fds(self._socket, [], [fd])
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the socket; what the kernel has queued is journald's."""
        self._socket.close()
