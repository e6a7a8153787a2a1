"""`femtomp run` is a transparent wrapper, and delivers what its command logs."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from femtomp.cli import main
from femtomp.lanes.liveness import start_ticks
from tests.cli.processes import ROOT, Command, run, wait_until

LOGS = """
import logging, os, sys, femtomp
from femtomp.lanes.spool import GUARDIAN, Spool
femtomp.worker_init()
logging.getLogger("app").debug("detail")
logging.getLogger("app").info("hello %s", "world", extra={"n": 1})
spool = os.environ["FEMTOMP_SPOOL"]
print(Spool(spool).control()[GUARDIAN], spool)
sys.exit(7)
"""

# Appends a letter for each signal, and ends at SIGTERM with a status of its own.
RECEIVES = """
import os, signal, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda n, _: os.write(log, b"%d\\n" % n))
signal.signal(signal.SIGTERM, lambda n, _: sys.exit(9))
os.write(log, b"ready\\n")
while True:
    signal.pause()
"""


def lines(path: Path) -> list[str]:
    """Give the whole lines of a file that may not be there yet."""
    return path.read_text().split() if path.exists() else []


def test_records_of_the_command_arrive(tmp_path) -> None:
    """What the command logs has arrived when `run` ends with the command's status."""
    done = run(
        *[
            "run",
            "--sink",
            "file:app.jsonl",
            "--sink",
            "console:json",
            "--name",
            "shop",
        ],
        *["--", sys.executable, "-c", LOGS],
        cwd=tmp_path,
    )
    assert done.returncode == 7, done.stderr
    written = [json.loads(t) for t in (tmp_path / "app.jsonl").read_text().splitlines()]
    (record,) = [one for one in written if one["logger"] == "app"]
    assert (record["body"], record["attributes"]["n"]) == ("hello world", 1)
    assert record["resource"]["service.name"] == "shop"
    assert '"body":"hello world"' in done.stderr


def test_nothing_is_left_behind(tmp_path) -> None:
    """When `run` has ended, guardian and spool are gone."""
    done = run("run", "--", sys.executable, "-c", LOGS, cwd=tmp_path)
    guardian, spool = done.stdout.split()
    assert int(guardian) > 0
    wait_until(lambda: start_ticks(guardian) == 0)
    assert not Path(spool).exists()


def test_the_server_is_called_as_the_script(tmp_path) -> None:
    """`python shop.py` is `shop` in the records, not `python`."""
    (tmp_path / "shop.py").write_text(LOGS)
    run("run", "--sink=file:app.jsonl", "--", sys.executable, "shop.py", cwd=tmp_path)
    (record,) = [
        record
        for line in (tmp_path / "app.jsonl").read_text().splitlines()
        if (record := json.loads(line))["logger"] == "app"
    ]
    assert record["resource"]["service.name"] == "shop"


def test_level_reaches_the_workers(tmp_path) -> None:
    """`--level` is the level that `worker_init` sets in the command."""
    done = run(
        *["run", "--level", "debug", "--sink", "file:a", "--"],
        *[sys.executable, "-c", LOGS],
        cwd=tmp_path,
    )
    assert done.returncode == 7, done.stderr
    assert '"body":"detail"' in (tmp_path / "a").read_text()


def test_without_sink_the_environment_says(tmp_path) -> None:
    """With no `--sink`, FEMTOMP_SINKS names the sinks."""
    run(
        *["run", sys.executable, "-c", LOGS],
        cwd=tmp_path,
        FEMTOMP_SINKS="file:from-environment",
    )
    assert "hello world" in (tmp_path / "from-environment").read_text()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["--", "sh", "-c", "exit 3"], 3),
        (["sh", "-c", 'test "$*" = "-- b --sink c"', "a", "--", "b", "--sink", "c"], 0),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["femtomp-no-such-command"], 127),
        (["/nowhere/at/all"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
        (["./not-a-program"], 126),
        ([], 2),
    ],
)
def test_exit_status_is_a_shells(tmp_path, command, status) -> None:
    """The exit status is that which a shell would give for the command."""
    program = tmp_path / "not-a-program"
    program.write_text("neither a script nor a binary")
    program.chmod(0o755)
    assert run("run", *command, cwd=tmp_path).returncode == status


@pytest.mark.parametrize(
    "options",
    [["--sink", "nonesuch"], ["--level", "nonesuch"], ["--sink", "file:/nowhere/a"]],
)
def test_error_is_one_line(tmp_path, options) -> None:
    """An option that cannot be used is one line on stderr and status 2."""
    done = run("run", *options, "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("femtomp: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_signals_are_passed_on(tmp_path) -> None:
    """A signal to `run` reaches the command, whose status at the end is its own."""
    log = tmp_path / "log"
    command = Command("run", "--", sys.executable, "-c", RECEIVES, log, cwd=tmp_path)
    wait_until(lambda: lines(log) == ["ready"])
    sent = ["ready"]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        command.process.send_signal(number)
        sent.append(str(int(number)))
        wait_until(lambda: lines(log) == sent)
    command.process.send_signal(signal.SIGTERM)
    assert command.result().returncode == 9
    wait_until(lambda: not command.heirs())


def test_terminal_interrupt_comes_once(tmp_path) -> None:
    """Ctrl-C, which the terminal sends to both, is not passed on a second time."""
    log = tmp_path / "log"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        own = [sys.executable, "-m", "femtomp", "run", "--"]
        os.execv(sys.executable, [*own, sys.executable, "-c", RECEIVES, str(log)])
    try:
        wait_until(lambda: lines(log) == ["ready"])
        # Stopped meanwhile: two signals at once would come as one.
        os.kill(pid, signal.SIGSTOP)
        os.write(terminal, b"\x03")
        wait_until(lambda: len(lines(log)) == 2)
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert lines(log) == ["ready", str(int(signal.SIGINT))]
    finally:
        os.close(terminal)


def test_command_gets_signals_unblocked(tmp_path) -> None:
    """The command starts with nothing blocked, and with SIGPIPE as it should be."""
    done = run(
        "run", "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", cwd=tmp_path
    )
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in done.stdout.splitlines()
    }
    assert masks["SigBlk"] == 0
    assert not masks["SigIgn"] & 1 << signal.SIGPIPE - 1


def test_undelivered_records_are_said(tmp_path) -> None:
    """Records that no sink took before the time-out are named in one line."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    done = run(
        *["run", "--timeout", "0.2", "--sink", "otlp:http://127.0.0.1:9", "--"],
        *[sys.executable, "-c", LOGS],
        cwd=tmp_path,
        FEMTOMP_SPOOL_PARENT=str(tmp_path),
    )
    assert done.returncode == 7
    (said,) = [t for t in done.stderr.splitlines() if "records were left in" in t]
    assert said.startswith(f"femtomp: records were left in {tmp_path}")
    assert said.endswith("1 for otlp")


def test_version(capsys) -> None:
    """`--version` names the program and its version."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("femtomp ")


def test_no_command_prints_help(capsys) -> None:
    """Without a command the commands are listed, with status 2."""
    assert main([]) == 2
    assert "demo" in capsys.readouterr().out
