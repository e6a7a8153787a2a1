"""A batch: records of several lanes in order, and where each is from.

Pure: values in, values out. In: loaded chunks. Out: the merged records, and, once the
driver said how many of them it is done with, the cursor that each lane may move to.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.codec import wire
from femtomp.errors import CodecError
from femtomp.lanes.cursor import Counters, Cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from femtomp.lanes.chunk import Chunk, Found
    from femtomp.record import Record, Resource

DELIVER: Final = 0
FILTER: Final = 1
CORRUPT: Final = 2
OWN: Final = -1  # the source of a record that femtomp itself adds: of no lane


class Room:
    """What still fits into a batch that is being collected.

    Parameters
    ----------
    records : int
        No more lanes are asked when there are so many; the last one's are all taken.
    size : int
        Bytes of payload, before they are decoded. A record that is larger goes alone.
    """

    def __init__(self, records: int, size: int) -> None:
        self._records = records
        self._size = size
        self._is_empty = True

    @property
    def is_left(self) -> bool:
        """Whether another lane is to be asked."""
        return self._records > 0 and self._size > 0

    def cut(self, found: Found) -> Found | None:
        """Take what fits of the frames that were found; None if not even one does."""
        taken = found.within(self._size)
        if taken is None and self._is_empty:
            taken = found.first()
        if taken is None:
            self._size = 0  # the lane comes first in one of the next batches
            return None
        self._is_empty &= not taken.frames
        self._records -= len(taken.frames)
        # What did not fit ends the batch: the order of the lane's files stays.
        self._size = self._size - taken.size() if taken.after == found.after else 0
        return taken


class Stream(NamedTuple):
    """Consecutive frames of one file of one lane, and what is to become of each."""

    epoch: str
    base: Cursor  # the lane's cursor before the batch; its position normalised
    chunk: Chunk
    fates: list[int]
    records: list[Record]


class Batch(NamedTuple):
    """Records in the order they are written; `sources` gives each one's stream."""

    streams: list[Stream]
    records: list[Record]
    sources: list[int]


def sort_out(
    epoch: str,
    base: Cursor,
    chunk: Chunk,
    severity: int,
    resource: Resource,
    of_process: Callable[[int, str], Resource],
    damaged: Callable[[Exception], None],
) -> Stream:
    """Turn a chunk into records, without those below `severity` and the damaged."""
    fates: list[int] = []
    records: list[Record] = []
    prefix = f"{epoch}-"
    to_record = wire.to_record
    for frame, fields in zip(chunk.frames, chunk.fields, strict=True):
        try:
            if isinstance(fields, CodecError):
                raise fields
            record = to_record(
                fields, f"{prefix}{frame.sequence}", resource, of_process
            )
        except (CodecError, MemoryError, RecursionError) as exc:
            # One that is too large to be had has an end of its own, as a damaged one.
            damaged(exc)
            fates.append(CORRUPT)
            continue
        if record.severity_number < severity:
            fates.append(FILTER)
        else:
            fates.append(DELIVER)
            records.append(record)
    return Stream(epoch, base, chunk, fates, records)


def merge(streams: list[Stream], own: list[Record]) -> Batch:
    """Order the records: as in the lane within a stream, by time across streams."""
    if len(streams) == 1:
        records = streams[0].records
        return Batch(streams, own + records, [OWN] * len(own) + [0] * len(records))
    merged: list[Record] = []
    sources: list[int] = []
    keys: list[int] = []
    for index, stream in enumerate(streams):
        merged += stream.records
        sources += [index] * len(stream.records)
        # A clock that was set back must not change the order within a lane.
        keys += accumulate((r.timestamp for r in stream.records), max)
    order = sorted(range(len(merged)), key=keys.__getitem__)
    return Batch(
        streams,
        own + [merged[i] for i in order],
        [OWN] * len(own) + [sources[i] for i in order],
    )


def parts(batch: Batch, size: int) -> list[int]:
    """Return where to cut a batch's records so that no part has more payload.

    Returns
    -------
    list of int
        The number of records up to the end of each part; a larger record is one alone.
    """
    spans = [s.chunk.frames for s in batch.streams if s.chunk.frames]
    total = sum(frames[-1].next - frames[0].start for frames in spans)
    if total <= size:
        return [len(batch.records)]
    sizes = [_sizes(stream) for stream in batch.streams]
    ends: list[int] = []
    held = 0
    for index, source in enumerate(batch.sources):
        more = 0 if source == OWN else next(sizes[source])
        if held and held + more > size:
            ends.append(index)
            held = 0
        held += more
    return [*ends, len(batch.records)]


def _sizes(stream: Stream) -> Iterator[int]:
    """Yield the payload's size of each record that is to be delivered."""
    for frame, fate in zip(stream.chunk.frames, stream.fates, strict=True):
        if fate == DELIVER:
            yield frame.end - frame.start


class Step(NamedTuple):
    """How a lane's cursor moves: behind `after` in a file, and what that amounts to."""

    number: int
    after: int
    sequence: int
    counters: Counters


class Done(NamedTuple):
    """How many of a batch's records, from the first on, a sink is done with."""

    records: int = 0
    refused: int = 0  # of these


def progress(
    batch: Batch, done: Done, before: Done | None = None
) -> dict[str, list[Step]]:
    """Return how the cursors move from where `before` left them.

    Parameters
    ----------
    batch : Batch
    done, before : Done
        Now, and when this was asked last; None: it was not yet.

    Returns
    -------
    dict of str to list of Step
        By lane: segment and side file are two streams of it. A lane that did not move
        is not there.
    """
    moved: dict[str, list[Step]] = {}
    now = _steps(batch, done)
    then = [None] * len(now) if before is None else _steps(batch, before)
    for stream, step, earlier in zip(batch.streams, now, then, strict=True):
        if step is None or step == earlier:
            continue
        counters = step.counters
        if earlier is not None:
            counters = counters.minus(earlier.counters)
        moved.setdefault(stream.epoch, []).append(step._replace(counters=counters))
    return moved


def _steps(batch: Batch, done: Done) -> list[Step | None]:
    """Return for each stream how far it comes from its beginning."""
    records, refused = done
    whole = records >= len(batch.records)
    taken = [len(s.records) if whole else 0 for s in batch.streams]
    if not whole:
        for source in batch.sources[:records]:
            if source != OWN:
                taken[source] += 1
    steps: list[Step | None] = []
    for stream, count in zip(batch.streams, taken, strict=True):
        found = _all_of(stream) if whole else _first_of(stream, count)
        if found is None:
            steps.append(None)
            continue
        after, sequence, counters = found
        # Which of a batch's records were refused, a destination need not say.
        share = min(refused, counters.delivered)
        refused -= share
        counters = counters._replace(
            delivered=counters.delivered - share, refused=share
        )
        steps.append(Step(stream.chunk.number, after, sequence, counters))
    return steps


def _all_of(stream: Stream) -> tuple[int, int, Counters]:
    delivered = len(stream.records)
    damaged = stream.fates.count(CORRUPT)
    filtered = len(stream.fates) - delivered - damaged
    counters = Counters(delivered, filtered, corrupt=damaged + stream.chunk.corrupt)
    return stream.chunk.after, stream.chunk.sequence, counters


def _first_of(stream: Stream, count: int) -> tuple[int, int, Counters] | None:
    """Step behind the first `count` delivered records, and what lies before them."""
    if count == 0:
        return None
    tally = [0, 0, 0]
    index = -1
    while tally[DELIVER] < count:
        index += 1
        tally[stream.fates[index]] += 1
    counters = Counters(tally[DELIVER], tally[FILTER], corrupt=tally[CORRUPT])
    last = stream.chunk.frames[index]
    return stream.chunk.base + last.next, last.sequence + 1, counters
