"""The oracle: what was said to have returned, against what is there.

A worker logs records that a pure function of (seed, worker, number) makes, and tells a
shared word after each call that it returned: SIGKILL cannot take that back. What is
found is held to that function, so no damage can pass for a record.
"""

from __future__ import annotations

import json
import logging
import mmap
import sys
import time
from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from tests.processes.harness import Returned, fork

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from femtomp.record import Record

LOGGER = "torture"
# Of wrong records; one says more than their number.
SHOWN = 3


def text_of(seed: int, worker: int, number: int) -> str:
    """Give the record's body: of a length, and with content, that only it has."""
    digest = blake2b(b"%d/%d/%d" % (seed, worker, number), digest_size=32).hexdigest()
    return f"{worker} {number} {digest * (1 + int(digest[0], 16) // 4)}"


def log_one(log: logging.Logger, seed: int, worker: int, number: int) -> None:
    """Log one record of the generator."""
    extra = {"worker": worker, "number": number}
    log.info("%s", text_of(seed, worker, number), extra=extra)


def log_until_killed(
    returned: Returned, seed: int, worker: int, pause_s: float = 0.0, burst: int = 1
) -> None:
    """Log for ever: `burst` records, then a pause."""
    log = logging.getLogger(LOGGER)
    number = returned[worker]
    while True:
        for _ in range(burst):
            log_one(log, seed, worker, number)
            number += 1
            returned.set(worker, number)
        if pause_s:
            time.sleep(pause_s)


def log_for(returned: Returned, seed: int, worker: int, life_s: float) -> None:
    """Log for a while and return."""
    log = logging.getLogger(LOGGER)
    number, end = returned[worker], time.monotonic() + life_s
    while time.monotonic() < end:
        log_one(log, seed, worker, number)
        number += 1
        returned.set(worker, number)


def log_count(returned: Returned, seed: int, worker: int, count: int) -> None:
    """Log so many records and return."""
    log = logging.getLogger(LOGGER)
    first = returned[worker]
    for number in range(first, first + count):
        log_one(log, seed, worker, number)
        returned.set(worker, number + 1)


def forked(work, *args) -> int:
    """Fork a worker; what SIGKILL leaves of it is its lane and its shared word."""
    return fork(work, *args)


def log_stamped(returned: Returned, seed: int, worker: int, pause_s: float) -> None:
    """Log for ever, one record a pause, that says when it was logged."""
    log = logging.getLogger(LOGGER)
    number = returned[worker]
    while True:
        extra = {"worker": worker, "number": number, "stamp": time.time_ns()}
        log.info("%s", text_of(seed, worker, number), extra=extra)
        number += 1
        returned.set(worker, number)
        time.sleep(pause_s)


class Found(NamedTuple):
    """A record that was found somewhere."""

    uid: str
    worker: int
    number: int
    body: str


def in_file(path: Path) -> Iterator[Found]:
    """Give the records of a JSON lines file, without femtomp's own events."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                # What a sink that died had written of its line; the record is again
                # behind it.
                continue
            at = record.get("attributes")
            if at is None:
                yield Found("", -1, -1, "")  # a line that is no record
            elif "event_name" not in record and "worker" in at:
                yield Found(record["uid"], at["worker"], at["number"], record["body"])


def in_records(records: Iterable[Record]) -> Iterator[Found]:
    """Give those of the records that the generator made."""
    for record in records:
        at = record.attributes
        if "worker" in at:
            yield Found(record.uid, at["worker"], at["number"], str(record.body))


class Verdict:
    """What is there, held to what returned."""

    def __init__(self, seed: int, returned: Returned) -> None:
        self._seed = seed
        self._returned = returned
        self._uids = [array("Q") for _ in range(returned.workers)]
        self._last: dict[str, int] = {}
        # Calls that did not return, though later ones did: (worker, number).
        self.excused: set[tuple[int, int]] = set()
        self.found = self.duplicates = 0
        # Records that no worker made; that came with two uids; out of their order.
        self.wrong = self.renamed = self.disordered = 0

    def see(self, records: Iterable[Found]) -> Verdict:
        """Take in what one destination, or the lanes, hold."""
        for each in records:
            self._see(each)
        return self

    def _see(self, each: Found) -> None:
        if not 0 <= each.worker < len(self._uids) or each.body != text_of(
            self._seed, each.worker, each.number
        ):
            self._is_wrong(each, "no worker made it")
            return
        uids = self._uids[each.worker]
        if each.number >= len(uids):
            # No more than one call can have begun beyond those that returned.
            if each.number > self._returned[each.worker]:
                self._is_wrong(each, f"{self._returned[each.worker]} returned")
                return
            uids.extend([0] * (each.number + 1 - len(uids)))
        uid = hash(each.uid) & 0xFFFF_FFFF_FFFF_FFFF or 1
        if uids[each.number]:
            self.duplicates += 1
            self.renamed += uids[each.number] != uid
            return
        uids[each.number] = uid
        self.found += 1
        epoch, _, sequence = each.uid.rpartition("-")
        if int(sequence) < 1 << 63:
            self.disordered += int(sequence) <= self._last.get(epoch, -1)
            self._last[epoch] = int(sequence)

    def _is_wrong(self, each: Found, reason: str) -> None:
        self.wrong += 1
        if self.wrong <= SHOWN:
            print(f"wrong: {each!r:.400}: {reason}", file=sys.stderr)

    def rows(self, worker: int) -> array:
        """Give a word for each number of a worker: 0 if it is not there."""
        return self._uids[worker]

    @property
    def lost(self) -> int:
        """Count the records whose call returned and that are not there."""
        lost = 0
        for worker, count in enumerate(self._returned.all()):
            uids = self._uids[worker]
            lost += count - sum(1 for uid in uids[:count] if uid)
        return lost - sum(
            1
            for worker, number in self.excused
            if number >= len(self._uids[worker]) or not self._uids[worker][number]
        )

    def faults(self) -> dict[str, bool]:
        """Give the conditions that hold for every fault, for `misses`."""
        return {
            "no_record_lost": self.lost == 0,
            "no_wrong_record": self.wrong == 0,
            "equal_uids": self.renamed == 0,
            "order_within_a_lane": self.disordered == 0,
        }


def conserves(stats, verdict: Verdict, returned: Returned, sink: str = "file") -> dict:
    """Hold the statistics, which come from the files alone, to what was found.

    Nothing may be pending any more. Calls that were begun and never returned may have
    left a record or not.
    """
    of_sink = stats.sinks[sink]
    dropped = sum(stats.dropped.values())
    return {
        "returned <= committed + dropped": sum(returned.all())
        <= of_sink.committed + dropped,
        "committed + dropped <= started": of_sink.committed + dropped <= stats.started,
        f"delivered counts each record once (counted {of_sink.delivered}, found "
        f"{verdict.found})": of_sink.delivered == verdict.found,
        "nothing is pending": of_sink.pending == 0,
        "nothing was dropped": dropped == 0,
    }


class Latencies:
    """Durations of log calls, by worker, in a shared mapping that outlives them."""

    def __init__(self, workers: int, room: int) -> None:
        self._room = room
        self._words = memoryview(mmap.mmap(-1, 8 * (room + 1) * workers)).cast("Q")

    def add(self, worker: int, duration_ns: int) -> None:
        """Note one call's duration; what does not fit replaces the oldest."""
        base = (self._room + 1) * worker
        count = self._words[base]
        self._words[base + 1 + count % self._room] = duration_ns
        self._words[base] = count + 1

    def us(self, worker: int, quantile: float) -> float:
        """Give a quantile in microseconds, or 0 if nothing was noted."""
        base = (self._room + 1) * worker
        count = min(self._room, self._words[base])
        if not count:
            return 0.0
        values = sorted(self._words[base + 1 : base + 1 + count])
        return values[min(count - 1, int(count * quantile))] / 1000


def log_timed(
    returned: Returned, seed: int, worker: int, latencies: Latencies, slot: Returned,
    pause_s: float,
) -> None:  # fmt: skip
    """Log for ever, one record a pause; note how long each call took in `slot[0]`."""
    log = logging.getLogger(LOGGER)
    number = returned[worker]
    clock = time.perf_counter_ns
    while True:
        text = text_of(seed, worker, number)
        extra = {"worker": worker, "number": number}
        begun = clock()
        log.info("%s", text, extra=extra)
        took = clock() - begun
        number += 1
        returned.set(worker, number)
        latencies.add(slot[0], took)
        time.sleep(pause_s)
