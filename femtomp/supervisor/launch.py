"""Launching a supervisor: a real Python, detached, told everything over its stdin.

In: configuration and spool. Out: the guardian's pidfd, once the engine said it is
ready. Nothing secret is in its arguments, its environment or the spool.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from femtomp import errors
from femtomp.lanes.segment import high
from femtomp.lanes.spool import GUARDIAN
from femtomp.supervisor.guardian import Launch

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool
    from femtomp.options import ServerConfig

START_TIMEOUT_S: Final = 10.0
_MAX_MESSAGE_BYTES: Final = 65536
# May hold headers and credentials: told over stdin, so that the supervisor's
# environment, which `ps e` shows to its user, has none.
OTLP_VARIABLES: Final = "OTEL_EXPORTER_OTLP_"
_TOLD: Final = (OTLP_VARIABLES, "FEMTOMP_")
_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parent.parent.parent)


class Supervisor(NamedTuple):
    """A running guardian, as its master knows it."""

    pid: int
    pidfd: int
    lifetime: int
    """Write end of the pipe that says that members are left; held open, never used."""


def launch(
    config: ServerConfig, spool: Spool, timeout: float = START_TIMEOUT_S
) -> Supervisor:
    """Start guardian and engine and wait until every sink is built.

    Raises
    ------
    FemtompError
        The sink's own error, or `StartError` with what the processes said.
    """
    ready_read, ready_write = os.pipe()
    lifetime_read, lifetime_write = os.pipe()
    streams = [_duplicate(2), _duplicate(1)]
    passed = (ready_write, lifetime_read, *streams)
    try:
        environ = {k: v for k, v in os.environ.items() if k.startswith(OTLP_VARIABLES)}
        told = Launch(config, spool.path, tuple(sys.path), environ, *passed)
        # Until it has read its configuration it has no other way to be heard.
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        process = _spawn(told, passed, said)
        for descriptor in passed:
            os.close(descriptor)
        passed = ()
        try:
            message = _await(ready_read, timeout, said)
        except BaseException:
            _end(spool)
            raise
        finally:
            said.close()
            # It forks and exits at once; a pool that reaps everything may be faster.
            process.wait()
    except BaseException:
        for descriptor in (*passed, lifetime_write):
            os.close(descriptor)
        raise
    finally:
        os.close(ready_read)
    if message:
        os.close(lifetime_write)
        raise _as_error(message)
    pid = spool.control()[GUARDIAN]
    return Supervisor(pid, high(os.pidfd_open(pid)), high(lifetime_write))


def _duplicate(descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)  # a daemon without standard streams


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
    told: Launch, passed: tuple[int, ...], said: IO[bytes]
) -> subprocess.Popen[bytes]:
    code = (
        f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); "
        "from femtomp.supervisor.guardian import main; main()"
    )
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONWARNINGS", "PYTHONINSPECT") and not k.startswith(_TOLD)
    }
    process = subprocess.Popen(
        [interpreter(), "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        close_fds=True,
        pass_fds=passed,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - for the type checker
    try:
        with process.stdin:
            process.stdin.write(pickle.dumps(told))
    except BrokenPipeError:
        pass  # it died: the missing message says so
    return process


def _await(ready: int, timeout: float, said: IO[bytes]) -> dict[str, str]:
    """Read the engine's message: empty when all is well."""
    deadline = time.monotonic() + timeout
    received = b""
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([ready], [], [], left)[0]:
            msg = f"the supervisor was not ready within {timeout:g} s{_quoted(said)}"
            raise errors.StartError(msg)
        data = os.read(ready, _MAX_MESSAGE_BYTES)
        if not data:
            msg = f"the supervisor ended before it was ready{_quoted(said)}"
            raise errors.StartError(msg)
        received += data
    return dict(json.loads(received))


def _quoted(said: IO[bytes]) -> str:
    said.seek(0)
    text = said.read(_MAX_MESSAGE_BYTES).decode(errors="replace").strip()
    return f"; it said:\n{text}" if text else ""


def _as_error(message: dict[str, str]) -> errors.FemtompError:
    kind = getattr(errors, message["error"], errors.StartError)
    return kind(message["text"])


def _end(spool: Spool) -> None:
    """Leave no process behind after a start that failed half-way."""
    pid = spool.control()[GUARDIAN]
    if not pid:
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has ended by itself
