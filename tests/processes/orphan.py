"""Servers of which nothing lives any more but, if wanted, some workers; their spools."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import femtomp
from femtomp.lanes.lock import is_orphaned
from femtomp.lanes.spool import Spool
from tests.processes.harness import Attached, Returned, fork, log_steadily, until


class Orphan:
    """A spool left by a master whose pair died with it; `returned` says of what.

    The engine is stopped while the workers log, so that all of it is still there, unless
    `served` is true; then it is killed in the middle of its work. With `spared`,
    "guardian" or "engine", that process is stopped instead of killed: the spool only
    looks like an orphan.
    """

    def __init__(
        self, parent, sinks, name="shop", records=20, *, served=False, spared="",
        **options,
    ):  # fmt: skip
        self.parent = Path(parent)
        self.returned = Returned(2)
        self._told = self.parent / f"told-{os.urandom(4).hex()}"
        self.workers: list[int] = []
        before = set(self.parent.glob("femtomp-*"))
        master = fork(self._be_master, sinks, name, records, served, options)
        until(self._told.exists, "the master has said its pids")
        guardian, engine, self.worker = map(int, self._told.read_text().split())
        goal = 1 if records is None else records
        until(lambda: self.returned[0] >= goal, "the worker has logged")
        self.spared = {"": 0, "guardian": guardian, "engine": engine}[spared]
        if spared:
            os.kill(self.spared, signal.SIGSTOP)
        # The guardian first: it would start another engine.
        for pid in (guardian, engine, master):
            if pid != self.spared:
                os.kill(pid, signal.SIGKILL)
        os.waitpid(master, 0)
        (self.path,) = set(self.parent.glob("femtomp-*")) - before
        self.spool = Spool(self.path)
        if not spared:
            until(lambda: is_orphaned(self.spool), "the pair is gone")
        self._told.unlink()

    def _be_master(self, sinks, name, records, served, options):
        server = femtomp.start_server(
            sinks, name=name, spool_parent=self.parent, **options
        )
        guardian, engine = server._spool.control()[1:3]
        if not served:
            os.kill(engine, signal.SIGSTOP)
        with Attached():
            worker = fork(self._work, records)
            partial = self._told.with_suffix(".part")
            partial.write_text(f"{guardian} {engine} {worker}")
            partial.rename(self._told)
            while True:
                signal.pause()

    def _work(self, records):
        log_steadily(self.returned, 0, records)
        while True:
            signal.pause()

    def kill_worker(self):
        """Kill the worker, a grandchild of this process, and wait until it is gone."""
        os.kill(self.worker, signal.SIGKILL)
        until(lambda: not self.has_worker(), "the worker is gone")

    def kill_spared(self):
        """Kill what was left of the pair: now it is an orphan."""
        os.kill(self.spared, signal.SIGKILL)
        until(lambda: is_orphaned(self.spool), "the pair is gone")

    def has_worker(self):
        """Tell whether the worker lives."""
        try:
            return b") Z" not in Path(f"/proc/{self.worker}/stat").read_bytes()
        except FileNotFoundError:
            return False
