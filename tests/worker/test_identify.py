"""Who a process is: what `identify`, launchers and pools tell, in every record of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import femtomp
from femtomp.codec import identity as codec
from femtomp.record import Identity

PROGRAM = """
import json, logging, os, sys
import femtomp

log = logging.getLogger("shop")
{before}
with femtomp.start_server("file:records", name="shop"):
    femtomp.worker_init()
{body}
"""


def run(tmp_path, body: str, before: str = "", **environ: str) -> list[dict]:
    """Run a program with a server; return its records, without femtomp's own."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, body=indented)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environ},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = (tmp_path / "records").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["logger"] == "shop"]


FORK = """
pid = os.fork()
if not pid:
    log.info("in the child")
    os._exit(0)
os.waitpid(pid, 0)
"""

NESTED = """
pid = os.fork()
if not pid:
    log.info("in the child")
    grandchild = os.fork()
    if not grandchild:
        log.info("in its child")
        os._exit(0)
    os.waitpid(grandchild, 0)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_mapping_is_about_this_process_alone(tmp_path) -> None:
    """What a mapping says is in the resource of each record, and in no child's."""
    before = 'femtomp.identify({"femtomp.worker.name": "importer", "shard": 3})'
    own, child = run(tmp_path, f'log.info("here")\n{FORK}', before)
    assert own["resource"]["femtomp.worker.name"] == "importer"
    assert own["resource"]["shard"] == 3
    assert child["resource"]["femtomp.worker.name"] == "MainProcess"
    assert "shard" not in child["resource"]


def test_a_callable_is_asked_in_each_process(tmp_path) -> None:
    """Parent, child and grandchild give three answers, and have three instance ids."""
    before = """
def who():
    return {"own.pid": os.getpid()}
femtomp.identify(who)
femtomp.identify(who)
"""
    found = run(tmp_path, f'log.info("here")\n{NESTED}', before)
    pids = [record["resource"]["own.pid"] for record in found]
    assert pids == [record["resource"]["process.pid"] for record in found]
    assert len(set(pids)) == 3
    assert len({r["resource"]["service.instance.id"] for r in found}) == 3


def test_told_late_it_counts_from_then_on(tmp_path) -> None:
    """A process that has logged goes on in another lane; nothing is lost or doubled."""
    body = """
log.info("before")
femtomp.identify({"shard": 3})
log.info("after")
"""
    before, after = run(tmp_path, body)
    assert "shard" not in before["resource"]
    assert after["resource"]["shard"] == 3


def test_a_callable_that_raises_loses_no_record(tmp_path) -> None:
    """The record is there, and says what went wrong."""
    (record,) = run(tmp_path, 'femtomp.identify(lambda: 1 / 0)\nlog.info("here")')
    error = record["resource"]["femtomp.identity_error"]
    assert error == "ZeroDivisionError: division by zero"


ODD = """
class Bad(Exception):
    def __str__(self):
        raise ValueError("no")

def fails():
    raise Bad

def who():
    return {1: 2, "shard": None, "list": [1], "kept": 3, "wide": 1 << 70}

femtomp.identify(fails)
femtomp.identify(who)
log.info("here")
"""


def test_what_a_callable_returns_costs_no_record(tmp_path) -> None:
    """Odd names and values are made plain, or said to be none; the rest is there."""
    (record,) = run(tmp_path, ODD)
    resource = record["resource"]
    assert (resource["1"], resource["kept"]) == (2, 3)
    assert resource["wide"] == str(1 << 70)
    assert "shard" in resource["femtomp.identity_error"]
    assert "list" in resource["femtomp.identity_error"]


def test_an_enumeration_is_what_it_stands_for(tmp_path) -> None:
    """Values of a scalar's subclass are in the resource, from mappings too."""
    body = """
import enum
class Stage(enum.StrEnum):
    live = "live"
femtomp.identify({"stage": Stage.live})
log.info("here")
"""
    (record,) = run(tmp_path, body)
    assert record["resource"]["stage"] == "live"


def test_a_rank_that_is_no_such_number_costs_no_record(tmp_path) -> None:
    """Thousands of digits are no rank, and int() refuses them."""
    environ = {"RANK": "9" * 5000, "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    (record,) = run(tmp_path, 'log.info("here")', **environ)
    assert "process.world_size" not in record["resource"]


def test_ranks_come_from_the_environment(tmp_path) -> None:
    """The variables of torchrun are in the resource, as numbers; a part of them is not."""
    environ = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    (record,) = run(tmp_path, 'log.info("here")', **environ)
    names = ("process.rank", "process.local_rank", "process.world_size")
    assert [record["resource"].get(name) for name in names] == [5, 1, 8]
    (tmp_path / "records").unlink()
    (record,) = run(tmp_path, 'log.info("here")', RANK="5")
    assert "process.rank" not in record["resource"]


@pytest.mark.parametrize("who", [3, "name", ["a"], {"a": object()}, {1: "a"}, None])
def test_what_is_no_identity_is_refused(who) -> None:
    """Bad input is a clear error at the call."""
    with pytest.raises(femtomp.ConfigError, match="identify: "):
        femtomp.identify(who)


def test_attributes_that_do_not_fit_are_left_out() -> None:
    """However much is told, the identity fits into its file; the first is kept."""
    who = Identity(7, 1, 0, 99, "b", "\U0001f600" * 300, "worker", "h" * 64, "/" * 300)
    many = tuple((f"name.{n}", "\U0001f600" * 20) for n in range(100))
    odd = (("list", [1]), ("huge", 2**70))
    made = codec.to_bytes(who._replace(attributes=(("first", 1), *odd, *many)))
    assert len(made) <= 3584
    read = codec.from_bytes(made).attributes
    assert read[0] == ("first", 1)
    assert read[1][0] == "name.0"
    assert len(read) < 30


def test_attributes_without_number_are_soon_left_out() -> None:
    """A log call waits while they are encoded: one by one, and not all again and again.

    What is too large itself does not keep others out; a name is a text.
    """
    who = Identity(7, 1, 0, 99, "boot", "MainProcess", "worker", "host", "app.py")
    many = tuple((f"name.{n}", "x" * 100) for n in range(20_000))
    odd = (("large", "x" * 10_000), (1, 2), ("last", 3))
    made = codec.to_bytes(who._replace(attributes=(*odd, *many)))
    read = dict(codec.from_bytes(made).attributes)
    assert read["last"] == 3
    assert not {"large", 1} & read.keys()
    assert 20 < len(read) < 40


def test_an_identity_of_an_older_version_is_read() -> None:
    """Lanes that were written before there were attributes have none."""
    from femtomp.codec import wire

    old = (7, 1, 0, 99, "boot", "MainProcess", "master", "host", "app.py")
    assert codec.from_bytes(wire.encode(old)) == Identity(*old)
