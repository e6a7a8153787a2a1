"""Workers that start as root and become another user, as gunicorn's do with `user=`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes import place
from femtomp.lanes.spool import ENGINE, Spool
from femtomp.worker.channel import channel
from tests.codec.test_opcodes import BOMBS
from tests.processes.harness import Attached, arrived, fork, lines, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534
# Enough for several segments of either writer.
RECORDS = 6000
PADDING = "x" * 600


@pytest.fixture(name="parent")
def _parent():
    """Give a directory that everybody may pass: pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="femtomp-privileges-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def log_numbers(who: str, first: int, last: int) -> None:
    log = logging.getLogger("shop")
    for number in range(first, last):
        log.info("%s", PADDING, extra={"worker": who, "number": number})


def worker() -> None:
    """Log as root, drop privileges in the same process, log on; then fork."""
    log_numbers("early", 0, 10)
    become_nobody()
    log_numbers("early", 10, RECORDS)
    grandchild = fork(log_numbers, "late", 0, 100)
    assert os.waitpid(grandchild, 0)[1] == 0


@pytest.mark.parametrize("writer", ["mmap", "write"])
def test_no_record_is_lost_by_dropping_privileges(
    parent, tmp_path, monkeypatch, capfd, writer
):
    """A process that logs as root, and then as another user, has a lane as each; none
    of what it logs is lost, and nothing in `lanes/` is root's.
    """
    monkeypatch.setattr(place, "choose_writer", lambda _: writer)
    with (
        femtomp.start_server(
            femtomp.FileSink(tmp_path / "a"),
            spool_parent=parent,
            worker_uid=NOBODY,
            worker_gid=NOBODY,
        ) as server,
        Attached() as log,
    ):
        log.info("by the master", extra={"worker": "master", "number": 0})
        assert os.waitpid(fork(worker), 0)[1] == 0
        assert server.flush(30)
        stats = server.stats()
        owners = {f.stat().st_uid for f in (server.spool / "lanes").iterdir()}
        kinds = {f.suffix for f in (server.spool / "lanes").iterdir()}
        report = server.stop()
    assert report.drained
    assert sum(stats.dropped.values()) == 0
    assert owners <= {NOBODY}
    assert ".cur" not in kinds
    assert "cannot log" not in capfd.readouterr().err
    seen = [
        (r["attributes"]["worker"], r["attributes"]["number"])
        for r in lines(tmp_path / "a")
    ]
    early = [("early", n) for n in range(RECORDS)]
    late = [("late", n) for n in range(100)]
    assert sorted(seen) == sorted([("master", 0), *early, *late])
    assert not list(parent.iterdir())


def ask(server) -> None:
    become_nobody()
    assert not server.flush(60)
    with pytest.raises(femtomp.SpoolError, match="for root to read"):
        server.stats()


def test_what_became_of_records_is_roots_to_know(parent, tmp_path) -> None:
    """A worker of another user that asks is answered at once that it may not know."""
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=parent, worker_uid=NOBODY
    ) as server:
        assert os.waitpid(fork(ask, server), 0)[1] == 0


def log_without_permission() -> None:
    become_nobody()
    log_numbers("nobody", 0, 3)
    log_numbers("nobody", 3, 6)


def test_a_worker_that_may_not_log_says_what_it_lacks(parent, tmp_path, capfd) -> None:
    """Without `worker_uid`: one line with directory, uid and that option; its records
    are on stderr, the application goes on, and the others' records are delivered.
    """
    with (
        femtomp.start_server(
            femtomp.FileSink(tmp_path / "a"), spool_parent=parent
        ) as server,
        Attached() as log,
    ):
        assert os.waitpid(fork(log_without_permission), 0)[1] == 0
        log.info("by the master", extra={"worker": "master", "number": 0})
    said = capfd.readouterr().err.splitlines()
    (warning,) = [line for line in said if line.startswith("femtomp: ")]
    assert f"cannot log to {server.spool} as uid {NOBODY}" in warning
    assert f"start_server(worker_uid={NOBODY})" in warning
    assert len([line for line in said if PADDING in line]) == 6
    assert [r["body"] for r in lines(tmp_path / "a")] == ["by the master"]


def be_hostile(lanes: Path) -> None:
    """Do, as a worker's user, what may be done to an engine that runs as root."""
    become_nobody()
    log_numbers("hostile", 0, 1)
    for bomb in BOMBS.values():
        channel(str(lanes.parent)).append(bomb)
    log_numbers("hostile", 1, 2)
    for name in ("aa" * 12, "bb" * 12):
        os.mkfifo(lanes / f"{name}.own")
        (lanes / f"{name}.cur").symlink_to("/etc/passwd")
        (lanes / f"{name}.0.seg").mkdir()
    (lanes / f"{'cc' * 12}.own").write_bytes(bytes(4096))
    (lanes / f"{'f' * 24}.cur").mkdir()
    (lanes / f"{'f' * 24}.own").write_bytes(bytes(4096))


def test_a_hostile_worker_mutes_nobody(parent, tmp_path, capfd):
    """Whatever a worker's user writes or plants, the engine goes on, started anew too,
    and what others log is delivered.
    """
    passwords = Path("/etc/passwd").read_bytes()
    with (
        femtomp.start_server(
            femtomp.FileSink(tmp_path / "a"), spool_parent=parent, worker_uid=NOBODY
        ) as server,
        Attached() as log,
    ):
        lanes = server.spool / "lanes"
        assert os.waitpid(fork(be_hostile, lanes), 0)[1] == 0
        log.info("1", extra={"worker": "master", "number": 1})
        until(lambda: arrived(tmp_path / "a") >= 3, "what is good is delivered")
        assert server.stats().engine_starts == 1
        os.kill(Spool(server.spool).control()[ENGINE], signal.SIGKILL)
        log.info("2", extra={"worker": "master", "number": 2})
        until(lambda: server.stats().engine_starts > 1, "the next engine has started")
        until(lambda: arrived(tmp_path / "a") >= 4, "what is good is delivered")
        assert server.stats().engine_starts == 2
    seen = {
        (r["attributes"]["worker"], r["attributes"]["number"])
        for r in lines(tmp_path / "a")
    }
    assert seen == {("hostile", 0), ("hostile", 1), ("master", 1), ("master", 2)}
    assert Path("/etc/passwd").read_bytes() == passwords
    said = capfd.readouterr().err
    assert "a record cannot be read, counted" in said
    assert f"{'aa' * 12}.own is not a regular file with one name: delete it" in said


def test_only_lanes_belong_to_the_workers(parent, tmp_path):
    """Workers may read manifest and control and pass the spool, and write in `lanes/`."""
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=parent, worker_uid=NOBODY
    ) as server:
        found = {
            path.name: (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode))
            for path in (server.spool, *server.spool.iterdir())
        }
        manifest = json.loads((server.spool / "manifest.json").read_text())
        name = server.spool.name
    assert found == {
        name: (0, 0o711),
        "manifest.json": (0, 0o644),
        "control": (0, 0o644),
        "resource.json": (0, 0o600),
        "master.lock": (0, 0o600),
        "guardian.lock": (0, 0o600),
        "engine.lock": (0, 0o600),
        "said": (0, 0o600),
        "lanes": (NOBODY, 0o700),
        "lanes-root": (0, 0o700),
    }
    assert manifest["worker_uid"] == NOBODY
    assert type(manifest["worker_gid"]) is int


def test_a_spool_of_ones_own_user_is_private(tmp_path):
    """`worker_uid` of the master's own user changes nothing."""
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=tmp_path, worker_uid=os.geteuid()
    ) as server:
        for path in (server.spool, server.spool / "lanes"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_place_that_workers_cannot_reach_is_refused(tmp_path):
    """A parent that the workers' user cannot pass is named, and nothing is left."""
    tmp_path.chmod(0o700)
    with pytest.raises(femtomp.SpoolError, match=f"uid {NOBODY} cannot pass"):
        femtomp.start_server("console", spool_parent=tmp_path, worker_uid=NOBODY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"worker_uid": -1}, "worker_uid"),
        ({"worker_uid": True}, "worker_uid"),
        ({"worker_uid": "nobody"}, "worker_uid"),
        ({"worker_uid": (1 << 32) - 1}, "worker_uid"),
        ({"worker_gid": 1}, "worker_gid needs worker_uid"),
        ({"worker_uid": 4_000_000_000}, "give worker_gid too"),
    ],
)
def test_wrong_users_are_refused_by_name(tmp_path, options, word):
    """What is no user's number is an error that says so."""
    with pytest.raises(femtomp.ConfigError, match=word):
        femtomp.start_server("console", spool_parent=tmp_path, **options)


def test_only_root_can_have_workers_of_another_user(parent):
    """Without root's rights, another user's uid is an error before anything is made."""

    def start() -> None:
        become_nobody()
        with pytest.raises(femtomp.ConfigError, match="only root"):
            femtomp.start_server("console", spool_parent=parent, worker_uid=1)

    assert os.waitpid(fork(start), 0)[1] == 0
