"""The demo tells the truth: it counts what happened, and a loss would be seen."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from femtomp.cli import demo
from femtomp.cli import demo_report as report
from femtomp.cli.demo_destinations import choose
from femtomp.cli.demo_ledger import ledger
from femtomp.cli.demo_report import Account, Delivery
from tests.cli.processes import Command, run, wait_until
from tests.components import missing, require
from tests.real.journald import Journald

if TYPE_CHECKING:
    import subprocess

QUICK = ("demo", "--records", 40, "--seconds", 0.5, "--seed", 7)
PROCESSES = ("worker-1", "worker-1 child", "worker-2", "worker-3", "worker-4")


def deliveries(pid: int, count: int) -> list[Delivery]:
    """Give the records of a process of which none was lost."""
    return [Delivery(f"{pid}-{n}", pid, n) for n in range(count)]


ACCOUNTS = [
    Account("worker-1", 11, 5, [1000] * 5),
    Account("worker-2", 12, 3, [2000] * 3),
]
HELD = [*deliveries(11, 5), *deliveries(12, 3)]


def by_name(table: list[report.Row]) -> dict[tuple[str, str], report.Row]:
    """Give the rows by worker and sink."""
    return {(row.worker, row.sink): row for row in table}


def check_run(done: subprocess.CompletedProcess[str], sinks: list[str]) -> None:
    """Check what a whole demo printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, duplicates 0" in done.stdout
    assert "\x1b" not in done.stdout
    for name in ("worker-1 child", "worker-2 SIGKILL", "worker-3 os._exit"):
        assert name in done.stdout
    totals = re.split(r"(?m)^ *all +", done.stdout)[-1]
    rows = re.findall(r"([a-z]+) +(\d+) +(\d+) +0 +0", totals)
    assert [sink for sink, _, _ in rows] == sinks
    assert len({delivered for _, _, delivered in rows}) == 1


def test_whole_demo(tmp_path) -> None:
    """A demo loses nothing, leaves no process, and its file holds every record once."""
    done = run(*QUICK, "--file", "demo.jsonl", cwd=tmp_path, NO_COLOR="1")
    otlp = [] if missing("otlp") else ["otlp"]
    check_run(done, ["file", *otlp, "console"])
    lines = map(json.loads, (tmp_path / "demo.jsonl").read_text().splitlines())
    records = [line for line in lines if "demo.run" in line["attributes"]]
    uids = Counter(one["uid"] for one in records)
    assert uids.most_common(1)[0][1] == 1
    workers = {name: [] for name in PROCESSES}
    for one in records:
        workers[one["attributes"]["demo.worker"]].append(one)
    for name, own in workers.items():
        numbers = [one["attributes"]["demo.sequence"] for one in own]
        assert numbers == list(range(len(numbers))), name
        assert len({one["resource"]["process.pid"] for one in own}) == 1
    assert len({one["resource"]["process.pid"] for one in records}) == len(PROCESSES)
    assert len(workers["worker-3"]) == 41
    assert len(workers["worker-4"]) == 40
    traces = [one["attributes"].get("exception.stacktrace", "") for one in records]
    assert any("LookupError" in t and "direct cause" in t for t in traces)
    if otlp:
        assert any("span_id" in one for one in records)


def test_demo_with_a_journal(tmp_path) -> None:
    """With a journald given by its socket, the journal is a sink like the others."""
    require("journald")
    with Journald() as journald:
        (directory,) = (journald.base / "run/log/journal").iterdir()
        where = ("--journald", journald.socket, "--journal-directory", directory)
        done = run(*QUICK, *where, "--file", "demo.jsonl", cwd=tmp_path)
    otlp = [] if missing("otlp") else ["otlp"]
    check_run(done, ["file", "journald", *otlp, "console"])


def test_interrupted_demo_leaves_nothing(tmp_path) -> None:
    """A demo that is told to end takes its workers and its server with it."""
    file = tmp_path / "demo.jsonl"
    command = Command("demo", "--seconds", 60, "--file", file, cwd=tmp_path)
    wait_until(lambda: file.exists() and file.stat().st_size > 0)
    assert len(command.heirs()) >= 6
    command.process.send_signal(signal.SIGTERM)
    assert command.result().returncode == 128 + signal.SIGTERM
    wait_until(lambda: not command.heirs())


def test_missing_journal_is_explained() -> None:
    """Where there is no journald the demo says so and goes on without."""
    args = argparse.Namespace(
        file=Path("a"), journald="/nowhere/socket", journal_directory=None
    )
    destinations, said = choose(args, "run")
    for each in destinations:
        each.close()
    assert "journald" not in [each.name for each in destinations]
    assert any("/nowhere/socket is no socket" in line for line in said)


def test_all_is_well() -> None:
    """Records that are all there once give a table without a loss or a duplicate."""
    table = report.rows(ACCOUNTS, {"file": HELD, "otlp": HELD[::-1]}, {"console": 8})
    assert {(row.lost, row.duplicates) for row in table} == {(0, 0)}
    assert by_name(table)["all", "console"].delivered == 8
    assert report.verdict(table) == "lost 0, duplicates 0"


def test_lost_record_is_seen() -> None:
    """A record whose call returned and that a sink does not hold is counted as lost."""
    short = [one for one in HELD if one != Delivery("11-2", 11, 2)]
    table = report.rows(ACCOUNTS, {"file": HELD, "otlp": short}, {"console": 7})
    rows = by_name(table)
    assert (rows["worker-1", "otlp"].delivered, rows["worker-1", "otlp"].lost) == (4, 1)
    assert [rows["all", sink].lost for sink in ("file", "otlp", "console")] == [0, 1, 1]
    assert report.verdict(table) == "lost 2, duplicates 0"


@pytest.mark.parametrize("uid", ["11-2", "another"])
def test_duplicate_is_seen(uid) -> None:
    """A record that came twice is counted, be its uid the same or another one."""
    table = report.rows(
        ACCOUNTS, {"file": [*HELD, Delivery(uid, 11, 2)]}, {"console": 9}
    )
    rows = by_name(table)
    assert rows["worker-1", "file"].duplicates == 1
    assert rows["worker-1", "file"].delivered == 5
    assert rows["all", "console"].duplicates == 1
    assert report.verdict(table) == "lost 0, duplicates 2"


def test_record_under_a_wrong_pid_is_lost() -> None:
    """A record that came under another process's pid does not count as delivered."""
    wrong = [one._replace(pid=99) if one.uid == "11-0" else one for one in HELD]
    rows = by_name(report.rows(ACCOUNTS, {"file": wrong}, {}))
    assert rows["worker-1", "file"].lost == 1


def test_kept_but_not_returned_is_no_duplicate() -> None:
    """A killed process may have kept one record more than its calls returned."""
    held = [*HELD, Delivery("12-3", 12, 3)]
    table = report.rows(ACCOUNTS, {"file": held}, {"console": 9})
    assert report.verdict(table) == "lost 0, duplicates 0"
    (remark,) = report.unreturned(table)
    assert remark.startswith("worker-2: ")


@pytest.mark.parametrize(("held", "status"), [(HELD, 0), (HELD[1:], 1)])
def test_loss_is_the_exit_status(held, status, capsys) -> None:
    """The exit status is 1 if, and only if, a record was lost."""

    class Destination:
        name = "file"

        def read(self, expected):
            assert expected == 8
            return held

    assert demo._report(ACCOUNTS, [Destination()], 8) == status
    assert f"lost {status}," in capsys.readouterr().out


def test_table_without_rich(monkeypatch, capsys) -> None:
    """Without rich the table is aligned text."""
    monkeypatch.setitem(sys.modules, "rich.box", None)
    report.show(report.rows(ACCOUNTS, {"file": HELD}, {}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["worker", "sink", "returned", "delivered"]
    assert lines[1].split() == ["worker-1", "file", "5", "5", "0", "0", "1.0", "1.0"]
    assert len({len(line) for line in lines}) == 1


def test_percentiles() -> None:
    """Half of the calls are below p50, one in a hundred above p99."""
    calls = [n * 1000 for n in range(101)]
    assert report.percentile_us(calls, 50) == 50
    assert report.percentile_us(calls, 99) == 99
    assert report.percentile_us([], 99) == 0
    assert report.percentile_us([7000], 99) == 7


def test_ledger_survives_a_kill() -> None:
    """What a process counted before it was killed can be read by the master."""
    slot = ledger(["one", "two"], 1_000_000)["two"]
    pid = os.fork()
    if pid == 0:
        slot.claim()
        while True:
            slot.count(5)
    wait_until(lambda: slot.returned > 1000)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert slot.pid == pid
    assert slot.latencies_ns() == [5] * slot.returned
