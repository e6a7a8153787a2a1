"""The journald driver against a real systemd-journald."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from femtomp.config import JournaldSink
from femtomp.sinks import Delivered, RetryAfter
from femtomp.sinks.journald import open_driver
from tests.components import require
from tests.real.journald import Journald
from tests.records import batch, make

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="journald")
def _journald():
    require("journald")
    with Journald() as journald:
        yield journald


@pytest.fixture(name="driver")
def _driver(journald):
    driver = open_driver(JournaldSink(journald.socket), stderr_fd=2, environ={})
    yield driver
    driver.close()


def read(journald, record) -> dict:
    """Give the one entry of a record."""
    journald.sync()
    (entry,) = journald.entries(f"LOG_RECORD_UID={record.uid}")
    return entry


def test_every_field_arrives(journald, driver) -> None:
    """A record's fields are read back by journalctl under their names."""
    record = make(
        severity_number=17,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        attributes={**make().attributes, "order.id": 7, "cart": {"n": [1, 2]}},
    )
    assert driver.write([record]) == Delivered()
    entry = read(journald, record)
    expected = {
        "MESSAGE": "user 42 logged in",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "shop",
        "SYSLOG_PID": "812",
        "WORKER_PID": "812",
        "WORKER_NAME": "worker-1",
        "LOGGER": "shop.cart",
        "CODE_FILE": "/srv/shop/cart.py",
        "CODE_LINE": "12",
        "CODE_FUNC": "login",
        "THREAD_NAME": "MainThread",
        "SERVICE_NAME": "shop",
        "EVENT_TIMESTAMP_USEC": "1700000000123456",
        "TRACE_ID": "0af7651916cd43dd8448eb211c80319c",
        "USER_ID": "42",
        "ORDER_ID": "7",
        "CART": '{"n":[1,2]}',
        "_PID": str(os.getpid()),
    }
    assert {name: entry.get(name) for name in expected} == expected


def test_journalctl_shows_the_stack_trace(journald, driver) -> None:
    """What was raised is in the lines that plain `journalctl` shows."""
    trace = "Traceback (most recent call last):\n  File 'a.py'\nKeyError: 1"
    record = make(
        body="cannot sell",
        attributes={
            "exception.stacktrace": trace,
            "MESSAGE_ID": "0af76519-16cd-43dd-8448-eb211c80319c",
            "femtomp.level": 60,
        },
    )
    assert driver.write([record]) == Delivered()
    entry = read(journald, record)
    assert entry["MESSAGE"] == f"cannot sell\n{trace}"
    assert entry["EXCEPTION_STACKTRACE"] == trace
    assert entry["PRIORITY"] == "1"
    (found,) = journald.entries("MESSAGE_ID=0af7651916cd43dd8448eb211c80319c")
    assert found["LOG_RECORD_UID"] == record.uid


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n\nMESSAGE=forged\n",
        "\n",
        "",
        "tab\tand\rreturn\x00nul\x1b[31m",
        "é☃😀",
        "lone \udc80",
        "x" * 300_000,
        "y\n" * 3_000_000,
    ],
)
def test_any_text_is_stored_exactly(journald, driver, text) -> None:
    """Newlines, controls and sizes beyond a datagram arrive as one exact entry."""
    record = make(body=text)
    assert driver.write([record]) == Delivered()
    message = read(journald, record)["MESSAGE"]
    if isinstance(message, list):  # journalctl's form for what is not printable
        message = bytes(message).decode()
    assert message == text.encode("utf-8", "backslashreplace").decode()


def test_a_thousand_extras_do_not_lose_the_entry(journald, driver) -> None:
    """More fields than journald takes are left out and counted in the entry."""
    record = make(attributes={f"key_{n}": n for n in range(1500)})
    assert driver.write([record]) == Delivered()
    entry = read(journald, record)
    kept = [name for name in entry if name.startswith("KEY_")]
    assert len(kept) + int(entry["DROPPED_FIELDS"]) == 1500


def test_stopped_journald_is_waited_for(journald, driver) -> None:
    """A full queue makes the driver retry, and nothing is lost or doubled."""
    records = batch(100)
    os.kill(journald.pid, signal.SIGSTOP)
    try:
        outcome = driver.write(records)
    finally:
        os.kill(journald.pid, signal.SIGCONT)
    assert isinstance(outcome, RetryAfter)
    rest = records[outcome.accepted :]
    for _ in range(1000):
        outcome = driver.write(rest)
        if outcome == Delivered():
            break
        rest = rest[outcome.accepted :]
    journald.sync()
    stored = [entry["MESSAGE"] for entry in journald.entries("LOGGER=shop.cart")]
    assert stored == [record.body for record in records]


def test_restarted_journald_is_found_again(journald, driver) -> None:
    """While journald is down the driver says so; it delivers to the next one."""
    first, second = batch(2)
    assert driver.write([first]) == Delivered()
    journald.sync()
    journald.stop()
    outcome = driver.write([second])
    assert (type(outcome), outcome[2]) == (RetryAfter, 0)
    journald.start()
    assert driver.write([second]) == Delivered()
    assert read(journald, first)["MESSAGE"] == "record 0"
    assert read(journald, second)["MESSAGE"] == "record 1"


SEND_AS_NOBODY = """
import json, os, sys
from femtomp.config import JournaldSink
from femtomp.sinks.journald import open_driver
from tests.records import make
os.setgroups([]); os.setgid(65534); os.setuid(65534)
driver = open_driver(JournaldSink(sys.argv[1]), stderr_fd=2, environ={})
print(json.dumps(driver.write([make(body="z" * 8_000_000)])))
"""


def test_large_record_of_an_unprivileged_user_is_stored(journald) -> None:
    """The memfd is sealed: journald refuses an unsealed one from others than root."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    journald.base.chmod(0o755)
    sent = subprocess.run(
        [sys.executable, "-c", SEND_AS_NOBODY, journald.socket],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
    )
    assert json.loads(sent.stdout) == [{}], sent.stderr
    assert len(read(journald, make())["MESSAGE"]) == 8_000_000
