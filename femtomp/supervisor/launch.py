"""Launching a supervisor: a real Python, detached, told everything over its stdin.

In: configuration and spool. Out: the guardian's pidfd, once the engine said it is
ready. What a server's pairs have in common, one after the other, is kept by its
`Launcher`: configuration, environment, the master's streams and the pipe that says that
members are left. Nothing secret is in arguments, environment or the spool.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import posix
import signal
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp import errors, frozen
from femtomp.lanes.segment import close_known, high, is_known, known_as
from femtomp.lanes.spool import GUARDIAN
from femtomp.native import pidfd_open, unpatched
from femtomp.supervisor import spawn
from femtomp.supervisor.guardian import Launch
from femtomp.supervisor.reaping import reap_group

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool
    from femtomp.options import ServerConfig

START_TIMEOUT_S: Final = 10.0
_MAX_MESSAGE_BYTES: Final = 65536
# What a start needs at once, and what else is opened meanwhile.
_SPARE_DESCRIPTORS: Final = 16
# May hold headers and credentials: told over stdin, so that the supervisor's
# environment, which `ps e` shows to its user, has none.
OTLP_VARIABLES: Final = "OTEL_EXPORTER_OTLP_"
_TOLD: Final = (OTLP_VARIABLES, "FEMTOMP_")
_LEFT_OUT: Final = ("PYTHONWARNINGS", "PYTHONINSPECT")
# eventlet takes `poll` out of the module that everybody has.
_SELECT: Final = unpatched("select")


class EndedError(errors.StartError):
    """The supervisor was ready, and had ended before it was looked at."""


class Supervisor(NamedTuple):
    """A running guardian, as its master knows it."""

    pid: int
    pidfd: int


class Launcher:
    """All that is needed to start a server's guardian and engine, and to do it again.

    Parameters
    ----------
    config : ServerConfig
    spool : Spool
    further : tuple of str
        Paths of other spools that servers of this name left.
    """

    def __init__(
        self, config: ServerConfig, spool: Spool, further: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self._spool = spool
        self._further = further
        self.look_around()
        opened: list[int] = []
        try:
            # Both ends: master and forks hold the write end and never use it; the read
            # end is each engine's, and must outlive it to be given to the next.
            _pipe(opened)
            opened.extend(_duplicate(number, spool.descriptor) for number in (2, 1))
        except BaseException:
            _close_all(opened)
            raise
        known = [known_as(each) for each in opened]
        self._lifetime, self._streams = known[:2], known[2:]

    def look_around(self) -> None:
        """Note this process's environment and module path, for all starts to come."""
        # As they are now: by the next start the master may be a log call in the middle
        # of another thread's change.
        environ = dict(os.environ)
        self._told = {k: v for k, v in environ.items() if k.startswith(OTLP_VARIABLES)}
        self._environ = {
            k: v
            for k, v in environ.items()
            if k not in _LEFT_OUT and not k.startswith(_TOLD)
        }
        self._sys_path = tuple(sys.path)

    def successor(self, config: ServerConfig) -> Launcher:
        """Return a launcher of another configuration that shares what this one keeps.

        The members' pipe above all: forks of before are known by their end of it. Who
        closes one of the two has closed both. The environment is as it is now.
        """
        other = copy.copy(self)
        other.config = config
        other.look_around()
        return other

    def begin(self) -> Starting:
        """Start guardian and engine, and do not wait for them.

        Raises
        ------
        StartError
            If no process can be started.
        """
        frozen.refuse_second_generation()
        try:
            return self._begin()
        except OSError as exc:
            if isinstance(exc, errors.FemtompError) or errors.is_thrown_in(exc):
                raise
            raise errors.StartError.because_of(exc) from exc

    def _begin(self) -> Starting:
        opened: list[int] = []
        try:
            ready, ready_write = _pipe(opened)
            said = spawn.nameless_file(self._spool.descriptor)
            opened.append(said)
            passed = (ready_write, *self._inherited())
            told = self._told_to(len(passed))
            reading, writing = spawn.tell(told)
            opened += [end for end in (reading, writing) if end >= 0]
            pid = spawn.spawn(reading, said, passed, self._environ, self._spool)
            if writing >= 0:
                # Nobody else is to read it: its end would not be noticed.
                opened.remove(reading)
                os.close(reading)
                _write_all(writing, told)
        except BaseException:
            _close_all(opened)
            raise
        opened.remove(ready)
        opened.remove(said)
        _close_all(opened)
        return Starting(self._spool, pid, ready, said)

    def _told_to(self, passed: int) -> bytes:
        """Return what the guardian reads: its descriptors are those of its own."""
        places = range(spawn.FIRST_SLOT, spawn.FIRST_SLOT + passed)
        ready, lifetime, stderr, stdout = places
        launch = Launch(
            self.config, self._spool.path, self._told,
            ready, lifetime, stderr, stdout, self._further,
        )  # fmt: skip
        return spawn.preamble(self._sys_path) + pickle.dumps(launch)

    def _inherited(self) -> tuple[int, int, int]:
        """Return the read end and the streams, or others where user code closed them.

        A daemoniser closes every descriptor, and its successors get their numbers.
        """
        if not all(map(is_known, self._lifetime)):
            for end in self._lifetime:
                close_known(end)
            # In place: a successor has the same list.
            self._lifetime[:] = [known_as(end) for end in _pipe([])]
        for index, stream in enumerate(self._streams):
            if not is_known(stream):
                null = spawn.null(self._spool.descriptor)
                self._streams[index] = known_as(null)
        return (self._lifetime[0][0], self._streams[0][0], self._streams[1][0])

    def close(self) -> None:
        """Let go of it all: for the supervisor, this process is no member any more."""
        for known in (*self._lifetime, *self._streams):
            close_known(known)


class Starting:
    """Guardian and engine on their way: what is known of them until they are ready."""

    def __init__(self, spool: Spool, pid: int, ready: int, said: int) -> None:
        self._spool = spool
        self._pid = pid
        self._ready = ready
        # Until it has read its configuration it has no other way to be heard.
        self._said = said

    def wait(self, timeout: float) -> bool:
        """Wait for a while; True when `finish` knows more."""
        return is_readable(self._ready, timeout)

    def finish(self) -> Supervisor:
        """Return the supervisor that is ready. After `wait` it does not wait.

        Raises
        ------
        FemtompError
            The sink's own error, or `StartError` with what the processes said.
        """
        try:
            message = self._message()
            if message:
                raise _as_error(message)
            # It has no more to say, and its place may be the last free one.
            os.close(self._said)
            self._said = -1
            pid = self._spool.control()[GUARDIAN]
            # Its own session, and no other's guardian: of a pid that is used again.
            if not pid or os.getsid(pid) != self._pid:
                raise ProcessLookupError  # noqa: TRY301 - as getsid does
            return Supervisor(pid, high(pidfd_open(pid)))
        except ProcessLookupError as exc:
            msg = "the supervisor ended as soon as it was ready"
            raise EndedError(msg) from exc
        except errors.FemtompError:
            self.close()
            reap_group(self._pid)
            raise
        except OSError as exc:
            if errors.is_thrown_in(exc):
                raise
            self.end(signal.SIGKILL)  # what cannot be watched is not kept
            raise errors.StartError.because_of(exc) from exc
        finally:
            self.close()

    def _message(self) -> dict[str, str]:
        """Read the engine's message: empty when all is well."""
        received = b""
        while not received.endswith(b"\n"):
            data = posix.read(self._ready, _MAX_MESSAGE_BYTES)
            if not data:
                msg = f"the supervisor ended before it was ready{self.quoted()}"
                raise errors.StartError(msg)
            received += data
        return dict(json.loads(received))

    def quoted(self) -> str:
        """Return what the processes said on stderr, for the end of a message."""
        text = os.pread(self._said, _MAX_MESSAGE_BYTES, 0).decode(errors="replace")
        return f"; it said:\n{text.strip()}" if text.strip() else ""

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have those end that were started here, and nobody else."""
        try:
            # A session, so a group, of their own; no pid that the control page names.
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # they have ended by themselves
        self.close()
        reap_group(self._pid)

    def close(self) -> None:
        """Close the descriptors and reap the process that has forked the guardian."""
        if self._ready < 0:
            return
        os.close(self._ready)
        if self._said >= 0:
            os.close(self._said)
        self._ready = self._said = -1
        try:
            # It forks and exits at once; a pool that reaps everything may be faster.
            posix.waitpid(self._pid, 0)
        except ChildProcessError:
            pass


def launch(launcher: Launcher, timeout: float = START_TIMEOUT_S) -> Supervisor:
    """Start guardian and engine and wait until every sink is built.

    Raises
    ------
    FemtompError
        The sink's own error, or `StartError` with what the processes said.
    """
    starting = launcher.begin()
    try:
        if not starting.wait(timeout):
            said = starting.quoted()
            msg = f"the supervisor was not ready within {timeout:g} s{said}"
            raise errors.StartError(msg)  # noqa: TRY301 - ended as for any other
    except BaseException:
        # Nothing was delivered, and a sink that is being built hears no other signal.
        starting.end(signal.SIGKILL)
        raise
    return starting.finish()


def is_readable(descriptor: int, timeout: float | None) -> bool:
    """Wait until something can be read, or read to its end; `None` waits for ever.

    A pidfd is readable when its process has ended, whoever reaps it, and whenever.
    Not by `select`, which knows no descriptor above 1023.
    """
    poll = _SELECT.poll()
    poll.register(descriptor, _SELECT.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout * 1000)))


def _duplicate(descriptor: int, directory: int) -> int:
    try:
        return high(os.dup(descriptor))
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        return spawn.null(directory)  # a daemon without standard streams


def _pipe(opened: list[int]) -> tuple[int, int]:
    """Make a pipe above the standard streams, noted as opened."""
    reading, writing = os.pipe()
    opened += (reading, writing)
    opened[-2] = reading = high(reading)
    opened[-1] = writing = high(writing)
    return reading, writing


def _close_all(opened: list[int]) -> None:
    while opened:
        os.close(opened.pop())


def _write_all(descriptor: int, content: bytes) -> None:
    try:
        while content:
            content = content[posix.write(descriptor, content) :]
    except BrokenPipeError:
        pass  # it died: the missing message says so


def reserve() -> None:
    """Look whether there are descriptors enough to start a supervisor.

    For who ends one before it starts another.

    Raises
    ------
    StartError
    """
    opened: list[int] = []
    try:
        opened.extend(os.open("/", os.O_PATH) for _ in range(_SPARE_DESCRIPTORS))
    except OSError as exc:
        raise errors.StartError.because_of(exc) from exc
    finally:
        _close_all(opened)


def _as_error(message: dict[str, str]) -> errors.FemtompError:
    kind = getattr(errors, message["error"], errors.StartError)
    return kind(message["text"])
