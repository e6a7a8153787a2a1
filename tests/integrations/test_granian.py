"""granian with femtomp in its log configuration: real masters, workers and requests."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from femtomp.integrations.granian import log_config
from tests.components import require
from tests.integrations.measured import measure, read
from tests.integrations.test_gunicorn import await_pids, by_body, get
from tests.integrations.test_uvicorn import free_port, served

pytestmark = pytest.mark.slow

RUNS = 5
BURSTS = 80


def test_a_log_config_file_is_enough(tmp_path) -> None:
    """`--log-config`: a server in the master, none in the workers, and each line once,
    with fields. granian ends where a worker that it has just replaced dies as well: so
    five masters, of which each loses both of its workers.
    """
    require("granian")
    config = log_config("file:records", name="served")
    (tmp_path / "log.json").write_text(json.dumps(config))
    masters, killed = set(), 0
    for _ in range(RUNS):
        port = free_port()
        command = [
            sys.executable, "-m", "granian", f"--port={port}", "--workers=2",
            "--interface=asgi", "--access-log", "--respawn-failed-workers",
            "--respawn-interval=0.1", "--log-config=log.json",
            "tests.integrations.app:asgi",
        ]  # fmt: skip
        with served(tmp_path, command) as process:
            first = await_pids(port, 2)
            for pid in first:
                for _ in range(BURSTS // 2):
                    get(port, "/burst?30")
                os.kill(pid, signal.SIGKILL)
                killed += 1
                await_pids(port, killed % 2 or 2, but=first)
            get(port, "/last?x=1")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        masters.add(process.pid)
    assert (tmp_path / "said").read_text() == ""
    records = read(tmp_path / "records")
    row = measure("granian --workers", tmp_path / "ledgers", records, killed)
    row.check()
    assert row.records >= 10_000
    check(records, masters)


def check(records: list[dict], masters: set[int]) -> None:
    last = [r for r in records if r["attributes"].get("url.path") == "/last"]
    assert len(last) == RUNS
    assert last[0]["logger"] == "granian.access"
    assert last[0]["resource"]["process.pid"] not in masters
    fields = last[0]["attributes"]
    assert fields["url.query"] == "x=1"
    assert fields["client.address"] == "127.0.0.1"
    assert fields["http.response.status_code"] == 200
    assert fields["network.protocol.version"] == "1.1"
    assert 0 < fields["http.server.request.duration"] < 20
    begun = by_body(records, "Starting granian")
    assert {r["resource"]["process.pid"] for r in begun} == masters
    servers = {
        r["resource"]["process.pid"]
        for r in records
        if r["attributes"].get("femtomp.worker.role") == "master"
    }
    assert servers == masters
