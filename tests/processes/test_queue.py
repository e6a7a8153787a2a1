"""`Server.queue` where the standard library expects a queue."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import sys
import threading

import pytest

import femtomp
from tests.processes.harness import Attached, fork, lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.jsonl"


@pytest.fixture
def server(path):
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        yield server


def bodies(server, path):
    assert server.flush(10)
    return [record["body"] for record in lines(path)]


def test_the_standard_queue_handler_puts_into_it(server, path):
    """`QueueHandler(server.queue)` delivers, from forked children too."""
    log = logging.getLogger("shop.qh")
    handler = logging.handlers.QueueHandler(server.queue)
    log.addHandler(handler)
    log.setLevel("INFO")

    def child():
        log.info("from %s", "a child", extra={"pid": os.getpid()})

    try:
        log.info("from %s", "the master", extra={"pid": os.getpid()})
        os.waitpid(fork(child), 0)
    finally:
        log.removeHandler(handler)
    assert sorted(bodies(server, path)) == ["from a child", "from the master"]
    for record in lines(path):
        assert record["resource"]["process.pid"] == record["attributes"]["pid"]


# Its first releases take nothing but a queue.Queue there, not even multiprocessing's.
NOT_ON_3_12 = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="dictConfig of 3.12 wants a queue.Queue"
)


@NOT_ON_3_12
def test_dict_config_takes_it(server, path):
    """`dictConfig` builds a QueueHandler on it."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "queued": {"class": "logging.handlers.QueueHandler", "queue": server.queue},
        },
        "loggers": {"shop.dict": {"level": "INFO", "handlers": ["queued"]}},
    }
    logging.config.dictConfig(config)
    logging.getLogger("shop.dict").info("configured")
    logging.getLogger("shop.dict").handlers.clear()
    assert bodies(server, path) == ["configured"]


@NOT_ON_3_12
@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before 3.12 dictConfig has none"
)
def test_dict_config_resolves_it_by_factory(server, path):
    """The `()` form of a queue works as well, and gets a listener that is not started."""
    test_dict_config_resolves_it_by_factory.queue = server.queue
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "queued": {
                    "class": "logging.handlers.QueueHandler",
                    "queue": {"()": lambda: server.queue},
                },
            },
            "loggers": {"shop.dict": {"level": "INFO", "handlers": ["queued"]}},
        }
    )
    logging.getLogger("shop.dict").info("by factory")
    logging.getLogger("shop.dict").handlers.clear()
    assert bodies(server, path) == ["by factory"]


def test_the_worker_handler_is_a_dict_config_class(server, path):
    """`femtomp.WorkerHandler` can be named as a handler's class."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "femtomp": {"class": "femtomp.WorkerHandler", "level": "WARNING"}
            },
            "loggers": {"shop.dict": {"level": "INFO", "handlers": ["femtomp"]}},
        }
    )
    log = logging.getLogger("shop.dict")
    log.info("too low")
    log.warning("high enough")
    log.handlers.clear()
    assert bodies(server, path) == ["high enough"]


def test_a_stock_queue_keeps_the_records_own_process(server, path):
    """A `QueueListener` with the worker handler passes on pid and name of the sender."""
    stock = multiprocessing.get_context("fork").Queue()
    listener = logging.handlers.QueueListener(stock, femtomp.worker_handler())
    log = logging.getLogger("shop.stock")
    log.setLevel("INFO")

    def child():
        log.addHandler(logging.handlers.QueueHandler(stock))
        log.info("from the stock queue")
        stock.close()
        stock.join_thread()

    process = multiprocessing.get_context("fork").Process(target=child, name="stocker")
    process.start()
    listener.start()
    process.join()
    listener.stop()
    assert bodies(server, path) == ["from the stock queue"]
    (record,) = lines(path)
    assert record["resource"]["process.pid"] == process.pid
    assert record["resource"]["femtomp.worker.name"] == "stocker"


def test_get_returns_what_any_process_put(server):
    """`get` in the master returns records, dicts and LogRecords as Records, each once."""
    server.queue.put({"body": "a dict", "severity_text": "ERROR", "user_id": 7})
    first = server.queue.get(timeout=5)
    assert (first.body, first.severity_number) == ("a dict", 17)
    assert first.attributes == {"user_id": 7}
    assert first.resource["process.pid"] == os.getpid()

    def child():
        with Attached("shop.get") as log:
            log.warning("from a %s", "child")

    pid = fork(child)
    os.waitpid(pid, 0)
    second = server.queue.get(timeout=5)
    assert (second.body, second.resource["process.pid"]) == ("from a child", pid)
    server.queue.put_nowait(second)
    third = server.queue.get(timeout=5)
    assert (third.body, third.resource["process.pid"]) == ("from a child", pid)
    assert third.attributes == second.attributes
    with pytest.raises(queue.Empty):
        server.queue.get_nowait()
    with pytest.raises(queue.Empty):
        server.queue.get(timeout=0.01)
    assert server.queue.empty()
    assert server.queue.qsize() == 0


def test_put_refuses_anything_else(server):
    """What is no LogRecord, Record or dict is the caller's mistake: TypeError."""
    for wrong in (None, "text", 7, object()):
        with pytest.raises(TypeError, match="LogRecord, a Record or a dict"):
            server.queue.put(wrong)


def test_get_works_in_the_master_only(server):
    """A child that calls `get` is told so."""

    def child():
        with pytest.raises(RuntimeError, match="process that started the server"):
            server.queue.get_nowait()

    assert os.waitpid(fork(child), 0)[1] == 0


def test_it_travels_to_other_processes(server, path):
    """The queue is pickled by its spool's address, without a lock or a descriptor."""
    again = pickle.loads(pickle.dumps(server.queue))
    again.put({"body": "through a copy"})
    assert bodies(server, path) == ["through a copy"]


def test_its_other_methods_are_harmless(server):
    """The rest of the interface exists, and does nothing."""
    threads = threading.active_count()
    server.queue.close()
    server.queue.join_thread()
    server.queue.cancel_join_thread()
    server.queue.join()
    server.queue.task_done()
    assert server.queue.full() is False
    assert threading.active_count() == threads
