"""Launching a supervisor: a real Python, detached, told everything over its stdin.

In: configuration and spool. Out: the guardian's pidfd, once the engine said it is
ready. What a server's pairs have in common, one after the other, is kept by its
`Launcher`: configuration, environment, the master's streams and the pipe that says that
members are left. Nothing secret is in arguments, environment or the spool.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp import errors
from femtomp.lanes.segment import close_known, high, is_known, known_as
from femtomp.lanes.spool import GUARDIAN
from femtomp.supervisor.guardian import Launch
from femtomp.supervisor.reaping import reap_group

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool
    from femtomp.options import ServerConfig

START_TIMEOUT_S: Final = 10.0
_MAX_MESSAGE_BYTES: Final = 65536
# What a pipe takes without anybody reading: a log call must not wait for an interpreter
# to start.
_PIPE_BYTES: Final = 65536
# The most that an ordinary user may ask for, pipe(7).
_MAX_PIPE_BYTES: Final = 1024 * 1024
# May hold headers and credentials: told over stdin, so that the supervisor's
# environment, which `ps e` shows to its user, has none.
OTLP_VARIABLES: Final = "OTEL_EXPORTER_OTLP_"
_TOLD: Final = (OTLP_VARIABLES, "FEMTOMP_")
_LEFT_OUT: Final = ("PYTHONWARNINGS", "PYTHONINSPECT")
_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parent.parent.parent)


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
        self._streams = [known_as(_duplicate(number)) for number in (2, 1)]
        # Both ends: master and forks hold the write end and never use it; the read end
        # is each engine's, and must outlive it to be given to the next.
        self._lifetime = [known_as(high(end)) for end in os.pipe()]

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
        OSError
            If no process can be started.
        """
        ready_read, ready_write = os.pipe()
        said = -1
        try:
            said = _nameless_file()
            passed = (ready_write, *self._inherited())
            told = Launch(
                self.config, self._spool.path, self._sys_path, self._told, *passed,
                self._further,
            )  # fmt: skip
            pid = _spawn(pickle.dumps(told), passed, said, self._environ)
        except BaseException:
            os.close(ready_read)
            if said >= 0:
                os.close(said)
            raise
        finally:
            os.close(ready_write)
        return Starting(self._spool, pid, high(ready_read), said)

    def _inherited(self) -> tuple[int, int, int]:
        """Return the read end and the streams, or others where user code closed them.

        A daemoniser closes every descriptor, and its successors get their numbers.
        """
        if not all(map(is_known, self._lifetime)):
            for end in self._lifetime:
                close_known(end)
            # In place: a successor has the same list.
            self._lifetime[:] = [known_as(high(end)) for end in os.pipe()]
        for index, stream in enumerate(self._streams):
            if not is_known(stream):
                null = high(os.open(os.devnull, os.O_WRONLY))
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
            pid = self._spool.control()[GUARDIAN]
            # Its own session, and no other's guardian: of a pid that is used again.
            if not pid or os.getsid(pid) != self._pid:
                raise ProcessLookupError  # noqa: TRY301 - as getsid does
            return Supervisor(pid, high(os.pidfd_open(pid)))
        except ProcessLookupError as exc:
            msg = "the supervisor ended as soon as it was ready"
            raise EndedError(msg) from exc
        except errors.FemtompError:
            self.close()
            reap_group(self._pid)
            raise
        finally:
            self.close()

    def _message(self) -> dict[str, str]:
        """Read the engine's message: empty when all is well."""
        received = b""
        while not received.endswith(b"\n"):
            data = os.read(self._ready, _MAX_MESSAGE_BYTES)
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
        os.close(self._said)
        self._ready = self._said = -1
        try:
            # It forks and exits at once; a pool that reaps everything may be faster.
            os.waitpid(self._pid, 0)
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
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout * 1000)))


def _duplicate(descriptor: int) -> int:
    try:
        return high(os.dup(descriptor))
    except OSError:
        # A daemon without standard streams.
        return high(os.open(os.devnull, os.O_WRONLY))


def _nameless_file() -> int:
    # A number and no object: one that a forked child inherits would warn at its end.
    with tempfile.TemporaryFile(buffering=0) as file:
        return high(os.dup(file.fileno()))


def interpreter() -> str:
    """Return a real Python: under uWSGI `sys.executable` is the server's binary."""
    name = Path(sys.executable or "").name
    if "python" in name or "pypy" in name:
        return sys.executable
    candidate = Path(sys.prefix, "bin", "python3")
    if candidate.exists():
        return str(candidate)
    return str(getattr(sys, "_base_executable", "") or "python3")


def _spawn(
    told: bytes, passed: tuple[int, ...], said: int, environ: dict[str, str]
) -> int:
    """Start a fresh interpreter that forks the guardian; return its pid."""
    code = (
        f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); "
        "from femtomp.supervisor.guardian import main; main()"
    )
    process = subprocess.Popen(
        [interpreter(), "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        close_fds=True,
        pass_fds=passed,
        env=environ,
        start_new_session=True,
        pipesize=min(len(told), _MAX_PIPE_BYTES) if len(told) > _PIPE_BYTES else -1,
    )
    # Reaped by its pid: this object would warn if it ended before the process, and in
    # every forked child that inherits it.
    process.returncode = 0
    assert process.stdin is not None  # noqa: S101 - for the type checker
    try:
        with process.stdin:
            process.stdin.write(told)
    except BrokenPipeError:
        pass  # it died: the missing message says so
    return process.pid


def _as_error(message: dict[str, str]) -> errors.FemtompError:
    kind = getattr(errors, message["error"], errors.StartError)
    return kind(message["text"])
