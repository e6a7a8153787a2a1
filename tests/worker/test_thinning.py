"""Filters of workers: one that fails, limits by call site, sampling; exact counts."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading

import pytest

import femtomp
from femtomp.errors import ConfigError
from femtomp.lanes import segment as seg
from femtomp.supervisor.stats import read_stats
from femtomp.testing import ManualClock
from femtomp.worker import handler as handlers
from femtomp.worker.context import log_context
from femtomp.worker.handler import WorkerHandler
from femtomp.worker.thinning import MAX_CALL_SITES, CallSiteLimit, Sampling
from tests.processes.harness import Returned, fork, lines, until
from tests.worker.test_handler import Shop


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.handler.filters.clear()
    handlers.release(made.handler)


def left_out(shop: Shop) -> dict[str, int]:
    return read_stats(shop.spool).left_out


def limit(clock=None, count: int = 3, **options) -> CallSiteLimit:
    return CallSiteLimit(
        count, interval_s=10, clock=(clock or ManualClock()).monotonic, **options
    )


# -- filters of the user's -------------------------------------------------------------


def test_a_filter_leaves_out_and_an_enricher_adds(shop):
    """Standard filters on the handler decide, and what they set is in the record."""

    def enrich(record):
        record.tenant = "t1"
        return record.getMessage() != "no"

    shop.handler.addFilter(enrich)
    for message in ("yes", "no"):
        shop.logger.info(message)
    (record,) = shop.records()
    assert (record.body, record.attributes["tenant"]) == ("yes", "t1")


class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LookupError("no tenant"), "LookupError: no tenant"),
        (Unsayable(), "Unsayable: <cannot be rendered: RuntimeError>"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_a_filter_that_fails_keeps_the_record(shop, error, said):
    """The call does not raise; the record is there, and says what failed. Other
    handlers see it unchanged.
    """
    seen = []
    other = logging.Handler()
    other.emit = seen.append

    def fails(record):
        raise error

    shop.handler.addFilter(fails)
    shop.logger.addHandler(other)
    shop.logger.info("sold %s", "tea", extra={"price": 4})
    (record,) = shop.records()
    assert record.body == "sold tea"
    assert record.attributes["femtomp.filter_error"] == said
    assert record.attributes["price"] == 4
    assert not hasattr(seen[0], "femtomp.filter_error")


def test_what_is_thrown_in_is_the_callers(shop):
    """A task's time limit that strikes inside a filter is not swallowed."""

    class Timeout(BaseException):
        pass

    def slow(record):
        raise Timeout

    shop.handler.addFilter(slow)
    with pytest.raises(Timeout):
        shop.logger.info("x")


def log_once(number: int) -> None:
    logging.getLogger("shop").info("from a worker %d", number)


def set_up(level=None) -> None:
    femtomp.worker_init(level)
    femtomp.worker_handler().addFilter(by_child)


def by_child(record) -> bool:
    record.worker_pid = os.getpid()
    return "1" not in record.getMessage()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_filters_work_in_workers_of_any_start_method(tmp_path, monkeypatch, method):
    """A filter that an initializer sets is asked in each worker, forked or spawned."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, os.sys.path)))
    with femtomp.start_server(f"file:{tmp_path}/out", spool_parent=tmp_path):
        context = multiprocessing.get_context(method)
        with context.Pool(1, initializer=set_up) as pool:
            pool.map(log_once, range(3))
            pool.close()
            pool.join()
    found = [r for r in lines(tmp_path / "out") if r["logger"] == "shop"]
    assert [r["body"] for r in found] == ["from a worker 0", "from a worker 2"]
    assert {r["attributes"]["worker_pid"] for r in found} == {
        found[0]["resource"]["process.pid"]
    }
    assert found[0]["resource"]["process.pid"] != os.getpid()


def log_levels() -> None:
    for name in ("shop", "noisy.lib", "noisy.lib.deep", "quiet"):
        for level in (logging.INFO, logging.WARNING, logging.CRITICAL):
            logging.getLogger(name).log(level, "%s %d", name, level)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_levels_of_loggers_reach_every_worker(tmp_path, monkeypatch, method):
    """What `levels=` says is set by `worker_init`, for a logger and all below it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, os.sys.path)))
    levels = {"noisy.lib": "WARNING", "quiet": "OFF"}
    with femtomp.start_server(
        f"file:{tmp_path}/out", spool_parent=tmp_path, levels=levels
    ) as server:
        context = multiprocessing.get_context(method)
        child = context.Pool(1, initializer=server.worker_init)
        with child:
            child.apply(log_levels)
            child.close()
            child.join()
    found = [r["body"] for r in lines(tmp_path / "out") if r["logger"] != "femtomp"]
    assert found == [
        "shop 20", "shop 30", "shop 50", "noisy.lib 30", "noisy.lib 50",
        "noisy.lib.deep 30", "noisy.lib.deep 50",
    ]  # fmt: skip
    assert logging.getLogger("quiet").level == logging.NOTSET, "the master's is its own"


@pytest.mark.parametrize("levels", [{"a": "LOUD"}, {7: "INFO"}, ["a"], "a"])
def test_levels_that_cannot_be_used_are_refused(levels):
    """They are an error in the master, by name."""
    with pytest.raises(ConfigError):
        femtomp.start_server(levels=levels)


# -- limits by call site ---------------------------------------------------------------


def test_a_call_site_is_limited_and_says_how_much_it_left_out(shop):
    """After so many records of a place the rest is counted; when the interval is over,
    the next call of any place says how many there were.
    """
    clock = ManualClock()
    shop.handler.addFilter(limit(clock))
    for n in range(10):
        shop.logger.info("often %d", n)
        shop.logger.info("as often") if n < 3 else None
    before = shop.records()
    assert [r.body for r in before].count("as often") == 3
    assert left_out(shop) == {"limited": 7, "sampled": 0}
    clock.advance(11)
    shop.logger.info("something else")
    summary, other = shop.records()
    assert summary.body == "7 similar left out in 11.0 s: often %d"
    assert summary.attributes["femtomp.left_out"] == 7
    assert summary.logger == "shop"
    line = before[0].attributes["code.line.number"]
    assert summary.attributes["code.line.number"] == line
    assert other.body == "something else"
    assert left_out(shop) == {"limited": 7, "sampled": 0}


def test_the_next_interval_begins_anew(shop):
    """A place that was limited has its full number again in the next interval."""
    clock = ManualClock()
    shop.handler.addFilter(limit(clock))
    for _ in range(3):
        for _ in range(5):
            shop.logger.info("often")
        clock.advance(10)
    shop.handler.flush()
    bodies = [r.body for r in shop.records()]
    assert bodies.count("often") == 9
    assert len(bodies) == 12
    assert left_out(shop)["limited"] == 6


def test_errors_are_always_kept(shop):
    """What is at the limit's level or above passes, however often it comes."""
    shop.handler.addFilter(limit())
    for _ in range(10):
        shop.logger.error("failed")
    assert len(shop.records()) == 10


def test_flush_says_what_is_left(shop):
    """`logging.shutdown`, which flushes handlers, has the last counts said."""
    shop.handler.addFilter(limit())
    for _ in range(5):
        shop.logger.info("often")
    shop.handler.flush()
    shop.handler.flush()
    assert [r.attributes.get("femtomp.left_out") for r in shop.records()] == [
        None, None, None, 2,
    ]  # fmt: skip


def test_threads_lose_no_count(shop):
    """What several threads leave out at once is counted, each record once."""
    shop.handler.addFilter(limit(count=10))

    def work():
        for _ in range(2000):
            shop.logger.info("often")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shop.handler.flush()
    *kept, summary = shop.records()
    assert len(kept) == 10
    assert summary.attributes["femtomp.left_out"] == 7990
    assert left_out(shop)["limited"] == 7990


def test_counts_survive_the_process_and_its_lane(tmp_path):
    """What a worker left out is counted exactly when it is killed, and still when its
    lane is gone; a forked child begins anew and says nothing of its parent.
    """
    returned = Returned(1)

    def work():
        log = logging.getLogger("shop")
        log.handlers[0].flush()  # nothing to say: it was the parent's
        while True:
            log.info("often")
            returned.set(0, returned[0] + 1)

    logger = logging.getLogger("shop")
    with femtomp.start_server(f"file:{tmp_path}/out", spool_parent=tmp_path) as server:
        handler = WorkerHandler()
        handler.addFilter(CallSiteLimit(5, interval_s=3600))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            for _ in range(7):
                logger.info("of the master")
            pid = fork(work)
            until(lambda: returned[0] > 1000, "the worker logs")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            until(lambda: len(server.stats().lanes) == 1, "its lane is reaped")
            counted = server.stats().left_out["limited"] - 2
            assert returned[0] - 5 <= counted <= returned[0] - 5 + 1
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
    bodies = [r["body"] for r in lines(tmp_path / "out")]
    assert bodies.count("often") == 5
    assert bodies.count("of the master") == 5
    assert not [body for body in bodies if "similar" in body]


def test_call_sites_without_end_are_bounded():
    """A program that makes up call sites does not fill the memory."""
    chosen = limit()
    for n in range(2 * MAX_CALL_SITES):
        record = logging.LogRecord("a", 20, "f.py", n, "m", (), None)
        assert chosen.filter(record)
    assert len(chosen._sites) <= MAX_CALL_SITES


# -- sampling --------------------------------------------------------------------------


def test_sampling_by_a_field_keeps_all_or_none(shop):
    """Records of the same value share their fate; about the share is kept."""
    shop.handler.addFilter(Sampling(0.25, by="user_id"))
    for user in range(400):
        for _ in range(2):
            shop.logger.info("seen", extra={"user_id": user})
        with log_context(user_id=user):
            shop.logger.info("seen")
    users = [r.attributes["user_id"] for r in shop.records()]
    assert all(users.count(user) == 3 for user in users)
    assert 60 <= len(set(users)) <= 140
    assert left_out(shop)["sampled"] == 1200 - len(users)


def test_sampling_keeps_warnings_and_what_has_no_key(shop):
    """Neither a warning nor a record without the field is left out."""
    shop.handler.addFilter(Sampling(0, by="user_id"))
    shop.logger.info("no user")
    shop.logger.warning("user", extra={"user_id": 1})
    shop.logger.info("user", extra={"user_id": 1})
    assert [r.body for r in shop.records()] == ["no user", "user"]
    assert left_out(shop) == {"limited": 0, "sampled": 1}


def test_sampling_by_trace_keeps_whole_traces(shop):
    """All records of a trace are kept or left out, as OpenTelemetry's sampler would."""
    trace = pytest.importorskip("opentelemetry.trace")
    sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
    sampler = sampling.TraceIdRatioBased(0.5)
    shop.handler.addFilter(Sampling(0.5))
    for n in range(1, 60):
        trace_id = n * 0x0123456789ABCDEF0123456789ABCDEF % (1 << 128)
        span = trace.NonRecordingSpan(trace.SpanContext(trace_id, n, is_remote=False))
        with trace.use_span(span):
            shop.logger.info("a")
            shop.logger.info("b")
        wanted = sampler.should_sample(None, trace_id, "x").decision.is_sampled()
        assert len(shop.records()) == 2 * wanted
    shop.logger.info("no trace")
    assert [r.body for r in shop.records()] == ["no trace"]


def test_sampling_each_record(shop):
    """By "record" each is on its own; 1 keeps all, 0 none."""
    for share in (0, 1):
        shop.handler.filters.clear()
        shop.handler.addFilter(Sampling(share, by="record"))
        for _ in range(10):
            shop.logger.info("x")
    assert len(shop.records()) == 10
    assert left_out(shop)["sampled"] == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: CallSiteLimit(0),
        lambda: CallSiteLimit(1.5),
        lambda: CallSiteLimit(1, interval_s=0),
        lambda: CallSiteLimit(1, interval_s="10"),
        lambda: Sampling(1.1),
        lambda: Sampling(-0.1),
        lambda: Sampling("half"),
        lambda: Sampling(True),
        lambda: Sampling(float("nan")),
        lambda: Sampling(0.5, by=""),
        lambda: Sampling(0.5, by=7),
    ],
)
def test_what_cannot_be_used_is_refused(make):
    """Numbers and names are checked when a filter is made."""
    with pytest.raises(ConfigError):
        make()


def test_the_words_of_a_lane_hold_the_counts():
    """There is a word for each way, below those of the drops."""
    assert seg.LEFT_OUT + len(seg.LEFT_OUT_WAYS) <= seg.DROPPED
