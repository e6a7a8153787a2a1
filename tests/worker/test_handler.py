"""The handler: a log call never raises, and no process's record goes astray."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import logging.config
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from femtomp.errors import ConfigError, NoServerError
from femtomp.lanes import place
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import STATE, State
from femtomp.testing import ManualClock, check_lane
from femtomp.worker import channel as channels
from femtomp.worker import handler as handlers
from femtomp.worker.handler import WorkerHandler, worker_handler
from femtomp.worker.init import worker_init
from tests.worker.test_plain import Raises

if TYPE_CHECKING:
    from femtomp.record import Record

ROOT = str(Path(__file__).resolve().parents[2])


class Shop:
    """A spool, a logger that logs into it, and what came of that."""

    def __init__(self, parent: Path, writer: str | None = None) -> None:
        self.spool = place.create(
            parent,
            "shop",
            level=15,
            sinks=(),
            master={"pid": os.getpid()},
            writer=writer,
        )
        self.spool.set_control(STATE, State.RUNNING)
        self.path = Path(self.spool.path)
        self.logger = logging.Logger("shop")
        self.handler = worker_handler(spool=self.path)
        self.logger.addHandler(self.handler)
        self.puller = Puller(self.spool, {})

    def records(self) -> list[Record]:
        return self.puller.pull()

    def bodies(self) -> list[str]:
        return [record.body for record in self.records()]

    def lanes(self) -> list[str]:
        names = os.listdir(self.path / "lanes")
        return sorted(n.removesuffix(".own") for n in names if n.endswith(".own"))

    def close(self) -> None:
        handlers.release(self.handler)
        self.spool.close()


@pytest.fixture(params=["mmap", "write"])
def shop(request, tmp_path):
    made = Shop(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def clean_root():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


@pytest.fixture(autouse=True)
def _no_server(monkeypatch) -> None:
    for name in ("FEMTOMP_SPOOL", "FEMTOMP_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def in_child(call) -> str:
    """Run in a forked child; give what it returned, or the error's name."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            result = str(call())
        except BaseException as exc:
            result = repr(exc)
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


def run(code: str, *arguments: str, timeout: float = 60) -> str:
    """Run code in an interpreter of its own; give what it printed."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    )
    try:
        printed, said = child.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what it forked, too
    assert child.returncode == 0, said[-3000:]
    return printed


# -- addresses -------------------------------------------------------------------------


def test_handler_is_the_same_for_spool_and_level(shop) -> None:
    """Asked again, the same handler is given; for another level another one, over the
    same lane.
    """
    assert worker_handler(spool=shop.path) is shop.handler
    assert worker_handler(spool=str(shop.path)) is shop.handler
    other = worker_handler("ERROR", spool=shop.path)
    assert other is not shop.handler
    assert other is worker_handler(40, spool=shop.path)
    logger = logging.Logger("other")
    logger.addHandler(other)
    shop.logger.error("by one")
    logger.error("by the other")
    assert shop.bodies() == ["by one", "by the other"]
    assert len(shop.lanes()) == 1


def test_address_comes_from_the_environment(shop, monkeypatch) -> None:
    """Without `spool=` the handler is that of FEMTOMP_SPOOL; an argument wins."""
    monkeypatch.setenv("FEMTOMP_SPOOL", str(shop.path))
    assert worker_handler() is shop.handler
    assert worker_handler(spool="/elsewhere") is not shop.handler


@pytest.mark.parametrize("value", [None, ""])
def test_without_an_address_the_error_says_what_to_call(monkeypatch, value) -> None:
    """No address is NoServerError, which names `start_server` and the ways out."""
    if value is not None:
        monkeypatch.setenv("FEMTOMP_SPOOL", value)
    for make in (worker_handler, WorkerHandler):
        with pytest.raises(NoServerError, match=r"start_server.*spool=.*missing="):
            make()


def test_missing_must_be_known(shop) -> None:
    """An unknown `missing` is an error at once, where the address is known too."""
    for spool in (None, shop.path):
        with pytest.raises(ConfigError, match="raise, stderr, ignore"):
            WorkerHandler(spool=spool, missing="typo")  # type: ignore[arg-type]


def test_missing_stderr_and_ignore(capfd) -> None:
    """Without an address records go to stderr as lines, or nowhere, as was asked."""
    logger = logging.Logger("shop")
    logger.addHandler(worker_handler(missing="stderr"))
    logger.warning("said %d", 1)
    assert "WARNING" in (said := capfd.readouterr().err)
    assert said.endswith("shop: said 1\n")
    logger.handlers[:] = [worker_handler(missing="ignore")]
    logger.warning("said %d", 2)
    assert capfd.readouterr().err == ""


def test_disabled_by_the_environment(shop, monkeypatch, capfd) -> None:
    """FEMTOMP_DISABLED=1 makes handlers that do nothing, whatever else is set."""
    monkeypatch.setenv("FEMTOMP_DISABLED", "1")
    monkeypatch.setenv("FEMTOMP_SPOOL", str(shop.path))
    shop.logger.handlers[:] = [worker_handler()]
    shop.logger.error("nothing")
    assert shop.bodies() == []
    assert capfd.readouterr().err == ""


def test_dict_config_makes_a_handler(shop, monkeypatch) -> None:
    """`dictConfig` makes one by class name, over the process's one lane."""
    monkeypatch.setenv("FEMTOMP_SPOOL", str(shop.path))
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"f": {"class": "femtomp.WorkerHandler", "level": "ERROR"}},
        "loggers": {"femtomp-test": {"handlers": ["f"], "propagate": False}},
    }
    logging.config.dictConfig(config)
    logger = logging.getLogger("femtomp-test")
    try:
        logger.warning("below")
        logger.error("above")
        shop.logger.error("other")
    finally:
        logger.handlers.clear()
    assert shop.bodies() == ["above", "other"]
    assert len(shop.lanes()) == 1


# -- logging's ways --------------------------------------------------------------------


def test_filters_and_levels_are_asked(shop) -> None:
    """A handler's level and filters decide; a filter may give another record."""
    handler = WorkerHandler("WARNING", spool=shop.path)
    shop.logger.handlers[:] = [handler]
    handler.addFilter(lambda record: record.getMessage() != "no")
    for level, text in ((20, "low"), (30, "no"), (40, "yes")):
        shop.logger.log(level, text)
    assert shop.bodies() == ["yes"]
    if sys.version_info >= (3, 12):
        other = logging.LogRecord("o", 40, "f", 1, "instead", (), None)
        handler.addFilter(lambda _: other)
        shop.logger.error("yes")
        assert shop.bodies() == ["instead"]


def test_closed_handler_works_again(shop) -> None:
    """Closed and flushed, by `logging.shutdown` too, it goes on at the next record."""
    shop.logger.error("one")
    shop.handler.flush()
    shop.handler.close()
    shop.logger.error("two")
    logging.shutdown([lambda: shop.handler])
    shop.logger.error("three")
    assert shop.bodies() == ["one", "two", "three"]
    assert len(shop.lanes()) == 1


def test_handler_has_no_lock_to_inherit(shop) -> None:
    """No lock is made, and logging's own uses of one work without."""
    assert shop.handler.lock is None
    shop.handler.acquire()
    shop.handler.release()
    shop.handler.setLevel("DEBUG")
    shop.handler.set_name("mine")
    shop.handler.setLevel("DEBUG")
    assert "WorkerHandler" in repr(shop.handler)


def test_pickled_handler_finds_its_spool(shop) -> None:
    """A pickled handler is one over the same lane, with level and `missing`."""
    handler = WorkerHandler(40, spool=shop.path, missing="stderr")
    copied = pickle.loads(pickle.dumps(handler))
    assert (copied.level, copied.spool) == (40, str(shop.path))
    shop.logger.handlers[:] = [copied]
    shop.logger.error("x")
    assert shop.bodies() == ["x"]


def _log_by(handler, text) -> None:
    logger = logging.getLogger("child")
    logger.addHandler(handler)
    logger.error(text)


def test_handler_travels_to_spawned_children(shop) -> None:
    """Given to a spawned process, it logs into a lane of that process."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_log_by, args=(shop.handler, "hi"), name="spawned-7")
    child.start()
    child.join(60)
    (record,) = shop.records()
    assert record.body == "hi"
    assert record.resource["process.pid"] == child.pid
    assert record.resource["femtomp.worker.name"] == "spawned-7"


def test_worker_init_sets_up_the_root_logger_once(shop, clean_root) -> None:
    """It adds one handler, sets the server's level, and repeated changes nothing."""
    clean_root.handlers[:] = []
    for _ in range(3):
        worker_init(spool=shop.path)
    assert clean_root.handlers == [shop.handler]
    assert clean_root.level == 15
    worker_init("ERROR", spool=shop.path)
    assert clean_root.level == 40


def test_worker_init_force_removes_others(shop, clean_root) -> None:
    """With `force` the other handlers go, without they stay."""
    other = logging.NullHandler()
    clean_root.handlers[:] = [other]
    worker_init(spool=shop.path)
    assert clean_root.handlers == [other, shop.handler]
    worker_init(spool=shop.path, force=True)
    assert clean_root.handlers == [shop.handler]


@pytest.mark.parametrize(
    ("level", "spool"),
    [(None, None), (None, "/nowhere"), ("TYPO", None), (1.5, None), (None, Raises())],
    ids=range(5),
)
def test_worker_init_never_raises(level, spool, clean_root, capfd) -> None:
    """Whatever is wrong, a pool's initialiser returns, and stderr says why."""
    worker_init(level, spool=spool)
    clean_root.warning("still logs")
    assert "still logs" in capfd.readouterr().err or spool is not None


# -- spools that come and go -----------------------------------------------------------


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    made = ManualClock()  # far from the records' own time: all is due at each call
    monkeypatch.setattr(channels, "time", made.time)
    monkeypatch.setattr(channels, "monotonic", made.monotonic)
    return made


def test_deleted_spool_is_said_once_and_recovers(shop, clock, capfd) -> None:
    """Records go to stderr with one warning that names directory and uid; once a spool
    is back, into it.
    """
    shop.logger.error("before")
    assert shop.bodies() == ["before"]
    away = shop.path.with_suffix(".away")
    shop.path.rename(away)
    for name in os.listdir(away / "lanes"):
        (away / "lanes" / name).unlink()
    clock.advance(2)
    for n in range(5):
        shop.logger.error("lost %d", n)
        clock.advance(0.1)
    said = capfd.readouterr().err.splitlines()
    assert [line[-6:] for line in said if "ERROR" in line] == [
        f"lost {n}" for n in range(5)
    ]
    (warning,) = (line for line in said if line.startswith("femtomp:"))
    assert str(shop.path) in warning
    assert f"uid {os.geteuid()}" in warning
    assert shop.handler._channel.dropped == 5
    away.rename(shop.path)
    clock.advance(1)
    shop.logger.error("too early")
    clock.advance(channels.RETRY_S)
    shop.logger.error("back")
    shop.puller = Puller(shop.spool, {})
    assert shop.bodies() == ["back"]


@pytest.mark.parametrize("where", ["/nowhere/at/all", "/proc", "/dev/null", "here"])
def test_spool_that_is_none_does_not_raise(where, monkeypatch, capfd) -> None:
    """FEMTOMP_SPOOL pointing nowhere costs a line a record on stderr and one warning."""
    monkeypatch.setenv("FEMTOMP_SPOOL", where)
    logger = logging.Logger("shop")
    logger.addHandler(handler := worker_handler())
    try:
        for n in range(3):
            logger.error("text %d", n, exc_info=True)
        said = capfd.readouterr().err
        assert said.count("femtomp: cannot log to") == 1
        assert all(f"text {n}" in said for n in range(3))
    finally:
        handlers.release(handler)


def test_after_the_server_stopped_records_go_to_stderr(shop, clock, capfd) -> None:
    """Once the server is stopped and nobody reads on, records are said on stderr."""
    shop.logger.error("before")
    shop.spool.set_control(STATE, State.STOPPED)
    for epoch in shop.lanes():
        writer = channels.owned[epoch]
        writer.words[2] = 1  # RETIRED
    for n in range(3):
        shop.logger.error("behind %d", n)
    said = capfd.readouterr().err
    assert all(f"behind {n}" in said for n in range(3))
    assert said.count("the server was stopped") == 1


def test_retries_after_the_stop_leave_nothing_behind(shop, clock, capfd) -> None:
    """A worker that outlives its server by long neither fills the spool nor runs out of
    descriptors.
    """
    shop.spool.set_control(STATE, State.STOPPED)
    shop.logger.error("first")
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), len(shop.lanes())
    for _ in range(20):
        clock.advance(channels.RETRY_S + 1)
        shop.logger.error("later")
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), len(shop.lanes())) == before


@pytest.mark.xfail(strict=True, reason="kept open: a thread may be inside its append")
def test_lost_lane_leaves_no_descriptor_behind(shop, clock) -> None:
    """A lane that was lost and replaced is closed."""
    shop.logger.error("first")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        for name in os.listdir(shop.path / "lanes"):
            (shop.path / "lanes" / name).unlink()
        clock.advance(channels.CHECK_S + 1)
        shop.logger.error("again")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_stderr_that_is_closed_does_not_raise() -> None:
    """With neither spool nor stderr a log call is silent, and no exception."""
    code = """
import logging, os, sys, femtomp
os.close(2)
os.environ["FEMTOMP_SPOOL"] = "/nowhere"
logger = logging.getLogger("a")
logger.addHandler(femtomp.worker_handler())
logger.error("x")
femtomp.worker_init()
logger.error("y")
print("done")
"""
    assert run(code) == "done\n"


@pytest.mark.parametrize("changes", [{"created": None}, {"created": "2026-01-01"}])
def test_received_records_with_odd_times_do_not_raise(shop, changes) -> None:
    """A record made of a received dict, with a time that is none, is kept."""
    shop.logger.error("first")
    record = logging.makeLogRecord({"msg": "received", "levelno": 40, **changes})
    shop.handler.handle(record)
    assert shop.bodies() == ["first", "received"]


def test_format_error_is_kept_where_there_is_no_spool(capfd, request) -> None:
    """A record that cannot be formatted is said on stderr with what it had."""
    logger = logging.Logger("shop")
    logger.addHandler(worker_handler(missing="stderr"))
    logger.error("%d things", "no number")
    assert "things" in capfd.readouterr().err


# -- threads and forks -----------------------------------------------------------------


def test_threads_that_log_at_once_share_one_lane(shop, request) -> None:
    """Eight threads whose first records come together open one lane, not eight."""
    barrier = threading.Barrier(8)

    def log(n: int) -> None:
        barrier.wait(10)
        for k in range(50):
            shop.logger.error("%d-%d", n, k)

    threads = [threading.Thread(target=log, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = shop.bodies()
    assert sorted(found) == sorted(f"{n}-{k}" for n in range(8) for k in range(50))
    assert len(shop.lanes()) == 1


def test_forked_child_has_a_lane_and_a_name_of_its_own(shop) -> None:
    """A forked child's records are in its own lane, with its own pid."""
    shop.logger.error("parent")
    pid = int(in_child(lambda: shop.logger.error("child") or os.getpid()))
    shop.logger.error("parent again")
    found = {r.body: r.resource["process.pid"] for r in shop.records()}
    assert found == {"parent": os.getpid(), "child": pid, "parent again": os.getpid()}
    assert len(shop.lanes()) == 2


def test_grandchildren_have_lanes_of_their_own(shop) -> None:
    """Five generations that log before and behind their forks have five lanes."""

    def generation(n: int) -> str:
        shop.logger.error("before %d", n)
        pids = in_child(lambda: generation(n + 1)) if n < 4 else ""
        shop.logger.error("behind %d", n)
        return f"{os.getpid()} {pids}"

    pids = list(map(int, generation(0).split()))
    found = {r.body: r.resource["process.pid"] for r in shop.records()}
    assert found == {
        f"{when} {n}": pid
        for n, pid in enumerate(pids)
        for when in ("before", "behind")
    }
    assert len(shop.lanes()) == 5


@pytest.mark.parametrize("logged_before", [True, False])
def test_raw_fork_without_hooks(shop, logged_before) -> None:
    """A child that `fork()` made in C, where no hook runs, has its own lane and pid."""
    if logged_before:
        shop.logger.error("parent")
    read, write = os.pipe()
    libc = ctypes.PyDLL(None)
    pid = libc.fork()
    if not pid:
        try:
            shop.logger.error("child one")
            shop.logger.error("child two")
        finally:
            os.write(write, b"done")
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"done"
    os.waitpid(pid, 0)
    shop.logger.error("parent")
    records = [r for r in shop.records() if r.body.startswith("child")]
    assert [r.body for r in records] == ["child one", "child two"]
    assert {r.resource["process.pid"] for r in records} == {pid}
    assert len({r.resource["service.instance.id"] for r in records}) == 1
    assert len(shop.lanes()) == 2


def test_fork_does_not_touch_the_parents_lock(shop) -> None:
    """Children that come and go leave the parent's lane locked, and usable."""
    shop.logger.error("one")
    for _ in range(5):
        in_child(lambda: shop.logger.error("child"))
    code = f"""
import os
from femtomp.lanes.reader import Lane
directory = os.open({str(shop.path / "lanes")!r}, os.O_RDONLY)
names = [n[:24] for n in os.listdir(directory) if n.endswith(".own")]
print(sum(not Lane(directory, n).is_orphaned() for n in names), len(names))
"""
    assert run(code).split() == ["1", "6"]
    shop.logger.error("two")
    assert shop.bodies().count("two") == 1


def test_forks_while_threads_log_do_not_hang(shop, tmp_path) -> None:
    """300 forks beside 8 threads that log all the time: each child logs and ends, and
    every record whose call returned is there.
    """
    code = """
import logging, os, signal, sys, threading, time, femtomp
logger = logging.getLogger("shop")
logger.addHandler(femtomp.worker_handler(spool=sys.argv[1]))
logger.setLevel(1)
stop = threading.Event()
counts = [0] * 8
def log(n):
    while not stop.is_set():
        logger.info("thread %d %d", n, counts[n])
        counts[n] += 1
        time.sleep(0)
threads = [threading.Thread(target=log, args=(n,), daemon=True) for n in range(8)]
for t in threads:
    t.start()
pids = set()
for n in range(300):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        logger.info("child %d", n)
        os._exit(0)
    pids.add(pid)
    if len(pids) > 4:
        pids.discard(os.wait()[0])
while pids:
    pids.discard(os.wait()[0])
stop.set()
for t in threads:
    t.join()
print(*counts)
"""
    counts = list(map(int, run(code, str(shop.path), timeout=100).split()))
    found = shop.bodies()
    assert sorted(b for b in found if b.startswith("child")) == sorted(
        f"child {n}" for n in range(300)
    )
    for n, count in enumerate(counts):
        own = [b for b in found if b.startswith(f"thread {n} ")]
        assert sorted(own) == sorted(f"thread {n} {k}" for k in range(count))


IMPORTING = """
import importlib.machinery, importlib.util, logging, os, signal, sys, threading, time, femtomp
path, module = sys.argv[1:]
logger = logging.getLogger("shop")
logger.addHandler(femtomp.worker_handler(spool=path))
logger.setLevel(1)
reached, go = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, where, _=None):
        if name == module and threading.current_thread() is thread:
            self.spec = importlib.machinery.PathFinder.find_spec(name, where)
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, made):
        reached.set()
        go.wait()
        made.__path__ = self.spec.submodule_search_locations
        self.spec.loader.exec_module(made)

sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=logger.info, args=("thread",), daemon=True)
thread.start()
while thread.is_alive() and not reached.wait(0.01):
    pass
pid = os.fork()
if not pid:
    logger.info("child")
    os._exit(0)
deadline = time.monotonic() + 10
while not (ended := os.waitpid(pid, os.WNOHANG)[0]) and time.monotonic() < deadline:
    time.sleep(0.01)
go.set()
thread.join()
if not ended:
    os.kill(pid, signal.SIGKILL)
print("ended" if ended else "hangs", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("module", ["json", "femtomp.lanes.mapped"])
def test_fork_while_a_thread_imports(shop, module, request) -> None:
    """A child that was forked while another thread imported what a lane needs does not
    wait for that import, which nobody goes on with.
    """
    assert run(IMPORTING, str(shop.path), module) == "ended\n"
    assert sorted(shop.bodies()) == ["child", "thread"]


# -- user code that closes descriptors -------------------------------------------------

CLOSING = """
import logging, os, sys, femtomp
path, users, how = sys.argv[1:]
logger = logging.getLogger("shop")
logger.addHandler(femtomp.worker_handler(spool=path))
logger.setLevel(1)
for n in range(10):
    logger.info("before %d", n)
numbers = [int(n) for n in os.listdir("/proc/self/fd")]
os.closerange(3, 4096)
def take(n):
    f = os.open(os.path.join(users, str(n)), os.O_RDWR | os.O_CREAT)
    os.write(f, b"mine")
    if how == "dup2" and f != n:
        os.dup2(f, n)
        os.close(f)
if how != "nothing":
    for n in numbers:
        if n > 2:
            take(n)
for n in range(3000):
    logger.info("behind %d %s", n, "x" * 500)
for name in os.listdir(users):
    assert open(os.path.join(users, name), "rb").read() == b"mine", name
pid = os.fork()
if not pid:
    logger.info("child")
    for name in os.listdir(users):
        assert open(os.path.join(users, name), "rb").read() == b"mine", name
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("done")
"""


@pytest.mark.parametrize("how", ["nothing", "open", "dup2"])
def test_user_code_that_closes_descriptors(shop, tmp_path, how, request) -> None:
    """After `os.closerange(3, 4096)` no file of the user's gets a byte, whatever number
    it has, and every record is kept, in a new lane if need be.
    """
    users = tmp_path / "users"
    users.mkdir()
    assert run(CLOSING, str(shop.path), str(users), how) == "done\n"
    found = [b.split(" x")[0] for b in shop.bodies()]
    expected = [f"before {n}" for n in range(10)] + [f"behind {n}" for n in range(3000)]
    assert sorted(found) == sorted([*expected, "child"])


# -- re-entry --------------------------------------------------------------------------

REENTRY = """
import gc, logging, os, signal, sys, time, femtomp
sys.unraisablehook = lambda _: None  # what is raised in __del__
path, log = sys.argv[1:]
logger = logging.getLogger("shop")
logger.addHandler(femtomp.worker_handler(spool=path))
logger.setLevel(1)
returned = []
n = calls = inside = 0

class Interrupted({base}):
    pass

def say(source):
    global n
    n += 1
    text = "%s %d" % (source, n)
    logger.info("%s", text)
    returned.append(text)

def handler(number, _):
    global calls
    calls += 1
    say("signal")
    if calls % 5 == 0 and inside:
        raise Interrupted

class Cyclic:
    def __init__(self):
        self.me = self
    def __del__(self):
        say("del")
    def __repr__(self):
        say("repr")
        return "cyclic"

def collected(phase, _):
    if phase == "stop":
        say("gc")

say("main")  # opening the lane is another test's
signal.signal(signal.SIGALRM, handler)
gc.callbacks.append(collected)
gc.set_threshold(50, 5, 5)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
deadline = time.monotonic() + 2.5
while time.monotonic() < deadline:
    try:
        inside = True
        Cyclic()
        say("main")
        logger.info("with a %r", Cyclic())
        inside = False
    except Interrupted:
        inside = False
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
gc.callbacks.clear()
gc.disable()
open(log, "w").write("\\n".join(returned))
print(calls, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("base", ["BaseException", "Exception", "TimeoutError"])
def test_log_calls_inside_log_calls(shop, tmp_path, base, request) -> None:
    """Signal handlers that log and raise, at 2 kHz, finalisers, the collector's
    callbacks and a `__repr__` that log: what returned is there, and once.
    """
    log = tmp_path / "returned"
    assert int(run(REENTRY.format(base=base), str(shop.path), str(log))) > 100
    returned = log.read_text().splitlines()
    sources = {line.split()[0] for line in returned}
    assert sources == {"main", "signal", "del", "gc", "repr"}
    contents = [check_lane(shop.path / "lanes", epoch) for epoch in shop.lanes()]
    assert sum(c.damaged for c in contents) == 0
    records = shop.records()
    found = [r.body for r in records if not r.body.startswith("with a")]
    assert set(returned) - set(found) == set()
    assert len({r.uid for r in records}) == len(records)
    assert len(found) == len(set(found))


def test_signal_while_the_lane_is_opened(shop, monkeypatch, capfd, request) -> None:
    """A record that is logged while this very thread opens its lane is kept too."""
    real, inside = channels.read_identity, []

    def read_identity(role):
        if not inside:
            inside.append(1)
            shop.logger.error("inner")
        return real(role)

    monkeypatch.setattr(channels, "read_identity", read_identity)
    shop.logger.error("outer")
    assert sorted(shop.bodies()) == ["inner", "outer"]
    assert capfd.readouterr().err == ""


def test_exception_thrown_into_the_opening(shop, monkeypatch, capfd, request) -> None:
    """An exception from outside while the lane is opened costs that record alone."""
    real, thrown = channels.read_identity, []

    def read_identity(role):
        if not thrown:
            thrown.append(1)
            raise KeyboardInterrupt
        return real(role)

    monkeypatch.setattr(channels, "read_identity", read_identity)
    with pytest.raises(KeyboardInterrupt):
        shop.logger.error("thrown into")
    shop.logger.error("next")
    assert shop.bodies() == ["next"]
    assert capfd.readouterr().err == ""


def test_recursion_is_the_callers(shop) -> None:
    """At the end of the stack a RecursionError may pass, and the lane stays usable."""

    def deep(n: int) -> None:
        shop.logger.error("deep")
        deep(n + 1)

    with pytest.raises(RecursionError):
        deep(0)
    shop.logger.error("still works")
    assert shop.bodies()[-1] == "still works"


def test_hostile_calls_never_raise(shop) -> None:
    """Bad formats, objects and exceptions of every kind cost no exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shop.logger.error("%d", "x")
        shop.logger.error("%s", Raises())
        shop.logger.error(Raises())
        shop.logger.error("x", extra={"value": Raises(), "big": 1 << 100_000})
        shop.logger.error("x", exc_info=Raises)
        shop.logger.log(10**30, "level")
        shop.logger.log(True, "level")
        shop.logger.error("\udc80 %s", "\ud800", stack_info=True)
    assert len(shop.records()) == 8


@pytest.mark.parametrize("base", [BaseException, TimeoutError])
def test_calls_under_a_soft_limit_of_time(shop, base, monkeypatch) -> None:
    """An alarm's exception in the middle of many calls is the caller's, and costs no
    record that returned.
    """

    class Late(base):
        pass

    def late(*_):
        if inside:
            raise Late

    # It is also raised in callbacks of weak references, and would be in pytest's hook.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    shop.logger.error("first")
    before = signal.signal(signal.SIGALRM, late)
    begun = time.monotonic()
    returned = []
    interrupted, inside = 0, False
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        # Half a second; longer where the machine has little time for this.
        while (time_s := time.monotonic() - begun) < 0.5 or (
            interrupted <= 20 and time_s < 20
        ):
            text = f"{interrupted} {len(returned)}"
            try:
                inside = True
                shop.logger.error("%s", text)
                inside = False
                returned.append(text)
            except Late:
                inside = False
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 20
    found = shop.bodies()
    assert set(returned) <= set(found)
    assert len(found) == len(set(found))
    assert len(found) <= len(returned) + interrupted + 1


def test_exception_from_outside_passes_through_append(shop, monkeypatch) -> None:
    """What a signal handler throws into an append (Celery's soft limit is an Exception)
    reaches the caller.
    """

    class SoftLimit(Exception):
        pass

    def limit(_number, _frame):
        raise SoftLimit

    def append(_):
        signal.raise_signal(signal.SIGUSR1)

    shop.logger.error("first")
    before = signal.signal(signal.SIGUSR1, limit)
    monkeypatch.setattr(shop.handler._channel, "append", append)
    with pytest.raises(SoftLimit):
        shop.logger.error("second")
    signal.signal(signal.SIGUSR1, before)
