"""uvicorn with femtomp in its log configuration: real masters, workers and requests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from tests.components import require
from tests.examples.pool import ROOT, until
from tests.integrations.measured import measure, read, returned
from tests.integrations.test_gunicorn import await_pids, by_body, get

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "femtomp": {
            "()": "femtomp.integrations.uvicorn.handler",
            "sinks": ["file:records"],
            "name": "served",
        }
    },
    "root": {"handlers": ["femtomp"], "level": "INFO"},
}
PROGRAM = """
import uvicorn
from femtomp.integrations.uvicorn import log_config
if __name__ == "__main__":
    uvicorn.run("tests.integrations.app:asgi", port={port}, workers=2,
                log_config=log_config("file:records", name="served"))
"""


@pytest.fixture(autouse=True)
def _uvicorn():
    require("uvicorn")


@contextmanager
def served(tmp_path, command: list[str]):
    """Run a server; give its process, and kill what is left of it."""
    (tmp_path / "ledgers").mkdir(exist_ok=True)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LEDGER_DIRECTORY": str(tmp_path / "ledgers"),
    }
    with (tmp_path / "said").open("ab") as said:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environ, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def exercise(tmp_path, process, port: int, name: str) -> list[dict]:
    """Have 10,000 records logged while workers are killed; return all records."""
    pids = await_pids(port, 2)
    killed = 0
    for number in range(400):
        answer = get(port, "/burst?25")
        if answer is not None and number % 40 == 10:
            os.kill(answer["pid"], signal.SIGKILL)
            killed += 1
    while len(returned(tmp_path / "ledgers")) < 10_000:
        assert process.poll() is None
        get(port, "/burst?25")
    until(lambda: get(port, "/last?x=1"), "it serves")
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    records = read(tmp_path / "records")
    measure(name, tmp_path / "ledgers", records, killed).check()
    assert killed == 10
    assert {r["resource"]["process.pid"] for r in by_body(records, "burst")} & pids
    return records


def check(records: list[dict], master: int) -> None:
    """Each access line is there once, typed, by its worker; each process has its own."""
    (last,) = [
        r for r in records if r["attributes"].get("url.path") == "/last"
        and r["attributes"]["http.response.status_code"] == 200
    ]  # fmt: skip
    assert last["logger"] == "uvicorn.access"
    assert last["resource"]["process.pid"] != master
    assert last["attributes"]["url.query"] == "x=1"
    assert last["attributes"]["client.address"] == "127.0.0.1"
    (first,) = by_body(records, "Started parent process")
    assert first["resource"]["process.pid"] == master
    assert len([r for r in records if r["logger"] == "uvicorn.access"]) >= 400 - 20
    masters = {
        r["resource"]["process.pid"]
        for r in records
        if r["attributes"].get("femtomp.worker.role") == "master"
    }
    assert masters == {master}


@pytest.mark.slow
def test_a_log_config_file_is_enough(tmp_path) -> None:
    """`--workers 2 --log-config`: a server in the master, none in the workers, and each
    line once; 10 workers killed.
    """
    # uvicorn's own settings for its loggers: none, they propagate.
    (tmp_path / "log.json").write_text(json.dumps(CONFIG))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"--port={port}", "--workers=2"]
    command += ["--log-config=log.json", "tests.integrations.app:asgi"]
    with served(tmp_path, command) as process:
        records = exercise(tmp_path, process, port, "uvicorn --workers")
    assert (tmp_path / "said").read_text() == ""
    check(records, process.pid)


def test_a_program_of_ones_own(tmp_path) -> None:
    """`uvicorn.run(log_config=log_config(...))` does the same."""
    port = free_port()
    (tmp_path / "main.py").write_text(PROGRAM.format(port=port))
    with served(tmp_path, [sys.executable, "main.py"]) as process:
        records = exercise(tmp_path, process, port, "uvicorn.run(workers=2)")
    assert (tmp_path / "said").read_text() == ""
    check(records, process.pid)


def test_a_request_that_fails_has_its_id_on_the_traceback(tmp_path) -> None:
    """Uvicorn logs traceback and access line outside the middleware, and both have the
    id of their request, over HTTP and websockets; the next request has its own.
    """
    require("fastapi")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    (tmp_path / "log.json").write_text(json.dumps(CONFIG))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"--port={port}"]
    command += ["--log-config=log.json", "tests.integrations.fastapi_app:app"]
    with served(tmp_path, command) as process:
        until(lambda: can_connect(port), "it serves")
        for request_id, path in (("r1", "/fail"), ("r2", "/well"), ("r3", "/fail")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", path, headers={"X-Request-ID": request_id})
            connection.getresponse().read()
            connection.close()
        url, headers = f"ws://127.0.0.1:{port}/fail", {"X-Request-ID": "w1"}
        with (
            connect(url, additional_headers=headers) as socket,
            suppress(ConnectionClosed),
        ):
            socket.send("now")
            socket.recv(20)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    records = read(tmp_path / "records")

    def ids(found: list[dict]) -> list[str]:
        return [r["attributes"]["http.request.id"] for r in found]

    failed = by_body(records, "Exception in ASGI application")
    assert ids(failed) == ["r1", "r3", "w1"]
    assert all("LookupError" in r["attributes"]["exception.stacktrace"] for r in failed)
    access = [r for r in records if r["logger"] == "uvicorn.access"]
    assert ids(access) == ["r1", "r2", "r3"]
    assert ids(by_body(records, "in the view")) == ["r2"]


def can_connect(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
