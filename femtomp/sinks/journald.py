"""Driver of systemd-journald: one datagram a record, to its native socket.

In: the sink's options. The driver owns a non-blocking datagram socket. There is no
acknowledgement: delivered means that the kernel has queued the datagram. The queue is
short (11 datagrams where net.unix.max_dgram_qlen is 10), so the driver polls for room
before it reports that journald is slow. What is too large for a datagram travels as a
sealed memfd, whose descriptor is passed in an empty one.

Why not by `sendmmsg`, nor by libsystemd: docs/adr/0014-journald-socket.md.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ and unix(7)
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.codec.journald import Encoder
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Paced, RetryAfter
from femtomp.sinks.journald_rate import PACE_DELAY_S, budget_of_unit
from femtomp.sinks.journald_senders import Senders
from femtomp.sinks.journald_suppressed import Suppressed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from femtomp.config import JournaldSink
    from femtomp.record import Record, Resource
    from femtomp.sinks import Driver, Outcome
    from femtomp.sinks.journald_rate import Budget
    from femtomp.sinks.journald_senders import Sender

# Asked for; the kernel grants net.core.wmem_max. With it a 1 MB record needs no memfd.
SEND_BUFFER_BYTES: Final = 8 * 1024 * 1024
# How long a full queue may hold the sink's thread; journald empties it in under a ms.
POLL_TIMEOUT_S: Final = 0.1
# Where the queue is long (systemd sets 512), a sender that waits for the next place is
# woken for every entry. So long it lets journald take many at once instead: a queue
# that took so many since it was full last.
REST_S: Final = 0.003
LONG_QUEUE: Final = 100
SLOW_DELAY_S: Final = 0.02
# A queue that stays full so long is no slow journald: it is stopped, or stuck.
STUCK_S: Final = 5.0
STUCK_DELAY_S: Final = 0.5
# journald restarts in well under a second; the first of these is not worth a word.
GONE_DELAYS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)

_log: Final = logging.getLogger(__name__)
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
# Of a process that has ended, or that the kernel does not let one speak for.
_NOT_THE_SENDER: Final = frozenset({errno.ESRCH, errno.EPERM})
# By a seccomp filter, or in a kernel without it.
_NO_MEMFD: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
_ALL_SEALS: Final = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)


def open_driver(
    options: JournaldSink, *, stderr_fd: int, environ: Mapping[str, str]
) -> Driver:
    """Open a socket to journald.

    A socket that exists but has no listener is accepted: journald may be restarting.
    Where there is none, the option `missing` decides, and a warning says so once.

    Parameters
    ----------
    options : JournaldSink
    stderr_fd : int
        The master's stderr, for `missing="stderr"`; it is not closed.
    environ : mapping of str to str
        Looked at for JOURNAL_STREAM.

    Raises
    ------
    ConfigError
        If there is no such socket or it may not be written: names path and error.
    """
    driver = _Journald(options)
    try:
        driver.connect()
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, "?")
        problem = f"cannot reach {options.path}: {name} ({exc.strerror or exc})"
        if exc.errno in {errno.ECONNREFUSED, errno.EAGAIN}:
            # The kernel says the same of what no socket is and never will be.
            if Path(options.path).is_socket():
                return driver
            problem = f"{problem}, it is no socket"
        if options.missing == "wait":
            _log.warning("JournaldSink: %s; records wait for it", problem)
            return driver
        driver.close()
        if options.missing == "stderr":
            from femtomp.sinks.journald_stderr import open_stderr

            _log.warning("JournaldSink: %s; records go to stderr instead", problem)
            return open_stderr(stderr_fd, environ)
        msg = (
            f"JournaldSink: {problem}; is systemd-journald running here? "
            'missing="wait" waits for it, missing="stderr" writes there instead'
        )
        raise ConfigError(msg) from exc
    return driver


class _Journald:
    def __init__(self, options: JournaldSink) -> None:
        self._path = options.path
        encoder = Encoder(
            options.identifier, options.prefix, options.nested, options.traceback
        )
        self._encode = encoder.datagram
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)
        self._senders = Senders(impersonate=options.sender == "worker")
        self._of_sender: Callable[[Resource, int], Sender | None] | None = None
        if self._senders.may_name:
            self._of_sender = self._senders.of
        self._budget: Budget | None = budget_of_unit(options.namespace)
        self._may_pace = options.rate_limit == "pace"
        self._suppressed: Suppressed | None = None
        if self._budget is not None:
            self._suppressed = Suppressed(self._budget.unit, options.namespace)
        self._failures = 0
        self._full_since: float | None = None
        self._since_full = 0

    def connect(self) -> None:
        self._socket.connect(self._path)

    def write(self, batch: Sequence[Record]) -> Outcome:
        self._senders.begin_batch()
        if self._suppressed and self._budget and self._budget.was_exceeded:
            self._suppressed.look()
        for accepted, record in enumerate(batch):
            if self._budget is not None and self._must_wait(record):
                return Paced(PACE_DELAY_S, "", accepted)
            try:
                self._deliver(record)
            except BlockingIOError:
                return self._slow(accepted)
            except _NoMemfdError as exc:
                return RetryAfter(0.0, "", accepted + 1, {str(exc): 1})
            except OSError as exc:
                return self._gone(exc, accepted)
            self._since_full += 1
            self._full_since = None
            if self._budget is not None:
                self._budget.spend(record.severity_number)
        self._failures = 0
        return Delivered()

    def _must_wait(self, record: Record) -> bool:
        budget = self._budget
        return (
            budget is not None
            and self._may_pace
            and budget.is_spent(record.severity_number)
        )

    def _slow(self, accepted: int) -> RetryAfter:
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        waited = now - self._full_since
        if waited < STUCK_S:
            return RetryAfter(
                SLOW_DELAY_S, "journald is slow: its queue is full", accepted
            )
        # Perhaps another has the path by now, and who had it will never read again.
        with suppress(OSError):
            self.connect()
        reason = f"journald has taken nothing for {waited:.0f} s: is it stopped?"
        return RetryAfter(STUCK_DELAY_S, reason, accepted)

    def _gone(self, exc: OSError, accepted: int) -> RetryAfter:
        if accepted:
            self._failures = 0
        delay_s = GONE_DELAYS_S[min(self._failures, len(GONE_DELAYS_S) - 1)]
        self._failures += 1
        return RetryAfter(delay_s, f"{self._path}: {exc.strerror or exc}", accepted)

    def _deliver(self, record: Record) -> None:
        data = self._encode(record)
        sender = None
        if self._of_sender is not None:
            sender = self._of_sender(record.resource, record.timestamp)
            if sender is not None and sender.field:
                data, sender = data + sender.field, None
        try:
            if sender is None:
                self._socket.send(data)
            else:
                self._socket.sendmsg((data,), sender.ancillary)
        except BlockingIOError:
            self._make_room()
            self._deliver_with_care(data, sender)
        except OSError:
            self._deliver_with_care(data, sender)

    def _deliver_with_care(self, data: bytes, sender: Sender | None) -> None:
        try:
            self._send(data, sender)
        except OSError as exc:
            if sender is not None and exc.errno in _NOT_THE_SENDER:
                self._senders.refused(sender, exc)
                self._deliver_with_care(data, None)
            elif exc.errno in _GONE:
                self.connect()
                self._send(data, sender)
            else:
                raise

    def _make_room(self) -> None:
        """Wait until the queue has room again, as long as that may take."""
        if self._since_full >= LONG_QUEUE:
            time.sleep(REST_S)
        self._since_full = 0
        self._await_room()

    def _await_room(self) -> None:
        # A connected socket polls writable when the receiver's queue has room.
        if not self._poll.poll(POLL_TIMEOUT_S * 1000):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _send(self, data: bytes, sender: Sender | None) -> None:
        try:
            if sender is None:
                self._socket.send(data)
            else:
                self._socket.sendmsg((data,), sender.ancillary)
        except OSError as exc:
            if exc.errno not in _TOO_LARGE:
                raise
            self._send_memfd(data, sender)

    def _send_memfd(self, data: bytes, sender: Sender | None) -> None:
        # Waited for first: for a full queue it would be written in vain, and again.
        self._await_room()
        fd = _sealed(data)
        try:
            rights = fd.to_bytes(4, sys.byteorder)
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            if sender is not None:
                beside += sender.ancillary
            # journald wants an empty datagram beside the descriptor.
            self._socket.sendmsg((), beside)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the socket; what the kernel has queued is journald's."""
        self._senders.close()
        if self._suppressed is not None:
            self._suppressed.close()
        self._socket.close()


class _NoMemfdError(Exception):
    """What is too large for a datagram cannot be sent here at all."""


def _sealed(data: bytes) -> int:
    """Return the descriptor of a file with the data, which nobody can change."""
    try:
        fd = os.memfd_create("femtomp-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as exc:
        if exc.errno not in _NO_MEMFD:
            raise
        msg = f"too large for a datagram, and no memfd is allowed: {exc.strerror}"
        raise _NoMemfdError(msg) from exc
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        # journald maps the file: from others than root it takes sealed ones only.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except OSError as exc:
        os.close(fd)
        if exc.errno != errno.EFBIG:
            raise
        msg = "larger than a file may be here (LimitFSIZE=, ulimit -f)"
        raise _NoMemfdError(msg) from exc
    return fd
