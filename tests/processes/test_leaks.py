"""What a server took from its master is given back: descriptors, mappings, zombies."""

from __future__ import annotations

import json

import pytest

from tests.processes.harness import run_script

pytestmark = pytest.mark.slow

COUNTED = """
    import gc, json, logging, os, signal, sys, threading, time
    import femtomp

    parent = sys.argv[1]
    log = logging.getLogger("shop")
    log.setLevel("INFO")
    log.addHandler(femtomp.WorkerHandler(missing="ignore"))

    def start():
        return femtomp.start_server([f"file:{parent}/out.jsonl"], spool_parent=parent)

    def plain():
        server = start()
        log.info("x")
        server.stop()

    def busy():
        # More than one segment, by threads, to the very end.
        server = start()
        stop = threading.Event()
        def work():
            while not stop.is_set():
                log.info("x" * 1000)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        server.flush(5)
        server.stop()
        stop.set()
        for thread in threads:
            thread.join()

    def pulled():
        server = start()
        log.info("x")
        assert server.queue.get(timeout=10)
        server.stop()
        assert server.queue.qsize() == 0

    def changed():
        server = start()
        log.info("x")
        server.set_level("shop", "DEBUG")
        server.reconfigure([f"file:{parent}/other.jsonl"])
        server.stats()
        server.stop()

    def killed():
        server = start()
        log.info("x")
        control = server._spool.control()
        for pid in control[1:3]:
            os.kill(pid, signal.SIGKILL)
        server.flush(10)
        server.stop()

    def refused():
        try:
            femtomp.start_server(["file:/proc/nothing"], spool_parent=parent)
        except femtomp.ConfigError:
            pass

    def zombies():
        found = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            found += state == "Z" and int(parent) == os.getpid()
        return found

    def counts():
        gc.collect()
        with open("/proc/self/maps") as file:
            mapped = sum("femtomp" in line for line in file)
        return {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "mappings": mapped,
            "threads": threading.active_count(),
            "zombies": zombies(),
            "files": sorted(os.listdir(parent)),
        }
"""


@pytest.mark.parametrize("way", ["plain", "busy", "pulled", "changed", "refused"])
def test_servers_one_after_the_other_leave_nothing(tmp_path, way) -> None:
    """A start and stop leaves no descriptor, mapping, thread, child or file behind."""
    done = run_script(
        COUNTED
        + f"""
    {way}()
    before = counts()
    for _ in range(6):
        {way}()
    print(json.dumps([before, counts()]))
    """,
        tmp_path,
    )
    before, after = json.loads(done.stdout)
    assert before == after
    assert after["mappings"] == after["zombies"] == 0
    assert set(after["files"]) <= {"out.jsonl", "other.jsonl"}


@pytest.mark.parametrize("way", ["plain", "killed", "refused"])
def test_a_master_that_is_init_has_no_zombies(tmp_path, way) -> None:
    """Where the master is init for its orphans, as PID 1 of a container, it reaps them."""
    done = run_script(
        COUNTED
        + f"""
    import ctypes
    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    own = os.posix_spawn("/bin/true", ["true"], {{}})
    for _ in range(3):
        {way}()
    # That of the user's own child is for the user to take.
    assert os.waitpid(own, 0) == (own, 0)
    print(json.dumps(counts()))
    """,
        tmp_path,
    )
    assert json.loads(done.stdout)["zombies"] == 0
