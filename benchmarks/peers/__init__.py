"""The arrangements that are compared, one module each, behind one small interface.

A peer writes JSON lines to one file. Its master is the process that measures; the
workers are forked after `start`. What a peer needs besides these (a listener, a
supervisor) are its services, and their CPU time counts as everything else's does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

# By the name on the command line; the first is what the others are compared with.
PEERS: Final = {
    "queue": ("queue_handler", "ListenerProcess"),
    "queue-thread": ("queue_handler", "ListenerThread"),
    "file": ("file_handler", "FileInEveryWorker"),
    "femtomp": ("femtomp_server", "FemtompServer"),
}
REFERENCE: Final = "queue"
DEFAULT: Final = ("queue", "file", "femtomp")


class Peer(Protocol):
    """One arrangement of logging for a pool of forked workers."""

    def start(self, path: Path) -> None:
        """In the master, before the workers are forked: set up everything."""

    def set_up_worker(self) -> None:
        """In each worker: put a handler on the root logger."""

    def forked(self) -> None:
        """In the master, when the workers exist: start what must not be forked."""

    def services_cpu_ns(self) -> int:
        """Return the CPU time so far of all processes but master and workers."""

    def finish(self) -> None:
        """In the master, when the workers have ended: wait until all is in the file."""

    def stop(self) -> None:
        """End the services."""


def make(name: str) -> Peer:
    """Return a new peer by its name."""
    module, kind = PEERS[name]
    return getattr(import_module(f"benchmarks.peers.{module}"), kind)()
