"""A `FileHandler` in every worker: each formats and appends for itself.

Lines stay whole as long as each is one write of less than what the file system appends
atomically. Nothing rotates, nothing else than a file can be written, and every log call
waits for the disk: it is here as the floor of what JSON lines cost.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from benchmarks.peers.json_lines import JsonFormatter

if TYPE_CHECKING:
    from pathlib import Path


class FileInEveryWorker:
    """No services, nothing shared but the file."""

    def start(self, path: Path) -> None:
        self._path = path

    def set_up_worker(self) -> None:
        handler = logging.FileHandler(self._path)  # mode "a": O_APPEND
        handler.setFormatter(JsonFormatter("shop", socket.gethostname()))
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)

    def forked(self) -> None:
        pass

    def services_cpu_ns(self) -> int:
        return 0

    def finish(self) -> None:
        pass

    def stop(self) -> None:
        pass
