"""Other sinks for a running server: no worker notices, and no record is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import threading
from collections import defaultdict

import pytest

import femtomp
from femtomp.lanes.lock import is_orphaned
from tests.processes.harness import (
    SEED,
    Attached,
    Returned,
    fork,
    lines,
    missing_and_double,
    run_script,
    until,
)

WORKERS = 4
CHANGES = 20
MAX_BATCH = 2048


@pytest.fixture
def server(tmp_path):
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "app.jsonl"), name="shop", spool_parent=tmp_path
    ) as server:
        yield server


def file(path, name="file", **options):
    return femtomp.FileSink(path, name=name, **options)


def bodies(*paths):
    return [r["body"] for path in paths if path.exists() for r in lines(path)]


def log_on(returned, worker, count=None):
    """Log all the time, no faster than one file can be written on a busy machine."""
    log = logging.getLogger("shop.worker")
    number = 0
    while count is None or number < count:
        log.info("record %d", number, extra={"worker": worker, "number": number})
        number += 1
        returned.set(worker, number)
        if number % 10 == 0:
            signal.sigtimedwait((), 0.01)


def end(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def events(path):
    """Return the names of femtomp's own events in a file."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    names = [r.get("event_name", "") for r in records]
    return [name for name in names if name.startswith("femtomp.")]


def in_order(records):
    """Tell whether the records of each worker come in the order they were logged."""
    seen = defaultdict(list)
    for record in records:
        seen[record["attributes"]["worker"]].append(record["attributes"]["number"])
    return all(numbers == sorted(numbers) for numbers in seen.values())


def test_twenty_changes_under_load(server, tmp_path):
    """Four workers log through twenty changes, one in four of them impossible.

    What stays gets every record once and in order; what comes and goes gets none twice.
    """
    kept, other = tmp_path / "kept.jsonl", tmp_path / "guest.jsonl"
    stays = file(kept, "kept")
    server.reconfigure([stays])
    returned = Returned(WORKERS)
    with Attached():
        workers = [fork(log_on, returned, i) for i in range(WORKERS)]
        for number in range(CHANGES):
            goal = [count + 50 for count in returned.all()]
            until(
                lambda goal=goal: all(map(int.__gt__, returned.all(), goal)),
                "the workers log on",
            )
            guest = [file(other, "guest")] if number % 2 else []
            if number % 4 == 3:
                impossible = file("/no/such/place/a", "impossible")
                with pytest.raises(femtomp.ConfigError, match="/no/such/place"):
                    server.reconfigure([stays, impossible])
            else:
                server.reconfigure([*guest, stays], timeout=60)
        end(workers)
    assert server.flush(60)
    stats = server.stats()
    assert stats.engine_starts == 1, "nothing of it was a death"
    sink = stats.sinks["kept"]
    assert sink.delivered == sink.committed
    assert sum(returned.all()) <= sink.delivered <= stats.started
    assert server.stop().drained
    assert missing_and_double(lines(kept), returned) == ([], [])
    assert in_order(lines(kept))
    assert missing_and_double(lines(other), returned)[1] == []
    assert in_order(lines(other))
    # The workers were killed at the end, and that may have been seen.
    assert set(events(kept)) - {"femtomp.worker.died"} == {"femtomp.worker.started"}


def test_a_path_changes_under_load(server, tmp_path):
    """A sink whose file changes each time has every record once, over all files."""
    returned = Returned(WORKERS)
    paths = [tmp_path / "app.jsonl"]
    with Attached():
        workers = [fork(log_on, returned, i) for i in range(WORKERS)]
        for number in range(5):
            size = sum(returned.all())
            until(lambda size=size: sum(returned.all()) > size + 200, "workers log on")
            paths.append(tmp_path / f"{number}.jsonl")
            server.reconfigure(file(paths[-1]))
        end(workers)
    assert server.stats().engine_starts == 1
    assert server.stop(60).drained
    records = [record for path in paths for record in lines(path)]
    assert missing_and_double(records, returned) == ([], [])
    assert in_order(records)


def test_an_engine_is_killed_meanwhile(server, tmp_path):
    """Killed at any moment of a change, the engine costs a batch twice at most."""
    print("seed", SEED)
    chance = random.Random(SEED)
    kept = tmp_path / "app.jsonl"
    returned = Returned(WORKERS)
    kills = 0
    over = threading.Event()

    def kill():
        nonlocal kills
        while not over.wait(chance.uniform(0, 0.3)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server._spool.control()[2], signal.SIGKILL)
                kills += 1

    with Attached():
        workers = [fork(log_on, returned, i) for i in range(WORKERS)]
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for number in range(6):
                guest = [file(tmp_path / "guest", "guest")] if number % 2 else []
                # Killed before it was ready, the new pair is no pair.
                with contextlib.suppress(femtomp.StartError):
                    server.reconfigure([file(kept), *guest], timeout=1)
        finally:
            over.set()
            killer.join()
        end(workers)
    assert server.flush(60)
    assert server.stop().drained
    missing, double = missing_and_double(lines(kept), returned)
    assert not missing
    assert len(double) <= kills * MAX_BATCH
    uids = {(r["attributes"]["worker"], r["attributes"]["number"], r["uid"])
            for r in lines(kept)}  # fmt: skip
    assert len(uids) == len(lines(kept)) - len(double), "what comes twice has one uid"


def test_a_sink_that_comes_begins_where_the_others_are(server, tmp_path):
    """A new sink gets what is logged from then on, and what a worker is."""
    with Attached() as log:
        log.info("before")
        assert server.flush()
        late = tmp_path / "late"
        server.reconfigure([file(tmp_path / "app.jsonl"), file(late, "late")])
        log.info("after")
        assert server.flush()
        stats = server.stats()
    assert bodies(late) == ["after"]
    assert events(late) == ["femtomp.worker.started"]
    assert bodies(tmp_path / "app.jsonl") == ["before", "after"]
    assert stats.sinks["late"].delivered == 1
    assert stats.sinks["late"].corrupt == 0


def test_a_sink_that_went_and_comes_back_misses_the_time_between(server, tmp_path):
    """It gets nothing twice, nothing of the time between, and none is called lost."""
    guest = file(tmp_path / "guest", "guest")
    stays = file(tmp_path / "app.jsonl")
    big = "x" * 1000
    with Attached() as log:
        for turn, sinks in enumerate([[stays, guest], [stays], [stays, guest]]):
            server.reconfigure(sinks)
            for number in range(500):  # over several segments, which are deleted
                log.info("%d-%d %s", turn, number, big)
            assert server.flush(30)
        stats = server.stats()
    found = [body.partition(" ")[0] for body in bodies(tmp_path / "guest")]
    assert found == [f"{t}-{n}" for t in (0, 2) for n in range(500)]
    assert stats.sinks["guest"].delivered == 1000
    assert stats.sinks["guest"].corrupt == 0
    assert "femtomp.records.lost" not in events(tmp_path / "guest")


def test_a_sink_that_goes_gets_what_was_logged_before(server, tmp_path):
    """Its end is waited for; what it could not take in time is said."""
    nobody = femtomp.OTLPSink("http://127.0.0.1:9", name="nobody")
    stays = file(tmp_path / "app.jsonl")
    guest = file(tmp_path / "guest", "guest")
    server.reconfigure([stays, guest, nobody])
    with Attached() as log:
        for number in range(300):
            log.info("%d", number)
        report = server.reconfigure([stays], timeout=0.3)
        assert not report.drained
        assert report.pending == {"guest": 0, "nobody": 300}
        assert len(bodies(tmp_path / "guest")) == 300
        assert set(server.stats().sinks) == {"file"}
        log.info("after")
        assert server.flush(), "who is no sink any more is not waited for"
    assert server.stop().pending == {"file": 0}


def test_what_the_last_sink_left_goes_to_its_successor(server, tmp_path, capfd):
    """Where no sink stays, the new one goes on where the old one was."""
    nobody = femtomp.OTLPSink("http://127.0.0.1:9", name="nobody")
    server.reconfigure(nobody)
    with Attached() as log:
        log.info("waits")
        report = server.reconfigure(file(tmp_path / "new", "new"), timeout=0.1)
        assert report.pending == {"nobody": 1}
        assert server.flush()
    assert bodies(tmp_path / "new") == ["waits"]
    assert "nobody is no sink any more: 1 records" in capfd.readouterr().err


def test_nothing_is_delivered_by_what_is_taken_back(server, tmp_path):
    """While one sink is still being built, the others of the same change wait.

    So they do where an engine has died before, and the next one knows all lanes early.
    """
    os.kill(server._spool.control()[2], signal.SIGKILL)
    until(lambda: server.stats().engine_starts == 2, "another engine serves")
    server.reconfigure(femtomp.OTLPSink("http://127.0.0.1:9", name="file"))
    # Takes a second, and makes no handler.
    slow = femtomp.HandlerSink("subprocess.check_output", args={"args": ["sleep", "1"]})
    new = tmp_path / "new"
    with Attached() as log:
        log.info("waits")
        with pytest.raises(femtomp.ConfigError):
            server.reconfigure([file(new), slow])
        assert bodies(new) == []
        server.reconfigure(file(new))
        assert server.flush()
    assert bodies(new) == ["waits"]


def test_level_format_and_options_change(server, tmp_path):
    """A sink's level and format, the workers' level and an option: from now on."""
    path = tmp_path / "app.jsonl"
    with Attached() as log:
        log.info("json")
        assert server.flush()
        server.reconfigure(
            file(path, format="logfmt", level="WARNING"), level="DEBUG", grace_s=1.5
        )
        log.info("filtered")
        log.warning("flat")
        assert server.flush()
        assert server.stats().sinks["file"].filtered == 1
        server.worker_init()
    root = femtomp.worker_handler()
    assert logging.getLogger().level == logging.DEBUG
    logging.getLogger().setLevel("WARNING")
    logging.getLogger().removeHandler(root)
    text = path.read_text().splitlines()
    assert json.loads(text[-2])["body"] == "json"
    assert "message=flat" in text[-1]


def test_a_file_that_is_read_again(server, tmp_path):
    """`config=` may be the same file, changed: sinks, level and options of it."""
    config = tmp_path / "femtomp.toml"
    config.write_text(f'name = "shop"\nlevel = "ERROR"\nsinks = ["file:{tmp_path}/b"]')
    server.reconfigure(config=config)
    with Attached() as log:
        log.info("here")
        assert server.flush()
    assert bodies(tmp_path / "b") == ["here"]
    manifest = json.loads((server.spool / "manifest.json").read_text())
    assert manifest["level"] == 40


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"config": {"resource": {"service.name": "cart"}}}, None),
        ({"config": {"spool_parent": "/tmp"}}, None),
        ({"worker_uid": 4711, "worker_gid": 4711}, "worker_uid, worker_gid cannot"),
        ({"overflow": "drop"}, "overflow must be one of"),
        ({"lvl": 3}, "unknown option 'lvl'"),
        ({"level": "LOUD"}, "unknown level 'LOUD'"),
        ({"sinks": []}, "sinks is empty"),
        ({"sinks": ["file:/a", "fiel:b"]}, "unknown sink 'fiel:b'"),
        ({"config": "/no/such.toml"}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_touched(server, given, words):
    """The pair serves on, the same one, with the same configuration."""
    pid = server.pid
    if words is None:  # the arguments of start_server win over a file
        server.reconfigure(**given)
        return
    if os.geteuid() == 0 or "worker_uid" not in given:
        with pytest.raises(femtomp.ConfigError, match=words):
            server.reconfigure(**given)
    assert server.pid == pid


@pytest.mark.parametrize("key", ["name", "spool_parent"])
def test_a_file_cannot_change_what_a_server_is(tmp_path, key):
    """Name and place of the spool are for a server's life."""
    first = {"name": "shop", "spool_parent": str(tmp_path), "sinks": ["file:/dev/null"]}
    with femtomp.start_server(config=first) as server:
        before = server.pid
        environ = os.environ.pop("FEMTOMP_SPOOL_PARENT", None)
        try:
            with pytest.raises(femtomp.ConfigError, match=f"{key} cannot change"):
                server.reconfigure(config={**first, key: "/tmp"})
        finally:
            if environ is not None:
                os.environ["FEMTOMP_SPOOL_PARENT"] = environ
        assert server.pid == before


def test_a_child_cannot(server):
    """Neither a forked child's handle nor an attached one changes a server."""

    def ask():
        with pytest.raises(femtomp.NoServerError, match="the process that started"):
            server.reconfigure("console")

    assert os.waitpid(fork(ask), 0)[1] == 0
    server.reconfigure(level="ERROR")


def test_a_child_of_before_asks_for_the_sinks_of_now(server, tmp_path):
    """A fork's handle waits for no sink that went, and counts those that came."""
    server.reconfigure([file(tmp_path / "a", "a"), "otlp:http://127.0.0.1:9"])
    go = os.pipe()

    def ask():
        os.read(go[0], 1)
        assert server.flush(20)
        assert set(server.stats().sinks) == {"a", "b"}

    with Attached() as log:
        log.info("for nobody")
        asking = fork(ask)
        server.reconfigure([file(tmp_path / n, n) for n in "ab"], timeout=0)
        log.info("for both")
        os.write(go[1], b"1")
        assert os.waitpid(asking, 0)[1] == 0
    for each in go:
        os.close(each)


def test_an_attached_handle_cannot(server):
    """What an unguarded spawned child gets is a handle that cannot change the server."""
    done = run_script(
        """
        import multiprocessing, multiprocessing.process, warnings
        import femtomp
        warnings.simplefilter("ignore")
        multiprocessing.process._parent_process = object()
        attached = femtomp.start_server("console")
        assert attached.pid == 0
        try:
            attached.reconfigure("console")
        except femtomp.NoServerError as exc:
            print(exc)
        """
    )
    assert "the process that started" in done.stdout


def test_after_a_stop_it_is_an_error(server):
    """There is nothing left to change."""
    server.stop()
    with pytest.raises(femtomp.NoServerError, match="was stopped"):
        server.reconfigure("console")


def test_two_threads_at_once(server, tmp_path):
    """One after the other; the last one's sinks serve, and nothing is lost."""
    returned = Returned(1)
    names = ["a", "b", "c"]
    begin = threading.Barrier(len(names))
    went = []

    def change(name):
        begin.wait(20)
        sinks = [file(tmp_path / "app.jsonl"), file(tmp_path / name, name)]
        went.extend(server.reconfigure(sinks, timeout=30).pending)

    with Attached():
        worker = fork(log_on, returned, 0)
        threads = [threading.Thread(target=change, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        (last,) = set(server.stats().sinks) - {"file"}
        assert sorted([*went, last]) == names, "each but the last went, once"
        end([worker])
    assert server.flush(30)
    assert missing_and_double(lines(tmp_path / "app.jsonl"), returned) == ([], [])


def test_others_ask_and_log_and_fork_meanwhile(server, tmp_path):
    """Threads that flush, ask and log and forks that log meanwhile all go on."""
    over = threading.Event()
    faults = []
    returned = Returned(2)

    def ask():
        with contextlib.suppress(StopIteration):
            while not over.is_set():
                server.stats()
                if not server.flush(30):
                    faults.append("flush")

    def log():
        number = 0
        while not over.is_set():
            logging.getLogger("shop").info(
                "record", extra={"worker": 0, "number": number}
            )
            number += 1
            returned.set(0, number)
            over.wait(0.001)

    def ask_in_child():
        assert server.flush(30)
        assert "file" in server.stats().sinks

    with Attached():
        threads = [threading.Thread(target=work) for work in (ask, log)]
        for thread in threads:
            thread.start()
        pids = []
        try:
            for number in range(5):
                pids.append(fork(log_on, returned, 1, 10) if not number else 0)
                asking = fork(ask_in_child)
                guest = [file(tmp_path / "guest", "guest")] if number % 2 else []
                server.reconfigure([file(tmp_path / "app.jsonl"), *guest])
                assert os.waitpid(asking, 0)[1] == 0
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
        assert os.waitpid(pids[0], 0)[1] == 0
    assert faults == []
    assert server.stop().drained
    assert missing_and_double(lines(tmp_path / "app.jsonl"), returned) == ([], [])


def test_a_stop_in_another_thread_waits(server, tmp_path):
    """A stop that comes meanwhile is the end of the new pair, and delivers all."""
    with Attached() as log:
        log.info("one")
        changing = threading.Thread(
            target=server.reconfigure, args=(file(tmp_path / "b", "b"),)
        )
        changing.start()
        report = server.stop()
        changing.join(60)
    assert report.drained
    assert is_gone(server)


def is_gone(server):
    return not server.spool.exists()


def test_forks_of_before_are_members_of_after(tmp_path):
    """A child that was forked before, and logs only after the master died, is served."""
    done = run_script(
        """
        import logging, os, signal, sys, time
        import femtomp
        path = sys.argv[1]
        server = femtomp.start_server(
            f"file:{path}/a", spool_parent=path, name="shop"
        )
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the master is dead
            time.sleep(1.5)  # and the supervisor has looked for members
            femtomp.worker_init()
            logging.info("late")
            os._exit(0)
        os.close(read)
        server.reconfigure(f"file:{path}/b")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: bodies(tmp_path / "b") == ["late"], "the child's record arrives")
    until(lambda: not list(tmp_path.glob("femtomp-*")), "the spool is removed")


def test_a_master_that_dies_between_two_pairs_leaves_an_orphan(tmp_path):
    """Killed while nobody serves the spool, it leaves one that the next server adopts."""
    program = """
        import logging, os, signal, sys
        import femtomp
        from femtomp.supervisor import reconfigure
        path = sys.argv[1]
        server = femtomp.start_server(f"file:{path}/a", spool_parent=path, name="shop")
        femtomp.worker_init()
        logging.info("kept")
        reconfigure.place.describe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        server.reconfigure(f"file:{path}/b")
        """
    run_script(program, tmp_path, check=False)
    (left,) = tmp_path.glob("femtomp-*")
    from femtomp.lanes.spool import Spool

    spool = Spool(left)
    until(lambda: is_orphaned(spool), "nobody serves it")
    spool.close()
    sink = femtomp.FileSink(tmp_path / "c")
    with femtomp.start_server(sink, spool_parent=tmp_path, name="shop") as server:
        assert server.spool == left
        assert server.flush()
    assert bodies(tmp_path / "a", tmp_path / "c") == ["kept"]
