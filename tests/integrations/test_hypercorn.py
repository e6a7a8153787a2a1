"""hypercorn with femtomp in its configuration: real masters, workers and requests."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.components import require
from tests.examples.pool import until
from tests.integrations.measured import measure, read
from tests.integrations.test_gunicorn import await_pids, by_body, get
from tests.integrations.test_uvicorn import free_port, served

pytestmark = pytest.mark.slow

CONFIG = """
from femtomp.integrations import hypercorn
loglevel = "info"
hypercorn.install(globals(), ["file:records"], name="served")
hypercorn.install(globals(), ["file:records"], name="served")
"""
RUNS = 10
BURSTS = 40


@pytest.fixture(autouse=True)
def _hypercorn():
    require("hypercorn")


def test_a_config_file_is_enough(tmp_path) -> None:
    """`-c file:conf.py`: a server in the master, and each line once, with fields.

    hypercorn ends when a worker was killed: 10 masters, and one killed worker each.
    """
    (tmp_path / "conf.py").write_text(CONFIG)
    masters = set()
    for run in range(RUNS):
        port = free_port()
        command = [
            sys.executable, "-m", "hypercorn", f"--bind=127.0.0.1:{port}",
            "--workers=2", "--config=file:conf.py", "tests.integrations.app:asgi",
        ]  # fmt: skip
        with served(tmp_path, command) as process:
            await_pids(port, 2)
            answers = [get(port, "/burst?25") for _ in range(BURSTS)]
            if not run:
                get(port, "/last?x=1", agent='"q" \xe9')
                # The access line comes behind the answer, and must not be killed.
                records = tmp_path / "records"
                until(lambda: '"/last"' in records.read_text(), "logged")  # noqa: B023
            os.kill(answers[-1]["pid"], signal.SIGKILL)
            process.wait(30)
        masters.add(process.pid)
    records = read(tmp_path / "records")
    row = measure("hypercorn --workers", tmp_path / "ledgers", records, RUNS)
    row.check()
    assert row.records >= 10_000
    assert (tmp_path / "said").read_text() == ""
    (last,) = [r for r in records if r["attributes"].get("url.path") == "/last"]
    assert last["logger"] == "hypercorn.access"
    assert last["resource"]["process.pid"] not in masters
    fields = last["attributes"]
    assert fields["url.query"] == "x=1"
    assert fields["client.address"] == "127.0.0.1"
    assert fields["http.response.status_code"] == 200
    assert fields["http.response.body.size"] > 10
    assert fields["user_agent.original"] == '"q" \xe9'
    assert 0 < fields["http.server.request.duration"] < 20
    access = [r for r in records if r["logger"] == "hypercorn.access"]
    assert len(access) >= RUNS * BURSTS
    assert len(by_body(records, "Running on http")) == 2 * RUNS


def test_a_logger_class_of_the_users_is_kept() -> None:
    """Only what the file does not have is added; no dict is an error."""
    from femtomp.integrations import hypercorn

    with pytest.raises(TypeError, match="globals"):
        hypercorn.install(None)


def test_what_a_graceful_end_says_is_there(tmp_path) -> None:
    """TERM to the master: all is delivered, and nothing is left."""
    (tmp_path / "conf.py").write_text(CONFIG)
    port = free_port()
    command = [
        sys.executable, "-m", "hypercorn", f"--bind=127.0.0.1:{port}", "--workers=1",
        "--config=file:conf.py", "tests.integrations.app:asgi",
    ]  # fmt: skip
    with served(tmp_path, command) as process:
        until(lambda: get(port, "/burst?25"), "it serves")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    records = read(tmp_path / "records")
    measure("hypercorn, TERM", tmp_path / "ledgers", records, 0).check()
    assert len(by_body(records, "burst")) == 25
