"""Levels that the master gives to its workers' loggers, and takes back."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time

import pytest

import femtomp
from tests.processes.harness import Attached, fork, lines, run_file, run_script, until

CART = "shop.cart"


@pytest.fixture
def server(tmp_path):
    with femtomp.start_server(
        femtomp.FileSink(tmp_path / "app.jsonl"), name="shop", spool_parent=tmp_path
    ) as server:
        yield server
    for name in ("", CART):
        logging.getLogger(name).setLevel(logging.WARNING if not name else 0)


class Worker:
    """A process that does what it is told, one word at a time, and answers."""

    def __init__(self, context="fork", init=None):
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context(context).Process
        self._process = process(target=obey, args=(there, init))
        self._process.start()
        self._pipe = here

    def ask(self, word):
        self._pipe.send(word)
        assert self._pipe.poll(30), "the worker answers"
        return self._pipe.recv()

    def level(self, name=CART):
        """Log something that passes, and say a logger's level."""
        return self.ask(("level", name))

    def end(self):
        self._pipe.send(None)
        self._process.join(30)


def obey(pipe, init):
    """Run in the worker."""
    if init is not None:
        init()
    while (word := pipe.recv()) is not None:
        what, name = word
        if what == "level":
            logging.getLogger("shop").critical("passes")
        elif what == "set":
            logging.getLogger(CART).setLevel(name)
            name = CART
        logger = logging.getLogger(name)
        logger.debug("debug of %s", name)
        pipe.send(logger.level)


@pytest.fixture
def worker(server):
    with Attached():
        made = Worker()
        made.level()
        yield made
        made.end()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_worker_takes_a_level_and_gives_it_back(server, context):
    """At one of its records, whatever logger that is of; and back to what it was."""
    with Attached():
        worker = Worker(context, server.worker_init)
        try:
            assert worker.level() == 0
            server.set_level(CART, "DEBUG")
            until(lambda: worker.level() == logging.DEBUG, "it is heard of")
            server.set_level(CART, 35)
            until(lambda: worker.level() == 35, "another is heard of")
            server.set_level(CART, None)
            until(lambda: worker.level() == 0, "it is as before")
        finally:
            worker.end()


def test_a_debug_record_arrives_within_a_second(server, worker, tmp_path):
    """What the docstring says: a second after the first record that passes."""
    server.set_level(CART, "DEBUG")
    begun = time.monotonic()
    worker.level()
    until(lambda: worker.level() == logging.DEBUG, "it is heard of")
    assert time.monotonic() - begun < 5, "far less than any other way in a busy test"
    worker.level()
    assert server.flush()
    assert f"debug of {CART}" in [r["body"] for r in lines(tmp_path / "app.jsonl")]


def test_the_time_is_over(server, worker):
    """With `duration_s` it goes by itself, in the worker and in the master."""
    server.set_level(CART, "DEBUG", duration_s=2)
    assert logging.getLogger(CART).level == logging.DEBUG
    until(lambda: worker.level() == logging.DEBUG, "it is heard of")
    until(lambda: worker.level() == 0, "it is over")

    def log():
        logging.getLogger("shop").warning("passes")
        return logging.getLogger(CART).level == 0

    until(log, "it is over in the master too")


def test_the_master_has_it_at_once(server):
    """Without any record, there and back."""
    server.set_level(CART, "ERROR")
    assert logging.getLogger(CART).level == logging.ERROR
    server.set_level(CART, None)
    assert logging.getLogger(CART).level == 0
    server.set_level(CART, "ERROR")
    server.stop()
    assert logging.getLogger(CART).level == 0, "the server's end is its end"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_later_worker_has_it(server, context):
    """A worker of after, forked or spawned, begins with it."""
    server.set_level(CART, "DEBUG")
    server.set_level(None, "ERROR")
    with Attached():
        worker = Worker(context, server.worker_init)
        try:
            assert worker.ask(("say", CART)) == logging.DEBUG, "before any record"
            assert worker.ask(("say", "")) == logging.ERROR
            server.set_level("", None)
            until(
                lambda: worker.level("") == logging.INFO,
                "worker_init's level is what it goes back to",
            )
        finally:
            worker.end()


def test_what_the_program_sets_stays(server, worker):
    """A level that the worker itself sets meanwhile is not taken from it."""
    server.set_level(CART, "DEBUG")
    until(lambda: worker.level() == logging.DEBUG, "it is heard of")
    worker.ask(("set", 33))
    server.set_level(CART, None)
    server.set_level("shop.other", "ERROR")
    until(lambda: worker.level("shop.other") == logging.ERROR, "all is heard of")
    assert worker.level() == 33


def test_a_raised_level_can_be_lowered_by_any_record(server, worker):
    """A logger that is silenced comes back by the records of another one."""
    server.set_level(CART, 100)
    until(lambda: worker.level() == 100, "it is silent")
    server.set_level(CART, "DEBUG")
    until(lambda: worker.level() == logging.DEBUG, "it speaks")


def test_reconfigure_changes_the_level_of_workers_that_follow(server):
    """Where `worker_init` took the server's level; nowhere else."""
    own = Worker("spawn", None)
    followers = Worker("spawn", server.worker_init)
    try:
        assert followers.level("") == logging.INFO
        pid = server.pid
        server.reconfigure(level="DEBUG")
        assert server.pid == pid, "the supervisor has no use for it"
        until(lambda: followers.level("") == logging.DEBUG, "it follows")
        assert own.level("") == logging.WARNING
    finally:
        followers.end()
        own.end()


def test_nothing_is_left_for_the_next_server(server, tmp_path):
    """Levels are of the server that said them, also where it was killed."""
    done = run_script(
        """
        import logging, os, signal, sys
        import femtomp
        server = femtomp.start_server(
            f"file:{sys.argv[1]}/b", spool_parent=sys.argv[1], name="cart"
        )
        server.set_level("shop.cart", 33)
        femtomp.worker_init()
        logging.info("x")
        for pid in (*server._spool.control()[1:3], os.getpid()):
            os.kill(pid, signal.SIGKILL)
        """,
        tmp_path,
        check=False,
    )
    assert done.returncode < 0
    (left,) = tmp_path.glob("femtomp-cart-*")
    assert (left / "levels").exists()
    run_script(
        """
        import logging, sys
        import femtomp
        with femtomp.start_server(
            f"file:{sys.argv[1]}/b", spool_parent=sys.argv[1], name="cart"
        ) as server:
            assert str(server.spool) == sys.argv[2]
            femtomp.worker_init()
            assert logging.getLogger("shop.cart").level == 0
        """,
        tmp_path,
        left,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shop", "LOUD"), "unknown level 'LOUD'"),
        ((3, "INFO"), "name must be a logger's"),
        (("x" * 300, "INFO"), "name must be a logger's"),
        (("shop", "INFO", 0), "duration_s must be"),
        (("shop", "INFO", -1), "duration_s must be"),
        (("shop", "INFO", "1"), "duration_s must be"),
        (("shop", "INFO", float("nan")), "duration_s must be"),
        (("shop", None, 3), "go with a level"),
    ],
)
def test_what_is_no_level_is_said(server, arguments, words):
    """The master gets an error, and nothing changes."""
    name, level, *rest = arguments
    with pytest.raises(femtomp.ConfigError, match=words):
        server.set_level(name, level, **({"duration_s": rest[0]} if rest else {}))
    assert not (server.spool / "levels").exists()


def test_a_child_cannot(server):
    """A forked child's handle sets no levels; nor does one after `stop()`."""

    def ask():
        with pytest.raises(femtomp.NoServerError, match="the process that started"):
            server.set_level("shop", "DEBUG")

    assert os.waitpid(fork(ask), 0)[1] == 0
    server.stop()
    with pytest.raises(femtomp.NoServerError, match="was stopped"):
        server.set_level("shop", "DEBUG")


@pytest.mark.parametrize(
    "content",
    ["", "[", "3", '{"levels": 3}', '{"levels": {"a": ["x", 1]}}', "[" * 9999],
)
def test_a_file_of_nonsense_hurts_nobody(server, worker, tmp_path, content):
    """A log call goes on, whatever the file says."""
    (server.spool / "levels").write_text(content)
    for _ in range(3):
        logging.getLogger("shop").warning("passes")
    server.set_level("shop.other", 33)
    until(lambda: worker.level("shop.other") == 33, "what is sound is heard of")


def test_a_pool_of_a_script(tmp_path):
    """As users have it: an executor's workers, a level for a while, by the root."""
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "app").unlink()
    run_file(
        tmp_path / "app.py",
        """
        import logging, sys, time
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        import femtomp

        def work(_):
            logging.warning("passes")
            logging.debug("seen")
            return logging.getLogger().level

        if __name__ == "__main__":
            with femtomp.start_server(
                f"file:{sys.argv[1]}/app", spool_parent=sys.argv[1]
            ) as server:
                with ProcessPoolExecutor(
                    2, get_context("forkserver"), initializer=server.worker_init
                ) as pool:
                    assert set(pool.map(work, range(20))) == {20}
                    server.set_level("", "DEBUG")
                    end = time.monotonic() + 20
                    while set(pool.map(work, range(20))) != {10}:
                        assert time.monotonic() < end
        """,
        tmp_path,
    )
    assert "seen" in [r["body"] for r in lines(tmp_path / "app")]
