"""journald's rate limit: found out of its files, kept to or warned of."""

from __future__ import annotations

import pytest

from femtomp.config import JournaldSink
from femtomp.sinks import Delivered, RetryAfter, journald
from femtomp.sinks.journald import open_driver
from femtomp.sinks.journald_rate import Budget, budget_of_unit
from tests.records import batch, make
from tests.sinks.test_journald_driver import Listener

UNIT = "0::/system.slice/shop.service\n"
INFO, ERROR = 9, 17


def tree(root, *, cgroup=UNIT, files=(), links=()):
    """Make what a machine's /proc, /run and /etc would hold."""
    every = {"proc/self/cgroup": cgroup, **dict(files)}
    for name, text in every.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, value in links:
        path = root / "run/systemd/units" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(value)
    return str(root)


def limits(root, namespace=None):
    """Give unit, interval and burst as they were found."""
    budget = budget_of_unit(namespace, root)
    return budget and (budget.unit, budget.interval_s, budget.burst)


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        (UNIT, "shop.service"),
        ("1:name=systemd:/system.slice/shop.service\n4:memory:/x\n", "shop.service"),
        ("0::/user.slice/user-7.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/u.slice/user@7.service/app.slice/x.service", "user@7.service"),
    ],
)
def test_unit_is_found_by_the_control_group(tmp_path, cgroup, unit) -> None:
    """The first unit below the slices is the one whose limit counts."""
    assert limits(tree(tmp_path, cgroup=cgroup)) == (unit, 30.0, 10_000)


@pytest.mark.parametrize("cgroup", ["0::/\n", "0::/docker/1f\n", "4:memory:/a.service"])
def test_outside_of_a_unit_there_is_no_limit(tmp_path, cgroup) -> None:
    """Journald limits units alone."""
    assert limits(tree(tmp_path, cgroup=cgroup)) is None


def test_limits_of_the_unit_count_before_the_configuration(tmp_path) -> None:
    """What systemd tells journald of a unit is what journald does."""
    links = [
        ("log-rate-limit-interval:shop.service", "5000000"),
        ("log-rate-limit-burst:shop.service", "70"),
    ]
    files = {"etc/systemd/journald.conf": "RateLimitBurst=5\n"}
    root = tree(tmp_path, links=links, files=files)
    assert limits(root) == ("shop.service", 5.0, 70)


def test_configuration_counts_where_the_unit_says_nothing(tmp_path) -> None:
    """Files are read in the order of their names, the last one wins."""
    files = {
        "etc/systemd/journald.conf": "[Journal]\n#RateLimitBurst=1\nRateLimitBurst=2\n",
        "usr/lib/systemd/journald.conf.d/20.conf": "RateLimitBurst=3\n",
        "etc/systemd/journald.conf.d/10.conf": "RateLimitIntervalSec=1min\n",
        "etc/systemd/journald@a.conf": "RateLimitBurst=9\n",
    }
    root = tree(tmp_path, files=files)
    assert limits(root) == ("shop.service", 60.0, 3)
    assert limits(root, "a") == ("shop.service", 30.0, 9)


def test_no_limit_is_no_budget(tmp_path) -> None:
    """LogRateLimitIntervalSec=0 turns it off."""
    links = [("log-rate-limit-interval:shop.service", "0")]
    assert limits(tree(tmp_path, links=links)) is None


def test_what_is_above_the_limit_is_said_once(caplog) -> None:
    """The warning names the unit, the numbers and the line that ends it."""
    now = [0.0]
    budget = Budget("shop.service", 30.0, 3, clock=lambda: now[0])
    for _ in range(3):
        budget.spend(INFO)
        budget.spend(ERROR)
    assert not caplog.messages
    for _ in range(5):
        budget.spend(INFO)
    (said,) = caplog.messages
    for part in ("shop.service", "3 messages in 30 s", "LogRateLimitIntervalSec=0"):
        assert part in said


def test_window_ends(caplog) -> None:
    """After the interval there is a new budget."""
    now = [0.0]
    budget = Budget("shop.service", 30.0, 3, clock=lambda: now[0])
    for _ in range(9):
        for _ in range(3):
            assert not budget.is_spent(INFO)
            budget.spend(INFO)
        assert budget.is_spent(INFO)
        assert not budget.is_spent(ERROR)
        now[0] += 31
    assert not caplog.messages


def test_what_was_dropped_is_asked_for_some_windows_long() -> None:
    """A burst of once is no reason to ask the journal for ever."""
    clock = [1000.0]
    budget = Budget("shop.service", 30, 2, lambda: clock[0])
    for _ in range(2):
        budget.spend(9)
    assert not budget.was_exceeded
    budget.spend(9)
    assert budget.was_exceeded
    clock[0] += 250
    assert budget.was_exceeded
    clock[0] += 100
    assert not budget.was_exceeded


@pytest.mark.parametrize("choice", ["pace", "warn"])
def test_driver_keeps_what_is_above_the_limit_if_told_to(
    tmp_path, monkeypatch, choice
) -> None:
    """With "pace" the records wait; with "warn" they are sent."""
    budget = Budget("shop.service", 0.2, 5)
    monkeypatch.setattr(journald, "budget_of_unit", lambda _: budget)
    listener = Listener(tmp_path / "s")
    sink = JournaldSink(str(listener.path), rate_limit=choice)
    driver = open_driver(sink, stderr_fd=2, environ={})
    outcome = driver.write(batch(7))
    if choice == "warn":
        assert outcome == Delivered()
    else:
        assert isinstance(outcome, RetryAfter)
        assert outcome.accepted == 5
        assert driver.write([make(severity_number=ERROR)]) == Delivered()
    driver.close()
    listener.socket.close()
