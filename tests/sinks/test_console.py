"""The console driver: a stream that others use too, and that nobody may read."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import tty

import pytest

from femtomp.codec.text import json_line, text_line
from femtomp.config import ConsoleSink
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Refused, RetryAfter, console
from femtomp.sinks.console import open_driver, wants_colour
from tests.records import batch, make
from tests.test_nowait import watchdog

JSON = ConsoleSink(format="json")


@pytest.fixture(name="pipe")
def _pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch):
    monkeypatch.setattr(console, "WRITE_TIMEOUT_S", 0.01)


def drain(fd: int) -> bytes:
    """Read all that a pipe holds now."""
    os.set_blocking(fd, False)
    found = b""
    try:
        while part := os.read(fd, 65536):
            found += part
    except BlockingIOError:
        return found
    return found


def test_records_are_lines(pipe) -> None:
    """On a pipe, automatic format is plain text."""
    driver = open_driver(ConsoleSink(), fd=pipe[1], environ={})
    assert driver.write(batch(2)) == Delivered()
    expected = b"".join(text_line(r, colour=False) for r in batch(2))
    assert drain(pipe[0]) == expected
    driver.close()


def test_json_format(pipe) -> None:
    """With format json, each record is one object a line."""
    open_driver(JSON, fd=pipe[1], environ={}).write(batch(2))
    lines = drain(pipe[0]).splitlines()
    assert [json.loads(line)["body"] for line in lines] == ["record 0", "record 1"]


@pytest.fixture(name="terminal")
def _terminal():
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("environ", "on_terminal", "on_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_is_for_terminals(pipe, terminal, environ, on_terminal, on_pipe) -> None:
    """Terminals get colour and pipes none, unless the environment says otherwise."""
    assert wants_colour(terminal[1], environ) is on_terminal
    assert wants_colour(pipe[1], environ) is on_pipe


def test_terminal_gets_colour(terminal) -> None:
    """The automatic format colours what it sends to a terminal; text never does."""
    for options, coloured in (
        (ConsoleSink(), True),
        (ConsoleSink(format="text"), False),
    ):
        driver = open_driver(options, fd=terminal[1], environ={})
        assert driver.write(batch(1)) == Delivered()
        assert (b"\x1b[" in os.read(terminal[0], 65536)) is coloured


def test_full_pipe_is_retried_and_no_line_is_cut(pipe) -> None:
    """What a slow reader has no room for comes again, without loss or repetition."""
    records = [make(body=f"{n}:" + "x" * (n * 997 % 9000)) for n in range(100)]
    driver = open_driver(JSON, fd=pipe[1], environ={})
    rest, found, full = records, b"", 0
    while rest and full < 1000:
        outcome = driver.write(rest)
        if outcome == Delivered():
            break
        assert isinstance(outcome, RetryAfter)
        rest = rest[outcome.accepted :]
        full += 1
        found += drain(pipe[0])
    found += drain(pipe[0])
    assert full > 3
    assert found == b"".join(map(json_line, records))


def test_cut_line_whose_record_is_gone_is_ended(pipe) -> None:
    """If a cut record was evicted meanwhile, its line ends before the next begins."""
    driver = open_driver(JSON, fd=pipe[1], environ={})
    long = make(body="x" * 200_000)
    assert driver.write([long]).accepted == 0
    found = drain(pipe[0])
    assert driver.write(batch(1)) == Delivered()
    found += drain(pipe[0])
    cut, other, end = found.split(b"\n")
    assert json_line(long).startswith(cut)
    assert (other + b"\n", end) == (json_line(batch(1)[0]), b"")


def test_stream_keeps_its_flags(pipe) -> None:
    """The stream is the master's too: it stays blocking, and open."""
    before = fcntl.fcntl(pipe[1], fcntl.F_GETFL)
    driver = open_driver(JSON, fd=pipe[1], environ={})
    driver.write(batch(1))
    driver.close()
    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == before
    assert not before & os.O_NONBLOCK


def test_the_sink_ends_with_the_reader_of_its_pipe(pipe) -> None:
    """A pipe whose reader has gone has no other: what comes is refused, and says why."""
    driver = open_driver(JSON, fd=pipe[1], environ={})
    assert driver.write(batch(1)) == Delivered()
    assert driver.gone_for_good == ""
    os.close(pipe[0])
    assert driver.write(batch(2)) == Refused("the reader has gone")
    assert driver.gone_for_good == "the reader has gone"
    assert driver.write(batch(1)) == Refused("the reader has gone")


def test_the_engine_that_follows_knows_that_the_reader_has_gone(pipe) -> None:
    """Another driver of the same pipe ends at its first batch."""
    os.close(pipe[0])
    for _ in range(2):
        driver = open_driver(JSON, fd=pipe[1], environ={})
        assert driver.write(batch(1)) == Refused("the reader has gone")
        driver.close()


def test_what_the_reader_took_before_it_went_is_delivered(pipe, monkeypatch) -> None:
    """Lines that were written when the reader went are not counted as refused."""
    driver = open_driver(JSON, fd=pipe[1], environ={})

    def write_and_go(fd: int, data: bytes) -> int:
        written = os.write(fd, data)
        os.close(pipe[0])
        monkeypatch.undo()
        return written

    monkeypatch.setattr(console, "write_now", write_and_go)
    records = [make(body="x" * 3000) for _ in range(3)]
    outcome = driver.write(records)
    assert (type(outcome), outcome.accepted, outcome.delay_s) == (RetryAfter, 1, 0.0)
    assert driver.write(records[1:]) == Refused("the reader has gone")


def test_the_sink_ends_with_the_other_end_of_its_socket() -> None:
    """A stream socket, as of a container's runtime, has no other peer either."""
    ours, theirs = socket.socketpair()
    driver = open_driver(JSON, fd=ours.fileno(), environ={})
    theirs.close()
    assert driver.write(batch(1)) == Refused("the reader has gone")
    ours.close()


def test_the_sink_ends_with_its_terminal() -> None:
    """A terminal that was closed is no terminal any more, whoever gets its number."""
    master, slave = pty.openpty()
    driver = open_driver(JSON, fd=slave, environ={})
    assert driver.write(batch(1)) == Delivered()
    os.close(master)
    assert driver.write(batch(1)) == Refused("the terminal has gone")
    os.close(slave)


def test_a_named_pipe_may_find_another_reader(tmp_path) -> None:
    """Where the master's stream is a FIFO, records wait for whoever reads it next."""
    os.mkfifo(tmp_path / "fifo")
    read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(tmp_path / "fifo", os.O_WRONLY)
    driver = open_driver(JSON, fd=write, environ={})
    os.close(read)
    outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert (outcome.accepted, outcome.reason) == (0, "console: Broken pipe")
    read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert driver.write(batch(2)) == Delivered()
    os.close(read)
    os.close(write)


def test_who_else_fills_the_pipe_makes_nobody_wait(pipe, monkeypatch) -> None:
    """A pipe that is filled between the look at it and the write is full, no more."""
    driver = open_driver(JSON, fd=pipe[1], environ={})

    def fill_meanwhile(*_: object) -> bool:
        os.set_blocking(pipe[1], False)
        try:
            while True:
                os.write(pipe[1], b"p")
        except BlockingIOError:
            os.set_blocking(pipe[1], True)
        return True

    monkeypatch.setattr(console, "can_take", fill_meanwhile)
    with watchdog():
        assert isinstance(driver.write(batch(1)), RetryAfter)


def test_non_blocking_stream_is_an_outcome(pipe, monkeypatch) -> None:
    """A full stream that somebody made non-blocking is retried too."""
    os.set_blocking(pipe[1], False)
    driver = open_driver(JSON, fd=pipe[1], environ={})
    outcome = driver.write([make(body="x" * 100_000)])
    assert (type(outcome), outcome.accepted) == (RetryAfter, 0)


def test_closed_stream_is_a_config_error(pipe) -> None:
    """A master without that stream learns it when the sink is built."""
    os.close(pipe[1])
    with pytest.raises(ConfigError, match="the master's stderr is closed"):
        open_driver(ConsoleSink(), fd=pipe[1], environ={})
