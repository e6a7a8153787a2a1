"""Once a minute, on stderr: which sinks are down or lose records, since when, and why.

In: the pumps' outages, the counters. Out: a line a sink and minute, and none while all
is well. That a sink goes down, and that it is back, its pump says at once, to stderr
and to all sinks. Owner: the engine's main thread: a pump may hang in its destination.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Cursor
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from femtomp.supervisor.losses import Losses
    from femtomp.supervisor.members import Member
    from femtomp.supervisor.pump import Pump

INTERVAL_S: Final = 60.0
_LOOK_S: Final = 1.0
_WHEN: Final = "%Y-%m-%d %H:%M:%S"


class _Lost(NamedTuple):
    """Up to where a sink's losses were said, and when the next ones began."""

    counts: Mapping[str, int]
    since_s: float = 0.0
    said_at: float = -INTERVAL_S


class Reminders:
    """What was said of each sink, and when."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._lost: dict[str, _Lost] = {}

    def look(
        self, pumps: Sequence[Pump], losses: Losses, members: Mapping[str, Member]
    ) -> None:
        """Say what is due."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        for pump in pumps:
            outage = pump.outage
            if _begins_to_hang(pump, now) or outage.is_due(now, INTERVAL_S):
                count = _pending(pump.sink, members.values())
                since = time.strftime(_WHEN, time.localtime(outage.since_s))
                note(
                    f"{pump.sink}:down",
                    f"{pump.sink} is down since {since}: {outage.reason}; about "
                    f"{count} records wait for it",
                )
            counts = losses.of_sink(pump.sink)
            if counts is not None:
                self._look_for_losses(pump.sink, counts, losses, now)

    def _look_for_losses(
        self, sink: str, counts: Mapping[str, int], losses: Losses, now: float
    ) -> None:
        # What an engine before this one saw, it has said.
        said = self._lost.setdefault(sink, _Lost(counts))
        lost = {k: n - said.counts[k] for k, n in counts.items() if n > said.counts[k]}
        if not lost:
            return
        if not said.since_s:
            said = self._lost[sink] = said._replace(since_s=time.time())
        if now - said.said_at < INTERVAL_S:
            return
        words = ", ".join(f"{count} {why}" for why, count in lost.items())
        cause = losses.causes.get(sink, "") if "refused" in lost else ""
        since = time.strftime(_WHEN, time.localtime(said.since_s))
        note(
            f"{sink}:lost",
            f"{sink} lost {sum(lost.values())} records since {since}: {words}"
            f"{f' ({cause})' if cause else ''}; {sum(counts.values())} in all",
        )
        self._lost[sink] = _Lost(counts, said_at=now)


def _begins_to_hang(pump: Pump, now: float) -> bool:
    """Call a sink down whose driver does not come back; True if that is new."""
    called_at = pump.called_at
    if called_at is None or now - called_at < INTERVAL_S:
        return False
    is_new = pump.outage.begin("its write() has not returned", now)
    if pump.called_at != called_at:
        pump.outage.end(now)  # it has, in this very moment
        return False
    return is_new


def _pending(sink: str, members: Iterable[Member]) -> int:
    """Count, from the lanes' words, what a sink is not done with."""
    total = 0
    for member in members:
        counters = (member.cursors.cursors[sink] or Cursor()).counters
        try:
            kept = member.lane.word(seg.COMMITTED) + member.lane.word(seg.STARTED_SIDE)
        except (OSError, CodecError):
            continue  # the poller says so
        total += max(0, kept - sum(counters))
    return total
