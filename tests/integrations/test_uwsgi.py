"""uWSGI: real masters, workers, reloads and mules."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.components import require, uwsgi_path
from tests.examples.pool import until
from tests.integrations.measured import measure, read, returned
from tests.integrations.test_gunicorn import await_pids, by_body, get
from tests.integrations.test_uvicorn import free_port, served

APP = "tests.integrations.uwsgi_app"
MODES = {
    "uWSGI": ("uwsgi", [f"--module={APP}"]),
    "uWSGI --lazy-apps": (
        "uwsgi",
        ["--lazy-apps", f"--shared-import={APP}", "--wsgi=tests.integrations.app:wsgi"],
    ),
    "uWSGI --py-call-osafterfork": (
        "uwsgi_hooks",
        ["--py-call-osafterfork", f"--module={APP}"],
    ),
    "uWSGI, threads": ("uwsgi", ["--threads=4", f"--module={APP}"]),
}


def command(port: int, *arguments: str) -> list[str]:
    require("uwsgi")
    return [
        uwsgi_path(), f"--http-socket=127.0.0.1:{port}", "--die-on-term", "--need-app",
        f"--virtualenv={sys.prefix}", "--disable-logging", *arguments,
    ]  # fmt: skip


def check_said(tmp_path) -> None:
    said = (tmp_path / "said").read_text()
    assert "femtomp" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("mode", MODES)
def test_workers_lose_nothing(tmp_path, mode: str) -> None:
    """10,000 records and 10 kills: all is there, once, by the worker that logged it,
    whether or not Python knows of the forks.
    """
    component, arguments = MODES[mode]
    require(component)
    port = free_port()
    made = command(port, "--master", "--workers=3", *arguments)
    killed = 0
    with served(tmp_path, made) as process:
        await_pids(port, 3)
        while killed < 10 or len(returned(tmp_path / "ledgers")) < 10_000:
            assert process.poll() is None
            for _ in range(15):
                answer = get(port, "/burst?75")
            if answer is not None and killed < 10:
                os.kill(answer["pid"], signal.SIGKILL)
                killed += 1
        # A worker that uWSGI replaces amid its end is not told of it.
        await_pids(port, 3, but=frozenset({answer["pid"]}))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        path = tmp_path / "records"
        known = returned(tmp_path / "ledgers")
        until(lambda: len(path.read_text().splitlines()) >= len(known), "it drains")
    records = read(path)
    measure(mode, tmp_path / "ledgers", records, killed).check()
    check_said(tmp_path)
    names = {r["resource"]["femtomp.worker.name"] for r in by_body(records, "burst")}
    assert names == {"worker-1", "worker-2", "worker-3"}
    (imported,) = by_body(records, "imported")
    assert imported["resource"]["femtomp.worker.name"] == "master"
    assert imported["resource"]["process.pid"] == process.pid
    pids = {r["resource"]["process.pid"] for r in by_body(records, "burst")}
    # Those of the supervisor's news are its own.
    assert process.pid not in pids


def test_a_reload_has_a_server_of_its_own(tmp_path) -> None:
    """HUP executes the master in place: same pid, another server, nothing lost."""
    port = free_port()
    made = command(port, "--master", "--workers=2", f"--module={APP}")
    with served(tmp_path, made) as process:
        seen = await_pids(port, 2)
        for _ in range(2):
            for _ in range(20):
                get(port, "/burst?25")
            process.send_signal(signal.SIGHUP)
            seen |= await_pids(port, 2, but=frozenset(seen))
        get(port, "/burst?25")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        known = returned(tmp_path / "ledgers")
        path = tmp_path / "records"
        until(lambda: len(path.read_text().splitlines()) >= len(known), "it drains")
        records = read(path)
    measure("uWSGI, HUP", tmp_path / "ledgers", records, 0).check()
    check_said(tmp_path)
    imported = by_body(records, "imported")
    assert [r["resource"]["process.pid"] for r in imported] == [process.pid] * 3
    assert len({r["resource"]["service.instance.id"] for r in imported}) == 3


def test_mules_and_no_master(tmp_path) -> None:
    """A mule has a name of its own; a uWSGI without a master needs no other line."""
    (tmp_path / "mule.py").write_text(
        "import logging, uwsgi\n"
        "logging.getLogger('app').info('mule')\n"
        "uwsgi.mule_get_msg()\n"
    )
    for number, mode in enumerate((["--master", "--mule=mule.py"], [])):
        port = free_port()
        with served(tmp_path, command(port, *mode, f"--module={APP}")) as process:
            await_pids(port, 1)
            get(port, "/burst?5")
            if mode:
                until(lambda: by_body(read(tmp_path / "records"), "mule"), "it logs")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            path = tmp_path / "records"
            until(
                lambda n=5 * number + 5, p=path: len(by_body(read(p), "burst")) == n, ""
            )
    (mule,) = by_body(read(path), "mule")
    assert mule["resource"]["femtomp.worker.name"] == "mule-1"
    measure("uWSGI, mule", tmp_path / "ledgers", read(path), 0).check()


def test_lazy_applications_are_told_what_is_missing(tmp_path) -> None:
    """Without `shared-import` each worker would start a server: an error says so."""
    made = command(
        free_port(), "--master", "--workers=1", "--lazy-apps", f"--module={APP}"
    )
    with served(tmp_path, made) as process:
        said = tmp_path / "said"
        until(lambda: "add `shared-import" in said.read_text(), "it is said")
        process.send_signal(signal.SIGTERM)
