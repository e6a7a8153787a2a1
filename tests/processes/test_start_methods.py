"""Pools of every start method log to one server, without a warning or a thread more."""

from __future__ import annotations

import json

import pytest

from tests.processes.harness import lines, run_file, run_script

POOL = """
    import logging, multiprocessing, os, sys, threading
    import femtomp

    log = logging.getLogger("shop.tasks")

    def task(number):
        log.info("task %d", number, extra={"number": number, "threads": threading.active_count()})
        return os.getpid()

    if __name__ == "__main__":
        method, path = sys.argv[1:]
        before = threading.active_count()
        server = femtomp.start_server(femtomp.FileSink(path), resource={"service.name": "pool"})
        assert threading.active_count() == before
        context = multiprocessing.get_context(method)
        with context.Pool(3, initializer=server.worker_init) as pool:
            pids = set(pool.map(task, range(60), chunksize=1))
        assert threading.active_count() == before, threading.enumerate()
        assert server.stop().drained
        print(sorted(pids))
"""

EXECUTOR = """
    import logging, multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor
    import femtomp

    def task(number):
        logging.getLogger("shop").warning("task %d", number, extra={"number": number})

    if __name__ == "__main__":
        method, path = sys.argv[1:]
        with femtomp.start_server(femtomp.FileSink(path)):
            context = multiprocessing.get_context(method)
            with ProcessPoolExecutor(2, context, initializer=femtomp.worker_init) as pool:
                list(pool.map(task, range(20)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_logs_from_every_worker(tmp_path, method):
    """Under each start method every task's record arrives, with its worker's identity."""
    path = tmp_path / "app.jsonl"
    # Warnings are errors: nothing of femtomp's makes a forking process multi-threaded.
    done = run_file(tmp_path / "pool.py", POOL, method, path, flags=["-W", "error"])
    assert done.stderr == ""
    records = lines(path)
    assert sorted(r["attributes"]["number"] for r in records) == list(range(60))
    assert {r["resource"]["process.pid"] for r in records} <= set(
        json.loads(done.stdout)
    )
    names = {r["resource"]["femtomp.worker.name"] for r in records}
    assert all("PoolWorker" in name for name in names)
    # The pool's own threads are in the master; a worker has one.
    assert {r["attributes"]["threads"] for r in records} == {1}
    ids = {
        (r["resource"]["process.pid"], r["resource"]["service.instance.id"])
        for r in records
    }
    assert (
        len({pid for pid, _ in ids})
        == len({instance for _, instance in ids})
        == len(ids)
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_an_executor_finds_the_server_by_the_environment(tmp_path, method):
    """`initializer=femtomp.worker_init` is enough under each start method."""
    path = tmp_path / "app.jsonl"
    run_file(tmp_path / "executor.py", EXECUTOR, method, path)
    assert sorted(r["attributes"]["number"] for r in lines(path)) == list(range(20))


NESTED = """
    import logging, os, sys
    import femtomp

    log = logging.getLogger("shop")

    def say(who):
        log.info(who, extra={"pid": os.getpid(), "who": who})

    with femtomp.start_server(femtomp.FileSink(sys.argv[1])):
        log.addHandler(femtomp.worker_handler())
        log.setLevel("INFO")
        say("master")
        if not os.fork():
            say("child")
            if not os.fork():
                say("grandchild")
                os._exit(0)
            os.wait()
            say("child")
            os._exit(0)
        os.wait()
        say("master")
"""


def test_nested_forks_have_identities_of_their_own(tmp_path):
    """Master, child and grandchild each log under their own pid and instance id."""
    path = tmp_path / "app.jsonl"
    run_file(tmp_path / "nested.py", NESTED, path)
    records = lines(path)
    assert [r["body"] for r in sorted(records, key=lambda r: r["timestamp"])] == [
        "master", "child", "grandchild", "child", "master",
    ]  # fmt: skip
    assert all(r["attributes"]["pid"] == r["resource"]["process.pid"] for r in records)
    assert len({r["resource"]["service.instance.id"] for r in records}) == 3


UNGUARDED = """
    import multiprocessing, os, sys, warnings
    import femtomp

    warnings.simplefilter("always")
    server = femtomp.start_server(femtomp.FileSink(sys.argv[1]))

    def child():
        print("child's server", server.pid, flush=True)
        server.queue.put({"body": "from the child"})
        assert server.stop(5).drained

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert server.stop().drained
"""


def test_an_unguarded_start_in_a_spawned_child_attaches(tmp_path):
    """A child that runs start_server again gets a handle on its parent's, with a warning."""
    path = tmp_path / "app.jsonl"
    done = run_file(tmp_path / "unguarded.py", UNGUARDED, path)
    assert "child's server 0" in done.stdout
    assert done.stderr.count('if __name__ == "__main__"') == 1
    assert [r["body"] for r in lines(path)] == ["from the child"]


HALF = """
    import os, sys, logging
    import femtomp

    server = femtomp.start_server(femtomp.FileSink(sys.argv[1]))
    pid = os.fork()
    if not pid:
        with server:
            logging.getLogger().addHandler(femtomp.worker_handler())
            logging.warning("child")
        assert server.stop().duration_s == 0
        sys.exit(0)  # runs the inherited atexit callback
    assert os.waitpid(pid, 0)[1] == 0
    assert server.flush(5)
    logging.getLogger().addHandler(femtomp.worker_handler())
    logging.warning("master")
"""


def test_a_forked_child_cannot_stop_the_server(tmp_path):
    """stop, with and atexit do nothing in a child; the master's atexit drains."""
    path = tmp_path / "app.jsonl"
    run_file(tmp_path / "half.py", HALF, path)
    assert [r["body"] for r in lines(path)] == ["child", "master"]


PENDING = """
import logging, os, signal, sys
import femtomp

with femtomp.start_server(femtomp.FileSink(sys.argv[1]), level="INFO") as server:
    femtomp.worker_init()
    engine = server._spool.control()[2]
    os.kill(engine, signal.SIGSTOP)
    for number in range(1000):
        logging.info("pending", extra={"number": number})
    children = []
    for child in range(8):
        pid = os.fork()
        if not pid:
            if child % 2:
                logging.info("child")
                sys.exit(0)  # runs what was inherited for an exit
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    os.kill(engine, signal.SIGCONT)
"""


def test_what_is_pending_at_forks_comes_once(tmp_path):
    """A thousand records that wait when eight children are forked are a thousand."""
    path = tmp_path / "app.jsonl"
    run_script(PENDING, path)
    bodies = [r["body"] for r in lines(path)]
    assert (bodies.count("pending"), bodies.count("child")) == (1000, 4)
    uids = [r["uid"] for r in lines(path)]
    assert len(set(uids)) == len(uids)
