"""femtomp with a FileSink: workers append to lanes, the supervisor writes the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

import femtomp
from benchmarks.cpu import process_cpu_ns

if TYPE_CHECKING:
    from pathlib import Path

_FLUSH_S = 60.0


class FemtompServer:
    """The services are guardian and engine."""

    def start(self, path: Path) -> None:
        sink = femtomp.FileSink(path)
        self._server = femtomp.start_server(sink, name="shop", level="INFO")
        guardian = psutil.Process(self._server.pid)
        self._services = [guardian.pid, *(child.pid for child in guardian.children())]

    def set_up_worker(self) -> None:
        femtomp.worker_init()

    def forked(self) -> None:
        pass

    def services_cpu_ns(self) -> int:
        return sum(process_cpu_ns(pid) for pid in self._services)

    def finish(self) -> None:
        if not self._server.flush(_FLUSH_S):
            raise TimeoutError(f"not all was delivered within {_FLUSH_S:g} s")

    def stop(self) -> None:
        self._server.stop()
