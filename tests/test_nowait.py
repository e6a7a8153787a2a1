"""Streams that others share: nobody waits for who reads them, and their flags stay."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import socket
import threading
import time
import tty

import pytest

from femtomp import nowait
from femtomp.nowait import Mouth, write_now
from tests.processes.harness import fork

LIMIT_S = 5.0


def fill(descriptor: int) -> None:
    """Fill a stream to the last byte, as another process that prints would."""
    was = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    # A terminal passes on what it has in a moment of its own, and takes more then.
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while poll.poll(50):
        for size in (65536, 1):
            try:
                while True:
                    os.write(descriptor, b"p" * size)
            except BlockingIOError:
                continue
    os.set_blocking(descriptor, was)


def drain(descriptor: int) -> bytes:
    """Read all that is there now."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while part := os.read(descriptor, 65536):
            found += part
    except (BlockingIOError, OSError):
        pass
    os.set_blocking(descriptor, True)
    return found.lstrip(b"p")


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _socket() -> tuple[int, int]:
    first, second = socket.socketpair()
    return first.detach(), second.detach()


def _terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


@pytest.fixture(name="ends", params=[_pipe, _socket, _terminal])
def _ends(request):
    """Give the two ends of a stream: who reads, and who writes."""
    ends = request.param()
    yield ends
    for descriptor in ends:
        try:
            os.close(descriptor)
        except OSError:
            continue


@pytest.fixture(name="kernel", params=["of today", "without RWF_NOWAIT"])
def _kernel(request, monkeypatch):
    """Give each way of writing its turn, whatever this machine's kernel knows."""
    if request.param != "of today":
        monkeypatch.setattr(nowait, "_NOWAIT", None)


@contextlib.contextmanager
def watchdog(seconds: int = 20):
    """Fail what waits for a reader that never comes."""

    def throw(*_: object) -> None:
        message = f"still waiting after {seconds} s"
        raise AssertionError(message)

    before = signal.signal(signal.SIGALRM, throw)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _watchdog():
    with watchdog():
        yield


@pytest.mark.usefixtures("kernel")
def test_a_full_stream_is_not_waited_for(ends) -> None:
    """What a full stream does not take is refused at once, and comes when it is read."""
    fill(ends[1])
    before = fcntl.fcntl(ends[1], fcntl.F_GETFL)
    begun = time.monotonic()
    with pytest.raises(BlockingIOError):
        write_now(ends[1], b"line\n")
    assert time.monotonic() - begun < LIMIT_S
    drain(ends[0])
    assert write_now(ends[1], b"line\n") == 5
    assert drain(ends[0]) == b"line\n"
    assert fcntl.fcntl(ends[1], fcntl.F_GETFL) == before
    assert not before & os.O_NONBLOCK


@pytest.mark.usefixtures("kernel")
def test_a_default_timeout_of_sockets_changes_no_flags(monkeypatch) -> None:
    """`socket.setdefaulttimeout` makes no stream of others non-blocking."""
    ends = _socket()
    socket.setdefaulttimeout(1.0)
    try:
        write_now(ends[1], b"line\n")
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(ends[1])
    for descriptor in ends:
        os.close(descriptor)


@pytest.mark.usefixtures("kernel")
def test_a_reader_that_has_gone_is_a_broken_pipe() -> None:
    """A pipe without a reader says EPIPE, however it is written to."""
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError) as caught:
        write_now(write, b"line\n")
    assert caught.value.errno == errno.EPIPE
    os.close(write)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("make", [_pipe, _terminal])
def test_another_users_stream_is_not_waited_for(make) -> None:
    """A worker that has dropped its privileges may still write, and never waits."""
    ends = make()

    def write() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert write_now(ends[1], b"line\n") == 5
        fill(ends[1])
        with pytest.raises(BlockingIOError):
            write_now(ends[1], b"line\n")

    assert os.waitpid(fork(write), 0)[1] == 0
    for descriptor in ends:
        os.close(descriptor)


def test_a_file_gets_everything(tmp_path) -> None:
    """A regular file takes what it is given, in one piece."""
    with open(tmp_path / "file", "wb") as file:
        assert write_now(file.fileno(), b"x" * 1_000_000) == 1_000_000
    assert os.path.getsize(tmp_path / "file") == 1_000_000
    null = os.open("/dev/null", os.O_WRONLY)
    assert write_now(null, b"line\n") == 5
    os.close(null)


def test_what_cannot_be_said_is_counted_and_said_later(ends) -> None:
    """Lines that a full stream did not take are counted on it once it is read again."""
    mouth = Mouth(ends[1])
    fill(ends[1])
    for number in range(3):
        assert not mouth.say(b"lost %d\n" % number)
    assert mouth.unsaid == 3
    drain(ends[0])
    assert mouth.say(b"kept\n")
    assert mouth.unsaid == 0
    found = drain(ends[0]).replace(b"\r\n", b"\n")
    count, kept, end = found.split(b"\n")
    assert (kept, end) == (b"kept", b"")
    assert count.startswith(b"femtomp[%d]: 3 lines before this one" % os.getpid())


def test_what_was_not_said_is_counted_without_another_line() -> None:
    """`settle` says the count alone, once, and nothing where there is none."""
    ends = os.pipe()
    mouth = Mouth(ends[1])
    mouth.settle()
    assert drain(ends[0]) == b""
    fill(ends[1])
    mouth.say(b"lost\n")
    mouth.settle()
    drain(ends[0])
    mouth.settle()
    assert b": 1 line before this one" in drain(ends[0])
    mouth.settle()
    assert drain(ends[0]) == b""
    for descriptor in ends:
        os.close(descriptor)


def test_a_stream_that_nobody_reads_costs_one_wait(ends) -> None:
    """The first line waits a moment for a slow reader, those after it not at all."""
    mouth = Mouth(ends[1], patience_s=0.5)
    fill(ends[1])
    begun = time.monotonic()
    for _ in range(100):
        mouth.say(b"lost\n")
    assert 0.4 < time.monotonic() - begun < 2.0


def test_a_slow_reader_gets_every_line() -> None:
    """A reader that reads on gets all lines, also one that no pipe holds at once."""
    ends = os.pipe()
    lines = [b"%d:" % n + b"x" * (n * 997 % 9000) + b"\n" for n in range(200)]
    lines.append(b"y" * 300_000 + b"\n")
    found = bytearray()

    def read() -> None:
        while part := os.read(ends[0], 4096):
            found.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    mouth = Mouth(ends[1], patience_s=LIMIT_S)
    assert all(mouth.say(line) for line in lines)
    os.close(ends[1])
    reader.join()
    assert bytes(found) == b"".join(lines)
    os.close(ends[0])


def test_a_line_that_was_cut_is_ended() -> None:
    """Of a line that no pipe holds the rest is counted, and the next one is whole."""
    ends = os.pipe()
    mouth = Mouth(ends[1], patience_s=0.0)
    assert not mouth.say(b"x" * 300_000 + b"\n")
    cut = drain(ends[0])
    assert mouth.say(b"next\n")
    assert set(cut) == set(b"x")
    empty, count, following, end = drain(ends[0]).split(b"\n")
    assert (empty, following, end) == (b"", b"next", b"")
    assert b": 1 line before" in count
    for descriptor in ends:
        os.close(descriptor)


def test_a_forked_child_does_not_tell_its_parents_losses() -> None:
    """What the parent could not say is the parent's to tell."""
    ends = os.pipe()
    mouth = Mouth(ends[1], patience_s=0.0)
    fill(ends[1])
    mouth.say(b"lost\n")
    drain(ends[0])
    pid = fork(lambda: mouth.say(b"child\n") and None)
    assert os.waitpid(pid, 0)[1] == 0
    assert drain(ends[0]) == b"child\n"
    assert mouth.unsaid == 1
    for descriptor in ends:
        os.close(descriptor)


def test_a_timeout_thrown_in_by_a_signal_reaches_the_caller() -> None:
    """A signal handler's exception is no failure of the stream."""
    ends = os.pipe()
    fill(ends[1])

    def throw(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, throw)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeoutError):
            Mouth(ends[1], patience_s=LIMIT_S).say(b"line\n")
    finally:
        signal.signal(signal.SIGALRM, before)
    for descriptor in ends:
        os.close(descriptor)
