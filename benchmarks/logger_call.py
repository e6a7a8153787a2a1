"""`femtomp.get_logger()` beside `logging`: `python -m benchmarks.logger_call`.

Both log the same through femtomp's handler: two fields, a template with two arguments.
They take turns, a thousand calls each; the ratio is taken within each round, and the
median over the rounds is shown. The supervisor is stopped by SIGSTOP meanwhile: the lane
fills, and nobody competes for a core. The exit status is 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import psutil

import femtomp
from benchmarks.report import machine

if TYPE_CHECKING:
    from collections.abc import Callable

_MESSAGE = "request %s finished in %d us"
_USER, _PATH = 3_000_004_711, "/cart/checkout"
_CALLS = 1000
# What `get_logger().info` may cost, in `logging.Logger.info`s.
_GOAL_RATIO = 0.6
# From the fields to the payload, p50.
_GOAL_PAYLOAD_NS = 3000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        server = femtomp.start_server(femtomp.FileSink(Path(directory, "app.jsonl")))
        services = psutil.Process(server.pid).children()
        try:
            for service in services:
                service.suspend()
            met = _measure(server.spool, given.rounds)
            if dropped := sum(server.stats().dropped.values()):
                print(f"\n{dropped} records were dropped: the figures do not count")
        finally:
            for service in services:
                service.resume()
            server.stop()
    return 0 if met and not dropped else 1


def _measure(spool: Path, rounds: int) -> bool:
    standard = logging.getLogger("shop.cart")
    logging.getLogger().addHandler(femtomp.worker_handler(spool=spool))
    logging.getLogger().setLevel(logging.INFO)
    ours = femtomp.get_logger("shop.cart")
    bound = ours.bind(user_id=_USER, path=_PATH)

    def by_standard() -> None:
        standard.info(_MESSAGE, _PATH, 17, extra={"user_id": _USER, "path": _PATH})

    def by_ours() -> None:
        ours.info(_MESSAGE, _PATH, 17, user_id=_USER, path=_PATH)

    def by_bound() -> None:
        bound.info(_MESSAGE, _PATH, 17)

    def standard_disabled() -> None:
        standard.debug(_MESSAGE, _PATH, 17, extra={"user_id": _USER, "path": _PATH})

    def ours_disabled() -> None:
        ours.debug(_MESSAGE, _PATH, 17, user_id=_USER, path=_PATH)

    by_standard()
    ratio = _beside("two fields", by_standard, by_ours, rounds)
    _beside("two bound fields", by_standard, by_bound, rounds)
    _beside("level disabled", standard_disabled, ours_disabled, rounds)
    payload = _payload(ours, rounds)
    print(f"{'capture and encode, p50':24}{payload:20,.0f} ns")
    return ratio <= _GOAL_RATIO and payload <= _GOAL_PAYLOAD_NS


def _beside(
    title: str, peer: Callable[[], None], ours: Callable[[], None], rounds: int
) -> float:
    """Print and return the ratio of two calls' p50."""
    peers, mine = [], []
    for number in range(rounds):
        # Each is first in every second round.
        turns = [(peers, peer), (mine, ours)]
        for figures, call in turns if number % 2 else reversed(turns):
            figures.append(_p50(call))
    ratios = [m / p for m, p in zip(mine, peers, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{title:24}logging {statistics.median(peers):6,.0f} ns, "
        f"get_logger {statistics.median(mine):6,.0f} ns: {ratio:.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return ratio


def _payload(ours: femtomp.Logger, rounds: int) -> float:
    """Return the p50 of making a payload of a call's parts, two calls around it."""
    handler = femtomp.worker_handler()
    way, arguments = handler._channel, (_PATH, 17)
    fields = {"user_id": _USER, "path": _PATH}

    def log() -> None:  # two frames between, as the method and `_log` are
        inner()

    def inner() -> None:
        ours._payload(way, logging.INFO, _MESSAGE, arguments, fields)

    figures = []
    for _ in range(rounds):
        ours.info("the lane is looked after")
        figures.append(_p50(log))
    return statistics.median(figures)


def _p50(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_CALLS):
        begun = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
