"""A gunicorn that serves the example, as a test starts, watches and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/gunicorn"

# The last of the signals for which a gunicorn worker, and no master, has a handler.
ABORT = signal.SIGABRT
WAIT_S = 20.0
# Below the limit at which pytest ends its own process.
WATCHDOG_S = 100.0


def until(condition, what: str, timeout: float = WAIT_S):
    """Return the first true value of a condition; fail after the deadline."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        pause.wait(0.01)
    return value


class Gunicorn:
    """A real gunicorn in a session of its own; a context manager.

    Its socket is bound here and handed over, so that requests wait until it is ready.
    A watchdog kills it, its workers and its supervisor if the test takes too long.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        sinks: str | None,
        app: str = "tests.examples.ledger:wrapped()",
        cwd: Path = EXAMPLE,
        path: str = "",
        handed: bool = True,
        **environ: str,
    ) -> None:
        self._cwd = cwd
        self._path = path
        self._handed = handed
        self._mark = f"POOL_MARK={uuid.uuid4()}"
        self._errors = directory / "stderr"
        self.ledgers = directory / "ledgers"
        self.spools = directory / "spools"
        self.ledgers.mkdir()
        self.spools.mkdir()
        self._arguments = [*arguments, app]
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FEMTOMP_")},
            # `path`: where another version of gunicorn than the installed one is.
            "PYTHONPATH": f"{path}:{ROOT}" if path else str(ROOT),
            "FEMTOMP_SPOOL_PARENT": str(self.spools),
            "LEDGER_DIRECTORY": str(self.ledgers),
            **dict([self._mark.split("=")]),
            **({} if sinks is None else {"FEMTOMP_SINKS": sinks}),
            **environ,
        }
        self._watchdog = threading.Timer(WATCHDOG_S, self._kill)

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            descriptor = listener.fileno()
            # A second master cannot be handed what the first one was.
            bind = f"127.0.0.1:{self.port}"
            if self._handed:
                bind = f"fd://{descriptor}"
            else:
                listener.close()
            gunicorn = [sys.executable, "-m", "gunicorn"]
            if not self._path:
                gunicorn.append("--no-control-socket")  # a thread in the master
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [*gunicorn, "--bind", bind, *self._arguments],
                    cwd=self._cwd,
                    env=self._environ,
                    pass_fds=[descriptor] if self._handed else [],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                )
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        self._kill()
        self._process.wait(WAIT_S)

    @property
    def pid(self) -> int:
        """The master's pid."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self._process.send_signal(number)

    def terminate(self) -> int:
        """End it as an administrator does; return its exit status.

        The supervisor delivers what the master has logged at its exit, and ends behind
        it by itself.
        """
        self.signal(signal.SIGTERM)
        status = self.wait()
        until(lambda: self.processes() == [], "all of it has ended")
        return status

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        return self._process.wait(WAIT_S)

    def workers(self) -> set[int]:
        """The workers that live and serve.

        One that was just forked still has the master's signal handlers, and a TERM to
        it is lost: gunicorn would wait for it, and kill it after 30 seconds.
        """
        children = read(f"/proc/{self.pid}/task/{self.pid}/children")
        return {pid for pid in map(int, children.split()) if catches(pid, ABORT)}

    def await_workers(self, number: int) -> None:
        """Return when that many workers serve."""

        def they_serve() -> bool:
            assert self._process.poll() is None, self.stderr()
            return len(self.workers()) == number

        until(they_serve, f"{number} workers serve")

    def supervisors(self) -> list[int]:
        """The guardian and the engine of every femtomp server started in it."""
        return [
            pid
            for pid in self.processes()
            if b"femtomp.supervisor.guardian" in read(f"/proc/{pid}/cmdline")
        ]

    def processes(self) -> list[int]:
        """Every living process that began with this one, wherever it is by now."""
        mark = self._mark.encode()
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        ours = [p for p in pids if mark in read(f"/proc/{p}/environ").split(b"\0")]
        return [pid for pid in ours if state(pid) not in "ZX"]

    def stderr(self) -> str:
        """What the master, its workers and the console sink have printed."""
        return self._errors.read_text()

    def returned(self) -> set[str]:
        """The `ledger.id` of every log call that is known to have returned."""
        lines = [path.read_text().splitlines() for path in self.ledgers.iterdir()]
        return {line for ledger in lines for line in ledger}

    def _kill(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def read(path: str) -> bytes:
    """Read a file of a process that may end at any time."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def state(pid: int) -> str:
    """The state letter of a process; X if it is gone."""
    return read(f"/proc/{pid}/stat").rpartition(b") ")[2][:1].decode() or "X"


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def tasks(pid: int) -> int:
    """How many threads the system knows of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))
