"""The journald driver against a socket that answers as scripted."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import pickle
import resource
import socket
from dataclasses import replace

import pytest

from femtomp.codec.journald import Encoder
from femtomp.config import JournaldSink
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, RetryAfter, journald
from femtomp.sinks.journald import open_driver
from femtomp.sinks.journald_rate import Budget
from tests.records import batch, make

datagram = Encoder().datagram


class Listener:
    """A datagram socket in journald's place."""

    def __init__(self, path) -> None:
        self.path = path
        self.bind()

    def bind(self) -> None:
        """Listen on the path, as a restarted journald does."""
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def receive(self) -> list[bytes]:
        """Read all entries that are queued, by datagram and by memfd."""
        found = []
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(8 << 20, 64)
            except BlockingIOError:
                return found
            for _, _, raw in ancillary:
                assert not data, "journald wants the datagram beside an fd empty"
                (fd,) = array.array("i", raw)
                self.seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
                data = os.pread(fd, os.fstat(fd).st_size, 0)
                os.close(fd)
            found.append(data)


@pytest.fixture(name="listener")
def _listener(tmp_path_factory):
    listener = Listener(tmp_path_factory.mktemp("j") / "socket")
    yield listener
    listener.socket.close()


@pytest.fixture(name="driver")
def _driver(listener, monkeypatch):
    monkeypatch.setattr(journald, "POLL_TIMEOUT_S", 0.01)
    driver = open_driver(JournaldSink(str(listener.path)), stderr_fd=2, environ={})
    yield driver
    driver.close()


def test_each_record_is_a_datagram(listener, driver) -> None:
    """Entries arrive in order, under the service's name."""
    assert driver.write(batch(3)) == Delivered()
    assert listener.receive() == [datagram(record) for record in batch(3)]


def test_service_without_a_name_is_python(listener, driver) -> None:
    """Where the resource has no service.name, the identifier says what runs."""
    record = make(resource=type(make().resource)({}))
    driver.write([record])
    assert listener.receive() == [datagram(record)]


def test_full_queue_is_retried_from_the_first_that_did_not_fit(
    listener, driver
) -> None:
    """A slow journald costs time: each record arrives once."""
    records = rest = batch(1000)
    received = []
    retries = 0
    while rest and retries < 1000:
        outcome = driver.write(rest)
        received += listener.receive()
        if outcome == Delivered():
            break
        assert outcome.delay_s < 1
        rest = rest[outcome.accepted :]
        retries += 1
    assert retries > 0
    assert received == [datagram(record) for record in records]


def test_rebound_socket_is_found_again(listener, driver) -> None:
    """After a restart of journald the next batch goes to the new socket."""
    listener.socket.close()
    gone = driver.write(batch(2))
    assert (type(gone), gone[2]) == (RetryAfter, 0)
    listener.bind()
    assert driver.write(batch(2)) == Delivered()
    assert len(listener.receive()) == 2


def test_rebound_socket_loses_nothing_in_between(listener, driver) -> None:
    """A restart that the driver never saw is repaired within the batch."""
    driver.write(batch(1))
    listener.socket.close()
    listener.bind()
    assert driver.write(batch(2)) == Delivered()
    assert len(listener.receive()) == 2


def test_missing_socket_later_is_retried(listener, driver) -> None:
    """A socket that vanishes is a reason to retry, with its path."""
    listener.socket.close()
    listener.path.unlink()
    outcome = driver.write(batch(1))
    assert isinstance(outcome, RetryAfter)
    assert str(listener.path) in outcome.reason


def test_large_record_travels_as_a_sealed_memfd(listener, driver) -> None:
    """What no datagram holds is passed as a file that nobody can change."""
    record = make(body="x" * 6_000_000)
    assert driver.write([record, *batch(1)]) == Delivered()
    assert listener.receive() == [
        datagram(record),
        datagram(batch(1)[0]),
    ]
    wanted = (
        fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    assert listener.seals & wanted == wanted


def test_large_record_meets_a_full_queue(listener, driver) -> None:
    """A memfd has to wait in the same queue, and is not lost there."""
    small = batch(1000)
    outcome = driver.write(small)
    assert isinstance(outcome, RetryAfter)
    large = make(body="x" * 6_000_000)
    assert driver.write([large]).accepted == 0
    listener.receive()
    assert driver.write([large]) == Delivered()
    assert listener.receive() == [datagram(large)]


def test_descriptors_do_not_pile_up(listener, driver) -> None:
    """Each memfd is closed once it is sent."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        driver.write([make(body="x" * 6_000_000)])
        listener.receive()
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_errors_are_retried(listener, driver, monkeypatch) -> None:
    """An error that nobody foresaw is an outcome too, with its text."""

    def fail(data, sender):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(driver, "_deliver_with_care", fail)
    listener.socket.close()
    outcome = driver.write(batch(1))
    assert isinstance(outcome, RetryAfter)
    assert outcome.reason.endswith("Cannot allocate memory")


def test_absent_socket_is_a_config_error(tmp_path) -> None:
    """A machine without journald is told so when the sink is built."""
    with pytest.raises(ConfigError, match=r"cannot reach .*/none: ENOENT"):
        open_driver(JournaldSink(str(tmp_path / "none")), stderr_fd=2, environ={})


def test_path_beyond_a_sockets_is_a_config_error() -> None:
    """A path that no socket can have is named, too."""
    with pytest.raises(ConfigError, match="path must have at most 107 bytes"):
        open_driver(JournaldSink("/" + "x" * 200), stderr_fd=2, environ={})


def test_socket_without_listener_is_accepted(listener) -> None:
    """A journald may be restarting while the server starts."""
    listener.socket.close()
    driver = open_driver(JournaldSink(str(listener.path)), stderr_fd=2, environ={})
    assert isinstance(driver.write(batch(1)), RetryAfter)
    listener.bind()
    assert driver.write(batch(1)) == Delivered()
    driver.close()


def test_absent_socket_may_be_waited_for(tmp_path, caplog) -> None:
    """Records are kept until journald is there; that it is not is said once."""
    path = tmp_path / "s"
    driver = open_driver(
        JournaldSink(str(path), missing="wait"), stderr_fd=2, environ={}
    )
    assert isinstance(driver.write(batch(1)), RetryAfter)
    assert isinstance(driver.write(batch(1)), RetryAfter)
    assert [str(path) in text and "ENOENT" in text for text in caplog.messages] == [
        True
    ]
    listener = Listener(path)
    assert driver.write(batch(1)) == Delivered()
    assert len(listener.receive()) == 1
    driver.close()
    listener.socket.close()


def test_tries_become_rarer_until_journald_is_back(listener, driver) -> None:
    """While journald is away the delays grow to a cap, and begin anew after it."""
    listener.socket.close()
    delays = [driver.write(batch(1)).delay_s for _ in range(7)]
    assert delays == sorted(delays)
    assert (delays[0] < 0.5, delays[-2:]) == (True, [5.0, 5.0])
    listener.bind()
    assert driver.write(batch(1)) == Delivered()
    listener.socket.close()
    assert driver.write(batch(1)).delay_s == delays[0]


def test_queue_that_stays_full_is_said(listener, driver, monkeypatch) -> None:
    """A journald that is stopped is told from one that is slow."""
    now = [0.0]
    monkeypatch.setattr(journald.time, "monotonic", lambda: now[0])
    rest = batch(1000)
    while (outcome := driver.write(rest)).accepted:
        rest = rest[outcome.accepted :]
    now[0] = 4.9
    assert driver.write(rest).delay_s < 0.1
    now[0] = 6.0
    stuck = driver.write(rest)
    assert stuck.delay_s >= 0.5
    assert stuck.reason == "journald has taken nothing for 6 s: is it stopped?"
    listener.receive()
    assert driver.write(rest).accepted > 0


def test_record_that_needs_a_memfd_where_none_is_allowed_is_refused(
    listener, driver, monkeypatch
) -> None:
    """One large record does not stop all others for ever; it is counted."""

    def forbidden(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "memfd_create", forbidden)
    large = make(body="x" * 6_000_000)
    outcome = driver.write([*batch(1), large, *batch(1)])
    assert (outcome.accepted, list(outcome.refused.values())) == (2, [1])
    assert driver.write(batch(1)) == Delivered()


def test_namespace_names_its_socket() -> None:
    """A journal namespace is an option, not a path to be known."""
    assert JournaldSink(namespace="a").path == "/run/systemd/journal.a/socket"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"namespace": "a/b"}, "namespace must be the name of a journal namespace"),
        ({"namespace": "a", "path": "/x"}, "give path or namespace, not both"),
        ({"prefix": "shop_"}, "prefix must be at most 32 of A-Z"),
        ({"prefix": "_X"}, "prefix must be"),
        ({"prefix": 7}, "prefix must be"),
        ({"prefix": "X" * 33}, "prefix must be"),
        ({"identifier": ""}, "identifier must be a non-empty string"),
        ({"nested": "xml"}, "nested must be one of json, fields, not 'xml'"),
        ({"missing": "stdout"}, "missing must be one of refuse, wait, stderr"),
        ({"sender": "me"}, "sender must be one of worker, supervisor"),
        ({"rate_limit": "drop"}, "rate_limit must be one of warn, pace"),
        ({"path": ""}, "path must be a non-empty string"),
        ({"path": "a\0b"}, "path must have at most 107 bytes"),
    ],
)
def test_wrong_options_are_config_errors(options, problem) -> None:
    """What cannot be is told in the master, with what is allowed."""
    with pytest.raises(ConfigError, match=problem):
        JournaldSink(**options)


def test_options_that_are_pickled_stay_the_same() -> None:
    """A sink travels to the supervisor, and gets its name by `replace`."""
    sink = JournaldSink(namespace="a", prefix="SHOP_")
    assert replace(pickle.loads(pickle.dumps(sink)), name="j").path == sink.path


def test_what_is_no_socket_is_refused(tmp_path) -> None:
    """A directory or a file answers like a socket without journald, and is none."""
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path, file):
        with pytest.raises(ConfigError, match="it is no socket"):
            open_driver(JournaldSink(str(path)), stderr_fd=2, environ={})


def test_socket_that_replaced_a_stuck_one_is_found(
    listener, driver, monkeypatch
) -> None:
    """Who holds the old one and does not read keeps nothing from the new one."""
    monkeypatch.setattr(journald, "STUCK_S", 0.0)
    stuck = listener.socket
    assert driver.write(batch(1000)).accepted
    listener.bind()
    assert driver.write(batch(1)).accepted == 0
    assert driver.write(batch(1)) == Delivered()
    assert len(listener.receive()) == 1
    stuck.close()


def test_queue_that_was_full_long_ago_is_not_stuck(
    listener, driver, monkeypatch
) -> None:
    """What was taken in between counts, though no batch ended with it."""
    now = [0.0]
    monkeypatch.setattr(journald.time, "monotonic", lambda: now[0])
    driver._budget = Budget("shop.service", 30.0, 20, clock=lambda: now[0])
    driver._may_pace = True
    driver.write(batch(12))
    assert driver.write(batch(1)).reason.endswith("queue is full")
    listener.receive()
    paced = driver.write(batch(1000))
    assert (paced.reason, paced.accepted) == ("", 9)
    while driver._poll.poll(0):
        driver._socket.send(b"another's")
    now[0] = 3600.0
    assert driver.write(batch(1)).reason == "journald is slow: its queue is full"


def test_entry_above_the_limit_of_files_is_refused_and_others_pass(
    listener, driver
) -> None:
    """What no memfd may ever hold does not hold up what is behind it."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    driver._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limit[1]))
    try:
        outcome = driver.write([make(body="x" * 100_000), make()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert outcome.accepted == 1
    assert list(outcome.refused.values()) == [1]
    assert "ulimit -f" in next(iter(outcome.refused))


def test_no_memfd_is_written_for_a_full_queue(listener, driver, monkeypatch) -> None:
    """While journald is stopped a large record costs no more than a small one."""
    driver._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    driver.write(batch(1000))
    monkeypatch.setattr(journald, "_sealed", lambda _: pytest.fail("written"))
    outcome = driver.write([make(body="x" * 1_000_000)])
    assert outcome.reason == "journald is slow: its queue is full"
