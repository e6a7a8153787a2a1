"""`femtomp.testing`: what users' tests stand on."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes import segment as seg
from femtomp.sinks import Delivered, Driver, Refused, RetryAfter
from femtomp.testing import (
    HOSTILE_RECORDS,
    CollectingSink,
    FailingSink,
    ManualClock,
    captured_records,
    check_lane,
    check_sink,
    wait_until,
)
from femtomp.worker.channel import channel
from tests import records as samples

pytest_plugins = ["pytester"]
logger = logging.getLogger("femtomp-tests")


def test_records_of_this_process_are_captured() -> None:
    """What is logged in the block is there at once, with its attributes and resource."""
    with captured_records() as records:
        assert len(records) == 0
        logger.info("sold %d", 3, extra={"item": "tea"})
        assert records[0].body == "sold 3"
        logger.debug("also this")
        assert [r.body for r in records] == ["sold 3", "also this"]
    assert records[0].attributes["item"] == "tea"
    assert records[0].resource["process.pid"] == os.getpid()
    assert [r.body for r in records[1:]] == ["also this"]
    assert "sold 3" in repr(records)


def test_nothing_is_captured_outside() -> None:
    """Before and behind the block nothing is captured, and all is as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, dict(os.environ)
    logger.error("before")
    with captured_records() as records:
        assert os.environ["FEMTOMP_SPOOL"]
    logger.error("behind")
    assert len(records) == 0
    assert (root.handlers, root.level, dict(os.environ)) == before


def test_level_and_logger_are_chosen() -> None:
    """Only the named logger's records of the level and above are captured."""
    with captured_records("WARNING", logger="femtomp-tests") as records:
        logger.info("low")
        logger.warning("high")
        logging.getLogger("other").error("other")
    assert [r.body for r in records] == ["high"]


def test_block_that_raises_restores_everything(monkeypatch) -> None:
    """An exception passes out of the block, and what was changed is restored."""
    monkeypatch.setenv("FEMTOMP_SPOOL", "/before")
    root = logging.getLogger()
    before = root.handlers[:], root.level
    captured = captured_records()
    records = captured.__enter__()
    logger.error("x")
    error = ZeroDivisionError()
    assert not captured.__exit__(ZeroDivisionError, error, None)
    assert (root.handlers, root.level) == before
    assert os.environ["FEMTOMP_SPOOL"] == "/before"
    assert [r.body for r in records] == ["x"]


def test_blocks_may_be_nested() -> None:
    """An inner block captures what is logged in it, as the outer one does."""
    with captured_records() as outer:
        logger.error("one")
        with captured_records() as inner:
            logger.error("two")
        logger.error("three")
    assert [r.body for r in inner] == ["two"]
    assert [r.body for r in outer] == ["one", "two", "three"]


def test_forked_children_are_captured() -> None:
    """A forked child's records are captured, though it ends without any hook."""
    with captured_records() as records:
        logger.info("parent")
        pid = os.fork()
        if not pid:
            logger.info("child")
            os._exit(0)
        os.waitpid(pid, 0)
        found = {r.body: r.resource["process.pid"] for r in records}
    assert found == {"parent": os.getpid(), "child": pid}


def _work(n: int) -> None:
    logging.getLogger("pool").info("task %d", n)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_any_start_method_are_captured(method) -> None:
    """Workers that were set up by `worker_init` are captured, spawned ones too."""
    context = multiprocessing.get_context(method)
    with (
        captured_records() as records,
        ProcessPoolExecutor(
            2, mp_context=context, initializer=femtomp.worker_init
        ) as pool,
    ):
        list(pool.map(_work, range(6)))
    found = [r for r in records if r.logger == "pool"]
    assert sorted(r.body for r in found) == [f"task {n}" for n in range(6)]


def test_no_descriptor_and_no_memory_is_kept() -> None:
    """Hundreds of uses leave no descriptor, no handler and no channel behind."""
    from femtomp.worker import channel as channels
    from femtomp.worker import handler as handlers

    with captured_records():
        logger.error("warm")
    gc.collect()
    sizes = lambda: (
        len(os.listdir("/proc/self/fd")),
        len(handlers._memo),
        len(channels._channels),
    )
    before = sizes()
    for _ in range(300):
        with captured_records() as records:
            logger.error("x")
            assert len(records) == 1
    gc.collect()
    assert sizes() == before


def test_fixture_captures(pytester, monkeypatch) -> None:
    """The pytest fixture of that name gives the records of its test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    pytester.makepyfile(
        """
        import logging

        def test_one(captured_records):
            logging.getLogger("a").info("one %d", 1)
            assert [r.body for r in captured_records] == ["one 1"]

        def test_other(captured_records):
            assert len(captured_records) == 0
        """
    )
    arguments = ["-p", "no:cacheprovider"]
    if not entry_points(group="pytest11", name="femtomp"):
        arguments += ["-p", "femtomp.pytest_plugin"]  # run from a tree, not installed
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=2)


def test_manual_clock_moves_when_told() -> None:
    """It stands still, moves by what is said or slept, and all its readings agree."""
    clock = ManualClock(100.0)
    assert clock.time() == clock.monotonic() == clock.perf_counter() == 100.0
    clock.advance(1.5)
    clock.sleep(0.5)
    assert clock.time_ns() == clock.monotonic_ns() == 102 * 10**9
    clock.advance(-2)
    assert clock.time() == 100.0


def test_collecting_sink_keeps_what_it_is_given() -> None:
    """Batches are kept in order, waiting ends when enough came, closing is noted."""
    sink = CollectingSink()
    assert isinstance(sink, Driver)
    assert sink.write(samples.batch(2)) == Delivered()
    assert sink.write(samples.batch(3)) == Delivered()
    assert sink.batches == [2, 3]
    assert [r.body for r in sink.wait(5)] == [f"record {n}" for n in (0, 1, 0, 1, 2)]
    with pytest.raises(TimeoutError, match="5 records of 6"):
        sink.wait(6, timeout=0)
    sink.close()
    assert sink.closed


def test_failing_sink_follows_its_script() -> None:
    """Outcomes are returned and exceptions raised in turn; then it delivers."""
    sink = FailingSink([Refused("no"), OSError("gone"), RetryAfter(1, "busy", 1)])
    batch = samples.batch(3)
    assert sink.write(batch) == Refused("no")
    with pytest.raises(OSError, match="gone"):
        sink.write(batch)
    assert sink.write(batch) == RetryAfter(1, "busy", 1)
    assert sink.write(batch[1:]) == Delivered()
    assert sink.records == batch


def test_check_sink_passes_good_drivers() -> None:
    """Drivers that keep their duties pass, whatever their destination says."""
    check_sink(CollectingSink)
    check_sink(lambda: FailingSink([Refused("no"), RetryAfter(0, "", 0)] * 50))


class _Raises(CollectingSink):
    def _outcome(self, batch):
        for record in batch:
            str(record.body).encode()
        return Delivered()


class _Mutates(CollectingSink):
    def _outcome(self, batch):
        batch.pop()
        return Delivered()


@pytest.mark.parametrize(
    "make",
    [
        _Raises,
        _Mutates,
        lambda: FailingSink([True]),
        lambda: FailingSink([1]),
        lambda: FailingSink([Delivered]),
        lambda: FailingSink([Delivered(3)]),  # type: ignore[arg-type]
        lambda: FailingSink([Refused(None)]),  # type: ignore[arg-type]
        lambda: FailingSink([RetryAfter(float("nan"))]),
        lambda: FailingSink([RetryAfter("1")]),  # type: ignore[arg-type]
        lambda: FailingSink([RetryAfter(0, "", 2)]),
        lambda: FailingSink([RetryAfter(0, "", -1)]),
        lambda: FailingSink([RetryAfter(-1, "")]),
        lambda: FailingSink([Delivered({"x": 2})]),
    ],
)
def test_check_sink_finds_bad_drivers(make) -> None:
    """A driver that raises, changes its batch or says impossible things fails."""
    with pytest.raises(AssertionError):
        check_sink(make)


def test_hostile_records_are_hostile() -> None:
    """The records that every driver must survive break the careless way."""
    broken = 0
    for record in HOSTILE_RECORDS:
        try:
            str(record).encode()
        except ValueError:
            broken += 1
    assert broken >= 1


def _lane(spool: str) -> tuple[Path, str, object]:
    writer = channel(spool)._lane
    assert writer is not None
    return Path(spool, "lanes"), writer.epoch, writer


def test_check_lane_reads_a_lane() -> None:
    """A sound lane's payloads, calls and drops are given."""
    with captured_records():
        for n in range(5):
            logger.error("%d", n)
        directory, epoch, _ = _lane(os.environ["FEMTOMP_SPOOL"])
        content = check_lane(directory, epoch)
    assert list(content.payloads) == list(range(5))
    assert (content.started, content.damaged) == (5, 0)
    assert set(content.dropped.values()) == {0}


def test_check_lane_finds_what_cannot_be() -> None:
    """A missing lane, and more records than calls, fail; damage is counted."""
    with captured_records():
        for n in range(3):
            logger.error("%d", n)
        directory, epoch, writer = _lane(os.environ["FEMTOMP_SPOOL"])
        with pytest.raises(AssertionError, match="there is no"):
            check_lane(directory, "0" * 24)
        path = directory / f"{epoch}.0.seg"
        data = bytearray(path.read_bytes())
        data[seg.FRAMES_AT + 20] ^= 1
        path.write_bytes(data)
        content = check_lane(directory, epoch)
        assert (list(content.payloads), content.damaged) == ([1, 2], 1)
        writer.words[seg.STARTED] = 1
        with pytest.raises(AssertionError, match="sequences"):
            check_lane(directory, epoch)


def test_wait_until_waits_and_gives_up() -> None:
    """What is true in the end is returned; what never is raises."""
    answers = iter([0, None, "yes"])
    assert wait_until(lambda: next(answers)) == "yes"
    with pytest.raises(TimeoutError):
        wait_until(lambda: False, timeout=0)
