"""Whatever a clock says, and whatever stands in a record for its time: one record."""

from __future__ import annotations

import decimal
import logging
import os
import time
from unittest import mock

import pytest

from femtomp.testing import check_lane
from femtomp.worker import capture
from tests.worker.test_handler import Shop


class Timeless(logging.LogRecord):
    """Its time cannot be had."""

    is_made = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.is_made = True

    @property
    def created(self) -> float:
        # Before Python 3.13 `logging` reads it while it makes the record.
        if self.is_made:
            raise ValueError
        return 0.0

    @created.setter
    def created(self, _: float) -> None:
        pass


TIMES = {
    "text": "noon",
    "none": None,
    "nan": float("nan"),
    "infinity": float("inf"),
    "decimal": decimal.Decimal("1.5"),
    "no decimal": decimal.Decimal("nan"),
    "before 1970": -1e9,
    "huge": 10**400,
    "object": object(),
    "list": [1],
    "mock": mock.MagicMock(),
}
CLOCKS = {
    "runs out": {"side_effect": [1.0]},
    "mock": {"return_value": mock.MagicMock()},
    "none": {"return_value": None},
    "number": {"return_value": 5},
    "before 1970": {"return_value": -(10**9)},
    "fails": {"side_effect": OSError(5, "no clock")},
}


@pytest.fixture(params=["mmap", "write"])
def shop(request, tmp_path):
    made = Shop(tmp_path, request.param)
    yield made
    made.close()


def counted(shop: Shop) -> int:
    """Return how many records the lanes hold, each checked against its counters."""
    lanes = shop.path / "lanes"
    return sum(len(check_lane(lanes, epoch).payloads) for epoch in shop.lanes())


@pytest.mark.parametrize("process", ["own", "another"])
@pytest.mark.parametrize("name", [*TIMES, "missing", "property"])
def test_a_records_time_may_be_anything(shop, name, process, capfd) -> None:
    """A record whose `created` is none, or cannot be compared, is delivered once."""
    kind = Timeless if name == "property" else logging.LogRecord
    record = kind("shop", 20, "p", 1, "odd", (), None)
    record.process = os.getpid() if process == "own" else 1
    if name == "missing":
        del record.created
    elif name in TIMES:
        record.created = TIMES[name]
    shop.logger.error("first")
    shop.logger.handle(record)
    shop.logger.error("last")
    assert shop.bodies() == ["first", "odd", "last"]
    assert counted(shop) == 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("clock", ["time", "time_ns", "monotonic", "monotonic_ns"])
@pytest.mark.parametrize("name", CLOCKS)
def test_a_clock_that_a_test_replaces(shop, name, clock, opened, capfd) -> None:
    """Whatever the functions of `time` return, or raise, a record is delivered."""
    records = [
        logging.LogRecord("shop", 20, "p", 1, "%d", (n,), None) for n in range(4)
    ]
    if opened:
        shop.logger.error("first")
    with mock.patch.object(time, clock, **CLOCKS[name]):
        for number, record in enumerate(records):
            record.created = 1e9 * number
            shop.logger.handle(record)
    shop.logger.error("last")
    assert shop.bodies() == [*["first"] * opened, "0", "1", "2", "3", "last"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("now", [-5, -(10**18), 0])
def test_a_clock_before_1970(shop, now, monkeypatch) -> None:
    """A machine whose clock was never set logs, and its records are counted."""
    monkeypatch.setattr(capture, "time_ns", lambda: now)
    shop.logger.error("early")
    (record,) = shop.records()
    assert (record.body, record.timestamp) == ("early", now)
    assert counted(shop) == 1
