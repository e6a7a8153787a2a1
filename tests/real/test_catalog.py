"""femtomp's own events in a real journal, and what `journalctl -x` says of them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

import femtomp
from femtomp.codec.journal_catalog import MESSAGE_IDS, catalog_text
from tests.components import require, unshare_command
from tests.processes.harness import Attached, fork, until
from tests.real.journald import Journald

# The catalogue's database is the machine's: in a namespace it is a directory of ours.
EXPLAIN = """set -e
mount --make-rprivate /
mount --bind "$1" /var/lib/systemd/catalog
exec journalctl -D "$2" -q --no-pager -x "$3"
"""


def catalog(*arguments):
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "femtomp", "catalog", *arguments],
        capture_output=True,
        text=True,
    )


def test_ids_are_128_bits_each_its_own() -> None:
    """No two events share an id, and each has one that systemd takes."""
    ids = list(MESSAGE_IDS.values())
    assert all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)
    assert len(set(ids)) == len(ids)


def test_catalogue_is_printed() -> None:
    """Without an option nothing is written anywhere."""
    assert catalog().stdout == catalog_text()


@pytest.mark.skipif(not shutil.which("journalctl"), reason="no journalctl")
def test_catalogue_is_installed_and_removed(tmp_path) -> None:
    """Journalctl lists every event afterwards, and none once it is removed."""

    def listed():
        command = ["journalctl", "--list-catalog", f"--root={tmp_path}"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    # Of an empty catalogue journalctl makes no database.
    other = "-- 0123456789abcdef0123456789abcdef\nSubject: Other\n\nText\n"
    (directory / "other.catalog").write_text(other)
    assert catalog("--install", "--root", tmp_path).returncode == 0
    for message_id in MESSAGE_IDS.values():
        assert re.search(f"^{message_id} femtomp: ", listed(), re.MULTILINE)
    assert catalog("--remove", "--root", tmp_path).returncode == 0
    assert "femtomp" not in listed()


def test_place_that_cannot_be_written_is_said(tmp_path) -> None:
    """The error names the file, the reason and what to do."""
    (tmp_path / "usr").write_text("")
    done = catalog("--install", "--root", tmp_path)
    assert done.returncode == 2
    assert "femtomp.catalog: Not a directory; run it as root" in done.stderr


def log_and_wait(write):
    logging.getLogger("shop.worker").info("at work")
    os.write(write, b".")
    signal.pause()


def test_what_happens_is_told_with_ids_that_journalctl_explains(tmp_path) -> None:
    """A killed worker and an outage are entries, each with its explanation."""
    require("journald")
    read, write = os.pipe()
    with Journald() as journald:
        path = tmp_path / "app.jsonl"
        sinks = [femtomp.JournaldSink(journald.socket), femtomp.FileSink(path)]
        with femtomp.start_server(sinks) as server, Attached():
            pid = fork(log_and_wait, write)
            os.read(read, 1)
            assert server.flush(20)
            logging.getLogger("shop").info("the engine has been there")
            assert server.flush(20)
            journald.sync()
            journald.stop()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            logging.getLogger("shop").info("meanwhile")
            until(lambda: b"femtomp.sink.down" in path.read_bytes(), "it is down")
            journald.start()
            assert server.flush(20)
            until(lambda: b"femtomp.sink.recovered" in path.read_bytes(), "it is back")
        journald.sync()
        for name, field, value in (
            ("femtomp.worker.started", "WORKER_PID", str(pid)),
            ("femtomp.worker.died", "FEMTOMP_WORKER_ENDED_BY", "SIGKILL"),
            ("femtomp.sink.down", "FEMTOMP_SINK", "journald"),
            ("femtomp.sink.recovered", "FEMTOMP_SINK", "journald"),
        ):
            entries = journald.entries(f"MESSAGE_ID={MESSAGE_IDS[name]}")
            assert value in [entry[field] for entry in entries], name
        assert b"femtomp.worker.died" in path.read_bytes()
        text = explained(journald, tmp_path, "femtomp.worker.died")
    assert f"journalctl WORKER_PID={pid}" in text
    assert "was killed by SIGKILL" in text


def explained(journald, tmp_path, name) -> str:
    """Give what `journalctl -x` shows of an event."""
    root = tmp_path / "root"
    root.mkdir()
    assert catalog("--install", "--root", root).returncode == 0
    (directory,) = (journald.base / "run/log/journal").iterdir()
    inside = (root / "var/lib/systemd/catalog", directory)
    command = [*unshare_command(), "sh", "-c", EXPLAIN, "sh", *inside]
    shown = subprocess.run(
        [*command, f"MESSAGE_ID={MESSAGE_IDS[name]}"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_ordinary_ends_are_no_deaths(tmp_path) -> None:
    """SIGTERM is how pools end their workers; a crash is told with its signal."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server, Attached():
        for number in (signal.SIGTERM, signal.SIGKILL):
            read, write = os.pipe()
            pid = fork(log_and_wait, write)
            os.read(read, 1)
            assert server.flush(20)
            logging.getLogger("shop").info("the engine has been there")
            assert server.flush(20)
            os.kill(pid, number)
            os.waitpid(pid, 0)
        until(lambda: b"killed by SIGKILL" in path.read_bytes(), "the crash is told")
    assert path.read_bytes().count(b'"femtomp.worker.died"') == 1


def test_death_that_ends_the_program_is_told(tmp_path) -> None:
    """A server that stops right after a worker was killed says so all the same."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server, Attached():
        read, write = os.pipe()
        pid = fork(log_and_wait, write)
        os.read(read, 1)
        assert server.flush(20)
        logging.getLogger("shop").info("the engine has been there")
        assert server.flush(20)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert path.read_bytes().count(b'"femtomp.worker.died"') == 1


def test_death_is_told_to_a_sink_that_was_down_over_a_reconfiguration(
    tmp_path,
) -> None:
    """What waits for a sink goes to the engine that follows, once."""
    require("journald")
    path = tmp_path / "app.jsonl"
    with Journald() as journald:
        sinks = [femtomp.JournaldSink(journald.socket), femtomp.FileSink(path)]
        with femtomp.start_server(sinks) as server, Attached():
            read, write = os.pipe()
            pid = fork(log_and_wait, write)
            os.read(read, 1)
            logging.getLogger("shop").info("the engine has been there")
            assert server.flush(20)
            journald.stop()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            until(lambda: b"femtomp.worker.died" in path.read_bytes(), "it is told")
            server.reconfigure([*sinks, femtomp.FileSink(tmp_path / "2", name="2")])
            journald.start()
            logging.getLogger("shop").info("it is back")
            assert server.flush(20)
        journald.sync()
        died = f"MESSAGE_ID={MESSAGE_IDS['femtomp.worker.died']}"
        assert len(journald.entries(died)) == 1
    assert path.read_bytes().count(b'"femtomp.worker.died"') == 1
