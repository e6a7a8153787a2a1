"""Admission: what a sink takes beside its level, and what becomes of the rest."""

from __future__ import annotations

import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.config import ConsoleSink, FileSink, JournaldSink, OTLPSink
from femtomp.errors import CodecError, ConfigError
from femtomp.supervisor.admission import Admission
from femtomp.supervisor.batch import (
    CORRUPT,
    DELIVER,
    FILTER,
    Done,
    merge,
    progress,
    sort_out,
)
from femtomp.testing import CollectingSink, ManualClock
from tests.records import make
from tests.supervisor.test_batch import INFO, RESOURCE, chunk_of, fields
from tests.supervisor.test_pump import Counters, counters


def admission(clock=None, **options) -> Admission:
    made = Admission(
        ConsoleSink(name="sink", **options), (clock or ManualClock()).monotonic
    )
    made.load()
    return made


def stream(values: list):
    return sort_out(
        "e", None, chunk_of(values), INFO, RESOURCE, lambda *_: RESOURCE, lambda _: None
    )


def of(logger: str, level: int) -> tuple:
    return (*fields(1, level)[:4], logger, *fields(1)[5:])


@pytest.mark.parametrize(
    ("logger", "level", "kept"),
    [
        ("shop", 10, True),
        ("noisy.lib", 20, False),
        ("noisy.lib", 30, True),
        ("noisy.lib.deep", 20, False),
        ("noisy.library", 20, True),
        ("noisy", 20, True),
        ("noisy.lib.chatty", 50, False),
        ("noisy.lib.chatty.one", 50, False),
        ("", 20, True),
    ],
)
def test_the_longest_prefix_decides(logger, level, kept) -> None:
    """Of the loggers named, the nearest one above a record's own says its level."""
    chosen = admission(filter={"noisy.lib": "WARNING", "noisy.lib.chatty": "OFF"})
    found = chosen._takes(make(logger=logger, severity_number=level // 10 * 4 + 1))
    assert found is kept


def test_all_others_can_be_left_out() -> None:
    """The empty prefix stands for every logger that no other one names."""
    chosen = admission(filter={"": "OFF", "shop": 0})
    assert chosen._takes(make(logger="shop.cart"))
    assert not chosen._takes(make(logger="other"))


@pytest.fixture
def users_module(monkeypatch):
    module = types.ModuleType("users_filters")
    monkeypatch.setitem(sys.modules, "users_filters", module)
    return module


def test_a_function_decides(users_module) -> None:
    """What the user's function says no to is filtered; damage and level count before."""
    users_module.wanted = lambda record: record.body != "2"
    chosen = admission(filter="users_filters.wanted")
    found = chosen(
        stream([fields(1), fields(2), CodecError("x"), fields(4, 10), fields(5)])
    )
    assert found.fates == [DELIVER, FILTER, CORRUPT, FILTER, DELIVER]
    assert [r.body for r in found.records] == ["1", "5"]


def test_a_function_that_fails_keeps_the_record(users_module, capfd) -> None:
    """A record over which the filter raises is delivered, and it is said once."""

    def wanted(record):
        raise LookupError("no such key")

    users_module.wanted = wanted
    chosen = admission(filter="users_filters.wanted")
    for _ in range(3):
        assert len(chosen(stream([fields(1), fields(2)])).records) == 2
    said = capfd.readouterr().err
    assert said.count("LookupError: no such key") == 1
    assert "users_filters.wanted" in said


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("users_filters.nothing", "AttributeError"),
        ("no_such_module.f", "ModuleNotFoundError"),
        ("users_filters.__name__", "cannot be called"),
    ],
)
def test_a_function_that_is_not_there_is_refused(users_module, path, problem) -> None:
    """A filter that cannot be loaded is an error at the start, by its path."""
    with pytest.raises(ConfigError, match=problem) as caught:
        admission(filter=path)
    assert path in str(caught.value)


def test_a_rate_filters_what_is_over_it() -> None:
    """A burst passes, then so many a second; the rest is filtered and counted."""
    clock = ManualClock()
    chosen = admission(clock, rate=(2, 5))

    def passes(count: int) -> int:
        found = chosen(stream([fields(n) for n in range(count)]))
        assert found.fates.count(FILTER) == count - len(found.records)
        return len(found.records)

    assert passes(4) == 4
    assert passes(4) == 1
    clock.advance(1)
    assert passes(4) == 2
    assert passes(1) == 0
    clock.advance(1000)
    assert passes(10) == 5
    assert chosen.over_rate == 3 + 2 + 1 + 5


def test_a_rate_counts_only_what_the_filter_takes() -> None:
    """What is filtered anyway takes nothing of the rate."""
    chosen = admission(rate=(1, 1), filter={"noisy": "OFF"})
    found = chosen(stream([of("noisy", 20), of("shop", 20), of("noisy", 20)]))
    assert found.fates == [FILTER, DELIVER, FILTER]
    assert chosen.over_rate == 0


@given(
    st.lists(st.sampled_from(["kept", "level", "damaged", "off"])), st.integers(1, 5)
)
def test_everything_is_counted_once(kinds, burst) -> None:
    """Whatever a stream holds: delivered, filtered and corrupt make up all of it."""
    made = {
        "kept": fields(1), "level": fields(1, 10), "damaged": CodecError("x"),
        "off": of("noisy", 20),
    }  # fmt: skip
    chosen = admission(rate=(1, burst), filter={"noisy": "OFF"})
    found = chosen(stream([made[kind] for kind in kinds]))
    batch = merge([found], [])
    total = Counters()
    for step in progress(batch, Done(len(batch.records))).get("e", ()):
        total = total.plus(step.counters)
    assert sum(total) == len(kinds)
    assert total.delivered == min(burst, kinds.count("kept")) == len(found.records)
    assert total.corrupt == kinds.count("damaged")


def test_a_pump_counts_what_is_not_admitted(pool) -> None:
    """In the cursor's file, what a filter left out is filtered, for this sink alone."""
    from femtomp.supervisor.pump import Pump
    from femtomp.testing import wait_until

    writer = pool.worker()
    for n in range(10):
        pool.log(writer, n)
    sink = CollectingSink()
    pump = Pump("sink", INFO, lambda: sink, pool.members, None, admission(rate=(1, 4)))
    pump.start()
    pool.look()
    wait_until(lambda: all(m.is_drained() for m in pool.members.values()))
    pump.finish()
    pump.join(10)
    assert counters(pool) == Counters(delivered=4, filtered=6)


@pytest.mark.parametrize(
    "sink", [ConsoleSink, lambda **o: FileSink("a", **o), JournaldSink, OTLPSink]
)
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"filter": 7}, "filter must be a mapping"),
        ({"filter": "function"}, "filter must be a mapping"),
        ({"filter": "package:function"}, "filter must be a mapping"),
        ({"filter": {"a": "LOUD"}}, "unknown level 'LOUD'"),
        ({"filter": {7: "INFO"}}, "7 is not the name of a logger"),
        ({"rate": 0}, "rate must be"),
        ({"rate": -1}, "rate must be"),
        ({"rate": float("nan")}, "rate must be"),
        ({"rate": "fast"}, "rate must be"),
        ({"rate": True}, "rate must be"),
        ({"rate": (1,)}, "rate must be"),
        ({"rate": (1, 0)}, "rate must be"),
        ({"rate": (1, 2.5)}, "rate must be"),
    ],
)
def test_what_cannot_be_used_is_refused(sink, options, problem) -> None:
    """Every sink checks its filter and its rate when it is made."""
    with pytest.raises(ConfigError, match=problem):
        sink(**options)
