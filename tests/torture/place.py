"""A server with one file, workers to kill, and what is left in the spool behind them."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import femtomp
from femtomp.lanes import place
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import ENGINE, ENGINE_STARTS, Spool
from tests.processes.harness import Attached, is_running, until
from tests.torture.oracle import LOGGER, Found, in_records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from femtomp.supervisor.process import Server

FLUSH_S = 300.0
KINDS = ("mmap", "write")


@contextmanager
def crowded(descriptors: int = 24) -> Iterator[None]:
    """Hold the low descriptor numbers, as a process that has files open does."""
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(descriptors)]
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def serving(
    directory: Path,
    *more: object,
    bare: bool = False,
    kind: str | None = None,
    parent: Path | None = None,
    patience_s: float = 10.0,
    **options: object,
) -> Iterator[Server]:
    """Run a server that writes `app.jsonl` below a directory, whose spool is there too.

    The supervisor's own descriptors get low numbers only where `bare` asks for it.
    `kind` is the workers' writer; the best for the directory if it is not given.
    """
    sinks = [femtomp.FileSink(directory / "app.jsonl"), *more]
    chosen = kind or place.choose_writer(directory)
    with (
        crowded(0 if bare else 24),
        mock.patch.object(place, "choose_writer", return_value=chosen),
    ):
        server = femtomp.start_server(
            sinks, spool_parent=parent or directory, **options
        )
    try:
        with Attached(LOGGER):
            yield server
    finally:
        server.stop(patience_s)


def engine_of(spool: Spool) -> int:
    """Give the engine's pid, as the control page has it."""
    pid = spool.control()[ENGINE]
    assert pid, "the control page cannot be read"  # 0 would be this process's group
    return pid


def starts_of(spool: Spool) -> int:
    """Tell how many engines the guardian has started."""
    return spool.control()[ENGINE_STARTS]


def kill(*pids: int) -> None:
    """SIGKILL processes, all before waiting for any; reap those that are children."""
    assert all(pid > 0 for pid in pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            until(lambda pid=pid: not is_running(pid), f"{pid} is dead")


def left_in(path: Path) -> Iterator[Found]:
    """Give what the lanes of a spool still hold, without a supervisor.

    Recovery goes here once there is one: whatever delivers these records must give the
    same ones.
    """
    spool = Spool(path)
    puller = Puller(spool, {})
    try:
        while records := puller.pull():
            yield from in_records(records)
    finally:
        del puller
        spool.close()


def remove(path: Path) -> None:
    """Delete a spool that nobody serves any more."""
    shutil.rmtree(path, ignore_errors=True)
