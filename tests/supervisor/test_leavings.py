"""What a worker leaves that dies while it makes its lane goes; a living one's stays."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest

import femtomp
from femtomp.lanes import segment as seg
from femtomp.lanes.writer import open_writer
from femtomp.supervisor.leavings import sweep
from tests.processes.harness import Attached, fork, lines, until

NAME = f".{'ab' * 12}.own.tmp"


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def stop_here(*_, **__):
    """Stand for any point of a call at which a process may be stopped."""
    os.kill(os.getpid(), signal.SIGSTOP)


def make_lane(directory, where, what):
    """Begin to make a lane, and be stopped at one of its calls."""
    setattr(where, what, stop_here)
    open_writer("write", directory, b"who")


@pytest.mark.parametrize(
    ("where", "what"),
    [(os, "posix_fallocate"), (fcntl, "lockf"), (os, "write"), (os, "rename")],
    ids=["before its room", "before its lock", "before its content", "before its name"],
)
def test_only_the_dead_are_swept(tmp_path, directory, where, what):
    """A worker stopped anywhere in the making keeps its file; killed there, it is gone."""
    maker = fork(make_lane, directory, where, what)
    os.waitpid(maker, os.WUNTRACED)
    (name,) = os.listdir(directory)
    os.utime(tmp_path / name, (0, 0))
    sweep(directory)
    assert os.listdir(directory) == [name]
    os.kill(maker, signal.SIGKILL)
    os.waitpid(maker, 0)
    sweep(directory)
    assert os.listdir(directory) == []


def test_a_worker_that_was_stopped_goes_on(tmp_path, directory):
    """Swept over while it was stopped, a worker has a whole lane after it."""
    lockf = fcntl.lockf

    def stop_and_lock(*args):
        stop_here()
        lockf(*args)

    def make():
        fcntl.lockf = stop_and_lock
        assert open_writer("write", directory, b"who").append(b"payload")

    maker = fork(make)
    os.waitpid(maker, os.WUNTRACED)
    sweep(directory)
    os.kill(maker, signal.SIGCONT)
    assert os.waitpid(maker, 0)[1] == 0
    assert {name[25:] for name in os.listdir(directory)} >= {"own", "0.seg"}


def make_file(path):
    path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (NAME[1:-4], make_file),
        (f".{'ab' * 12}.0.seg.tmp", make_file),
        (f".{'ab' * 12}.own.tmp.old", make_file),
        (f".{'xy' * 12}.own.tmp", make_file),
        (NAME, lambda path: path.symlink_to("/etc/passwd")),
        (NAME, os.mkfifo),
        (NAME, os.mkdir),
    ],
    ids=["own", "segment", "longer", "no name", "link", "pipe", "directory"],
)
def test_all_else_stays(tmp_path, directory, name, make):
    """Other files, and what only has the name, are left alone and never waited for."""
    make(tmp_path / name)
    sweep(directory)
    assert os.listdir(directory) == [name]


def test_who_looks_on_does_no_harm(tmp_path, directory, monkeypatch):
    """A process that opens the file in that very moment does not end this one."""
    make_file(tmp_path / NAME)
    unlink = os.unlink

    def opened_meanwhile(name, *, dir_fd):
        def look():
            with pytest.raises(BlockingIOError):
                os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=dir_fd)

        assert os.waitpid(fork(look), 0)[1] == 0
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", opened_meanwhile)
    assert os.waitpid(fork(sweep, directory), 0)[1] == 0
    assert os.listdir(directory) == []


def test_a_server_sweeps_while_it_runs(tmp_path):
    """The lane that a killed worker had begun is gone while server and master live."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(femtomp.FileSink(path), spool_parent=tmp_path) as server:
        with Attached() as log:
            log.info("before")

            def work():
                seg.os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
                log.info("never")

            pid = fork(work)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            lanes = server.spool / "lanes"
            until(lambda: not list(lanes.glob(".*.tmp")), "it is swept")
            log.info("after")
        assert server.stop().drained
    assert [record["body"] for record in lines(path)] == ["before", "after"]
