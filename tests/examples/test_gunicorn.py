"""The gunicorn example, run as its README says, against real destinations.

What may be lost is decided by the workers themselves: `ledger.py` writes down every
log call that has returned. The figures of a run and its seed are printed; give the seed
as FEMTOMP_TEST_SEED to have the same requests and the same kill again.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from femtomp.lanes import place
from tests.components import require
from tests.examples.load import Load
from tests.examples.pool import Gunicorn, tasks, until
from tests.examples.sinks import NAMES, Sinks

SEED = int(os.environ.get("FEMTOMP_TEST_SEED") or random.SystemRandom().getrandbits(32))
REQUESTS = 5000
WORKERS = 4
# gunicorn.conf.py's threads.
THREADS = 4


@pytest.fixture(name="sinks")
def _sinks(tmp_path):
    for component in ("gunicorn", "journald", "otlp"):
        require(component)
    with Sinks(tmp_path) as sinks:
        yield sinks


def test_no_returned_record_is_lost_when_a_worker_is_killed(sinks, tmp_path) -> None:
    """Under 5,000 requests and a SIGKILL, every record whose log call returned is in
    the journal, at the collector and in the file, once and under its worker's pid.
    """
    kill_at = random.Random(SEED).randrange(REQUESTS // 4, REQUESTS * 3 // 4)
    killed = []

    def kill(answer) -> None:
        os.kill(answer.pid, signal.SIGKILL)
        killed.append(answer.pid)

    with Gunicorn(tmp_path, f"--workers={WORKERS}", sinks=sinks.words) as gunicorn:
        gunicorn.await_workers(WORKERS)
        begun = time.monotonic()
        load = Load(gunicorn.port, SEED, REQUESTS, at={kill_at: kill}).run()
        served_s = time.monotonic() - begun
        gunicorn.await_workers(WORKERS)  # the killed one is replaced
        assert len(gunicorn.supervisors()) == 2
        master_threads = tasks(gunicorn.pid)
        assert gunicorn.terminate() == 0
        assert gunicorn.processes() == []
    seen = sinks.read()
    print_figures(gunicorn, load, seen, f"{killed} killed at {kill_at}", served_s)
    assert complaints(gunicorn) == []
    assert master_threads == 1
    assert len(load.answers) == REQUESTS
    assert len(load.pids()) >= WORKERS
    check_delivery(gunicorn, load, seen)
    check_access(load, seen, killed)
    check_errors(load, seen)
    check_master(gunicorn, seen, killed)
    check_threads(load)


def test_a_preloaded_application_loses_nothing(sinks, tmp_path) -> None:
    """With --preload, what master and workers log goes the same way."""
    with Gunicorn(tmp_path, "--workers=2", "--preload", sinks=sinks.words) as gunicorn:
        gunicorn.await_workers(2)
        load = Load(gunicorn.port, SEED, 300).run()
        master_threads = tasks(gunicorn.pid)
        assert gunicorn.terminate() == 0
        assert gunicorn.processes() == []
    seen = sinks.read()
    assert complaints(gunicorn) == []
    assert master_threads == 1
    # The wrapper was there before the fork: the master keeps a ledger too.
    assert (gunicorn.ledgers / str(gunicorn.pid)).exists()
    check_delivery(gunicorn, load, seen)
    check_access(load, seen)
    check_master(gunicorn, seen)
    check_threads(load)


def test_a_reload_keeps_the_server(sinks, tmp_path) -> None:
    """HUP under load replaces the workers and not the supervisor, and loses nothing."""

    def reload(_) -> None:
        before.extend([gunicorn.workers(), gunicorn.supervisors()])
        gunicorn.signal(signal.SIGHUP)

    before = []
    with Gunicorn(tmp_path, "--workers=2", sinks=sinks.words) as gunicorn:
        gunicorn.await_workers(2)
        load = Load(gunicorn.port, SEED, 1000, at={300: reload}).run()
        old, supervisors = before
        until(lambda: not old & gunicorn.workers(), "the old workers have ended")
        gunicorn.await_workers(2)
        after = Load(gunicorn.port, SEED + 1, 100).run()
        assert gunicorn.supervisors() == supervisors
        assert len(supervisors) == 2
        assert len(list(gunicorn.spools.iterdir())) == 1
        # The reloaded configuration's on_exit knows the server of the first one.
        assert gunicorn.terminate() == 0
        assert gunicorn.processes() == []
    seen = sinks.read()
    assert complaints(gunicorn) == []
    assert old & load.pids()
    assert not old & after.pids()
    load.answers.update(after.answers)
    load.broken += after.broken
    check_delivery(gunicorn, load, seen)
    check_access(load, seen)
    check_master(gunicorn, seen)


def test_a_stop_under_load_delivers_everything(sinks, tmp_path) -> None:
    """TERM while requests come in ends with status 0, all delivered and no spool."""

    def stop(_) -> None:
        gunicorn.signal(signal.SIGTERM)

    with Gunicorn(tmp_path, "--workers=2", sinks=sinks.words) as gunicorn:
        gunicorn.await_workers(2)
        # More than can be answered: each connection ends when it is refused.
        load = Load(gunicorn.port, SEED, 100_000, at={500: stop}, resend=False).run()
        assert gunicorn.wait() == 0
        until(lambda: gunicorn.processes() == [], "all of it has ended")
    seen = sinks.read()
    assert complaints(gunicorn) == []
    assert list(gunicorn.spools.iterdir()) == []
    check_delivery(gunicorn, load, seen)
    check_access(load, seen)
    check_master(gunicorn, seen)


def test_without_settings_it_prints_json(tmp_path) -> None:
    """Started as the README begins, every line on the console is a JSON record."""
    require("gunicorn")
    with Gunicorn(tmp_path, sinks=None, app="shop:app") as gunicorn:
        gunicorn.await_workers(WORKERS)
        connection = http.client.HTTPConnection("127.0.0.1", gunicorn.port, 15)
        for path in ("/items/1", "/error"):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()
        assert gunicorn.terminate() == 0
    records = [json.loads(line) for line in gunicorn.stderr().splitlines()]
    bodies = {record["body"]: record for record in records}
    assert {r["resource"]["service.name"] for r in records} == {"shop"}
    assert bodies["item 1 shown"]["attributes"]["item.price"] == 24.5
    assert bodies["item 1 shown"]["attributes"]["item.available"] is True
    access = bodies["GET /error 500"]["attributes"]
    assert access["http.response.status_code"] == 500
    assert "user_agent.original" not in access
    trace = bodies["request failed"]["attributes"]["exception.stacktrace"]
    assert "TimeoutError: the bank did not answer" in trace
    assert "shop.orders.PaymentError: 99.50 could not be charged" in trace


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_workers_that_drop_their_privileges_log_on() -> None:
    """With `--user`, all that workers log before and after it is delivered."""
    require("gunicorn")
    if barrier := place._barrier(Path(os.__file__).parent, 65534, 65534):
        pytest.skip(f"uid 65534 cannot read the standard library, behind {barrier}")
    directory = Path(tempfile.mkdtemp(prefix="femtomp-user-"))
    directory.chmod(0o755)
    options = ("--user=65534", "--group=65534", "--workers=2")
    sinks = f"file:{directory}/records"
    gunicorn = Gunicorn(directory, *options, sinks=sinks)
    os.chown(gunicorn.ledgers, 65534, 65534)
    try:
        with gunicorn:
            gunicorn.await_workers(2)
            for pid in gunicorn.workers():
                assert os.stat(f"/proc/{pid}").st_uid == 65534
            load = Load(gunicorn.port, SEED, 1500).run()
            assert gunicorn.terminate() == 0
        lines = (directory / "records").read_text().splitlines()
        returned = gunicorn.returned()
        assert complaints(gunicorn) == []
    finally:
        shutil.rmtree(directory)
    records = [json.loads(line) for line in lines]
    assert len(load.answers) == 1500
    assert returned - {r["attributes"].get("ledger.id") for r in records} == set()
    # More than the first two segments of a lane hold.
    assert len("".join(lines)) > 2 * 4 * 192 * 1024
    booted = {r["resource"]["process.pid"] for r in records if "Booting" in r["body"]}
    assert booted >= load.pids()


# -- what is checked in each of them ---------------------------------------------------


def print_figures(gunicorn, load, seen, event: str, served_s: float) -> None:
    """Say what happened: pytest shows it for a failure, and always with -rP."""
    returned = gunicorn.returned()
    print(
        f"\nseed {SEED}: {len(load.answers)} requests in {served_s:.1f} s, {event}, "
        f"{len(load.broken)} broken and sent anew; {len(returned)} log calls returned "
        f"in workers"
    )
    for name in NAMES:
        ids = {record.attributes.get("ledger.id") for record in seen[name]}
        uids = {record.uid for record in seen[name]}
        print(
            f"{name:>9}: {len(seen[name])} records, {len(returned - ids)} lost, "
            f"{len(seen[name]) - len(uids)} twice"
        )


def complaints(gunicorn) -> list[str]:
    """List what was printed, but for the supervisor's word that somebody is slow."""
    lines = gunicorn.stderr().splitlines()
    return [line for line in lines if "they are kept and tried again" not in line]


def check_delivery(gunicorn, load, seen) -> None:
    """Every call that returned is in every destination, once and as its process's."""
    returned = gunicorn.returned()
    assert len(returned) >= len(load.answers)
    for name in NAMES:
        uids = Counter(record.uid for record in seen[name])
        assert [uid for uid, count in uids.items() if count > 1] == [], name
        owners = {r.attributes.get("ledger.id"): r.pid for r in seen[name]}
        assert returned - owners.keys() == set(), name
        del owners[None]  # what was logged before the wrapper was loaded
        wrong = {i: pid for i, pid in owners.items() if i.split(".")[0] != str(pid)}
        assert wrong == {}, name


def check_access(load, seen, killed=()) -> None:
    """Every answered request has one access record, of the worker that answered it."""
    for name in NAMES:
        found: dict[str, list] = {}
        for record in seen[name]:
            if record.logger == "gunicorn.access":
                agent = record.attributes["user_agent.original"]
                found.setdefault(agent, []).append(record)
        missing = [load.answers[a] for a in load.answers if a not in found]
        # gunicorn answers first and logs then: at SIGKILL, once a thread in between.
        assert len(missing) <= THREADS * len(killed), name
        assert {answer.pid for answer in missing} <= set(killed), name
        assert [a for a, records in found.items() if len(records) > 1] == [], name
        # One whose answer was on its way when its worker was killed, or its connection.
        assert found.keys() - load.answers.keys() <= set(load.broken), name
        as_stored = str if name == "journald" else lambda value: value
        for agent, answer in load.answers.items():
            for record in found.get(agent, ()):
                check_access_record(record, answer, as_stored)


def check_access_record(record, answer, as_stored) -> None:
    """The fields say what was asked and answered, with their types."""
    assert record.pid == answer.pid
    assert answer.status == answer.page.status
    expected = {
        "http.request.method": answer.page.method,
        "url.path": answer.page.path.partition("?")[0],
        "http.response.status_code": as_stored(answer.status),
        "client.address": "127.0.0.1",
    }
    assert {k: record.attributes.get(k) for k in expected} == expected
    duration_s = record.attributes["http.server.request.duration"]
    assert type(duration_s) is type(as_stored(0.5))
    assert float(duration_s) >= (0.2 if answer.page.path == "/slow" else 0)


def check_errors(load, seen) -> None:
    """Every failed request left a record with the whole stack trace, cause included."""
    failed = sum(answer.status == 500 for answer in load.answers.values())
    for name in NAMES:
        errors = [
            r.attributes
            for r in seen[name]
            if r.body.partition("\n")[0] == "request failed"  # then its traceback
        ]
        assert len(errors) >= failed, name
        for error in errors:
            assert error["exception.type"] == "shop.orders.PaymentError", name
            assert "TimeoutError: the bank did" in error["exception.stacktrace"], name


def check_master(gunicorn, seen, killed=()) -> None:
    """The master's records carry its pid; a worker's begin at its birth."""
    workers = {int(path.name) for path in gunicorn.ledgers.iterdir()} - {gunicorn.pid}
    said = {"Using worker: gthread", "Handling signal: term", "Shutting down: Master"}
    for pid in killed:
        said.add(f"Worker (pid:{pid}) was sent SIGKILL! Perhaps out of memory?")
    for name in NAMES:
        own = {r.body: r for r in seen[name] if r.logger == "gunicorn.error"}
        assert said - own.keys() == set(), name
        assert {own[body].pid for body in said} == {gunicorn.pid}, name
        for pid in workers:
            # The first record in a worker, before any hook of the configuration.
            assert own[f"Booting worker with pid: {pid}"].pid == pid, name
            if pid not in killed:
                assert own[f"Worker exiting (pid: {pid})"].pid == pid, name


def check_threads(load) -> None:
    """A worker has its main thread and gunicorn's pool, and no other."""
    pool = "ThreadPoolExecutor-0_"
    for answer in load.answers.values():
        others = [name for name in answer.threads if not name.startswith(pool)]
        assert others == ["MainThread"]
        assert answer.tasks <= answer.active_count <= 1 + THREADS
