"""What happens to sinks and workers is told to every sink, once."""

from __future__ import annotations

import pytest

from femtomp.record import Identity
from femtomp.supervisor.news import INTERVAL_S, MAX_WAITING, News, Outage

WHO = Identity(7, 1, 0, 0, "", "worker-1", "worker", "host", "")


@pytest.fixture(name="news")
def _news() -> News:
    return News(("a", "b"), {"service.name": "shop"})


def told(news: News, sink: str, severity: int = 0) -> list[str]:
    return [record.body for record in news.of(sink, severity)]


def test_every_sink_is_told_and_each_forgets_for_itself(news) -> None:
    """A sink that is down hears of it later; one that was told does not twice."""
    news.worker_died(WHO, "SIGKILL")
    records = news.of("a", 0)
    assert [r.event_name for r in records] == ["femtomp.worker.died"]
    assert records[0].resource["service.name"] == "shop"
    news.told("a", records)
    assert told(news, "a") == []
    assert told(news, "b") == ["worker worker-1 (pid 7) was killed by SIGKILL"]


def test_news_that_came_meanwhile_stay(news) -> None:
    """What happens while a sink is told is told next."""
    news.sink_down("b", "full")
    records = news.of("a", 0)
    news.sink_recovered("b", 2.0)
    news.told("a", records)
    assert told(news, "a") == ["sink b has recovered, it was down for 2.0 s"]


def test_levels_of_sinks_are_respected(news) -> None:
    """A sink for warnings is not told that all is well again."""
    news.sink_recovered("b", 2.0)
    news.sink_down("b", "full")
    assert told(news, "a", severity=13) == [
        "sink b is down: full; its records are kept"
    ]


def test_news_do_not_pile_up(news) -> None:
    """Of a sink that is down for long the newest wait."""
    for number in range(MAX_WAITING + 10):
        news.worker_died(WHO._replace(pid=number), "SIGKILL")
    assert len(news.of("a", 0)) == MAX_WAITING
    assert f"pid {MAX_WAITING + 9}" in told(news, "a")[-1]


def test_outage_begins_and_ends_once(news) -> None:
    """Each change is new once, and told with how long it was."""
    outage = Outage("a", news)
    assert outage.begin("gone", 100.0)
    assert not outage.begin("gone", 101.0)
    assert outage.is_on
    assert outage.end(104.5) == 4.5
    assert outage.end(105.0) is None
    assert not outage.is_on
    assert told(news, "b") == [
        "sink a is down: gone; its records are kept",
        "sink a has recovered, it was down for 4.5 s",
    ]


def test_sink_that_goes_up_and_down_is_not_told_each_time(news) -> None:
    """At most one pair of events an interval; the next one after it is complete."""
    outage = Outage("a", news)
    for number in range(10):
        outage.begin("gone", 100.0 + number / 2)
        outage.end(100.2 + number / 2)
    assert len(told(news, "b")) == 2
    outage.begin("gone", 100.0 + INTERVAL_S)
    outage.end(101.0 + INTERVAL_S)
    assert len(told(news, "b")) == 4


def test_what_came_while_a_sink_was_told_is_kept() -> None:
    """Of more than is kept, during a long outage, the newest are told after it."""
    news = News(["journald"], {})
    news.sink_down("journald", "it is stopped")
    first = news.of("journald", 0)
    for number in range(MAX_WAITING):
        news.sink_down("otlp", str(number))
    news.told("journald", first)
    assert len(news.of("journald", 0)) == MAX_WAITING


def test_what_a_sink_lost_is_told_to_the_others(news) -> None:
    """By reason, with the destination's words; the sink itself hears of it otherwise."""
    news.sink_lost("a", {"refused": 2, "evicted": 1}, "no such table")
    assert told(news, "a") == []
    (record,) = news.of("b", 17)
    assert record.event_name == "femtomp.sink.lost"
    assert record.body == ("sink a lost records: 2 refused, 1 evicted (no such table)")
    assert record.attributes["femtomp.lost.refused"] == 2


def test_an_outage_has_its_last_words_and_is_due_again(news) -> None:
    """What was said of it is said again after an interval, as it is by then."""
    outage = Outage("a", news)
    assert not outage.is_due(100.0, 60.0)
    outage.begin("gone", 100.0)
    outage.begin("no route", 130.0)
    assert outage.reason == "no route"
    assert not outage.is_due(159.0, 60.0)
    assert outage.is_due(160.0, 60.0)
    assert not outage.is_due(161.0, 60.0)
