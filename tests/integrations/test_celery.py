"""Celery with `install(app)`: real workers of each pool, without a broker and with one."""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from femtomp.testing import captured_records
from tests.components import require
from tests.examples.pool import ROOT, state, until
from tests.examples.pool import read as read_bytes
from tests.integrations.measured import measure, read, returned

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
MODULE = "tests.integrations.celery_app"


@pytest.fixture(autouse=True)
def _celery():
    require("celery")


class Worker:
    """A Celery worker in a directory and session of its own; a context manager."""

    def __init__(self, directory, *arguments: str, broker: str = "", **environ: str):
        self._mark = f"POOL_MARK={uuid.uuid4()}"
        self.directory = directory
        self.ledgers = directory / "ledgers"
        self.ledgers.mkdir()
        self._arguments = arguments
        has_level = any(word.startswith("-l") for word in arguments)
        self._level = [] if has_level else ["-linfo"]
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CELERY")},
            "PYTHONPATH": str(ROOT),
            "CELERY_DIRECTORY": str(directory / "broker"),
            "TEST_BROKER": broker,
            "LEDGER_DIRECTORY": str(self.ledgers),
            "C_FORCE_ROOT": "1",
            **dict([self._mark.split("=")]),
            **environ,
        }

    def __enter__(self):
        # The script: at SIGHUP Celery executes its own argv anew.
        script = str(Path(sys.executable).with_name("celery"))
        celery = [sys.executable, script, "-A", MODULE, "--quiet"]
        with (self.directory / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [*celery, *self._arguments, *self._level],
                cwd=self.directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def send(self, task: str, count: int = 1, records: int = 0, kills: int = 0) -> None:
        """Send tasks, from a process of its own."""
        code = f"import {MODULE} as m; m.send({task!r}, {count}, {records}, {kills})"
        command = [sys.executable, "-c", code]
        environ = {k: v for k, v in self._environ.items() if k != "POOL_MARK"}
        done = subprocess.run(
            command, cwd=self.directory, env=environ, timeout=60, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    def await_returned(self, number: int) -> None:
        """Return when that many log calls have returned in all processes."""
        until(lambda: len(returned(self.ledgers)) >= number, f"{number} records", 60)

    def await_body(self, start: str, number: int = 1) -> list[dict]:
        """Return when so many records were delivered that begin so."""
        return until(
            lambda: (found := self.by_body(start))[number - 1 :] and found,
            f"{number} records that begin with {start!r}: {self.said()}",
            25,
        )

    def by_body(self, start: str) -> list[dict]:
        return [r for r in self.records() if r["body"].startswith(start)]

    def records(self) -> list[dict]:
        path = self.directory / "records"
        return read(path) if path.exists() else []

    def terminate(self) -> int:
        """Warm shutdown."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def said(self) -> str:
        return (self.directory / "said").read_text()

    def processes(self) -> list[int]:
        mark = self._mark.encode()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        ours = [
            p for p in pids if mark in read_bytes(f"/proc/{p}/environ").split(b"\0")
        ]
        return [pid for pid in ours if state(pid) not in "ZX"]


@pytest.fixture(name="redis")
def _redis(tmp_path):
    """A redis-server of its own; its URL."""
    require("redis")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: answers(port), "redis answers")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def check_tasks(worker: Worker) -> None:
    """Every record of a task has its fields and trace, library code's too."""
    bursts = worker.by_body("burst ")
    for record in bursts:
        fields = record["attributes"]
        assert fields["celery.task.name"] == f"{MODULE}.burst"
        assert fields["celery.task.queue"] == "celery"
        assert fields["celery.task.retries"] == 0
        assert fields["celery.task.root_id"] == fields["celery.task.id"]
        assert record["trace_id"] == TRACE_ID
    assert {r["logger"] for r in bursts} == {"tasks", "library"}
    # "received", "succeeded" and the like, of the main process and of children.
    said = worker.by_body("Task tests")
    assert said
    assert [r for r in said if "celery.task.id" not in r["attributes"]] == []


def test_prefork_children_lose_nothing(tmp_path, redis) -> None:
    """10,000 records on a real broker, 10 children killed in the midst: all is there,
    once, as its process's; who was killed at which task is said.
    """
    with Worker(tmp_path, "worker", "-c4", broker=redis) as worker:
        worker.await_body("celery@")
        worker.send("burst", 100, 100, 10)
        worker.await_returned(10_000)
        lost = worker.await_body("task ", 10)
        assert worker.terminate() == 0
        until(lambda: not worker.processes(), "all has ended")
        row = measure("Celery, prefork, redis", worker.ledgers, worker.records(), 10)
    row.check()
    check_tasks(worker)
    names = {r["attributes"]["celery.task.name"] for r in lost}
    assert names == {f"{MODULE}.burst"}
    assert {r["attributes"]["error.type"] for r in lost} == {"WorkerLostError"}
    who = {r["resource"]["process.pid"]: r["resource"] for r in worker.records()}
    main = who.pop(worker.process.pid)
    assert main["femtomp.worker.name"].startswith("celery@")
    assert len({r["femtomp.worker.name"] for r in who.values()}) == len(who) >= 14
    assert {r["celery.worker.slot"] for r in who.values()} == {0, 1, 2, 3}
    assert {r["celery.node"] for r in who.values()} == {main["femtomp.worker.name"]}


def test_no_broker_is_needed(tmp_path) -> None:
    """On the filesystem transport: kills, retries, and one child for each task."""
    worker = Worker(tmp_path, "worker", "-c2", "--max-tasks-per-child=1")
    with worker:
        worker.await_body("celery@")
        worker.send("burst", 20, 510, 10)
        worker.send("again")
        worker.await_returned(10_000)
        attempts = worker.await_body("attempt", 3)
        assert worker.terminate() == 0
        until(lambda: not worker.processes(), "all has ended")
        row = measure("Celery, a child a task", worker.ledgers, worker.records(), 10)
    row.check()
    assert row.workers >= 20
    retries = [r["attributes"]["celery.task.retries"] for r in attempts]
    assert retries == [0, 1, 2]
    assert len({r["attributes"]["celery.task.id"] for r in attempts}) == 1
    check_tasks(worker)


POOLS = {
    "threads": ("-Pthreads", "-c4"),
    "solo": ("-Psolo",),
    "gevent": ("-P", "gevent", "-c4"),
    "eventlet": ("-P", "eventlet", "-c4"),
    "spawn": ("-c2",),
    "prefork and beat": ("-c2", "-B"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_every_pool_logs(tmp_path, name: str, redis) -> None:
    """Each pool's tasks have their fields, and no task another's."""
    if name in ("gevent", "eventlet"):
        require(name)
    start = {"START_METHOD": "spawn"} if name == "spawn" else {}
    worker = Worker(tmp_path, "worker", *POOLS[name], broker=redis, **start)
    with worker:
        worker.await_body("celery@")
        # In the others the worker is the main process.
        kills = 10 if name in ("spawn", "prefork and beat") else 0
        worker.send("burst", 20, 510, kills)
        worker.await_returned(10_000)
        assert worker.terminate() == 0
        until(lambda: not worker.processes(), "all has ended")
        row = measure(f"Celery, {name}", worker.ledgers, worker.records(), kills)
    row.check()
    check_tasks(worker)
    counts: dict[str, set[str]] = {}
    for record in worker.by_body("burst "):
        task = record["attributes"]["celery.task.id"]
        counts.setdefault(task, set()).add(record["body"])
    assert [len(bodies) for bodies in counts.values()] == [510] * 20
    if name == "spawn":
        names = {r["resource"]["femtomp.worker.name"] for r in worker.by_body("burst")}
        assert all(each.startswith("SpawnPoolWorker-") for each in names)
    if name == "prefork and beat":
        (beat,) = worker.by_body("beat: Starting...")
        assert beat["resource"]["femtomp.worker.name"] == "Beat"


def test_limits_and_reloads(tmp_path, redis) -> None:
    """A task over its time limits is named by the main process; SIGHUP executes the
    worker anew, in place, and the new image has a server of its own.
    """
    with Worker(tmp_path, "worker", "-c1", broker=redis) as worker:
        worker.await_body("celery@")
        worker.send("endless")
        (stopped,) = worker.await_body("stopped")
        assert stopped["attributes"]["celery.task.name"] == f"{MODULE}.endless"
        worker.process.send_signal(signal.SIGHUP)
        worker.await_body("celery@", 2)
        worker.send("burst", 2, 20)
        worker.await_body("burst", 40)
        assert worker.terminate() == 0
        until(lambda: not worker.processes(), "all has ended")
        measure("Celery, SIGHUP", worker.ledgers, worker.records(), 0).check()
    check_tasks(worker)


def test_a_sink_that_cannot_be_built_stops_the_worker(tmp_path) -> None:
    """The worker exits, and says which sink and why."""
    (tmp_path / "records").mkdir()
    with Worker(tmp_path, "worker", "-c1") as worker:
        assert worker.process.wait(30) != 0
        assert "records" in worker.said()


def test_senders_get_no_server() -> None:
    """Importing the application in a web process connects signals and no more."""
    code = (
        "import logging, os, sys, threading\n"
        "from celery import Celery\n"
        "from femtomp.integrations.celery import install\n"
        "app = Celery('shop')\n"
        "before = len(os.listdir('/proc/self/fd')), threading.active_count()\n"
        "install(app); install(app)\n"
        "assert before == (len(os.listdir('/proc/self/fd')), threading.active_count())\n"
        "assert not logging.root.handlers and 'FEMTOMP_SPOOL' not in os.environ\n"
        "assert 'grpc' not in sys.modules and 'psutil' not in sys.modules\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, timeout=60)


@pytest.mark.parametrize("app", [None, "shop", 3])
def test_what_is_no_application_is_refused(app) -> None:
    """Bad input is an error at the call."""
    from femtomp.integrations.celery import install

    with pytest.raises(TypeError, match="give the Celery application"):
        install(app)


def test_nested_tasks_have_their_own_fields() -> None:
    """A task called inside another has its own fields, and gives the outer's back."""
    from celery import Celery

    from femtomp.integrations.celery import install

    app = Celery("nested", broker="memory://", set_as_current=False)
    install(app)

    import logging

    log = logging.getLogger("nested")

    @app.task(name="inner")
    def inner() -> None:
        log.warning("inner")

    @app.task(name="outer")
    def outer() -> None:
        log.warning("before")
        inner.apply()
        log.warning("after")

    with captured_records() as records:
        outer.apply()
        log.warning("outside")
    found = [(r.body, r.attributes.get("celery.task.name")) for r in records]
    assert [each for each in found if each[0] in ("before", "inner", "after", "outside")] == [
        ("before", "outer"), ("inner", "inner"), ("after", "outer"), ("outside", None),
    ]  # fmt: skip


def test_a_task_that_is_delivered_twice_at_once_leaves_nothing_behind() -> None:
    """Both threads have its fields while it runs there, and none afterwards."""
    from celery import Celery

    from femtomp.integrations import celery
    from femtomp.worker.context import fields

    app = Celery("shop")
    celery.install(app, "console")
    both, found = threading.Barrier(2), []

    @app.task
    def work():
        both.wait(20)
        found.append(fields.get().get("celery.task.id"))
        both.wait(20)

    def run() -> None:
        work.apply(task_id="one")
        found.append(fields.get())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["one", "one", {}, {}]


def test_a_setup_logging_of_the_user_takes_no_handler_away(tmp_path) -> None:
    """Theirs replaces the root logger's handlers; femtomp's is there again."""
    from celery import Celery, signals

    from femtomp.integrations import celery

    def theirs(**_: object) -> None:
        logging.config.dictConfig({"version": 1, "root": {"handlers": []}})

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    celery.install(Celery("shop"), [f"file:{tmp_path}/records"])
    signals.setup_logging.connect(theirs)
    try:
        signals.setup_logging.send(None, loglevel=logging.INFO)
        signals.celeryd_after_setup.send("node", instance=None, conf=None)
        logging.getLogger("shop").warning("here")
    finally:
        signals.setup_logging.disconnect(theirs)
        root.handlers[:] = before
        root.setLevel(level)
        celery._worker.server.stop()
        celery._worker.server = None
    assert "here" in [record["body"] for record in read(tmp_path / "records")]


def test_billiards_debug_chatter_stays_out_and_a_log_file_is_explained(
    tmp_path,
) -> None:
    """With `-l debug` billiard's own DEBUG lines are left out as Celery leaves them;
    a warning says what becomes of `--logfile`.
    """
    worker = Worker(tmp_path, "worker", "-c1", "-ldebug", "--logfile=worker.log")
    with worker:
        worker.await_body("celery@")
        assert worker.terminate() == 0
    records = worker.records()
    chatter = [r for r in records if r["logger"] == "multiprocessing"]
    assert [r["body"] for r in chatter if r["severity_text"] == "DEBUG"] == []
    (said,) = worker.by_body("Celery's --logfile is not used: worker.log")
    assert said["severity_text"] == "WARNING"
    assert not (tmp_path / "worker.log").exists()


def test_every_task_that_logs_hears_of_its_time_limit(tmp_path):
    """A soft limit that strikes in a log call is the task's: 24 of 24 tasks in a loop
    hear of it, and each of their records is whole and comes once.
    """
    with Worker(tmp_path, "worker", "-c2") as worker:
        worker.send("chatters", 24)
        until(lambda: len([*tmp_path.glob("*.said")]) == 24, "24 tasks", 100)
        until(lambda: all(p.read_text() for p in tmp_path.glob("*.said")), "words")
        worker.terminate()
    assert [p.read_text() for p in tmp_path.glob("*.said")] == ["heard"] * 24
    steps = [r for r in worker.records() if r["body"].startswith("step")]
    assert len(steps) > 24
    assert len({r["uid"] for r in steps}) == len(steps)
    for step in steps:
        number = step["attributes"]["n"]
        assert step["body"] == f"step {number}"
        assert step["attributes"]["more"] == {"a": [number]}
        assert (step["logger"], step["severity_text"]) == ("tasks", "INFO")
    ids = {(r["attributes"]["celery.task.id"], r["attributes"]["n"]) for r in steps}
    assert len(ids) == len(steps)
