"""The OpenTelemetry Collector as a process, with a configuration and a log.

What it is built from is in `otelcol/`. Started in a network namespace if it is given
the command that enters one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Self

from tests.components import otelcol_path
from tests.processes.harness import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT_S = 20.0
READY = "Everything is ready"
# Whatever ends the test's process ends the Collector.
_WITH_ME = ["setpriv", "--pdeathsig", "KILL"]


class Collector:
    """Starts, stops, kills; a context manager.

    Parameters
    ----------
    directory : Path
        For its log.
    configs : str
        Paths, or "yaml:" and a text: the later ones change the earlier.
    enter : list of str
        A command to start it with.
    environ : dict of str to str
        What its configuration reads from the environment.
    """

    def __init__(
        self,
        directory: Path,
        *configs: str,
        enter: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.configs = configs
        self._log = directory / "collector.log"
        self._enter = enter
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        path = otelcol_path()
        assert path is not None
        before = len(self.log())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._enter,
                    *_WITH_ME,
                    path,
                    *(f"--config={c}" for c in self.configs),
                ],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def is_ready() -> bool:
            assert self._process.poll() is None, self.log()[before:]
            return READY in self.log()[before:]

        try:
            until(is_ready, "the Collector is ready")
        except BaseException:
            self.kill()
            raise
        return self

    def log(self) -> str:
        """Give all that it has logged."""
        return self._log.read_text() if self._log.exists() else ""

    def stop(self) -> int:
        """End it as systemd would."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it in the middle of whatever it does."""
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
