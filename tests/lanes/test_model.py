"""A lane against a plain list: whole records come out once, in order."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import Counters, Cursor, CursorFile, Position
from femtomp.lanes.segment import COMMITTED
from femtomp.lanes.writer import LaneLostError
from tests.lanes.conftest import (
    KINDS,
    SMALL_SEGMENT_BYTES,
    Lanes,
    drain,
    interrupt,
    payload_of,
)


class Thrown(BaseException):
    """Thrown into an append from outside."""


class Model(RuleBasedStateMachine):
    """A writer that may be killed or interrupted, and an engine that may be killed."""

    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="femtomp-model-"))
        self.lanes = Lanes(self.path)
        self.patch = pytest.MonkeyPatch()
        for name in ("SEGMENT_BYTES", "FIRST_BYTES"):
            self.patch.setattr(writers, name, SMALL_SEGMENT_BYTES)
        self.number = 0
        self.alive = True
        self.thrown = False
        # What was returned, in order; what may be there or not, as its call raised.
        self.kept: list[int] = []
        self.maybe: set[int] = set()
        self.read: list[int] = []
        self.side: set[int] = set()

    @initialize()
    def open(self) -> None:
        self.writer = self.lanes.open(self.kind)
        self.lane = self.lanes.lane(self.writer.epoch)
        self.reopen_cursor()

    def _value(self, size: int) -> tuple[int, bytes]:
        self.number += 1
        return self.number, payload_of((self.number, "x" * size))

    def _append(self, size: int) -> None:
        number, payload = self._value(size)
        try:
            assert self.writer.append(payload) is True
            self.kept.append(number)
        except LaneLostError:
            self._lost(number)

    def _lost(self, *numbers: int) -> None:
        """Another lane is needed: only an exception thrown in may bring that about."""
        assert self.thrown
        self.alive = False
        self.maybe.update(numbers)

    @precondition(lambda self: self.alive)
    @rule(size=st.integers(0, 1500), count=st.integers(1, 8))
    def append(self, size: int, count: int) -> None:
        for _ in range(count):
            if self.alive:
                self._append(size)

    @precondition(lambda self: self.alive)
    @rule(size=st.integers(5_000, 20_000))
    def append_large(self, size: int) -> None:
        self._append(size)

    @precondition(lambda self: self.alive)
    @rule(step=st.integers(1, 60))
    def append_inside_append(self, step: int) -> None:
        outer, payload = self._value(10)
        inner, inside = self._value(10)
        self.side.add(inner)
        try:
            if interrupt(
                lambda: self.writer.append(payload),
                step,
                lambda: self.writer.append(inside),
            ):
                self.kept.append(inner)
            self.kept.append(outer)
        except LaneLostError:
            self._lost(outer, inner)

    @precondition(lambda self: self.alive)
    @rule(step=st.integers(1, 12))
    def exception_inside_append(self, step: int) -> None:
        number, payload = self._value(10)

        def throw() -> None:
            raise Thrown

        try:
            interrupt(lambda: self.writer.append(payload), step, throw, at_calls=True)
        except Thrown:
            self.maybe.add(number)
            self.thrown = True
        except LaneLostError:
            self._lost(number)
        else:
            self.kept.append(number)

    @precondition(lambda self: self.alive)
    @rule(cut=st.floats(0, 1, exclude_max=True))
    def die_in_write(self, cut: float) -> None:
        """Kill the writer when a part of its last frame is in the file."""
        self.alive = False
        _, payload = self._value(40)
        last = self.lanes.lane(self.writer.epoch).segments[-1]
        path = self.path / f"{self.writer.epoch}.{last}.seg"
        before = path.read_bytes()
        try:
            self.writer.append(payload)
        except LaneLostError:
            assert self.thrown
            return
        if self.kind == "mmap":
            # What is not committed is not there, however much of it is stored.
            os.pwrite(fd := os.open(path, os.O_WRONLY), before[64:72], 64)
            os.close(fd)
        else:
            size = path.stat().st_size
            os.truncate(path, len(before) + int((size - len(before)) * cut))
        # Nor did the call return.
        self.writer.words[COMMITTED] -= 1
        newer = self.lanes.lane(self.writer.epoch).segments[-1]
        if newer != last:
            (self.path / f"{self.writer.epoch}.{newer}.seg").unlink()

    @rule()
    def pump(self) -> None:
        """Read and commit one chunk of each file, as a sink does."""
        self.lanes.look(self.lane)
        cursor = self.file.cursors["sink"] or Cursor()
        position = self.lane.normalised(cursor.position)
        counters = cursor.counters
        for chunk in (self.lane.read(position), self.lane.read_side(position)):
            if chunk is None:
                continue
            values = [fields[0][0] for fields in chunk.fields]
            self.read += values
            position = position.behind(chunk.number, chunk.after, chunk.sequence)
            counters = counters.plus(Counters(len(values), corrupt=chunk.corrupt))
        self.file.commit("sink", Cursor(position, counters))

    @rule()
    def reopen_cursor(self) -> None:
        """Kill the engine: only the files are left to go on from."""
        self.file = CursorFile(self.lanes.descriptor, self.writer.epoch, ("sink",))
        self.lane = self.lanes.lane(self.writer.epoch)

    @rule()
    def unlink_passed_segments(self) -> None:
        """Free what the cursor has passed, as the poller does."""
        cursor = self.file.cursors["sink"] or Cursor()
        self.lanes.look(self.lane)
        for number in self.lane.segments:
            if number < cursor.position.segment:
                (self.path / f"{self.writer.epoch}.{number}.seg").unlink()
        self.lane.close(below=cursor.position.segment)
        self.lanes.look(self.lane)

    def teardown(self) -> None:
        try:
            if hasattr(self, "writer"):
                self._check()
        finally:
            self.lanes.close()
            self.patch.undo()
            shutil.rmtree(self.path)
            gc.collect()

    def _check(self) -> None:
        self.lanes.look(self.lane)
        self.lane.ended = self.lane.final = True
        cursor = self.file.cursors["sink"] or Cursor()
        values, position, corrupt = drain(self.lane, cursor.position)
        everything = self.read + [value[0] for value in values]
        assert not self.lane.is_behind(self.lane.normalised(position))
        assert corrupt + cursor.counters.corrupt == 0
        assert cursor.counters.delivered == len(self.read)
        assert len(everything) == len(set(everything))
        assert set(self.kept) - set(everything) == set()
        assert set(everything) - set(self.kept) <= self.maybe
        ordered = [n for n in everything if n not in self.side]
        assert ordered == sorted(ordered)


def _of(kind: str) -> type:
    machine = type(f"Model_{kind}", (Model,), {"kind": kind})
    case = machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
    case.__doc__ = f"The {kind} writer's lane gives what was appended, once, in order."
    return case


TestMappedLane = _of(KINDS[0])
TestAppendingLane = _of(KINDS[1])


def test_position_is_the_start_by_default() -> None:
    """A model that begins nowhere would prove nothing."""
    assert Position() == Position(0, 128, 128)
