"""`Server.queue`: multiprocessing.Queue's interface over all lanes."""

from __future__ import annotations

import gc
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import threading
import time
from datetime import UTC, datetime

import pytest

from femtomp.lanes import place
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import STATE, State
from femtomp.record import Record, Resource
from femtomp.testing import wait_until
from femtomp.worker import sender
from femtomp.worker.channel import channel, close_channel


@pytest.fixture
def spool(tmp_path):
    made = place.create(
        tmp_path, "shop", level=1, sinks=("file",), master={"pid": os.getpid()}
    )
    made.set_control(STATE, State.RUNNING)
    yield made
    close_channel(str(made.path))
    made.close()


@pytest.fixture
def shop(spool):
    """Give the queue as the master has it."""
    return sender.queue(str(spool.path), {"service.name": "shop"})


def log_record(text: str, **values) -> logging.LogRecord:
    record = logging.LogRecord("shop", 20, "/app.py", 7, text, (), None, "sell")
    record.__dict__.update(values)
    return record


def bodies(source) -> list:
    found = []
    while True:
        try:
            found.append(source.get_nowait().body)
        except queue.Empty:
            return found


def test_what_is_put_comes_out_once(shop) -> None:
    """LogRecords, Records and dicts come out as Records, in order, and once."""
    shop.put(log_record("one", user_id=7))
    shop.put_nowait({"body": "two", "severity_text": "ERROR", "user_id": 8})
    now = time.time_ns()
    made = Record(
        now, 13, "WARN", "lib", ["three"], {"a": 1}, Resource({}), event_name="e"
    )
    shop.put(made, block=False)
    one, two, three = (shop.get(timeout=5) for _ in range(3))
    assert (one.body, one.severity_number, one.attributes["user_id"]) == ("one", 9, 7)
    assert (two.body, two.severity_number, two.attributes) == (
        "two",
        17,
        {"user_id": 8},
    )
    assert three[:6] == made[:6]
    assert three.event_name == "e"
    assert one.resource["service.name"] == "shop"
    assert one.resource["process.pid"] == os.getpid()
    with pytest.raises(queue.Empty):
        shop.get_nowait()


@pytest.mark.parametrize("item", [None, "text", 5, b"", [], object(), ("a",)])
def test_what_is_no_record_is_a_type_error(shop, item) -> None:
    """Anything else that is put is the caller's mistake, and says so."""
    with pytest.raises(TypeError, match="LogRecord, a Record or a dict"):
        shop.put(item)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"body": object()},
        {"body": "x", "timestamp": "yesterday"},
        {"timestamp": True},
        {"timestamp": -5},
        {"timestamp": 1.5, "severity_number": "high", "severity_text": None},
        {"severity_number": True},
        {"severity_number": 10**9},
        {"severity_number": -1},
        {"logger": 5, "event_name": ["a"]},
        {"trace_id": "not hex", "span_id": "zz"},
        {"trace_id": 5, "span_id": 6},
        {"trace_id": "f" * 99, "span_id": "1"},
        {"trace_id": "1", "span_id": "2", "trace_flags": "x"},
        {"attributes": 5},
        {"attributes": {1: 2, None: object()}},
        {1: 2},
        {"body": {"deep": [[[[[[[[[[[1]]]]]]]]]]]}},
        {"scope": "a", "resource": 5, "uid": 7},
        {"dropped_attributes_count": "x"},
        {"dropped_attributes_count": -3},
        {"big": 1 << 100_000},
    ],
    ids=lambda values: repr(list(values))[:60],
)
def test_any_dict_is_a_record(shop, values) -> None:
    """Whatever the values of a dict are, it is kept and comes out as a sound Record."""
    shop.put(values)
    record = shop.get(timeout=5)
    assert isinstance(record, Record)
    assert type(record.timestamp) is int
    assert 0 <= record.severity_number <= 24
    assert type(record.severity_text) is type(record.logger) is str
    assert record.event_name is None or type(record.event_name) is str
    assert record.dropped_attributes_count >= 0
    assert all(type(name) is str for name in record.attributes)
    assert record.trace_id is None or len(record.trace_id) == 32


def test_record_of_another_process_keeps_its_own(shop) -> None:
    """A LogRecord that another process made comes out with that process."""
    created = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    shop.put(log_record("far", process=4242, processName="far-1", created=created))
    record = shop.get(timeout=5)
    assert record.resource["process.pid"] == 4242
    assert record.resource["femtomp.worker.name"] == "far-1"
    assert record.timestamp == int(created) * 1_000_000_000


def test_get_waits_for_no_longer_than_it_was_told(shop) -> None:
    """`get` raises Empty at once, or after its timeout, as the interface says."""
    begin = time.monotonic()
    with pytest.raises(queue.Empty):
        shop.get(block=False)
    with pytest.raises(queue.Empty):
        shop.get(timeout=0)
    assert time.monotonic() - begin < 1
    with pytest.raises(queue.Empty):
        shop.get(timeout=0.05)
    assert time.monotonic() - begin >= 0.05


def test_waiting_get_is_woken(shop) -> None:
    """A `get` that waits returns what another thread puts."""
    thread = threading.Timer(0.02, shop.put, [{"body": "late"}])
    thread.start()
    assert shop.get(timeout=5).body == "late"
    thread.join()


def test_sizes_are_true(shop) -> None:
    """`qsize` and `empty` count what was put and not taken, before and after `get`."""
    assert (shop.qsize(), shop.empty(), shop.full()) == (0, True, False)
    for n in range(5):
        shop.put({"body": n})
    assert (shop.qsize(), shop.empty()) == (5, False)
    assert shop.get(timeout=5).body == 0
    assert shop.qsize() == 4
    shop.put({"body": 5})
    assert shop.qsize() == 5
    assert bodies(shop) == [1, 2, 3, 4, 5]
    assert shop.empty()


def test_interface_is_complete(shop) -> None:
    """What else multiprocessing's queue has is there, and does nothing."""
    for name in ("close", "join_thread", "cancel_join_thread", "join", "task_done"):
        assert getattr(shop, name)() is None
    shop.put({"body": "still works"})
    assert shop.get(timeout=5).body == "still works"


def test_stock_handlers_work_with_it(shop) -> None:
    """A stock QueueHandler puts into it."""
    logger = logging.Logger("stock")
    logger.addHandler(logging.handlers.QueueHandler(shop))
    logger.warning("hello %s", "you", extra={"k": 1})
    record = shop.get(timeout=5)
    assert (record.body, record.attributes["k"]) == ("hello you", 1)


def _put(shared, n: int) -> None:
    for k in range(5):
        shared.put({"body": f"{n}-{k}"})


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_any_start_method_put(shop, method) -> None:
    """Processes that were given the queue put into it; each one's own stay in order."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_put, args=(shop, n)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    found = bodies(shop)
    for n in range(3):
        own = [b for b in found if b.startswith(f"{n}-")]
        assert own == [f"{n}-{k}" for k in range(5)]


def test_get_works_in_the_master_only(shop) -> None:
    """A queue that travelled can be put into and measured, but not taken from."""
    other = pickle.loads(pickle.dumps(shop))
    other.put({"body": "x"})
    assert other.qsize() == 1
    with pytest.raises(RuntimeError, match="started the server"):
        other.get(timeout=0)
    assert bodies(shop) == ["x"]


def _in_child(call) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            result = repr(call())
        except BaseException as exc:
            result = type(exc).__name__
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.mark.parametrize(
    "buffered",
    [
        False,
        True,
    ],
)
def test_get_is_refused_in_a_forked_child(shop, buffered) -> None:
    """A forked child cannot take records, not even those its parent had read ahead."""
    if buffered:
        for n in range(3):
            shop.put({"body": n})
        assert shop.get(timeout=5).body == 0
    assert _in_child(lambda: shop.get(block=False)) == "RuntimeError"


def test_threads_may_take_at_once(shop) -> None:
    """Of many threads that get at once, each record goes to one."""
    total, found = 2000, []
    for n in range(total):
        shop.put({"body": n})
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait(10)
        while True:
            try:
                found.append(shop.get(timeout=0).body)
            except queue.Empty:
                return

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(total))


def test_clock_that_is_set_back_keeps_the_order_of_a_lane(spool, shop) -> None:
    """Within one process records come out in the order of their calls."""
    for n in range(5):
        shop.put({"body": n, "timestamp": 100 - n})
    puller = Puller(spool, {})
    assert [r.body for r in puller.pull()] == [0, 1, 2, 3, 4]


def test_two_lanes_are_merged_by_time(spool, shop) -> None:
    """Records of two processes come out by their time."""
    for n in (1, 3, 5):
        shop.put({"body": n, "timestamp": n})
    close_channel(str(spool.path))
    for n in (2, 4, 6):
        shop.put({"body": n, "timestamp": n})
    # The closed channel is not the queue's: it looks for its own anew each time.
    assert bodies(shop) == [1, 2, 3, 4, 5, 6]


def test_pull_goes_on_from_its_cursor(spool, shop) -> None:
    """A second reader in the master's place goes on where the first one stopped."""
    shop.put({"body": 1})
    assert [r.body for r in Puller(spool, {}).pull()] == [1]
    shop.put({"body": 2})
    assert [r.body for r in Puller(spool, {}).pull()] == [2]


def test_reaped_lanes_are_let_go(spool, shop) -> None:
    """Of lanes whose files were unlinked no descriptor stays open in the master."""
    puller = Puller(spool, {})
    path = str(spool.path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        channel(path)
        shop.put({"body": n})
        assert len(puller.pull()) == 1
        close_channel(path)
        for name in os.listdir(f"{spool.path}/lanes"):
            os.unlink(name, dir_fd=spool.lanes)
    puller.pull()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_put_into_a_spool_that_is_gone_does_not_raise(spool, shop, capfd) -> None:
    """Without a spool the record is dropped with a word on stderr, not an exception."""
    spool.remove()
    shop.put({"body": "lost"})
    assert "dropped" in capfd.readouterr().err


def test_nothing_is_held_back_without_get(spool, shop) -> None:
    """A queue that nobody takes from has no cursor in the spool."""
    shop.put({"body": 1})
    assert shop.qsize() == 1
    assert not [n for n in os.listdir(f"{spool.path}/lanes") if n.endswith(".pull")]
    assert wait_until(lambda: shop.get(timeout=0)).body == 1
    assert [n for n in os.listdir(f"{spool.path}/lanes") if n.endswith(".pull")]
