"""Where journald has no socket, lines go to stderr if the user wants that."""

from __future__ import annotations

import os

from femtomp.config import JournaldSink
from femtomp.sinks import Delivered
from femtomp.sinks.journald import open_driver
from tests.records import make


def written(tmp_path, environ, descriptor=None) -> bytes:
    """Give what two records are on a pipe or in a file."""
    read, write = os.pipe()
    fd = write if descriptor is None else descriptor
    sink = JournaldSink(str(tmp_path / "none"), missing="stderr")
    driver = open_driver(sink, stderr_fd=fd, environ=environ)
    records = [make(severity_number=17, body="a\nb"), make(severity_number=5)]
    assert driver.write(records) == Delivered()
    driver.close()
    os.close(write)
    with open(read, "rb") as file:
        return file.read()


def stream_of(fd: int) -> str:
    """Give the value of JOURNAL_STREAM that systemd would set for a descriptor."""
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"


def test_each_line_has_its_priority(tmp_path, caplog) -> None:
    """What reads a service's stderr knows how severe a line is; it is said why."""
    marks = [line[:3] for line in written(tmp_path, {}).splitlines()]
    assert set(marks) == {b"<3>", b"<7>"}
    assert marks == sorted(marks)
    assert marks.count(b"<3>") > marks.count(b"<7>"), "a second line has it, too"
    (said,) = caplog.messages
    assert str(tmp_path / "none") in said
    assert "ENOENT" in said


def test_journal_stream_that_is_another_one_means_no_priorities(tmp_path) -> None:
    """A stderr that was redirected away from the journal has plain lines."""
    assert not written(tmp_path, {"JOURNAL_STREAM": "1:2"}).startswith(b"<")


def test_journal_stream_that_is_stderr_means_priorities(tmp_path) -> None:
    """A unit's own stderr is journald's stream."""
    path = tmp_path / "stream"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    written(tmp_path, {"JOURNAL_STREAM": stream_of(fd)}, fd)
    os.close(fd)
    assert path.read_bytes().startswith(b"<3>")


def test_terminal_has_no_priorities(tmp_path) -> None:
    """A person reads lines, not numbers."""
    leader, terminal = os.openpty()
    written(tmp_path, {}, terminal)
    assert not os.read(leader, 4096).startswith(b"<")
    os.close(leader)
    os.close(terminal)
