"""The guardian: when a dead engine needs no successor."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from femtomp.lanes import place
from femtomp.lanes.spool import STATE, State
from femtomp.options import ServerConfig
from femtomp.supervisor import engine, guardian
from femtomp.supervisor.guardian import Launch, is_over
from tests.processes.harness import fork


@pytest.fixture
def spool(tmp_path):
    """Give a spool that is served."""
    made = place.create(tmp_path, "test", level=20, sinks=("file",), master={"pid": 0})
    made.set_control(STATE, State.RUNNING)
    yield made
    made.close()


def test_a_spool_with_its_lanes_needs_an_engine(spool) -> None:
    """Nothing is deleted that may hold records."""
    assert not is_over(spool)
    os.unlink(f"{spool.path}/control")
    assert not is_over(spool)
    assert os.listdir(f"{spool.path}/lanes") == []


@pytest.mark.parametrize("died", ["before", "with the lanes gone", "last"])
def test_a_half_deleted_spool_needs_no_engine(spool, died) -> None:
    """An engine that died while it deleted the spool is not replaced; the rest goes."""
    if died == "before":
        spool.set_control(STATE, State.REMOVING)
    else:
        shutil.rmtree(f"{spool.path}/lanes")
        if died == "last":
            os.unlink(f"{spool.path}/control")
            os.unlink(f"{spool.path}/manifest.json")
    assert is_over(spool)
    assert not os.path.exists(spool.path)


def test_a_spool_that_somebody_moved_is_left_alone(spool, tmp_path) -> None:
    """A spool whose path leads elsewhere may come back: it is neither over nor deleted."""
    os.rename(spool.path, tmp_path / "moved")
    assert not is_over(spool)
    assert (tmp_path / "moved/lanes").is_dir()


def test_only_the_first_engine_is_told_where_to_report(spool, monkeypatch) -> None:
    """By the time of a second engine the start-up pipe's number may be a file's."""
    told = os.pipe()

    def engine_main(launch) -> int:
        os.write(told[1], f"{launch.ready} ".encode())
        return 9 if launch.ready >= 0 else 0

    def guard() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        monkeypatch.setattr(engine, "main", engine_main)
        ready = os.pipe()[1]
        config = ServerConfig("test", ())
        guardian.guard(Launch(config, spool.path, {}, ready, -1, 2, 1))

    assert os.waitpid(fork(guard), 0)[1] == 0
    first, second = os.read(told[0], 100).split()
    assert int(first) >= 0
    assert int(second) == -1
    for descriptor in told:
        os.close(descriptor)
