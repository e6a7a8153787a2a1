"""A lane after the crash of the machine: any of its pages lost, or as they once were.

Nothing is promised of records then. What is left must not be taken for what it is not:
no wrong record, none twice, no cursor that was never written, and reading ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.codec import identity as identity_codec
from femtomp.errors import CodecError
from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import (
    Counters,
    Cursor,
    CursorFile,
    Position,
    read_cursors,
    sink_key,
)
from femtomp.lanes.reader import Lane
from tests.lanes.conftest import KINDS, Lanes, payload_of

PAGE = 4096
# Two pages and more: one may be lost and the other not.
SEGMENT_BYTES = 3 * PAGE
# A reader that takes more steps than there are places for a frame makes no progress.
MAX_STEPS = 20_000

# What is done: how many records are appended, or the cursor moved, or a look at the
# files as they are, which some pages may fall back to.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12), st.integers(0, 1500)),
        st.tuples(st.just("side"), st.integers(1, 4), st.integers(0, 1500)),
        st.tuples(st.just("pump"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)


class Lived(NamedTuple):
    """What a lane went through."""

    epoch: str
    states: list[dict[str, bytes]]  # of its files, the last one as it was at the end
    values: set[str]
    cursors: list[Cursor]


def live(path: Path, kind: str, steps: list[tuple[str, int, int]]) -> Lived:
    """Have a writer and an engine do things, and look at their files meanwhile."""
    lanes = Lanes(path)
    try:
        writer = lanes.open(kind)
        file = CursorFile(lanes.descriptor, writer.epoch, ("sink",))
        values, cursors, states = [], [], [_files(path)]
        for what, count, size in steps:
            if what in ("append", "side"):
                append = writer.append if what == "append" else writer.append_side
                for _ in range(count):
                    values.append(f"{len(values)}:{'x' * size}")
                    assert append(payload_of(values[-1]))
            elif what == "pump":
                for _ in range(count):
                    cursors.append(_pump(lanes.lane(writer.epoch), file))
            else:
                states.append(_files(path))
        states.append(_files(path))
        return Lived(writer.epoch, states, set(values), cursors)
    finally:
        lanes.close()


def _files(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in os.listdir(path)}


def _pump(lane: Lane, file: CursorFile) -> Cursor:
    cursor = file.cursors["sink"] or Cursor()
    position, counters = lane.normalised(cursor.position), cursor.counters
    for chunk in (lane.read(position), lane.read_side(position)):
        if chunk is not None:
            position = position.behind(chunk.number, chunk.after, chunk.sequence)
            counters = counters.plus(Counters(len(chunk.fields), corrupt=chunk.corrupt))
    file.commit("sink", Cursor(position, counters))
    return Cursor(position, counters)


def crash(lived: Lived, path: Path, draw) -> None:
    """Leave of each page what it was at some time, or nothing; of a name too."""
    last = lived.states[-1]
    for name, content in sorted(last.items()):
        if draw(st.integers(0, 9), "name") == 0:
            continue  # its directory entry was never written
        pages = []
        for at in range(0, len(content), PAGE):
            which = draw(st.integers(-1, len(lived.states) - 1), "page")
            if which < 0:
                pages.append(bytes(len(content[at : at + PAGE])))
                continue
            then = lived.states[which].get(name, b"")[at : at + PAGE]
            pages.append(then.ljust(len(content[at : at + PAGE]), b"\0"))
        kept = draw(st.integers(0, 9), "size")
        whole = b"".join(pages)
        # A file's size is written by itself: it may be an older one.
        then = (
            len(lived.states[kept].get(name, b"")) if kept < len(lived.states) else -1
        )
        (path / name).write_bytes(whole if then < 0 else whole[:then])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, data=st.data())
def test_whatever_pages_are_left(kind, steps, data) -> None:
    """From any mixture of old, new and zeroed pages come only records that were
    written, each once; cursors that were committed; and an end.
    """
    with (
        tempfile.TemporaryDirectory() as before,
        tempfile.TemporaryDirectory() as after,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("FIRST_BYTES", "SEGMENT_BYTES"):
            patch.setattr(writers, name, SEGMENT_BYTES)
        lived = live(Path(before), kind, steps)
        crash(lived, Path(after), lambda what, label: data.draw(what, label=label))
        descriptor = os.open(after, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _check(lived, descriptor)
        finally:
            os.close(descriptor)


def _check(lived: Lived, descriptor: int) -> None:
    cursor = read_cursors(descriptor, lived.epoch).get(sink_key("sink"))
    assert cursor is None or cursor in lived.cursors
    # The engine opens it for writing, and goes on.
    file = CursorFile(descriptor, lived.epoch, ("sink",))
    assert file.cursors["sink"] == cursor
    file.commit("sink", Cursor(Position(), Counters(delivered=1)))
    file.close()
    for start in (Position(), cursor.position if cursor else Position()):
        values = _drained(lived.epoch, descriptor, start)
        assert len(values) == len(set(values))
        assert set(values) <= lived.values


def _drained(epoch: str, descriptor: int, position: Position) -> list[object]:
    """Read as an engine does; a lane whose `.own` is damaged is left alone."""
    lane = _opened(epoch, descriptor)
    try:
        identity_codec.from_bytes(lane.read_own()[0])
    except (CodecError, OSError):
        return []
    values: list[object] = []
    for _ in range(MAX_STEPS):
        position = lane.normalised(position)
        chunks = [c for c in (lane.read(position), lane.read_side(position)) if c]
        if not chunks:
            assert not lane.is_behind(position)
            return values
        for chunk in chunks:
            values += [fields[0] for fields in chunk.fields]
            behind = position.behind(chunk.number, chunk.after, chunk.sequence)
            assert position != behind
            position = behind
    raise AssertionError("reading does not end")


def _opened(epoch: str, descriptor: int) -> Lane:
    lane = Lane(descriptor, epoch)
    names = os.listdir(descriptor)
    numbers = [int(n.split(".")[1]) for n in names if n.endswith(".seg")]
    lane.segments = tuple(sorted(numbers))
    lane.has_side = f"{epoch}.side" in names
    lane.refresh()
    lane.ended = lane.final = True
    return lane
