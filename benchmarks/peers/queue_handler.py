"""`QueueHandler` with a `multiprocessing.Queue`: logging's cookbook for pools.

Every worker pickles its records into one pipe, by a feeder thread and under a lock that
all share; one listener formats them and writes the file. The listener is a process of
its own (the cookbook's first form, and the default here) or a `QueueListener` thread in
the master (its second).
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import socket
from typing import TYPE_CHECKING

from benchmarks.cpu import process_cpu_ns
from benchmarks.peers.json_lines import JsonFormatter

if TYPE_CHECKING:
    from pathlib import Path

_fork = multiprocessing.get_context("fork")


def _file_handler(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonFormatter("shop", socket.gethostname()))
    return handler


def _listen(queue: multiprocessing.Queue, path: Path, done, leave: int) -> None:
    handler = _file_handler(path)
    while (record := queue.get()) is not None:
        handler.handle(record)
    handler.close()
    done.send(None)
    os.read(leave, 1)  # until the master has read this process's CPU time


class _Queue:
    def start(self, path: Path) -> None:
        self.path = path
        self.queue = _fork.Queue(-1)

    def set_up_worker(self) -> None:
        root = logging.getLogger()
        root.addHandler(logging.handlers.QueueHandler(self.queue))
        root.setLevel(logging.INFO)

    def forked(self) -> None:
        pass


class ListenerProcess(_Queue):
    """The listener is a process."""

    def start(self, path: Path) -> None:
        super().start(path)
        self._done, done = _fork.Pipe(duplex=False)
        leave, self._leave = os.pipe()
        self._listener = _fork.Process(
            target=_listen, args=(self.queue, path, done, leave), daemon=True
        )
        self._listener.start()
        os.close(leave)

    def services_cpu_ns(self) -> int:
        return process_cpu_ns(self._listener.pid)

    def finish(self) -> None:
        self.queue.put(None)
        self._done.recv()

    def stop(self) -> None:
        os.write(self._leave, b".")
        os.close(self._leave)
        self._listener.join()
        self.queue.close()


class ListenerThread(_Queue):
    """The listener is a thread of the master, whose CPU time is in the master's."""

    def forked(self) -> None:
        self._handler = _file_handler(self.path)
        self._listener = logging.handlers.QueueListener(self.queue, self._handler)
        self._listener.start()

    def services_cpu_ns(self) -> int:
        return 0

    def finish(self) -> None:
        self._listener.stop()

    def stop(self) -> None:
        self._handler.close()
        self.queue.close()
