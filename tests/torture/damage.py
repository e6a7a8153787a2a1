"""A lane's files cut at every byte, every bit flipped, pages zeroed, swapped and stale.

In: a small lane that a real writer left. Held to: no record comes out that was not
written, none twice, order kept, reading ends, and what is lost is counted, neither more
nor less.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.codec import frame, wire
from femtomp.codec import identity as identity_codec
from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import Position
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan
from femtomp.lanes.writer import open_writer
from femtomp.worker.identity import read_identity
from tests.torture.figures import Given, Outcome, Watch, misses

if TYPE_CHECKING:
    import random
    from pathlib import Path

RECORDS: Final = 12
PAGE_RECORDS: Final = 160
PAGE: Final = 4096
SMALL: Final = 1024
# A reader that makes no progress is a reader that never ends.
MAX_CHUNKS: Final = 10_000


class Kept(NamedTuple):
    """A lane at rest: the content of its files, and the records in order."""

    epoch: str
    kind: str
    files: dict[str, bytes]
    values: list[str]

    def segments(self) -> list[str]:
        """Name the files that hold records."""
        return sorted(
            (n for n in self.files if n.endswith(".seg")),
            key=lambda name: int(name.split(".")[1]),
        )


class Read(NamedTuple):
    """What a reader made of a damaged lane."""

    values: list[object]
    corrupt: int
    ended: bool


def make(directory: Path, kind: str, records: int, segment_bytes: int) -> Kept:
    """Have a real writer make a lane of several segments, and take its files."""
    before = writers.FIRST_BYTES, writers.SEGMENT_BYTES
    size = max(segment_bytes, PAGE) if kind == "mmap" else segment_bytes
    writers.FIRST_BYTES = writers.SEGMENT_BYTES = size
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        who = identity_codec.to_bytes(read_identity("worker"))
        writer = open_writer(kind, descriptor, who)
        values = [f"record {n} {'x' * (n * 7 % 60)}" for n in range(records)]
        for value in values:
            writer.append(wire.encode((value,)))
        epoch = writer.epoch
        writer.close()
    finally:
        os.close(descriptor)
        writers.FIRST_BYTES, writers.SEGMENT_BYTES = before
    names = [n for n in os.listdir(directory) if n.startswith(epoch)]
    return Kept(epoch, kind, {n: (directory / n).read_bytes() for n in names}, values)


class Bench:
    """A directory where a lane lies with one file damaged."""

    def __init__(self, kept: Kept, directory: Path) -> None:
        self.kept = kept
        self._directory = directory
        for name, content in kept.files.items():
            (directory / name).write_bytes(content)
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def read(self, name: str, content: bytes, *, ended: bool = True) -> Read:
        """Read the lane with a file's content replaced."""
        path = self._directory / name
        # Anew: ext4 flushes a file to disk that was cut to nothing before.
        path.unlink()
        path.write_bytes(content)
        try:
            return self._read(ended=ended)
        finally:
            path.write_bytes(self.kept.files[name])

    def _read(self, *, ended: bool) -> Read:
        epoch = self.kept.epoch
        lane = Lane(self._descriptor, epoch)
        try:
            scan(self._descriptor, {epoch: lane}, lambda _: None)
            lane.refresh()
            lane.ended = lane.final = ended
            return self._drain(lane)
        finally:
            lane.close()

    @staticmethod
    def _drain(lane: Lane) -> Read:
        position, values, corrupt = Position(), [], 0
        for _ in range(MAX_CHUNKS):
            position = lane.normalised(position)
            chunks = [c for c in (lane.read(position), lane.read_side(position)) if c]
            if not chunks:
                return Read(values, corrupt, not lane.is_behind(position))
            for chunk in chunks:
                for fields in chunk.fields:
                    if isinstance(fields, CodecError):
                        corrupt += 1
                    else:
                        values.append(fields[0])
                corrupt += chunk.corrupt
                position = position.behind(chunk.number, chunk.after, chunk.sequence)
        return Read(values, corrupt, ended=False)

    def close(self) -> None:
        """Let go of the directory and delete it."""
        os.close(self._descriptor)
        shutil.rmtree(self._directory)


class Tally:
    """What all damaged readings of one kind amounted to."""

    def __init__(self) -> None:
        self.cases = self.wrong = self.disordered = self.endless = 0
        self.lost = self.uncounted = self.overcounted = self.undamaged_lost = 0

    def add(self, kept: Kept, read: Read, lost_allowed: int | None = None) -> None:
        """Judge a reading; so many records lie where the damage is, if that is known."""
        self.cases += 1
        places = {value: n for n, value in enumerate(kept.values)}
        found = [places[v] for v in read.values if v in places]
        self.wrong += len(read.values) - len(found)
        self.disordered += found != sorted(set(found))
        self.endless += not read.ended
        lost = len(kept.values) - len(set(found))
        self.lost += lost
        self.uncounted += max(0, lost - read.corrupt)
        self.overcounted += max(0, read.corrupt - lost)
        if lost_allowed is not None:
            self.undamaged_lost += max(0, lost - lost_allowed)

    def outcome(self, fault: str, seconds: float, **more: bool) -> Outcome:
        """Give the line: `lost` is what was lost besides the damaged records."""
        worst = f"{self.lost} damaged records gone, each of them counted"
        missed = misses(
            never_a_wrong_record=self.wrong == 0,
            order_and_once=self.disordered == 0,
            never_a_stop=self.endless == 0,
            nothing_but_the_damaged_lost=self.undamaged_lost == 0,
            every_loss_counted=self.uncounted == 0,
            nothing_counted_that_was_there=self.overcounted == 0,
            **more,
        )
        return Outcome(
            fault, self.cases, self.undamaged_lost, self.disordered, worst, missed,
            seconds,
        )  # fmt: skip


def frames_touched(content: bytes, start: int, stop: int, seed: int) -> int:
    """Tell how many records of an undamaged segment lie in a stretch of it."""
    end = len(content)
    if seg.check_segment_header(content, *_of(content)) == seg.WRITER_MMAP:
        end = int.from_bytes(content[seg.COMMIT_AT : seg.COMMIT_AT + 8], "little")
    frames, _, _ = frame.split(content[:end], seg.FRAMES_AT, seed)
    begins = [seg.FRAMES_AT, *(f.next for f in frames)]
    return sum(
        1
        for begin, each in zip(begins, frames, strict=False)
        if begin < stop and start < each.next
    )


def _of(content: bytes) -> tuple[bytes, int]:
    return content[12:24], int.from_bytes(content[24:28], "little")


def run_truncation(given: Given) -> list[Outcome]:
    """Cut each segment of a lane at every byte, as a full or broken disk does."""
    return [_truncation(given, kind) for kind in ("write", "mmap")]


def _truncation(given: Given, kind: str) -> Outcome:
    watch, tally = Watch(), Tally()
    kept = make(given.below(f"made-{kind}"), kind, RECORDS, SMALL)
    bench = Bench(kept, given.below(f"cut-{kind}"))
    seed = frame.seed(bytes.fromhex(kept.epoch))
    for name in kept.segments():
        content = kept.files[name]
        for cut in _some(range(len(content)), given, f"{kind}{name}", 2000):
            allowed = frames_touched(content, cut, len(content), seed)
            if cut < 128:  # without its header none of a segment is believed
                allowed = RECORDS
            tally.add(kept, bench.read(name, content[:cut]), allowed)
    bench.close()
    return tally.outcome(f"cut at every byte ({kind})", watch.seconds())


def run_bit_flips(given: Given) -> list[Outcome]:
    """Flip every bit of each segment of a small lane."""
    return [_bit_flips(given, kind) for kind in ("write", "mmap")]


def _bit_flips(given: Given, kind: str) -> Outcome:
    watch, tally = Watch(), Tally()
    kept = make(given.below(f"made-{kind}"), kind, RECORDS, SMALL)
    bench = Bench(kept, given.below(f"flipped-{kind}"))
    seed = frame.seed(bytes.fromhex(kept.epoch))
    for name in kept.segments():
        content = kept.files[name]
        used = len(content)
        if kind == "mmap":
            used = int.from_bytes(content[seg.COMMIT_AT : seg.COMMIT_AT + 8], "little")
        for bit in _some(range(8 * used), given, f"{kind}{name}", 8 * 2000):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            allowed = frames_touched(content, bit // 8, bit // 8 + 1, seed)
            if bit // 8 < 128:
                allowed = RECORDS
            tally.add(kept, bench.read(name, bytes(damaged)), allowed)
    bench.close()
    return tally.outcome(f"every bit flipped ({kind})", watch.seconds())


def run_pages(given: Given) -> list[Outcome]:
    """Lose, swap and age whole pages, as a lost writeback does."""
    return [_pages(given, kind) for kind in ("write", "mmap")]


def _pages(given: Given, kind: str) -> Outcome:
    watch, tally = Watch(), Tally()
    kept = make(given.below(f"made-{kind}"), kind, PAGE_RECORDS, 4 * PAGE)
    older = make(given.below(f"older-{kind}"), kind, PAGE_RECORDS // 3, 4 * PAGE)
    bench = Bench(kept, given.below(f"pages-{kind}"))
    chance = given.chance(f"pages-{kind}")
    for name in kept.segments():
        for damaged in _paged(kept.files[name], older, chance):
            tally.add(kept, bench.read(name, damaged))
    bench.close()
    return tally.outcome(f"pages lost, swapped, stale ({kind})", watch.seconds())


def _paged(content: bytes, older: Kept, chance: random.Random) -> list[bytes]:
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    foreign = next(iter(older.files[n] for n in older.segments()))
    damaged: list[list[bytes]] = []
    for n, page in enumerate(pages):
        for other in (
            bytes(len(page)),  # never written back
            chance.randbytes(len(page)),
            foreign[:PAGE].ljust(len(page), b"\0")[: len(page)],  # of another lane
            # As it was before the later half of it was written.
            page[: len(page) // 2] + bytes(len(page) - len(page) // 2),
        ):
            damaged.append([*pages[:n], other, *pages[n + 1 :]])
        for m in range(n):
            swapped = list(pages)
            swapped[n], swapped[m] = swapped[m], swapped[n]
            damaged.append(swapped)
            doubled = list(pages)
            doubled[n] = doubled[m]
            damaged.append(doubled)
    return [b"".join(each) for each in damaged]


def _some(places: range, given: Given, salt: str, full: int) -> list[int]:
    """Take all places at full scale, and at a smaller one as many as it says."""
    count = min(len(places), given.count(full, least=30))
    return list(places) if count == len(places) else sorted(
        given.chance(salt).sample(places, count)
    )  # fmt: skip
