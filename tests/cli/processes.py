"""Starting the command in a process of its own, and finding what it leaves behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

from femtomp.lanes.liveness import start_ticks

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


class Command:
    """Run `python -m femtomp` with a mark in its environment, which all heirs have."""

    def __init__(self, *arguments: object, cwd: Path, **environ: str) -> None:
        self._mark = f"CLI_TEST_MARK={secrets.token_hex(8)}"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FEMTOMP_", "OTEL_", "PYTEST_"))
            or name == "FEMTOMP_SPOOL_PARENT"
        }
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "femtomp", *map(str, arguments)],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(ROOT), name: value, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended, and say what it printed."""
        try:
            out, err = self.process.communicate(timeout=DEADLINE_S)
        finally:
            self.process.kill()
        return subprocess.CompletedProcess([], self.process.returncode, out, err)

    def heirs(self) -> list[int]:
        """List the processes that still carry the mark."""
        mark = self._mark.encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue  # not a process, or one that has ended
            if mark in environ.split(b"\0") and start_ticks(entry.name):
                found.append(int(entry.name))
        return found


def run(
    *arguments: object, cwd: Path, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; nothing may be left of it."""
    command = Command(*arguments, cwd=cwd, **environ)
    done = command.result()
    wait_until(lambda: not command.heirs())
    return done


def wait_until(condition) -> None:
    """Return when a condition holds; fail after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        pause.wait(0.01)
