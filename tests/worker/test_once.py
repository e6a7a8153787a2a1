"""Several handlers on one branch of loggers take a record once in all."""

from __future__ import annotations

import copy
import logging
import threading
import weakref

import pytest

from femtomp.worker.handler import WorkerHandler, worker_handler
from tests.worker.test_handler import Shop


class Tree:
    """Loggers of their own tree: `x.y` below `x` below a root."""

    def __init__(self) -> None:
        self.root = logging.RootLogger(1)
        manager = logging.Manager(self.root)
        self.x, self.y = manager.getLogger("x"), manager.getLogger("x.y")
        self.all = (self.root, self.x, self.y)


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture(params=["mmap", "write"])
def shop(request, tmp_path):
    made = Shop(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("kind", ["the same", "others", "levels"])
def test_on_each_logger_of_a_branch(shop, tree, kind, begun) -> None:
    """One handler object three times, or three that do the same or have levels."""
    if begun:
        shop.logger.error("first")
    for number, logger in enumerate(tree.all):
        level = 10 * number if kind == "levels" else 0
        made = worker_handler if kind == "the same" else WorkerHandler
        logger.addHandler(made(level, spool=shop.path))
    for number in range(5):
        tree.y.error("%d", number)
    tree.x.warning("x")
    tree.root.warning("root")
    expected = [*["first"] * begun, *"01234", "x", "root"]
    assert shop.bodies() == expected


def test_one_with_a_filter_or_a_level_that_does_not_take_it(shop, tree) -> None:
    """A record that the first handler does not take is taken by the next."""
    picky, strict = WorkerHandler(spool=shop.path), WorkerHandler(40, spool=shop.path)
    picky.addFilter(lambda record: record.getMessage() == "picked")
    for logger, handler in zip(tree.all, (shop.handler, strict, picky), strict=True):
        logger.addHandler(handler)
    tree.y.warning("picked")
    tree.y.warning("left")
    tree.y.error("strict")
    assert shop.bodies() == ["picked", "left", "strict"]


def test_another_server_has_it_too(shop, tree, tmp_path_factory) -> None:
    """Handlers of two servers are two ways: each takes the record."""
    other = Shop(tmp_path_factory.mktemp("other"))
    tree.root.addHandler(shop.handler)
    tree.x.addHandler(other.handler)
    tree.y.error("both")
    assert shop.bodies() == other.bodies() == ["both"]
    other.close()


def test_records_of_other_threads_between(shop, tree) -> None:
    """Threads that log at once, and a handler that logs between ours, change nothing."""

    class Notes(logging.Handler):
        def emit(self, record) -> None:
            if not record.getMessage().startswith("note"):
                tree.x.info("note %s", record.getMessage())

    tree.y.handlers = [shop.handler, Notes()]
    tree.x.handlers = [WorkerHandler(spool=shop.path)]
    tree.root.handlers = [shop.handler]
    tree.x.error("begin")

    def work(name: int) -> None:
        for number in range(200):
            tree.y.error("%d-%d", name, number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    bodies = shop.bodies()
    assert len(bodies) == len(set(bodies)) == 1 + 2 * 800


def test_copies_of_a_record_are_records(shop, tree) -> None:
    """A handler that makes a record of each line of one has each of them."""

    class Lines(logging.Handler):
        def emit(self, record) -> None:
            for line in record.getMessage().splitlines():
                self.one(record, line)

        def one(self, record, line) -> None:
            made = copy.copy(record)
            made.msg, made.args = line, ()
            shop.handler.handle(made)

    tree.root.addHandler(Lines())
    tree.y.error("a\na\nb")
    for logger in tree.all:
        logger.handlers = [shop.handler]
    tree.y.error("twice at first")
    tree.root.handlers = [Lines()]
    tree.x.handlers = tree.y.handlers = []
    tree.y.error("c\nc\nd")
    assert shop.bodies() == ["a", "a", "b", "twice at first", "c", "c", "d"]


def test_a_record_that_is_logged_again(shop, tree) -> None:
    """The same LogRecord, handled again by its logger, is another event."""
    tree.root.addHandler(shop.handler)
    record = logging.LogRecord("x.y", 40, "p", 1, "again", (), None)
    tree.y.handle(record)
    tree.y.handle(record)
    assert shop.bodies() == ["again", "again"]


def test_without_a_server_it_is_said_once(tree, monkeypatch, capfd) -> None:
    """Where there is no lane, the line on stderr comes once as well."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    for logger in tree.all:
        logger.addHandler(worker_handler(missing="stderr"))
    for _ in range(3):
        tree.y.error("said")
    assert capfd.readouterr().err.count("said") == 3


def test_nothing_of_a_record_is_kept_alive(shop, tree) -> None:
    """What a record holds is let go of when its call is over."""

    class Held:
        pass

    held = [Held(), Held()]
    gone = [weakref.ref(each) for each in held]
    for logger in tree.all:
        tree.y.error("%s", held.pop() if len(held) > 1 else "", exc_info=False)
        logger.addHandler(shop.handler)
    for _ in range(2):
        tree.y.error("%s", held[0])
    held.clear()
    assert [each() for each in gone] == [None, None]
