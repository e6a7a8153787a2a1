"""What a record holds is what a real systemd-journald stores, byte for byte."""

from __future__ import annotations

import pytest

from femtomp.codec.journald import Encoder
from femtomp.config import JournaldSink
from femtomp.sinks import Delivered
from femtomp.sinks.journald import open_driver
from tests.codec.test_journald import decode
from tests.components import require
from tests.real.journald import CONFIGURATION, Journald
from tests.records import make

EVERY = bytes(range(256))
HOSTILE = {
    "newline": {"k": "a\nPRIORITY=0"},
    "newlines": {"k": "\n\n\n"},
    "next entry": {"k": "a\n\nMESSAGE=forged\n"},
    "binary form": {"k": "a\nMESSAGE\n\x06\0\0\0\0\0\0\0forged\n"},
    "nul": {"k": "a\0b"},
    "equals": {"k": "=a=b=", "a=b": "c"},
    "dot": {"k": ".leading", ".k": "dot"},
    "hash": {"k": "#leading", "#": "hash"},
    "empty": {"k": ""},
    "blanks": {"k": " \t ", " ": "blank"},
    "every byte": {"k": EVERY, "reversed": EVERY[::-1]},
    "invalid utf-8": {"k": b"\xff\xfe\xc3", "lone": "\udcff"},
    "no newline": {"k": b"\xff\x00\xfe"},
    "64 characters": {"k" * 64: "64"},
    "65 characters": {"k" * 65: "65", "k" * 66: "66"},
    "own names": {"MESSAGE": "m", "_PID": 1, "__CURSOR": "c", "_TRANSPORT": "kernel"},
    "others' names": {"OBJECT_PID": 1, "UNIT": "ssh.service", "SYSLOG_RAW": "x"},
    "collapse": {"a.b": 1, "a-b": 1, "a b": 2},
    "1025 fields": {f"field_{n}": n for n in range(1025)},
    "carriage return": {"k": "a\r\nb\x85\u2028\x1b[31m"},
    "emoji": {"k": "é☃😀", "ключ": "значение"},
    "1 MB": {"k": "\n" + "x" * 1_000_000},
    "20 MB": {"k": b"\n" + b"y" * 20_000_000},
}


@pytest.fixture(name="journald", scope="module")
def _journald():
    require("journald")
    with Journald() as journald:
        yield journald


def stored(journald, record) -> list[list[tuple[str, bytes]]]:
    """Give the entries of a record, without what journald adds."""
    journald.sync()
    return [
        sorted((name, value) for name, value in entry if not name.startswith("_"))
        for entry in journald.exported(f"LOG_RECORD_UID={record.uid}")
    ]


def delivered(journald, *records) -> None:
    driver = open_driver(JournaldSink(journald.socket), stderr_fd=2, environ={})
    assert driver.write(records) == Delivered()
    driver.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_record_is_one_exact_entry(journald, name) -> None:
    """Whatever extras hold, every field arrives as it was sent, in one entry."""
    record = make(attributes=HOSTILE[name], uid=f"hostile-{name}")
    delivered(journald, record)
    # journald keeps one of two equal fields.
    sent = sorted(set(decode(Encoder().datagram(record))))
    assert stored(journald, record) == [sent]


@pytest.mark.parametrize("body", ["a\nPRIORITY=0", "", ".x", "#x", "a\0b", EVERY])
def test_hostile_message_is_exact(journald, body) -> None:
    """The message itself can be anything."""
    record = make(body=body, uid=f"body-{body!r}")
    delivered(journald, record)
    ((*fields,),) = stored(journald, record)
    expected = body if isinstance(body, bytes) else body.encode()
    assert dict(fields)["MESSAGE"] == expected
    assert dict(fields)["PRIORITY"] == b"6"


def test_300_mb_arrive() -> None:
    """The driver's way for large entries has no limit of its own."""
    require("journald")
    size = 300_000_000
    record = make(body="", attributes={"k": b"z" * size}, uid="300")
    # journald stores no entry that is larger than a file may be.
    roomy = f"{CONFIGURATION}RuntimeMaxFileSize=1G\n"
    with Journald(configuration=roomy) as journald:
        delivered(journald, record)
        journald.sync()
        match = "LOG_RECORD_UID=300"
        found = journald.journalctl("-o", "cat", "--output-fields=K", match)
        assert len(found) == size + 1
