"""The rate limit that a real systemd-journald puts on a unit, kept to or noticed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from femtomp.sinks import journald_suppressed
from femtomp.sinks.journald_suppressed import DROPPED_ID, Suppressed
from tests.components import require
from tests.processes.harness import until
from tests.real.journald import CONFIGURATION, Journald

ROOT = Path(__file__).resolve().parents[2]
UNIT = f"femtomp-test-{os.getpid()}.service"
INTERVAL_S, BURST, RECORDS = 2, 100, 1000

# Of itself it becomes a process of the unit, then logs above the limit, and once more
# when the interval is over: then journald says how many it has dropped.
SEND = """
import logging, os, sys, time
group, socket, journal, choice, records = sys.argv[1:]
with open(group + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
logging.basicConfig(format="%(message)s")
from femtomp.config import JournaldSink
from femtomp.sinks import journald, journald_suppressed
from femtomp.sinks.journald_rate import Budget, budget_of_unit
from femtomp.sinks.journald_suppressed import Suppressed
from tests.records import batch
unit = budget_of_unit(None).unit
journald.budget_of_unit = lambda _: Budget(unit, INTERVAL_S, BURST)
command = ("journalctl", "-D", journal, "-q", "-o", "json")
journald.Suppressed = lambda unit, _: Suppressed(unit, command=command)
journald_suppressed.INTERVAL_S = 0.1
sink = JournaldSink(socket, sender="supervisor", rate_limit=choice)
driver = journald.open_driver(sink, stderr_fd=2, environ={})

def write(rest):
    while hasattr(outcome := driver.write(rest), "delay_s"):
        rest = rest[outcome.accepted:]
        time.sleep(outcome.delay_s)

write(batch(int(records)))
if choice == "warn":
    deadline = time.monotonic() + 20
    time.sleep(INTERVAL_S)  # as long as journald's interval is
    while not driver._suppressed._seen:
        assert time.monotonic() < deadline
        write(batch(1))
        time.sleep(0.05)
driver.close()
"""


@pytest.fixture(name="group")
def _group():
    require("journald")
    for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if Path(place, "cgroup.procs").exists() and os.access(place, os.W_OK):
            group = Path(place, UNIT)  # in no slice, which others might remove
            group.mkdir()
            yield str(group)
            group.rmdir()
            return
    pytest.skip("no control group can be made here")


def send(journald, group, choice, records) -> str:
    """Send records as a process of the unit; give what it said."""
    (directory,) = (journald.base / "run/log/journal").iterdir()
    program = SEND.replace("INTERVAL_S)", f"{INTERVAL_S})")
    program = program.replace("INTERVAL_S, BURST", f"{INTERVAL_S}, {BURST}")
    sent = subprocess.run(
        [sys.executable, "-c", program, group, journald.socket, directory, choice,
         str(records)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    journald.sync()
    return sent.stderr


@pytest.fixture(name="journald")
def _journald(group):
    limit = f"RateLimitIntervalSec={INTERVAL_S}s\nRateLimitBurst={BURST}\n"
    lines = [line for line in CONFIGURATION.splitlines() if "RateLimit" not in line]
    with Journald(configuration="\n".join([*lines, limit])) as journald:
        yield journald


def test_pace_keeps_to_the_limit(journald, group) -> None:
    """Nothing is dropped of what is more than the unit's burst; it comes later."""
    records = 3 * BURST
    assert send(journald, group, "pace", records) == ""
    assert len(journald.entries(f"_SYSTEMD_UNIT={UNIT}")) == records


def test_what_journald_drops_is_noticed(journald, group) -> None:
    """The warning comes when the limit is passed, the number when journald gives it."""
    said = send(journald, group, "warn", RECORDS)
    stored = len(journald.entries("LOGGER=shop.cart"))
    assert stored < RECORDS
    assert said.count("LogRateLimitIntervalSec=0. Or") == 1
    (dropped,) = [
        entry["N_DROPPED"] for entry in journald.entries(f"OBJECT_SYSTEMD_UNIT={UNIT}")
    ]
    assert f"journald has dropped {dropped} messages of {UNIT}" in said


def test_more_suppressions_than_a_pipe_holds_are_read(monkeypatch) -> None:
    """Of a short interval there are many: journalctl ends, and is asked again."""
    require("journald")
    monkeypatch.setattr(journald_suppressed, "INTERVAL_S", 0.01)
    entry = (
        f"MESSAGE={'x' * 500}\nMESSAGE_ID={DROPPED_ID}\nN_DROPPED=1\n"
        f"OBJECT_SYSTEMD_UNIT={UNIT}\n"
    )
    with Journald() as journald:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            writer.connect(journald.socket)
            for _ in range(300):
                writer.send(entry.encode())
        journald.sync()
        (directory,) = (journald.base / "run/log/journal").iterdir()
        command = ("journalctl", "-D", str(directory), "-q", "-o", "json")
        suppressed = Suppressed(UNIT, command=command)

        def answered():
            suppressed.look()
            return suppressed._seen

        until(answered, "journalctl has answered")
        suppressed.close()


# As a unit's process it serves workers that have ended by the time journald is back.
SERVE = """
import os, sys
group, socket, journald = sys.argv[1:]
with open(group + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
import logging, signal, time
import femtomp
from tests.processes.harness import Attached, fork

def work(write):
    logging.getLogger("shop.worker").info("last words")
    os.write(write, b".")
    time.sleep(0.3)

with femtomp.start_server(femtomp.JournaldSink(socket)) as server, Attached():
    os.kill(int(journald), signal.SIGSTOP)
    read, write = os.pipe()
    workers = [fork(work, write) for _ in range(5)]
    for pid in workers:
        os.waitpid(pid, 0)
    os.kill(int(journald), signal.SIGCONT)
    assert server.flush(20)
"""


def test_unit_finds_what_its_workers_logged_before_they_ended(group) -> None:
    """`journalctl -u` shows all, though journald could read no worker's /proc."""
    with Journald() as journald:
        served = subprocess.run(
            [sys.executable, "-c", SERVE, group, journald.socket, str(journald.pid)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
        )
        assert served.returncode == 0, served.stderr
        journald.sync()
        found = journald.journalctl("-o", "cat", "-u", UNIT, "LOGGER=shop.worker")
    assert found.split(b"\n")[:-1] == [b"last words"] * 5
