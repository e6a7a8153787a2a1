"""Batches: order, and cursors that count every record exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.frame import Frame
from femtomp.errors import CodecError
from femtomp.lanes.chunk import Chunk, Found
from femtomp.lanes.cursor import Counters, Cursor, Position
from femtomp.lanes.segment import FRAMES_AT, SIDE
from femtomp.record import Record, Resource
from femtomp.supervisor.batch import (
    CORRUPT,
    DELIVER,
    FILTER,
    OWN,
    Batch,
    Done,
    Room,
    Stream,
    merge,
    parts,
    progress,
    sort_out,
)

RESOURCE = Resource({})
INFO, ERROR = 9, 17


def fields(time: int, level: int = 20) -> tuple:
    return (1, time, level, "L", "a", f"{time}", None, "f", 1, "f", 1, "t", None, None)


def chunk_of(values: list, number: int = 0, start: int = FRAMES_AT, corrupt=0) -> Chunk:
    frames = [
        Frame(32 * n + 16, 32 * n + 30, n, 32 * n + 32) for n in range(len(values))
    ]
    after = start + 32 * len(values) + (64 if corrupt else 0)
    return Chunk(number, frames, values, after, corrupt, start, len(values))


def stream_of(values: list, epoch: str = "e", severity: int = INFO, **where) -> Stream:
    return sort_out(
        epoch,
        Cursor(),
        chunk_of(values, **where),
        severity,
        RESOURCE,
        lambda *_: RESOURCE,
        lambda _: None,
    )


def reached(batch: Batch, done: int, refused: int, before=None) -> dict[str, Cursor]:
    """Return where the cursors of lanes that began at their bases stand afterwards."""
    moved = {}
    for epoch, steps in progress(batch, Done(done, refused), before).items():
        position, counters = Cursor()
        for step in steps:
            position = position.behind(step.number, step.after, step.sequence)
            counters = counters.plus(step.counters)
        moved[epoch] = Cursor(position, counters)
    return moved


def test_records_are_sorted_out_by_severity_and_damage() -> None:
    """What is below the level is filtered, what is damaged counted, the rest records."""
    seen: list[CodecError] = []
    chunk = chunk_of(
        [fields(1), fields(2, 10), CodecError("damaged"), ("short",), fields(5, 40)]
    )
    stream = sort_out(
        "e", Cursor(), chunk, INFO, RESOURCE, lambda *_: RESOURCE, seen.append
    )
    assert stream.fates == [DELIVER, FILTER, CORRUPT, CORRUPT, DELIVER]
    assert [r.body for r in stream.records] == ["1", "5"]
    assert [r.uid for r in stream.records] == ["e-0", "e-4"]
    assert len(seen) == 2


def test_streams_are_merged_by_time() -> None:
    """Records of several lanes come in the order of their times, the engine's first."""
    own = [Record(0, 9, "INFO", "femtomp", "own", {}, RESOURCE)]
    streams = [
        stream_of([fields(1), fields(4)], "a"),
        stream_of([fields(2), fields(3)], "b"),
    ]
    batch = merge(streams, own)
    assert [r.body for r in batch.records] == ["own", "1", "2", "3", "4"]
    assert batch.sources == [OWN, 0, 1, 1, 0]


def test_clock_that_is_set_back_keeps_the_order_of_a_lane() -> None:
    """Within one lane the order of the calls counts, whatever their times say."""
    streams = [
        stream_of([fields(50), fields(10), fields(60)], "a"),
        stream_of([fields(20), fields(55)], "b"),
    ]
    bodies = [r.body for r in merge(streams, []).records]
    assert bodies == ["20", "50", "10", "55", "60"]


def test_whole_batch_moves_behind_all_that_was_looked_at() -> None:
    """A batch that is done moves each lane behind its chunk, skipped bytes included."""
    stream = stream_of([fields(1), fields(2, 10)], corrupt=1)
    moved = reached(merge([stream], []), 1, 0)
    after = FRAMES_AT + 64 + 64
    assert moved == {
        "e": Cursor(Position(0, after, sequence=2), Counters(1, 1, corrupt=1))
    }


def test_batch_without_records_moves_too() -> None:
    """Where everything was filtered or damaged, the cursor moves behind it all."""
    stream = stream_of([fields(1, 10), CodecError("x")], severity=ERROR)
    moved = reached(merge([stream], []), 0, 0)
    expected = Cursor(
        Position(0, FRAMES_AT + 64, sequence=2), Counters(0, 1, corrupt=1)
    )
    assert moved == {"e": expected}


def test_accepted_prefix_moves_behind_what_lies_before() -> None:
    """After the first records of a batch, cursors stand behind exactly these and what
    was filtered before them.
    """
    one = stream_of([fields(1, 10), fields(2), fields(3, 10), fields(6)], "a")
    two = stream_of([fields(4), fields(5)], "b")
    batch = merge([one, two], [])
    assert reached(batch, 0, 0) == {}
    first = Cursor(Position(0, FRAMES_AT + 64, sequence=2), Counters(1, 1))
    assert reached(batch, 1, 0) == {"a": first}
    assert reached(batch, 2, 0) == {
        "a": first,
        "b": Cursor(Position(0, FRAMES_AT + 32, sequence=1), Counters(1)),
    }


def test_refused_records_are_counted_as_refused() -> None:
    """Of what is done, as many as were refused are counted so and not as delivered."""
    batch = merge([stream_of([fields(1), fields(2)], "a"), stream_of([fields(3)])], [])
    moved = reached(batch, 3, 2)
    total = moved["a"].counters.plus(moved["e"].counters)
    assert total == Counters(delivered=1, refused=2)


def test_segment_and_side_file_move_one_cursor() -> None:
    """The two files of one lane are two streams and one cursor."""
    segment = stream_of([fields(1), fields(3)])
    side = stream_of([fields(2)], number=SIDE)
    moved = reached(merge([segment, side], []), 2, 0)
    assert moved == {
        "e": Cursor(Position(0, FRAMES_AT + 32, FRAMES_AT + 32, 1), Counters(2))
    }


def test_engines_own_records_move_nothing() -> None:
    """A record that femtomp adds is of no lane: done with, it moves no cursor."""
    own = [Record(0, 9, "INFO", "femtomp", "own", {}, RESOURCE)]
    batch = merge([stream_of([fields(1)])], own)
    assert reached(batch, 1, 0) == {}
    assert reached(batch, 2, 0)["e"].counters == Counters(1)


VALUES = st.lists(
    st.one_of(
        st.builds(fields, st.integers(0, 50), st.sampled_from([10, 20, 40])),
        st.builds(lambda: CodecError("damaged")),
    ),
    max_size=8,
)


@st.composite
def batches(draw) -> Batch:
    streams = []
    for lane in range(draw(st.integers(1, 3))):
        for number in draw(st.sampled_from([(0,), (SIDE,), (2, SIDE)])):
            where = {"number": number, "corrupt": draw(st.integers(0, 1))}
            streams.append(stream_of(draw(VALUES), f"e{lane}", **where))
    own = draw(st.integers(0, 2))
    return merge(streams, [Record(0, 9, "", "", "own", {}, RESOURCE)] * own)


@given(batches(), st.data())
def test_counters_add_up_whatever_prefix_was_accepted(batch: Batch, data) -> None:
    """For every prefix and any number refused: what a cursor passed is counted once, no
    more and no less, and nothing behind it is.
    """
    done = data.draw(st.integers(0, len(batch.records)))
    refused = data.draw(st.integers(0, done))
    moved = reached(batch, done, refused)
    of_lanes = sum(source != OWN for source in batch.sources[:done])
    delivered = sum(c.counters.delivered + c.counters.refused for c in moved.values())
    assert delivered == of_lanes
    assert sum(c.counters.refused for c in moved.values()) == min(refused, of_lanes)
    for epoch, cursor in moved.items():
        passed = [0, 0, 0]
        skipped = 0
        for stream in batch.streams:
            if stream.epoch != epoch:
                continue
            chunk = stream.chunk
            side = chunk.number == SIDE
            behind = cursor.position.side if side else cursor.position.offset
            assert side or cursor.position.segment in (chunk.number, 0)
            for each, fate in zip(chunk.frames, stream.fates, strict=True):
                passed[fate] += chunk.base + each.next <= behind
            skipped += chunk.corrupt * (behind == chunk.after)
        counts = cursor.counters
        assert counts.delivered + counts.refused == passed[DELIVER]
        assert counts.filtered == passed[FILTER]
        assert counts.corrupt == passed[CORRUPT] + skipped
        assert (counts.evicted, counts.quarantined) == (0, 0)


@given(batches(), st.data())
def test_progress_grows_with_what_is_done(batch: Batch, data) -> None:
    """One record more never moves a cursor back, nor lowers a count."""
    done = data.draw(st.integers(0, len(batch.records)))
    before, behind = reached(batch, done, 0), reached(batch, done + 1, 0)
    for epoch, cursor in before.items():
        later = behind[epoch]
        assert cursor.position.offset <= later.position.offset
        assert cursor.position.side <= later.position.side
        assert all(a <= b for a, b in zip(cursor.counters, later.counters, strict=True))


@given(batches(), st.data())
def test_steps_of_a_batch_add_up(batch: Batch, data) -> None:
    """Committed in any number of steps, the sum is that of one."""
    done, refused, before = 0, 0, None
    sums: dict[str, Cursor] = {}
    ends = data.draw(st.lists(st.integers(0, len(batch.records)), max_size=4))
    for end in sorted({*ends, len(batch.records)}):
        refused += data.draw(st.integers(0, end - done))
        done = end
        for epoch, cursor in reached(batch, done, refused, before).items():
            counters = sums.get(epoch, Cursor()).counters.plus(cursor.counters)
            sums[epoch] = Cursor(cursor.position, counters)
        before = Done(done, refused)
    assert {e: c.counters for e, c in sums.items()} == {
        e: c.counters for e, c in reached(batch, done, refused).items()
    }


@given(batches())
def test_merging_keeps_every_record_and_each_lanes_order(batch: Batch) -> None:
    """A merged batch holds every record once, those of a stream in their order."""
    assert len(batch.records) == len(batch.sources)
    for index, stream in enumerate(batch.streams):
        own = [
            record
            for record, source in zip(batch.records, batch.sources, strict=True)
            if source == index
        ]
        assert own == stream.records


def found_of(*sizes: int, offset: int = FRAMES_AT) -> Found:
    frames, at = [], 0
    for number, size in enumerate(sizes):
        frames.append(Frame(at + 16, at + 16 + size, number, at + 16 + size))
        at += 16 + size
    return Found(0, offset, b"", frames, offset + at, len(sizes))


def test_room_takes_what_fits() -> None:
    """Frames are taken until the bytes are used up; what is left is for another batch."""
    room = Room(100, 1000)
    first = found_of(300, 300)
    assert room.cut(first) is first
    assert room.is_left
    cut = room.cut(found_of(200, 200, 200))
    assert cut is not None
    assert [f.sequence for f in cut.frames] == [0]
    assert (cut.after, cut.sequence) == (FRAMES_AT + 216, 1)
    assert not room.is_left
    assert room.cut(found_of(1)) is None


def test_record_larger_than_a_batch_goes_alone() -> None:
    """It is taken where nothing else is, and then nothing else is."""
    room = Room(100, 1000)
    cut = room.cut(found_of(5000, 1))
    assert cut is not None
    assert len(cut.frames) == 1
    assert not room.is_left
    room = Room(100, 1000)
    assert room.cut(found_of(10)) is not None
    assert room.cut(found_of(5000)) is None
    assert not room.is_left


def test_what_is_stepped_over_takes_no_room() -> None:
    """Damage between frames is passed on, and the next record may still be a large one."""
    room = Room(100, 1000)
    nothing = found_of()._replace(corrupt=1)
    assert room.cut(nothing) is nothing
    assert room.cut(found_of(5000)) is not None


@given(
    st.lists(st.lists(st.integers(1, 400), max_size=12), min_size=1, max_size=4),
    st.integers(1, 600),
)
def test_parts_hold_every_record_and_no_more_bytes(sizes, most) -> None:
    """Parts are consecutive and whole; of more than one record none is too large."""
    streams = []
    for lane, each in enumerate(sizes):
        found = found_of(*each)
        values = [fields(n, 10 if n % 5 == 4 else 20) for n in range(len(each))]
        chunk = Chunk(0, found.frames, values, found.after, 0, FRAMES_AT, len(each))
        streams.append(
            sort_out(
                f"{lane}", Cursor(), chunk, INFO, RESOURCE, lambda *_: RESOURCE,
                lambda _: None,
            )
        )  # fmt: skip
    own = [Record(1, 9, "INFO", "femtomp", "", {}, RESOURCE)]
    batch = merge(streams, own)
    ends = parts(batch, most)
    assert ends[-1] == len(batch.records)
    assert ends == sorted(set(ends))
    begin = 0
    for end in ends:
        held = [
            sizes[source][int(record.uid.partition("-")[2])]
            for record, source in zip(batch.records, batch.sources, strict=True)
            if source != OWN
        ]
        part = held[max(0, begin - 1) : end - 1]
        assert sum(part) <= most or len(part) == 1
        begin = end
