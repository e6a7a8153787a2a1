"""gunicorn with `install()` as its configuration's last line: real masters and workers."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import os
import re
import signal
import socket
import threading
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from femtomp.testing import captured_records
from tests.components import require
from tests.examples.pool import ROOT, Gunicorn, until
from tests.integrations.measured import measure, read, returned

WORKERS = 4
RECORDS = 10_000
BURST = 25
KILLS = 10
OLD = os.environ.get("FEMTOMP_TEST_GUNICORN_23", "")

CONF = """
from femtomp.integrations import gunicorn
graceful_timeout = 10
{more}
gunicorn.install(globals(), ["file:records"])
"""


@pytest.fixture(autouse=True)
def _gunicorn():
    require("gunicorn")


def started(tmp_path: Path, *arguments: str, more: str = "", **options) -> Gunicorn:
    """Prepare a gunicorn that logs to the file `records` in `tmp_path`."""
    (tmp_path / "gunicorn.conf.py").write_text(CONF.format(more=more))
    app = options.pop("app", "tests.integrations.app:wsgi")
    return Gunicorn(tmp_path, *arguments, sinks=None, app=app, cwd=tmp_path, **options)


def get(port: int, path: str = "/", agent: bytes | str = "test") -> dict | None:
    """Ask for a page; None if the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"User-Agent": agent})
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def await_pids(port: int, number: int, *, but: set[int] = frozenset()) -> set[int]:
    """Return when that many workers answer, others than those of `but`."""
    seen: set[int] = set()

    def answered() -> bool:
        if (answer := get(port)) is not None and answer["pid"] not in but:
            seen.add(answer["pid"])
        return len(seen) >= number

    until(answered, f"{number} workers answer")
    return seen


def burst(gunicorn: Gunicorn, kills: int, requests: int = RECORDS // BURST) -> int:
    """Have records logged, until the requests are all answered; kill workers amid."""
    numbers = itertools.count(1)
    every = requests // kills if kills else requests + 1
    killed = []

    def ask() -> None:
        while (number := next(numbers)) <= requests:
            answer = get(gunicorn.port, f"/burst?{BURST}")
            if answer is not None and number % every == 0 and len(killed) < kills:
                killed.append(answer["pid"])
                try:
                    os.kill(answer["pid"], signal.SIGKILL)
                except ProcessLookupError:
                    killed.pop()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(killed)


def by_body(records: list[dict], start: str) -> list[dict]:
    return [record for record in records if record["body"].startswith(start)]


CLASSES = {
    "sync": ("sync", "wsgi", ()),
    "sync, --preload": ("sync", "wsgi", ("--preload",)),
    "gthread": ("gthread", "wsgi", ("--threads=4",)),
    "gevent": ("gevent", "wsgi", ()),
    "uvicorn_worker.UvicornWorker": ("uvicorn_worker.UvicornWorker", "asgi", ()),
}


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in CLASSES if n != "sync"]


@pytest.mark.parametrize("name", ["sync", *SLOW])
def test_workers_of_each_class_lose_nothing(tmp_path, name: str) -> None:
    """10,000 records and 10 kills: all that returned is there, once, as its worker's,
    each worker has a name of its own, and each answer one access record.
    """
    kind, app, arguments = CLASSES[name]
    if kind not in ("sync", "gthread"):
        require(kind.partition(".")[0])
    gunicorn = started(
        tmp_path, f"--workers={WORKERS}", f"--worker-class={kind}", *arguments,
        app=f"tests.integrations.app:{app}",
    )  # fmt: skip
    with gunicorn:
        await_pids(gunicorn.port, WORKERS)
        kills = burst(gunicorn, KILLS)
        await_pids(gunicorn.port, WORKERS)
        for burst_again in range(20):
            if len(returned(gunicorn.ledgers)) >= RECORDS:
                break
            burst(gunicorn, 0, 8 * (burst_again + 1))
        assert len(gunicorn.supervisors()) == 2
        assert gunicorn.terminate() == 0
        assert gunicorn.processes() == []
    records = read(tmp_path / "records")
    row = measure(f"gunicorn, {name}", gunicorn.ledgers, records, kills)
    row.check()
    assert (row.kills, row.records >= RECORDS) == (KILLS, True)
    # Nothing but femtomp's file: no text beside it, no complaint.
    assert gunicorn.stderr() == ""
    names = {r["resource"]["process.pid"]: r["resource"] for r in records}
    workers = [r for pid, r in names.items() if pid != gunicorn.pid]
    assert names[gunicorn.pid]["femtomp.worker.name"] == "master"
    assert len({r["femtomp.worker.name"] for r in workers}) == len(workers)
    assert all(
        r["femtomp.worker.name"] == f"worker-{r['gunicorn.worker.age']}"
        for r in workers
    )
    assert len({r["service.instance.id"] for r in names.values()}) == len(names)
    # The first record of each worker, before any hook of gunicorn's in it.
    booted = {r["resource"]["process.pid"] for r in by_body(records, "Booting worker")}
    assert booted >= {r["process.pid"] for r in workers}
    assert len(by_body(records, "Worker-")) == len(booted)
    check_access(records, app)


def check_access(records: list[dict], app: str) -> None:
    access = [r for r in records if r["logger"] == "gunicorn.access"]
    if app == "asgi":  # uvicorn's own
        access = [r for r in records if r["logger"] == "uvicorn.access"]
    fields = access[-1]["attributes"]
    assert len(access) > RECORDS // BURST - 4 * KILLS
    expected = {
        "http.request.method": "GET",
        "url.path": "/",
        "http.response.status_code": 200,
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert fields["client.address"] == "127.0.0.1"
    if app == "wsgi":
        assert fields["user_agent.original"] == "test"
        assert 0 < fields["http.server.request.duration"] < 20


def test_reloads_and_resizing_keep_the_server(tmp_path) -> None:
    """HUP, TTIN, TTOU and max_requests replace workers, whose names are all new, and
    not the server; options that a reload changes are said to wait for the next master.
    """
    gunicorn = started(
        tmp_path, "--workers=2", "--max-requests=20", more="on_exit = lambda _: None"
    )
    with gunicorn:
        old = await_pids(gunicorn.port, 2)
        supervisors = gunicorn.supervisors()
        gunicorn.signal(signal.SIGTTIN)
        await_pids(gunicorn.port, 3)
        conf = tmp_path / "gunicorn.conf.py"
        conf.write_text(conf.read_text().replace("file:records", "file:others"))
        gunicorn.signal(signal.SIGHUP)
        new = await_pids(gunicorn.port, 2, but=old)
        burst(gunicorn, 0, 100)
        gunicorn.signal(signal.SIGHUP)
        await_pids(gunicorn.port, 2, but=old | new)
        assert gunicorn.supervisors() == supervisors
        assert gunicorn.terminate() == 0
        assert gunicorn.processes() == []
    records = read(tmp_path / "records")
    measure("gunicorn, reloads", gunicorn.ledgers, records, 0).check()
    assert gunicorn.stderr() == ""
    assert not (tmp_path / "others").exists()
    assert len(by_body(records, "femtomp goes on with the sinks")) == 1
    assert by_body(records, "Autorestarting worker")
    started_as = by_body(records, "worker worker-")
    names = [r["resource"]["femtomp.worker.name"] for r in started_as]
    assert len(names) == len(set(names)) >= 8
    # Hooks are not stacked up by reloads: one record for each worker that ended.
    assert len(by_body(records, "Worker-")) == len(names)


def test_two_masters_each_have_a_server(tmp_path) -> None:
    """After USR2 both masters serve, each with its own supervisor; the old one's end
    takes nothing from the new one's records.
    """
    pidfile = tmp_path / "pid"
    gunicorn = started(tmp_path, "--workers=2", f"--pid={pidfile}", handed=False)
    with gunicorn:
        old = await_pids(gunicorn.port, 2)
        # A reload before it: gunicorn then hands FEMTOMP_SPOOL on to the new master.
        gunicorn.signal(signal.SIGHUP)
        old = await_pids(gunicorn.port, 2, but=old)
        gunicorn.signal(signal.SIGUSR2)
        second = until(lambda: read_pid(f"{pidfile}.2"), "the second master's pid file")
        new = await_pids(gunicorn.port, 2, but=old)
        assert len(gunicorn.supervisors()) == 4
        burst(gunicorn, 0, 100)
        gunicorn.signal(signal.SIGTERM)
        assert gunicorn.wait() == 0
        until(lambda: len(gunicorn.supervisors()) == 2, "the first supervisor ended")
        burst(gunicorn, 0, 100)
        os.kill(second, signal.SIGTERM)
        until(lambda: not gunicorn.processes(), "all has ended")
    records = read(tmp_path / "records")
    measure("gunicorn, USR2", gunicorn.ledgers, records, 0).check()
    assert gunicorn.stderr() == ""
    masters = by_body(records, "worker master started")
    assert {r["resource"]["process.pid"] for r in masters} == {gunicorn.pid, second}
    assert {r["resource"]["process.pid"] for r in by_body(records, "burst")} >= new
    assert list(gunicorn.spools.iterdir()) == []


def read_pid(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def test_a_daemon_starts_its_own_server(tmp_path) -> None:
    """With --daemon the server is the daemon's, and not the process's that started it."""
    pidfile = tmp_path / "pid"
    gunicorn = started(tmp_path, "--daemon", "--workers=2", f"--pid={pidfile}")
    with gunicorn:
        assert gunicorn.wait() == 0
        master = until(lambda: read_pid(str(pidfile)), "the daemon's pid file")
        await_pids(gunicorn.port, 2)
        burst(gunicorn, 0, 40)
        os.kill(master, signal.SIGTERM)
        until(lambda: not gunicorn.processes(), "all has ended")
    records = read(tmp_path / "records")
    measure("gunicorn, --daemon", gunicorn.ledgers, records, 0).check()
    assert by_body(records, "Shutting down: Master")
    (first,) = by_body(records, "worker master started")
    assert first["resource"]["process.pid"] == master != gunicorn.pid


def test_a_request_that_times_out_is_named(tmp_path) -> None:
    """Which request a killed sync worker was busy with is a record; its access record
    has the true time and the client's user agent.
    """
    gunicorn = started(tmp_path, "--workers=1", "--timeout=2")
    with gunicorn:
        await_pids(gunicorn.port, 1)
        get(gunicorn.port, "/hang?now", agent="patient")
        await_pids(gunicorn.port, 1)
        get(gunicorn.port, "/fail")
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    (said,) = by_body(records, "request timed out after")
    (access,) = by_body(records, "GET /hang 500")
    for record in (said["attributes"], access["attributes"]):
        assert record["url.path"] == "/hang"
        assert record["user_agent.original"] == "patient"
        assert 1 < record["http.server.request.duration"] < 60
    assert said["severity_text"] == "ERROR"
    assert said["resource"]["femtomp.worker.name"] == "worker-1"
    (failed,) = by_body(records, "GET /fail 500")
    assert failed["attributes"]["http.server.request.duration"] < 1
    assert failed["resource"]["femtomp.worker.name"] == "worker-2"


def test_hooks_and_logger_class_of_the_user_are_kept(tmp_path) -> None:
    """`install` thrice calls every hook of the file once, and keeps its logger class."""
    hooks = """
from gunicorn.glogging import Logger
class logger_class(Logger):
    pass
def hook(name, kept=open("called", "ab", 0)):
    kept.write(f"{name}\\n".encode())
def nworkers_changed(server, new, old): hook("nworkers_changed")
def on_starting(server): hook("on_starting")
def pre_fork(server, worker): hook("pre_fork")
def post_fork(server, worker): hook("post_fork")
def post_request(worker, req): hook("post_request")
def child_exit(server, worker): hook("child_exit")
def on_exit(server): hook("on_exit")
gunicorn.install(globals(), ["file:records"])
gunicorn.install(globals(), ["file:records"])
"""
    gunicorn = started(tmp_path, "--workers=1", more=hooks)
    with gunicorn:
        await_pids(gunicorn.port, 1)
        assert gunicorn.terminate() == 0
    called = (tmp_path / "called").read_text().split()
    assert called.count("post_request") >= 1
    once = [name for name in called if name != "post_request"]
    assert once == [
        "nworkers_changed", "on_starting", "pre_fork", "post_fork", "child_exit",
        "on_exit",
    ]  # fmt: skip
    records = read(tmp_path / "records")
    measure("gunicorn, hooks", gunicorn.ledgers, records, 0).check()
    assert len(by_body(records, "Booting worker")) == 1
    # gunicorn's text is where the user's class puts it: on stderr.
    assert "Booting worker" in gunicorn.stderr()


def test_gunicorns_own_asgi_worker_has_access_records(tmp_path) -> None:
    """Its request time is no timedelta; hooks behind the access log are called."""
    if find_spec("gunicorn.asgi") is None:
        pytest.skip("gunicorn 24 and later have it")
    hook = """
def post_request(worker, req, environ, resp):
    open("called", "a").write("x")
"""
    gunicorn = started(
        tmp_path, "--workers=1", "--worker-class=asgi", more=hook,
        app="tests.integrations.app:asgi",
    )  # fmt: skip
    with gunicorn:
        await_pids(gunicorn.port, 1)
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    (access,) = by_body(records, "GET / 200")
    assert 0 <= access["attributes"]["http.server.request.duration"] < 10
    assert access["attributes"]["user_agent.original"] == "test"
    assert [r["body"] for r in records if r["severity_text"] == "ERROR"] == []
    assert (tmp_path / "called").read_text() == "x"


@pytest.mark.parametrize("name", ["sync", "uvicorn_worker.UvicornWorker"])
def test_a_logging_configuration_of_the_user_doubles_nothing(tmp_path, name) -> None:
    """With `logconfig_dict` gunicorn's loggers propagate: each record is there once."""
    kind, app, _ = CLASSES[name]
    if kind != "sync":
        require(kind.partition(".")[0])
    gunicorn = started(
        tmp_path, "--workers=1", f"--worker-class={kind}",
        more='logconfig_dict = {"version": 1, "disable_existing_loggers": False}',
        app=f"tests.integrations.app:{app}",
    )  # fmt: skip
    with gunicorn:
        await_pids(gunicorn.port, 1)
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    assert len(by_body(records, "Booting worker")) == 1
    access = [r for r in records if r["logger"].endswith(".access")]
    assert len(access) == 1
    assert len(by_body(records, "Finished server process")) == (kind != "sync")


ACCESS_LINE = r'127\.0\.0\.1 "GET /a\?b HTTP/1\.1" 200 in 0\.\d{6}'


def test_gunicorns_access_file_and_metrics_stay_as_they_are(tmp_path) -> None:
    """A path in `accesslog` gets lines in the `access_log_format`, and `statsd_host`
    the same metrics as from a gunicorn alone; femtomp's sinks get records with fields.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        gunicorn = started(
            tmp_path, "--workers=1",
            more=f"""
accesslog = "access.log"
access_log_format = '%(h)s "%(r)s" %(s)s in %(L)s'
statsd_host = "127.0.0.1:{statsd.getsockname()[1]}"
""",
        )  # fmt: skip
        with gunicorn:
            assert get(gunicorn.port, "/a?b") is not None
            assert gunicorn.terminate() == 0
        metrics = set()
        while "gunicorn.request.status.200" not in metrics:
            metrics.add(statsd.recv(2000).decode().partition(":")[0])
    assert metrics >= {"gunicorn.request.duration", "gunicorn.requests"}
    (line, *_) = (tmp_path / "access.log").read_text().splitlines()
    assert re.fullmatch(ACCESS_LINE, line), line
    (record,) = by_body(read(tmp_path / "records"), "GET /a")
    assert record["attributes"]["http.response.status_code"] == 200


def test_an_access_format_that_fails_is_said_and_breaks_no_request(tmp_path) -> None:
    """The record is there; the file gets its text, and an error says what is wrong."""
    gunicorn = started(
        tmp_path, "--workers=1",
        more="accesslog = 'access.log'\naccess_log_format = '%(s)q'",
    )  # fmt: skip
    with gunicorn:
        assert get(gunicorn.port, "/a") is not None
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    (said,) = by_body(records, "access_log_format '%(s)q' failed")
    assert "unsupported format character" in said["attributes"]["exception.message"]
    assert len(by_body(records, "GET /a 200")) == 1
    assert "GET /a 200" in (tmp_path / "access.log").read_text()


@pytest.mark.parametrize("arguments", [(), ("--preload",)])
def test_loggers_that_an_application_disables_are_heard(tmp_path, arguments) -> None:
    """`disable_existing_loggers`, dictConfig's default, silences no gunicorn logger."""
    (tmp_path / "disabling.py").write_text(
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'INFO'}})\n"
        "from tests.integrations.app import wsgi\n"
    )
    gunicorn = started(tmp_path, "--workers=1", *arguments, app="disabling:wsgi")
    with gunicorn:
        assert get(gunicorn.port, "/a") is not None
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    assert len(by_body(records, "GET /a 200")) == 1
    assert by_body(records, "Worker-")
    assert by_body(records, "Shutting down: Master")


def test_no_configuration_is_needed(tmp_path) -> None:
    """`--logger-class` alone logs to the sinks of FEMTOMP_SINKS, by the proc name."""
    gunicorn = Gunicorn(
        tmp_path, "--workers=2",
        "--logger-class=femtomp.integrations.gunicorn.Logger",
        sinks="file:records", app="tests.integrations.app:wsgi", cwd=tmp_path,
    )  # fmt: skip
    with gunicorn:
        await_pids(gunicorn.port, 2)
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    measure("gunicorn, --logger-class", gunicorn.ledgers, records, 0).check()
    assert gunicorn.stderr() == ""
    names = {r["resource"]["femtomp.worker.name"] for r in records}
    assert names == {"master", "worker-1", "worker-2"}
    assert {r["resource"]["service.name"] for r in records} == {
        "tests.integrations.app"
    }


def test_by_hand_each_line_comes_once_and_workers_have_names(tmp_path) -> None:
    """README's own configuration: nothing is printed besides, also after a reload."""
    readme = (ROOT / "README.md").read_text()
    (recipe,) = re.findall(
        r"```python\n(# gunicorn.conf.py\nimport.*?)```", readme, re.DOTALL
    )
    (tmp_path / "gunicorn.conf.py").write_text(recipe)
    gunicorn = Gunicorn(
        tmp_path, "--workers=2", "--access-logfile=-", cwd=tmp_path, sinks=None,
        app="tests.integrations.app:wsgi", FEMTOMP_SINKS="file:records",
    )  # fmt: skip
    with gunicorn:
        old = await_pids(gunicorn.port, 2)
        gunicorn.signal(signal.SIGHUP)
        await_pids(gunicorn.port, 2, but=old)
        get(gunicorn.port, "/burst?3")
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    said = gunicorn.stderr()
    assert "Listening at" not in said
    assert "Booting worker" not in said
    assert "GET" not in said
    uids = [record["uid"] for record in records]
    assert len(set(uids)) == len(uids)
    assert len(by_body(records, "burst ")) == 3
    access = [r for r in records if r["logger"] == "gunicorn.access"]
    names = {r["resource"]["femtomp.worker.name"] for r in access}
    assert {"worker-1", "worker-2"} < names < {f"worker-{n}" for n in range(1, 9)}
    (handling,) = by_body(records, "Handling signal: hup")
    assert handling["resource"]["femtomp.worker.name"] == "master"


def test_a_sink_that_cannot_be_built_is_one_line(tmp_path) -> None:
    """It exits with 1 and says what is wrong, without a traceback."""
    (tmp_path / "gunicorn.conf.py").write_text(CONF.format(more=""))
    (tmp_path / "records").mkdir()
    gunicorn = started(tmp_path)
    with gunicorn:
        assert gunicorn.wait() == 1
    said = gunicorn.stderr()
    assert "Error: femtomp: " in said
    assert "Traceback" not in said


@pytest.mark.skipif(not OLD, reason="FEMTOMP_TEST_GUNICORN_23 names no directory")
def test_gunicorn_23_works_too(tmp_path) -> None:
    """The oldest version in wide use: kills, a reload, and the same records."""
    gunicorn = started(tmp_path, "--workers=3", path=OLD)
    with gunicorn:
        await_pids(gunicorn.port, 3)
        kills = burst(gunicorn, KILLS)
        while len(returned(gunicorn.ledgers)) < RECORDS:
            burst(gunicorn, 0, 8)
        old = await_pids(gunicorn.port, 3)
        gunicorn.signal(signal.SIGHUP)
        await_pids(gunicorn.port, 3, but=old)
        assert gunicorn.terminate() == 0
        until(lambda: not gunicorn.processes(), "all has ended")
    records = read(tmp_path / "records")
    assert by_body(records, "Starting gunicorn 23.0.0")
    measure("gunicorn 23.0.0, sync", gunicorn.ledgers, records, kills).check()
    assert gunicorn.stderr() == ""


AGENTS = [
    'a "quoted" name',
    "two\nlines\rand\x00NUL",
    "caf\xc3\xa9",
    "no \xff\xfe UTF-8",
    "%(h)s {x} %s",
]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_user_agent_is_one_value(agent: str) -> None:
    """Whatever a client calls itself: one record, and the exact value."""
    from femtomp.integrations import gunicorn

    logger = gunicorn.Logger.__new__(gunicorn.Logger)
    logger.access_log = logging.getLogger("app.access")
    logger.access_log.setLevel("INFO")
    environ = {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/a%20b?c=1",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": "12",
        "HTTP_USER_AGENT": agent,
        "HTTP_X_REQUEST_ID": "r1",
    }
    response = SimpleNamespace(status="404 Not Found", sent=7)
    with captured_records() as records:
        logger.access(response, [], environ, timedelta(milliseconds=1500))
    (record,) = records
    assert record.body == "GET /a%20b 404"
    expected = "café" if "\xc3" in agent else agent
    fields = record.attributes
    assert fields["user_agent.original"] == expected
    assert fields["url.path"] == "/a%20b"
    assert fields["url.query"] == "c=1"
    assert fields["http.request.body.size"] == 12
    assert fields["http.response.body.size"] == 7
    assert fields["http.server.request.duration"] == 1.5
    assert fields["network.protocol.version"] == "1.1"
    assert fields["http.request.id"] == "r1"


def test_bytes_that_are_no_text_arrive(tmp_path) -> None:
    """A user agent with quotes and bytes that are no UTF-8 is one whole record."""
    gunicorn = started(tmp_path, "--workers=1")
    with gunicorn:
        await_pids(gunicorn.port, 1)
        with socket.create_connection(("127.0.0.1", gunicorn.port), 20) as client:
            client.sendall(
                b'GET /odd HTTP/1.1\r\nHost: x\r\nUser-Agent: "q" \xff\xfe\r\n'
                b"Connection: close\r\n\r\n"
            )
            until(lambda: not client.recv(4096), "the answer's end")
        assert gunicorn.terminate() == 0
    (access,) = by_body(read(tmp_path / "records"), "GET /odd 200")
    assert access["attributes"]["user_agent.original"] == '"q" \xff\xfe'
