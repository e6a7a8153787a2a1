"""A record is refused for failing only where others pass meanwhile."""

from __future__ import annotations

import pytest

from femtomp.sinks import Delivered, RetryAfter
from femtomp.sinks.otlp import MAX_IN_A_ROW, OTLPDriver
from femtomp.sinks.otlp_answer import Answer
from tests.components import missing, require
from tests.records import batch

if missing("otlp") is None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

FAILED = Answer("failed", "HTTP 500")


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


class Collector:
    """A transport that fails with some records, or with all; its clock is by hand."""

    def __init__(self, *bad: str, answer: Answer = FAILED) -> None:
        self.bad = set(bad)
        self.answer = answer
        self.is_down = False
        self.now = 0.0
        self.own = 0
        self.taken: list[str] = []
        self.tried: list[list[str]] = []
        self.driver = OTLPDriver(self, monotonic=lambda: self.now, draw=lambda: 0.5)

    def send(self, data):
        """Take a request, or fail."""
        request = ExportLogsServiceRequest.FromString(data)
        logs = [
            record.body.string_value
            for worker in request.resource_logs
            for scope in worker.scope_logs
            for record in scope.log_records
        ]
        self.tried.append(logs)
        if self.is_down or self.bad & set(logs):
            return self.answer
        if logs[0].startswith("the collector is tried"):
            self.own += 1
            return Answer("accepted")
        self.taken += logs
        return Answer("accepted")

    def write(self, records):
        """Write once, as a pump does: what is left, and after which delay."""
        outcome = self.driver.write(records)
        if isinstance(outcome, RetryAfter):
            self.now += outcome.delay_s
            return records[outcome.accepted :], outcome
        return [], outcome

    def finish(self, records, limit_s: float):
        """Write until all is done with, or the time is up."""
        lost: dict = {}
        while records and self.now < limit_s:
            records, outcome = self.write(records)
            if not isinstance(outcome, Delivered | RetryAfter):
                lost[outcome.reason] = "all"
                continue
            for reason, number in outcome.refused.items():
                lost[reason] = lost.get(reason, 0) + number
        return records, lost


def test_guilty_record_is_refused_after_ten_tries_and_three_minutes() -> None:
    """All others pass at once and once; nothing is refused before its time."""
    collector = Collector("record 5")
    left, lost = collector.finish(batch(20), 179)
    assert (len(left), lost) == (15, {})
    others = [f"record {n}" for n in range(20) if n != 5]
    assert sorted(collector.taken) == sorted(others)
    assert collector.finish(left, 400) == ([], {"HTTP 500": 1})
    assert collector.tried.count(["record 5"]) >= 10
    assert 180 <= collector.now <= 220
    assert sorted(collector.taken) == sorted(others)


def test_record_that_passes_in_the_end_is_delivered() -> None:
    """What was a moment's fault of the collector costs nothing."""
    collector = Collector("record 0", "record 19")
    left, _ = collector.finish(batch(20), 100)
    collector.bad.clear()
    assert collector.finish(left, 400) == ([], {})
    assert sorted(collector.taken) == sorted(f"record {n}" for n in range(20))


@pytest.mark.parametrize("count", [1, 20, 2000])
def test_outage_refuses_nothing(count) -> None:
    """Where nothing passes all records wait, with few requests a try."""
    collector = Collector()
    collector.is_down = True
    records = batch(count)
    tries = 0
    while collector.now < 600:
        records, outcome = collector.write(records)
        tries += 1
        assert (outcome.accepted, outcome.refused) == (0, {})
    assert len(collector.tried) <= tries * 11 * MAX_IN_A_ROW
    collector.is_down = False
    assert collector.finish(records, 800) == ([], {})
    assert len(collector.taken) == count


def test_outage_in_the_midst_of_a_batch_refuses_nothing() -> None:
    """What passed before a record failed does not speak against the record."""
    collector = Collector()
    send = collector.send
    collector.answer = Answer("too large")
    collector.is_down = True

    def goes_down(data):
        answer = send(data)
        collector.answer = FAILED
        collector.is_down = len(collector.taken) > 0
        return answer

    collector.send = goes_down
    left, lost = collector.finish(batch(20), 3600)
    assert (len(left), lost) == (10, {})


def test_outage_while_a_record_is_looked_for_refuses_nothing() -> None:
    """That a request with it had failed before others passed is no proof."""
    collector = Collector("record 0")
    send = collector.send

    def goes_down(data):
        collector.is_down = bool(collector.taken)
        return send(data)

    collector.send = goes_down
    left, lost = collector.finish(batch(32), 3600)
    assert (len(left), lost) == (32, {})
    assert collector.taken == ["record 1"]


def test_outage_behind_a_guilty_record_refuses_no_other() -> None:
    """What passed before the outage speaks against that record alone."""
    collector = Collector("record 0")
    left, _ = collector.write(batch(64))
    collector.is_down = True
    records = left + [r._replace(uid=f"n-{r.uid}", body=f"new {r.body}") for r in left]
    left, lost = collector.finish(records, 3600)
    assert (len(left), lost) == (128, {})
    collector.is_down = False
    assert collector.finish(left, 7200) == ([], {"HTTP 500": 1})
    assert len(collector.taken) == len(set(collector.taken)) == 127


def test_lone_record_is_judged_by_one_of_our_own() -> None:
    """One that fails alone is kept while all fails, and read again with others."""
    collector = Collector("record 0")
    collector.is_down = True
    records = batch(3)
    left, lost = collector.finish(records[:1], 3600)
    assert (left, lost) == (records[:1], {})
    collector.is_down = False
    back = collector.now
    left, lost = collector.finish(records[:1], back + 150)
    assert (left, lost) == (records[:1], {}), "its time begins when others pass"
    assert collector.finish(records[:1], back + 400) == ([], {"HTTP 500": "all"})
    assert 1 <= collector.own <= 4


def test_collector_that_recovers_behind_a_failure_refuses_nothing() -> None:
    """Tries while it was down say nothing of the record."""
    collector = Collector()
    collector.is_down = True
    records = batch(1)
    collector.finish(records, 3600)
    send = collector.send

    def recovers(data):
        answer = send(data)
        collector.is_down = False
        return answer

    collector.send = recovers
    assert collector.finish(records, 3700) == ([], {})
    assert collector.taken == ["record 0"]


def test_others_are_asked_for_while_a_record_is_in_doubt() -> None:
    """They pass although one before them fails."""
    collector = Collector("record 0")
    records = batch(3)
    assert collector.write(records[:1])[0] == records[:1]
    assert collector.driver.wants_more
    assert collector.finish(records, 400) == ([], {"HTTP 500": 1})
    assert sorted(collector.taken) == ["record 1", "record 2"]


def test_memory_of_what_passed_outlives_a_batch_of_others() -> None:
    """A batch without the suspect, femtomp's own events, brings nothing twice."""
    collector = Collector("record 0")
    left, _ = collector.write(batch(5))
    events = [r._replace(uid=f"own-{n}", body="own") for n, r in enumerate(batch(1))]
    assert collector.write(events)[0] == []
    collector.bad.clear()
    assert collector.finish(left, 100) == ([], {})
    assert sorted(collector.taken) == sorted(
        [f"record {n}" for n in range(5)] + ["own"]
    )


def test_refused_records_are_counted_where_they_lie() -> None:
    """Those behind a suspect are reported when the batch comes to them, once."""
    collector = Collector("record 1")
    records = batch(8)
    taken = Answer("accepted")
    script = [FAILED, FAILED, taken, FAILED, FAILED, taken]
    script += [Answer("accepted", "too old", None, 3)]
    collector.send = lambda _data: script.pop(0)
    left, outcome = collector.write(records)
    assert (outcome.accepted, outcome.refused) == (2, {})
    assert len(left) == 6
    script.append(taken)
    assert collector.write(left)[1] == Delivered({"too old": 3})


@pytest.mark.parametrize("share", [20, 400])
def test_row_of_guilty_records_hides_no_good_one(share) -> None:
    """A hundred at the head of a batch, and some behind, are no outage: a record of
    femtomp's own passes.
    """
    bad = {f"record {n}" for n in (*range(100), *range(100, 400, share))}
    collector = Collector(*bad)
    left, lost = collector.finish(batch(400), 300)
    assert (left, lost) == ([], {"HTTP 500": len(bad)})
    assert len(collector.taken) == len(set(collector.taken)) == 400 - len(bad)
    assert collector.own <= 8


def test_many_guilty_records_are_told_apart() -> None:
    """More than fail in a row for an outage, with others between them."""
    bad = {f"record {n}" for n in range(0, 200, 10)}
    collector = Collector(*bad)
    left, lost = collector.finish(batch(200), 600)
    assert (left, lost) == ([], {"HTTP 500": 20})
    assert len(collector.taken) == len(set(collector.taken)) == 180
