"""What the engine holds does not grow with the lanes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

import femtomp
from tests.processes.harness import Attached, fork

pytestmark = pytest.mark.slow

MB = 1 << 20


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_a_backlog_in_many_lanes_is_delivered_in_little_memory(tmp_path):
    """72 MB of large records in 40 lanes pass three sinks in less than 60 MB more than
    an idle engine has, which is three batches and what they are encoded to.
    """
    sinks = [femtomp.FileSink(tmp_path / name, name=name) for name in "abc"]
    with (
        femtomp.start_server(
            sinks,
            spool_parent=tmp_path,
            spool_quota_bytes=512 * MB,
            lane_quota_bytes=16 * MB,
        ) as server,
        Attached() as log,
    ):
        engine = server._spool.control()[2]
        idle = peak_bytes(engine)
        os.kill(engine, signal.SIGSTOP)
        try:
            for _ in range(40):
                child = fork(
                    lambda: [log.info("%d %s", n, "z" * 900_000) for n in range(2)]
                )
                assert os.waitpid(child, 0)[1] == 0
        finally:
            os.kill(engine, signal.SIGCONT)
        assert server.flush(60)
        stats = server.stats()
        assert stats.engine_starts == 1
        assert {s.delivered for s in stats.sinks.values()} == {80}
        assert peak_bytes(engine) - idle < 60 * MB
