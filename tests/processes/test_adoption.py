"""What a server left behind is delivered by the next one of its name, and by no other."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading

import pytest

import femtomp
from femtomp.lanes.lock import MASTER_LOCK, Lock, is_orphaned
from femtomp.lanes.spool import Spool
from tests.processes.harness import (
    SEED,
    Attached,
    fork,
    lines,
    missing_and_double,
    run_script,
    until,
)
from tests.processes.orphan import Orphan

ROUNDS = 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.jsonl"


@pytest.fixture
def start(tmp_path, path):
    """Start servers that are stopped, or were, at the end."""
    started = []

    def start(sinks=None, name="shop", **options):
        options = {"spool_parent": tmp_path, **options}
        server = femtomp.start_server(
            sinks or femtomp.FileSink(path), name=name, **options
        )
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop(1)


def spools(tmp_path):
    return sorted(tmp_path.glob("femtomp-*"))


def test_all_killed_at_once_lose_nothing(tmp_path, path, start):
    """Master, pair and worker are killed under load; the next server delivers the rest."""
    print("seed", SEED)
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        path.unlink(missing_ok=True)
        sink = femtomp.FileSink(path)
        orphan = Orphan(tmp_path, sink, records=None, served=True)
        signal.sigtimedwait((), chance.uniform(0, 0.2))
        orphan.kill_worker()
        server = start()
        assert server.spool == orphan.path, "the spool itself is used again"
        assert server.flush(60)
        stats = server.stats()
        assert stats.engine_starts == 2
        assert stats.sinks["file"].pending == 0
        assert orphan.returned[0] <= stats.sinks["file"].committed <= stats.started
        report = server.stop()
        assert report.drained
        missing, double = missing_and_double(lines(path), orphan.returned)
        assert not missing
        assert len(double) <= 2048
        assert spools(tmp_path) == []


def test_a_worker_lives_on_across_the_adoption(tmp_path, path, start):
    """The old master's worker goes on in its lane, and its records arrive in order."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path), records=None)
    server = start()
    assert server.spool == orphan.path
    before = orphan.returned[0]
    until(lambda: orphan.returned[0] > before + 100, "the worker goes on")
    orphan.kill_worker()
    assert server.flush(60)
    assert missing_and_double(lines(path), orphan.returned) == ([], [])
    numbers = [r["attributes"]["number"] for r in lines(path)]
    assert numbers == sorted(numbers)
    assert server.stop().drained


def test_a_worker_that_was_told_of_a_stop_comes_back(tmp_path, path, start):
    """A server that stopped with records left retired the lanes; adopted, they are read."""
    nobody = femtomp.OTLPSink("http://127.0.0.1:9", name="file")
    server = start(nobody)
    log_now, logged = os.pipe(), os.pipe()

    def work():
        with Attached() as log:
            log.info("before")
            os.write(logged[1], b"1")
            os.read(log_now[0], 1)
            log.info("after")
            os.write(logged[1], b"1")

    worker = fork(work)
    os.read(logged[0], 1)
    assert not server.stop(0.2).drained
    again = start()
    assert again.spool == server.spool
    os.write(log_now[1], b"1")
    os.read(logged[0], 1)
    os.waitpid(worker, 0)
    assert again.stop().drained
    assert [r["body"] for r in lines(path)] == ["before", "after"]
    for end in (*log_now, *logged):
        os.close(end)


def test_the_master_logs_on_in_what_it_had_left(tmp_path, path, start):
    """A master that stops and starts again finds its own records, and adds to them."""
    nobody = femtomp.OTLPSink("http://127.0.0.1:9", name="file")
    server = start(nobody)
    with Attached() as log:
        log.info("before")
        assert not server.stop(0.2).drained
        log.info("on stderr")
        again = start()
        log.info("after")
        assert again.stop().drained
    assert [r["body"] for r in lines(path)] == ["before", "on stderr", "after"]


def test_two_masters_start_at_once(tmp_path):
    """Of two masters that want one orphan, one has it and the other a spool of its own."""
    orphan = Orphan(tmp_path, femtomp.FileSink(tmp_path / "old"))
    orphan.kill_worker()
    begin, done = os.pipe(), os.pipe()

    def master(number):
        os.read(begin[0], 1)
        sink = femtomp.FileSink(tmp_path / f"{number}", name="file")
        server = femtomp.start_server(sink, name="shop", spool_parent=tmp_path)
        os.write(done[1], f"{server.spool}\n".encode())
        os.read(begin[0], 1)
        with Attached() as log:
            log.info("mine", extra={"worker": 1, "number": number})
        assert server.stop().drained

    masters = [fork(master, number) for number in range(2)]
    os.write(begin[1], b"12")
    places = set()
    with os.fdopen(done[0]) as said:
        for _ in masters:
            places.add(said.readline().strip())
        assert len(places) == 2
        assert str(orphan.path) in places
        os.write(begin[1], b"12")
        for pid in masters:
            assert os.waitpid(pid, 0)[1] == 0
    for end in (*begin, done[1]):
        os.close(end)
    records = lines(tmp_path / "0") + lines(tmp_path / "1")
    orphan.returned.set(1, 2)
    assert missing_and_double(records, orphan.returned) == ([], [])
    assert spools(tmp_path) == []


def test_a_new_sink_gets_what_is_still_there(tmp_path, path, start):
    """A sink that the old server did not have is given its records all the same."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    server = start(
        [femtomp.FileSink(path), femtomp.FileSink(tmp_path / "b", name="new")]
    )
    assert server.stop().drained
    for each in (path, tmp_path / "b"):
        assert missing_and_double(lines(each), orphan.returned) == ([], [])


def test_a_sink_that_is_gone_keeps_its_records(tmp_path, path, start, capfd):
    """Records for a sink that is no more are not thrown away: the spool is left alone."""
    orphan = Orphan(tmp_path, [femtomp.FileSink(path, name="old")])
    orphan.kill_worker()
    server = start()
    assert server.spool != orphan.path
    said = capfd.readouterr().err
    assert f"{orphan.path} that an earlier server of this name left" in said
    assert "ago is left alone" in said
    assert "records for old" in said
    assert f"femtomp recover {orphan.path} --sink" in said
    assert server.stop().drained
    assert spools(tmp_path) == [orphan.path]
    assert not lines(path)


def test_a_sink_that_is_gone_and_had_everything_is_no_hindrance(tmp_path, path, start):
    """A sink with nothing before it may go; what the others lack is delivered."""
    nobody = femtomp.OTLPSink("http://127.0.0.1:9", name="late")
    first = start([femtomp.FileSink(tmp_path / "old", name="old"), nobody])
    with Attached() as log:
        log.info("one")
        until(lambda: first.stats().sinks["old"].delivered == 1, "old has it")
        assert not first.stop(0.3).drained
    second = start([femtomp.FileSink(path, name="late")])
    assert second.spool == first.spool
    assert second.flush(20)
    until(lambda: not second.stats().lanes or True, "statistics can be read")
    assert second.stats().sinks["late"].delivered == 1
    assert second.stop().drained
    assert [r["body"] for r in lines(path)] == ["one"]


def test_another_name_is_never_touched(tmp_path, path, start, capfd):
    """Orphans of other names are said once each, with name, age and the command that
    delivers them, by the next server of this user and by none after it; and left.
    """
    others = [Orphan(tmp_path, femtomp.FileSink(path), name=name) for name in "ab"]
    for other in others:
        other.kill_worker()
    before = [sorted(str(f) for f in other.path.rglob("*")) for other in others]
    capfd.readouterr()
    # What the second of them said of the first.
    (tmp_path / f".femtomp-{os.geteuid()}.said").unlink()
    start(name="mine").stop()
    said = [line for line in capfd.readouterr().err.splitlines() if "behind" in line]
    assert len(said) == 2
    for other, name in zip(others, "ab", strict=True):
        (line,) = (each for each in said if f"server '{name}' left" in each)
        assert "less than a minute ago" in line
        assert f"`femtomp recover {other.path} --sink file:PATH`" in line
    start(name="mine").stop()
    assert capfd.readouterr().err == "", "once is enough"
    assert [sorted(str(f) for f in other.path.rglob("*")) for other in others] == before
    assert not lines(path)


def test_a_spool_that_comes_later_is_said_too(tmp_path, path, start, capfd):
    """A spool is said though another one was said before, which is not said again."""
    for number in range(2):
        other = Orphan(tmp_path, femtomp.FileSink(path), name=f"other{number}")
        other.kill_worker()
        capfd.readouterr()
        start(name="mine").stop()
        said = capfd.readouterr().err
        assert said.count("femtomp recover") == 1
        assert str(other.path) in said


def test_a_mark_that_cannot_be_trusted_keeps_nobody_from_starting(
    tmp_path, path, start, capfd
):
    """Nonsense, a directory or a link in the mark's place costs a repetition at most."""
    Orphan(tmp_path, femtomp.FileSink(path), name="other").kill_worker()
    mark = tmp_path / f".femtomp-{os.geteuid()}.said"
    mark.write_text("[" * 100_000)
    start(name="mine").stop()
    assert "femtomp recover" in capfd.readouterr().err
    mark.unlink()
    victim = tmp_path / "victim"
    victim.write_text("{}")
    mark.symlink_to(victim)
    start(name="mine").stop()
    assert victim.read_text() == "{}"
    mark.unlink()
    mark.mkdir()
    start(name="mine").stop()
    assert not list(tmp_path.glob(".femtomp-*.said.*"))


def change(spool, **changes):
    """Write other values into an orphan's manifest."""
    file = spool / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_another_format_is_left_alone_and_named(tmp_path, path, start, capfd):
    """A spool of a version that is not known is not even opened."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    change(orphan.path, format=99)
    server = start()
    assert server.spool != orphan.path
    said = capfd.readouterr().err
    assert str(orphan.path) in said
    assert "format 99" in said
    assert json.loads((orphan.path / "manifest.json").read_text())["format"] == 99
    assert not (orphan.path / MASTER_LOCK).stat().st_size


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("[" * 100_000),
        lambda path: (path / "manifest.json").write_text("{}"),
        lambda path: shutil.rmtree(path / "lanes"),
        lambda path: change(path, worker_uid=4711, worker_gid=4711),
        lambda path: change(path, script="/other/app.py"),
        lambda path: os.chmod(path, 0o777),
    ],
    ids=["none", "deep", "empty", "no lanes", "other workers", "other script", "open"],
)  # fmt: skip
def test_what_cannot_be_adopted_is_left(tmp_path, path, start, spoil):
    """A spool half made, foreign or of other workers stays, and the server has its own."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    spoil(orphan.path)
    server = start()
    assert server.spool != orphan.path
    assert server.stop().drained
    assert spools(tmp_path) == [orphan.path]
    assert not lines(path)


def test_a_spool_that_is_served_is_not_adopted(tmp_path, path, start):
    """While guardian, engine or a living master has it, a spool is nobody else's."""
    server = start()
    spool = Spool(server.spool)

    def other():
        second = femtomp.start_server(
            femtomp.FileSink(tmp_path / "b"), name="shop", spool_parent=tmp_path
        )
        assert second.spool != server.spool
        second.stop()

    guardian, engine = spool.control()[1:3]
    assert os.waitpid(fork(other), 0)[1] == 0
    os.kill(guardian, signal.SIGKILL)
    assert os.waitpid(fork(other), 0)[1] == 0
    os.kill(engine, signal.SIGKILL)
    until(lambda: is_orphaned(spool), "only the master is left")
    assert os.waitpid(fork(other), 0)[1] == 0
    with pytest.raises(femtomp.SpoolError, match="this very process"):
        Lock(spool, MASTER_LOCK)
    spool.close()
    assert server.stop().drained


def test_a_sink_that_cannot_be_built_costs_no_record(tmp_path, path, start):
    """A start that fails leaves the orphan as it was, for the next start."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    with pytest.raises(femtomp.ConfigError, match="/no/such"):
        start(femtomp.FileSink("/no/such/place/a", name="file"))
    until(lambda: is_orphaned(orphan.spool), "the pair that failed is gone")
    server = start()
    assert server.spool == orphan.path
    assert server.stop().drained
    assert missing_and_double(lines(path), orphan.returned) == ([], [])


def test_an_unnamed_server_adopts_its_own_script_only(tmp_path):
    """A guessed name is no name: the script has to be the same file."""
    program = """
    import femtomp, logging, os, signal, sys
    server = femtomp.start_server(
        femtomp.FileSink(f"{sys.argv[1]}/a"), spool_parent=sys.argv[1]
    )
    print(server.spool, flush=True)
    femtomp.worker_init()
    logging.info(sys.argv[2])
    if sys.argv[2] == "die":
        os.kill(server._spool.control()[1], signal.SIGKILL)
        os.kill(server._spool.control()[2], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    from tests.processes.harness import run_file

    def run(name, word):
        script = tmp_path / name / "app.py"
        script.parent.mkdir(exist_ok=True)
        return run_file(script, program, tmp_path, word, check=False).stdout.strip()

    left = run("one", "die")
    assert run("two", "live") != left, "another app.py"
    done = run_script(program, tmp_path, "live")
    assert done.stdout.strip() != left, "no script at all"
    assert run("one", "live") == left
    bodies = [r["body"] for r in lines(tmp_path / "a")]
    assert sorted(bodies) == ["die", "live", "live", "live"]


def test_half_a_line_in_the_file_is_taken_back(tmp_path, path, start):
    """A line that a kill cut in the file is there once, and whole, after the adoption."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    shutil.copytree(orphan.path, tmp_path / "copy")
    assert start().stop().drained
    whole = path.read_bytes().splitlines(keepends=True)
    # As if the engine had died in its write: nothing committed, the fourth line cut.
    (tmp_path / "copy").rename(orphan.path)
    path.write_bytes(b"".join(whole[:3]) + whole[3][:100])
    server = start()
    assert server.spool == orphan.path
    assert server.stop().drained
    # The event of the worker's start has the time of the first record that is read.
    again = path.read_bytes().splitlines(keepends=True)
    restarted = b"femtomp.engine.restarted"
    again = [line for line in again if restarted not in line]
    whole = [line for line in whole if restarted not in line]
    assert again[:3] == whole[:3]
    assert again[3:] == whole


def test_a_removal_that_was_cut_short_is_finished(tmp_path, path, start):
    """What a server had begun to delete when it was killed is no spool, and goes."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    orphan.path.rename(tmp_path / f".{orphan.path.name}.removed")
    assert start().stop().drained
    assert [one.name for one in tmp_path.iterdir() if "femtomp" in one.name] == []
    assert not lines(path)


def test_threads_do_not_matter(tmp_path, path, start):
    """The server may be started by any thread of the new master."""
    orphan = Orphan(tmp_path, femtomp.FileSink(path))
    orphan.kill_worker()
    thread = threading.Thread(target=start)
    thread.start()
    thread.join(20)
    with Attached() as log:
        log.info("new", extra={"worker": 1, "number": 0})
    orphan.returned.set(1, 1)
