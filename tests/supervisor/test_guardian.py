"""The guardian: when a dead engine needs no successor."""

from __future__ import annotations

import errno
import os
import shutil
import signal

import pytest

from femtomp.lanes import place
from femtomp.lanes.spool import DEADLINE, ENGINE_STARTS, STATE, State
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


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM])
def test_a_process_that_cannot_be_made_now_is_made_later(
    spool, monkeypatch, capfd, error
) -> None:
    """A limit of processes that is reached for a moment costs a wait, and is said."""
    told = os.pipe()
    attempts = []
    real = os.fork

    def fail_first() -> int:
        attempts.append(spool.control()[ENGINE_STARTS])
        if len(attempts) < 4:
            raise OSError(error, os.strerror(error))
        return real()

    def engine_main(_launch) -> int:
        os.write(told[1], f"{spool.control()[ENGINE_STARTS]}".encode())
        return 0

    def guard() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
        monkeypatch.setattr(engine, "main", engine_main)
        monkeypatch.setattr(guardian, "_BACKOFF_FIRST_S", 0.01)
        monkeypatch.setattr(os, "fork", fail_first)
        config = ServerConfig("test", ())
        guardian.guard(Launch(config, spool.path, {}, -1, -1, 2, 1))
        # What never began is no start, and no death.
        assert attempts == [1, 1, 1, 1]

    assert os.waitpid(fork(guard), 0)[1] == 0
    assert os.read(told[0], 100) == b"1"
    assert f"cannot be started now: {errno.errorcode[error]}" in capfd.readouterr().err
    for descriptor in told:
        os.close(descriptor)


def test_a_guardian_without_an_engine_can_be_stopped(spool, monkeypatch) -> None:
    """While no process can be made, a signal and `stop`'s own time still end it."""

    def fail() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def guard() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)
        spool.set_control(DEADLINE, 1)
        spool.set_control(STATE, State.STOPPING)
        monkeypatch.setattr(os, "fork", fail)
        config = ServerConfig("test", ())
        guardian.guard(Launch(config, spool.path, {}, -1, -1, 2, 1))

    assert os.waitpid(fork(guard), 0)[1] == 0


def test_a_file_at_its_limit_ends_no_supervisor() -> None:
    """SIGXFSZ and SIGPIPE are what a write says, whatever the caller had them do."""

    def reset() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        guardian._reset_process()
        assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN

    assert os.waitpid(fork(reset), 0)[1] == 0
