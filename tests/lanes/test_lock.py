"""The locks of guardian and engine: held for life, by one process, asked without harm."""

from __future__ import annotations

import os

import pytest

from femtomp.errors import SpoolError
from femtomp.lanes import place
from femtomp.lanes.lock import ENGINE_LOCK, GUARDIAN_LOCK, Lock, is_orphaned
from tests.processes.harness import fork


@pytest.fixture
def spool(tmp_path):
    made = place.create(tmp_path, "shop", level=20, sinks=("a",), master={"pid": 1})
    yield made
    made.close()


def in_child(work):
    """Return whether a function is true in a forked child."""

    def ask():
        assert work()

    return os.waitpid(fork(ask), 0)[1] == 0


@pytest.mark.parametrize("name", [GUARDIAN_LOCK, ENGINE_LOCK])
def test_a_spool_is_orphaned_when_both_locks_are_free(spool, name):
    """Either lock, held by any process, says that the spool is served."""
    assert is_orphaned(spool)
    lock = Lock(spool, name)
    assert not is_orphaned(spool)
    assert in_child(lambda: not is_orphaned(spool))
    lock.release()
    assert is_orphaned(spool)
    assert in_child(lambda: is_orphaned(spool))


def test_asking_does_not_drop_the_lock(spool):
    """The holder may ask and try again; other processes see it locked all the same."""
    lock = Lock(spool, ENGINE_LOCK)
    assert not is_orphaned(spool)
    with pytest.raises(SpoolError, match="served by this very process"):
        Lock(spool, ENGINE_LOCK)
    assert in_child(lambda: not is_orphaned(spool))
    lock.release()


def test_a_second_holder_is_refused(spool):
    """Another process that wants the lock gets an error that names spool and holder."""
    lock = Lock(spool, ENGINE_LOCK)

    def refused():
        with pytest.raises(SpoolError, match="in use: the engine") as caught:
            Lock(spool, ENGINE_LOCK)
        return spool.path in str(caught.value)

    assert in_child(refused)
    assert in_child(lambda: not is_orphaned(spool)), "the refusal dropped nothing"
    lock.release()


def test_a_forked_child_holds_nothing(spool):
    """A child of the holder does not hold its lock, and its end does not drop it."""
    lock = Lock(spool, GUARDIAN_LOCK)

    def child():
        with pytest.raises(SpoolError, match="in use"):
            Lock(spool, GUARDIAN_LOCK)
        return True

    assert in_child(child)
    assert in_child(lambda: not is_orphaned(spool))
    lock.release()
