"""A pool of workers, a server and a real systemd-journald that comes and goes."""

from __future__ import annotations

import json
import logging
import os
import signal
import time

import pytest

import femtomp
from femtomp.config import JournaldSink
from femtomp.sinks import Delivered
from femtomp.sinks.journald import open_driver
from tests.components import require
from tests.processes.harness import Attached, fork, lines, until
from tests.real.journald import Journald
from tests.records import BRIEF, Resource, make

WORKERS = 8
# 100,000 as a whole where there is time for it.
RECORDS = int(os.environ.get("FEMTOMP_TEST_JOURNALD_RECORDS", "20000")) // WORKERS
# Systems are patched and rebooted: a minute without journald happens.
AWAY_S = float(os.environ.get("FEMTOMP_TEST_JOURNALD_AWAY_S", "2"))

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root names other senders")


def log_all(worker, count=RECORDS):
    log = logging.getLogger("shop.worker")
    for number in range(count):
        log.info("record %d", number, extra={"worker": worker, "number": number})


def wait_for(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


def numbers(journald) -> dict[int, list[int]]:
    """Give what each worker's entries are, in the journal's order."""
    journald.sync()
    found: dict[int, list[int]] = {}
    wanted = "--output-fields=WORKER,NUMBER"
    for line in journald.journalctl(
        "-o", "json", wanted, "LOGGER=shop.worker"
    ).splitlines():
        entry = json.loads(line)
        found.setdefault(int(entry["WORKER"]), []).append(int(entry["NUMBER"]))
    return found


def test_every_record_of_a_pool_is_there_in_order() -> None:
    """Of eight workers that log as fast as they can, nothing is lost or disordered."""
    require("journald")
    with (
        Journald() as journald,
        femtomp.start_server(JournaldSink(journald.socket)) as server,
        Attached(),
    ):
        wait_for(*[fork(log_all, worker) for worker in range(WORKERS)])
        assert server.flush(60)
        every = {worker: list(range(RECORDS)) for worker in range(WORKERS)}
        assert numbers(journald) == every


@pytest.mark.parametrize("held", [False, True], ids=["own socket", "activated"])
@pytest.mark.parametrize("how", ["stop", "kill", "freeze"])
def test_journald_that_goes_and_comes_back_gets_all(tmp_path, how, held) -> None:
    """Ended, killed or stopped and back: nothing is lost, and a file is undisturbed."""
    require("journald")
    path = tmp_path / "app.jsonl"
    with Journald(held=held) as journald:
        sinks = [JournaldSink(journald.socket), femtomp.FileSink(path)]
        with femtomp.start_server(sinks) as server, Attached():
            wait_for(fork(log_all, 0, 100))
            assert server.flush(20)
            journald.sync()
            if how == "freeze":
                os.kill(journald.pid, signal.SIGSTOP)
            else:
                getattr(journald, how)()
            gone_at = time.monotonic()
            wait_for(fork(log_all, 1, 1000))
            until(
                lambda: server.stats().sinks["file"].delivered >= 1100,
                "the file has all meanwhile",
            )
            assert len(lines(path)) >= 1100
            until(lambda: time.monotonic() > gone_at + AWAY_S, "away", AWAY_S + 20)
            if how == "freeze":
                os.kill(journald.pid, signal.SIGCONT)
            else:
                journald.start()
            assert server.flush(30)
            stats = server.stats()
        found = numbers(journald)
        assert (found[0], found[1]) == (list(range(100)), list(range(1000)))
        assert stats.sinks["journald"].delivered == stats.sinks["file"].delivered


@as_root
@pytest.mark.parametrize("sender", ["supervisor", "worker"])
def test_worker_is_named_while_it_lives(sender) -> None:
    """Trusted fields of the worker are there, beside the supervisor's or not."""
    require("journald")
    with Journald() as journald:
        read, write = os.pipe()

        def work():
            logging.getLogger("shop.worker").info("alive")
            os.read(read, 1)

        sink = JournaldSink(journald.socket, sender=sender)
        with femtomp.start_server(sink) as server, Attached():
            pid = fork(work)
            until(lambda: server.stats().sinks["journald"].delivered, "delivered")
            journald.sync()  # it reads /proc when it reads the entry
            os.write(write, b".")
            wait_for(pid)
        journald.sync()
        (entry,) = journald.entries("MESSAGE=alive")
        prefix = "OBJECT_" if sender == "supervisor" else "_"
        assert entry[f"{prefix}PID"] == entry["WORKER_PID"] == str(pid)
        assert entry[f"{prefix}UID"] == str(os.geteuid())
        assert f"{prefix}EXE" in entry
        assert (entry["_PID"] == str(pid)) == (sender == "worker")
        os.close(read)
        os.close(write)


@as_root
def test_entry_with_all_fields_has_room_for_the_worker() -> None:
    """An entry of more than 1,024 fields is dropped, and journald adds some itself."""
    require("journald")
    pid = os.getpid()
    resource = Resource({"process.pid": pid, "process.executable.path": "/x"}, {})
    record = make(
        attributes={f"field_{n}": n for n in range(1025)},
        resource=resource, timestamp=time.time_ns(), uid="all",
    )  # fmt: skip
    with Journald() as journald:
        driver = open_driver(JournaldSink(journald.socket), stderr_fd=2, environ={})
        assert driver.write([record]) == Delivered()
        driver.close()
        journald.sync()
        (entry,) = journald.entries("LOG_RECORD_UID=all")
    assert entry["OBJECT_PID"] == str(pid)
    assert "OBJECT_COMM" in entry
    assert "DROPPED_FIELDS" in entry


def log_and_end():
    logging.getLogger("shop.worker").info("last words")


def test_dead_workers_records_are_found_by_its_pid() -> None:
    """`journalctl WORKER_PID=n` finds what a worker logged before it was killed."""
    require("journald")
    with Journald() as journald:
        os.kill(journald.pid, signal.SIGSTOP)
        with femtomp.start_server(JournaldSink(journald.socket)) as server, Attached():
            pid = fork(log_and_end)
            wait_for(pid)
            os.kill(journald.pid, signal.SIGCONT)
            assert server.flush(20)
        journald.sync()
        found = journald.entries(f"WORKER_PID={pid}", "LOGGER=shop.worker")
        assert [entry["MESSAGE"] for entry in found] == ["last words"]
        assert found[0]["SYSLOG_PID"] == str(pid)
        assert found[0]["WORKER_ROLE"] == "worker"


@as_root
@pytest.mark.parametrize(
    ("age_s", "is_named"), [(0, True), (0.5, False)], ids=["its own", "reused"]
)
def test_process_that_is_younger_than_the_record_is_not_its_sender(
    age_s, is_named
) -> None:
    """A pid that another process has by now names nobody."""
    require("journald")
    read, write = os.pipe()
    pid = fork(os.read, read, 1)
    brief = {**BRIEF, "process.pid": pid}
    resource = Resource({**brief, "process.executable.path": "/x"}, brief)
    record = make(
        resource=resource,
        timestamp=time.time_ns() - int(age_s * 1e9),
        uid=f"age-{age_s}",
    )
    with Journald() as journald:
        sink = JournaldSink(journald.socket, sender="worker")
        driver = open_driver(sink, stderr_fd=2, environ={})
        assert driver.write([record]) == Delivered()
        journald.sync()
        os.write(write, b".")
        wait_for(pid)
        # It has ended, and its pid is free.
        after = record._replace(uid=f"after-{age_s}")
        assert driver.write([after]) == Delivered()
        journald.sync()
        driver.close()
        (entry,) = journald.entries(f"LOG_RECORD_UID={record.uid}")
        (later,) = journald.entries(f"LOG_RECORD_UID={after.uid}")
    assert entry["_PID"] == str(pid if is_named else os.getpid())
    assert later["_PID"] == str(os.getpid())
    assert later["WORKER_PID"] == str(pid)
    os.close(read)
    os.close(write)


@as_root
def test_without_the_capability_the_supervisor_is_the_sender() -> None:
    """In a container whose root may name nobody every record arrives all the same."""
    require("journald")
    seen = {"process.pid": os.getpid(), "process.executable.path": "/x"}
    resource = Resource(seen, {})
    records = [
        make(resource=resource, timestamp=time.time_ns(), uid=f"eperm-{n}")
        for n in range(3)
    ]
    with Journald() as journald:
        journald.base.chmod(0o755)

        def send():
            sink = JournaldSink(journald.socket, sender="worker")
            driver = open_driver(sink, stderr_fd=2, environ={})
            os.setresuid(65534, 65534, 65534)
            assert driver.write(records) == Delivered()

        pid = fork(send)
        wait_for(pid)
        journald.sync()
        entries = journald.entries("LOGGER=shop.cart")
    assert [entry["_PID"] for entry in entries] == [str(pid)] * 3
