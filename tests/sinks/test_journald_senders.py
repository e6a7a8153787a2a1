"""Whom the journald driver names as the sender."""

from __future__ import annotations

import os
import time

import pytest

from femtomp.lanes.resource import worker_resource
from femtomp.record import Identity, Resource
from femtomp.sinks import journald_senders
from femtomp.sinks.journald_senders import Senders
from tests.processes.harness import fork

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root names senders")


class Worker:
    """A forked process that lives until told to end."""

    def __init__(self, work=lambda _: None) -> None:
        read, self._write = os.pipe()
        self.pid = fork(self._run, read, work)
        os.close(read)
        brief = {"process.pid": self.pid}
        self.resource = Resource({**brief, "process.executable.path": "/x"}, brief)

    def _run(self, read, work):
        os.close(self._write)
        work(read)
        os.read(read, 1)

    def go_on(self):
        os.write(self._write, b".")

    def end(self):
        os.close(self._write)
        os.waitpid(self.pid, 0)


def named(senders, worker):
    """Give the credentials of a new batch with one record of a worker."""
    senders.begin_batch()
    sender = senders.of(worker.resource, time.time_ns())
    if sender is None:
        return None
    ((_, _, credentials),) = sender.ancillary
    return journald_senders._CREDENTIALS.unpack(credentials)


@pytest.fixture(name="senders")
def _senders():
    senders = Senders(impersonate=True)
    yield senders
    senders.close()


def test_recycled_workers_leave_their_place_to_the_next(senders, monkeypatch) -> None:
    """The limit is of workers that live: one after the other, all are named."""
    monkeypatch.setattr(journald_senders, "MAX_SENDERS", 3)
    for _ in range(10):
        worker = Worker()
        assert named(senders, worker) == (worker.pid, 0, 0)
        worker.end()


def test_worker_that_gave_up_root_is_named_with_its_new_user(senders) -> None:
    """A server's worker logs as root, becomes another user, and logs again."""
    read, write = os.pipe()

    def become_another(told):
        os.read(told, 1)
        os.setresgid(1001, 1001, 1001)
        os.setresuid(1000, 1000, 1000)
        os.write(write, b".")

    worker = Worker(become_another)
    assert named(senders, worker) == (worker.pid, 0, 0)
    worker.go_on()
    os.read(read, 1)
    assert named(senders, worker) == (worker.pid, 1000, 1001)
    worker.end()
    os.close(read)
    os.close(write)


def test_worker_of_another_namespace_is_not_named_by_what_the_user_says(
    senders,
) -> None:
    """Its pid is another process here, be an executable among the user's attributes."""
    worker = Worker()
    elsewhere = Identity(worker.pid, 0, 0, 0, "", "w-1", "worker", "host", "")
    base = {"process.executable.path": "/srv/shop"}
    resource = worker_resource(elsewhere, base, "seed")
    assert senders.of(resource, time.time_ns()) is None
    worker.end()
