"""`femtomp recover` delivers what a killed server left, and removes nothing too early."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import socket

import pytest

import femtomp
from tests.cli.processes import Command, run
from tests.processes.harness import (
    SEED,
    Attached,
    arrived,
    lines,
    missing_and_double,
    until,
)
from tests.processes.orphan import Orphan


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.jsonl"


def recover(directory, *arguments, cwd):
    return run("recover", directory, *arguments, cwd=cwd)


def test_all_killed_at_once_is_recovered(tmp_path, path):
    """Killed under load, a server's records are delivered from its cursor on, and all."""
    print("seed", SEED)
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=None, served=True)
    signal.sigtimedwait((), random.Random(SEED).uniform(0, 0.2))
    orphan.kill_worker()
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 pending" in done.stderr
    assert "is removed" in done.stderr
    assert "\r" not in done.stderr, "no progress where nobody looks on"
    missing, double = missing_and_double(lines(path), orphan.returned)
    assert not missing
    assert len(double) <= 2048
    assert not orphan.path.exists()


def test_a_sink_of_another_name_gets_everything_and_removes_nothing(tmp_path, path):
    """Other sinks get all that is there; the server's own keep their records meanwhile."""
    orphan = Orphan(tmp_path, [femtomp.FileSink(path, name="own")])
    orphan.kill_worker()
    other = tmp_path / "other"
    arguments = (orphan.path, "--sink", f"file:{other}")
    done = recover(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 delivered" in done.stderr
    assert "own did not get everything" in done.stderr
    assert missing_and_double(lines(other), orphan.returned) == ([], [])
    assert orphan.path.exists()
    again = recover(*arguments, cwd=tmp_path)
    assert "0 delivered" in again.stderr, "the same destination goes on where it was"
    server = femtomp.start_server(
        femtomp.FileSink(path, name="own"), name="shop", spool_parent=tmp_path
    )
    assert server.spool == orphan.path
    assert server.stop().drained
    assert missing_and_double(lines(path), orphan.returned) == ([], [])


def test_remove_says_that_the_others_do_not_matter(tmp_path, path):
    """With --remove the spool goes as soon as the sinks given have everything."""
    orphan = Orphan(tmp_path, [femtomp.FileSink(path, name="own")])
    orphan.kill_worker()
    done = recover(orphan.path, "--sink", "file:other", "--remove", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert missing_and_double(lines(tmp_path / "other"), orphan.returned) == ([], [])
    assert not orphan.path.exists()


def test_a_spool_in_use_is_refused(tmp_path, path):
    """What a living server has is refused with status 2, and goes on being served."""
    with femtomp.start_server(femtomp.FileSink(path), spool_parent=tmp_path) as server:
        done = recover(server.spool, "--sink", "file:other", cwd=tmp_path)
        assert done.returncode == 2
        assert f"{server.spool} is in use: a running server, or another" in done.stderr
        assert "Errno" not in done.stderr
        with Attached() as log:
            log.info("served", extra={"worker": 0, "number": 0})
        assert server.flush()
        above = recover(tmp_path, "--sink", "file:other", cwd=tmp_path)
        assert above.returncode == 0
        assert "no spool" in above.stderr
    assert len(lines(path)) == 1
    assert not (tmp_path / "other").exists()


def test_a_parent_of_several_is_recovered_one_by_one(tmp_path, path):
    """Each orphaned spool of a directory is delivered and named; a bad one is left."""
    two = [Orphan(tmp_path, femtomp.FileSink(path), name=name) for name in "ab"]
    bad = Orphan(tmp_path, femtomp.FileSink(path), name="c")
    for orphan in (*two, bad):
        orphan.kill_worker()
    manifest = bad.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    done = recover(tmp_path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 1
    for orphan in two:
        assert f"{orphan.path} is removed" in done.stderr
        assert not orphan.path.exists()
    assert "format 99" in done.stderr
    assert len(lines(path)) == 40
    before = sorted(map(str, bad.path.rglob("*")))
    done = recover(bad.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "is left alone: it has format 99" in done.stderr
    assert sorted(map(str, bad.path.rglob("*"))) == before


def test_a_living_worker_keeps_its_lane(tmp_path, path):
    """A lane whose worker lives is read and left; the spool stays, and that is said."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is kept: workers that live still write to it" in done.stderr
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
    assert list(orphan.path.glob("lanes/*.own"))
    orphan.kill_worker()
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert "0 delivered" in done.stderr
    assert not orphan.path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path, path, number):
    """Told to end, it says what is left, with status 1; the next run has the rest."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=20)
    orphan.kill_worker()
    nobody = "otlp:http://127.0.0.1:9"  # discard: nobody listens
    command = Command(
        "recover", orphan.path, "--sink", f"file:{path}", "--sink", nobody, cwd=tmp_path
    )
    until(lambda: arrived(path) == 20, "the file has it")
    command.process.send_signal(number)
    done = command.result()
    assert done.returncode == 1, done.stderr
    assert "otlp: 0 delivered, 0 refused, 0 corrupt, 20 pending" in done.stderr
    assert "is kept: not everything was delivered" in done.stderr
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0
    assert "file: 0 delivered" in done.stderr
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
    assert not orphan.path.exists()


def test_killed_in_the_middle_it_is_run_again(tmp_path, path):
    """A recovery that is SIGKILLed at any moment costs nothing but one batch twice."""
    print("seed", SEED)
    chance = random.Random(SEED)
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=20_000)
    orphan.kill_worker()
    for _ in range(3):
        before = arrived(path)
        command = Command(
            "recover", orphan.path, "--sink", f"file:{path}", cwd=tmp_path
        )
        until(lambda b=before: arrived(path) > b, "it delivers")
        signal.sigtimedwait((), chance.uniform(0, 0.05))
        command.process.kill()
        command.result()
        if not orphan.path.exists():
            break
    if orphan.path.exists():
        done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    missing, double = missing_and_double(lines(path), orphan.returned)
    assert not missing
    assert len(double) <= 3 * 2048
    assert not orphan.path.exists()


def test_of_two_at_once_one_delivers(tmp_path, path):
    """A second recovery is told that the spool is in use, and nothing comes twice."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=5_000)
    orphan.kill_worker()
    down = "otlp:http://127.0.0.1:9"
    first = Command(
        "recover", orphan.path, "--sink", f"file:{path}", "--sink", down, cwd=tmp_path
    )
    until(lambda: arrived(path), "the first one delivers")
    second = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert second.returncode == 2
    assert "in use: a running server, or another `femtomp recover`" in second.stderr
    until(lambda: arrived(path) == 5_000, "the first one goes on")
    first.process.send_signal(signal.SIGINT)
    assert first.result().returncode == 1
    assert missing_and_double(lines(path), orphan.returned) == ([], [])


def test_every_kind_of_sink_gets_all(tmp_path, path):
    """A file, journald and a pipe each get all that was left."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(20)
        command = Command(
            "recover", orphan.path, "--sink", f"file:{path}",
            "--sink", "console:json", "--sink", f"journald:{tmp_path}/journal",
            cwd=tmp_path,
        )  # fmt: skip
        # Read meanwhile: a datagram socket holds ten.
        entries = [journal.recv(1 << 16) for _ in range(21)]
        done = command.result()
    assert done.returncode == 0, done.stderr
    assert sum(b"MESSAGE=record " in entry for entry in entries) == 20
    assert sum('"body":"record ' in line for line in done.stderr.splitlines()) == 20
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
    assert done.stderr.count("20 delivered, 0 refused, 0 corrupt, 0 pending") == 3
    assert not orphan.path.exists()


def test_a_sink_of_ones_own_gets_all(tmp_path, path):
    """An import path names a sink, which is found in the current directory."""
    (tmp_path / "shop_sink.py").write_text(
        "class Lines:\n"
        "    def write(self, batch):\n"
        "        with open('own.txt', 'a') as file:\n"
        "            file.writelines(f'{record.uid}\\n' for record in batch)\n"
        "    def close(self):\n"
        "        pass\n"
    )
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=20)
    orphan.kill_worker()
    done = recover(
        orphan.path, "--sink", "shop_sink.Lines", "--sink", f"file:{path}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "own.txt").read_text().split()
    assert len(written) == len(set(written)) == 21  # with the worker's announcement
    assert not orphan.path.exists()


def test_a_worker_that_logs_on_does_not_hold_it(tmp_path, path):
    """What a living worker had logged at the start is delivered, and that is the end."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=None)
    before = orphan.returned[0]
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert orphan.has_worker()
    assert "workers that live still write to it" in done.stderr
    assert len(lines(path)) >= before
    orphan.kill_worker()
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
    assert not orphan.path.exists()


def test_a_time_limit_ends_it(tmp_path, path):
    """With --timeout a destination that is down does not hold it for ever."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    done = recover(
        orphan.path, "--sink", "otlp:http://127.0.0.1:9", "--timeout", 0.5, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "20 pending" in done.stderr
    assert orphan.path.exists()


def on_a_terminal(*arguments):
    """Run the command on a terminal; return what it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
        words = ["-m", "femtomp", "recover", *map(str, arguments)]
        os.execv(os.sys.executable, [os.sys.executable, *words])
    shown = b""
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError:
        pass  # its other end was closed
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, shown.decode()
    return shown


def test_progress_is_shown_on_a_terminal(tmp_path, path):
    """Where somebody looks on, one line says how far it is, and is taken away."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=20_000)
    orphan.kill_worker()
    shown = on_a_terminal(orphan.path, "--sink", f"file:{path}")
    assert b"%  delivered: file " in shown
    assert b"20000 delivered" in shown
    assert b"is removed" in shown.rpartition(b"\x1b[K")[2]


def test_progress_is_not_in_the_records_way(tmp_path, path):
    """On the terminal that gets the records there is nothing between them."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    arguments = ("--sink", f"file:{path}", "--sink", "console:json")
    shown = on_a_terminal(orphan.path, *arguments)
    records = [json.loads(line) for line in shown.splitlines() if line[:1] == b"{"]
    assert len(records) == 21
    assert b"%" not in b"".join(li for li in shown.splitlines() if li[:1] != b"{")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--sink", "console"], "no directory"),
        ([".", "--sink", "konsole"], "konsole"),
        (["."], "--sink"),
        ([".", "--sink", "console", "--timeout", "-1"], "--timeout"),
        ([".", "--sink", "console", "--timeout", "nan"], "--timeout"),
        (["file", "--sink", "console"], "file is no directory"),
    ],
)
def test_what_cannot_be_done_is_status_2(tmp_path, arguments, words):
    """A missing directory or sink is an error that names it."""
    (tmp_path / "file").touch()
    done = run("recover", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Errno" not in done.stderr


def test_a_sink_that_cannot_be_built_costs_no_record(tmp_path, path):
    """With a destination that cannot be opened all stays as it was."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    done = recover(orphan.path, "--sink", "file:/no/such/a", cwd=tmp_path)
    assert done.returncode == 2
    assert "/no/such" in done.stderr
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0
    assert missing_and_double(lines(path), orphan.returned) == ([], [])


def test_damage_is_counted_and_a_damaged_lane_kept(tmp_path, path):
    """A damaged record is counted as corrupt; a lane without an owner's file is left."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    (segment,) = orphan.path.glob("lanes/*.0.seg")
    content = bytearray(segment.read_bytes())
    at = content.index(b"record 7") if b"record 7" in content else 600
    content[at] ^= 1
    segment.write_bytes(content)
    (orphan.path / "lanes" / f"{'ab' * 12}.own").write_bytes(b"nonsense")
    done = recover(orphan.path, "--sink", f"file:{path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 corrupt" in done.stderr
    assert "1 of its lanes are damaged" in done.stderr
    assert len(lines(path)) == 19
