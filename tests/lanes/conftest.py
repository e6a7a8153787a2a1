"""A directory of lanes for each test, and both writers."""

from __future__ import annotations

import opcode
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import femtomp
from femtomp.codec import identity as identity_codec
from femtomp.codec import wire
from femtomp.lanes import writer as writers
from femtomp.lanes.cursor import Position
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan
from femtomp.lanes.writer import LaneWriter, open_writer
from femtomp.testing import LaneContent, check_lane
from femtomp.worker.identity import read_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("mmap", "write", "guarded")
# The smallest that both writers can have: the mapped one counts in pages.
SMALL_SEGMENT_BYTES = 4096
_LANES = str(Path(femtomp.__file__).parent / "lanes") + os.sep


class Lanes:
    """A spool's `lanes/`, with what a worker and an engine do there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.writers: list[LaneWriter] = []

    def open(self, kind: str) -> LaneWriter:
        """Open a new lane for writing."""
        who = identity_codec.to_bytes(read_identity("worker"))
        writer = open_writer(kind, self.descriptor, who)
        self.writers.append(writer)
        return writer

    def lane(self, epoch: str, *, ended: bool = False) -> Lane:
        """Open a lane for reading, looked at once."""
        lanes: dict[str, Lane] = {epoch: Lane(self.descriptor, epoch)}
        scan(self.descriptor, lanes, lambda _: None)
        lanes[epoch].refresh()
        lanes[epoch].ended = ended
        return lanes[epoch]

    def look(self, lane: Lane) -> None:
        """Look again where a lane ends."""
        scan(self.descriptor, {lane.epoch: lane}, lambda _: None)
        lane.refresh()

    def content(self, writer: LaneWriter) -> LaneContent:
        """Give what the files hold, having checked them."""
        return check_lane(self.path, writer.epoch)

    def payloads(self, writer: LaneWriter) -> list[bytes]:
        """Give the payloads in order of their sequence."""
        return [payload for _, payload in sorted(self.content(writer).payloads.items())]

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        os.close(self.descriptor)


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    made = Lanes(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def interruptible(lanes: Lanes, kind: str, small_segments: int) -> None:
    """Have every instruction seen: 3.12 shows those of code that was traced before."""
    for _ in range(2):
        writer = lanes.open(kind)
        for call in (writer.append, writer.append, writer.append_side):
            interrupt(lambda call=call: call(b"x" * 3000), 0, lambda: None)


@pytest.fixture
def small_segments(monkeypatch) -> int:
    monkeypatch.setattr(writers, "FIRST_BYTES", SMALL_SEGMENT_BYTES)
    monkeypatch.setattr(writers, "SEGMENT_BYTES", SMALL_SEGMENT_BYTES)
    return SMALL_SEGMENT_BYTES


def known(request, condition: bool, reason: str) -> None:
    """Expect the calling test to fail, for a defect that is known."""
    if condition:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


def payload_of(value: object) -> bytes:
    """Give a payload that the reader can load."""
    return wire.encode((value,))


def drain(lane: Lane, position: Position | None = None) -> tuple[list, Position, int]:
    """Read all there is from a position: values, the position behind, and damage."""
    position = position or Position()
    values: list = []
    corrupt = 0
    while True:
        position = lane.normalised(position)
        chunks = [c for c in (lane.read(position), lane.read_side(position)) if c]
        if not chunks:
            return values, position, corrupt
        for chunk in chunks:
            values += [f[0] if isinstance(f, tuple) else f for f in chunk.fields]
            corrupt += chunk.corrupt
            position = position.behind(chunk.number, chunk.after, chunk.sequence)


def interrupt(
    call: Callable[[], object],
    step: int,
    action: Callable[[], object],
    *,
    at_calls: bool = False,
) -> bool:
    """Call, and do something before the given step of the lanes' code.

    A step is one bytecode instruction: there the collector and finalisers get in. With
    `at_calls`, only where the interpreter runs signal handlers and lets them raise:
    behind calls, at jumps back and where functions begin. False: there are fewer steps.
    """
    count = 0
    before_last: dict[int, int] = {}

    def trace(frame, event, _arg):
        nonlocal count
        if not frame.f_code.co_filename.startswith(_LANES):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            now = frame.f_code.co_code[frame.f_lasti]
            previous = before_last.get(id(frame), -1)
            before_last[id(frame)] = now
            if now == _HANDLING:
                pass  # a call has failed: nothing gets in here, and may not raise
            elif not at_calls or now in _CHECKED_AT or previous in _CHECKED_BEHIND:
                count += 1
                if count == step:
                    action()
        elif event == "return":
            before_last.pop(id(frame), None)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count >= step


# The first instruction of an `except`. What a trace function raises here leaves the
# thread with an exception that is being handled for ever.
_HANDLING = opcode.opmap["PUSH_EXC_INFO"]
_CHECKED_AT = {n for name, n in opcode.opmap.items() if name.startswith("JUMP_BACK")}
_CHECKED_BEHIND = {
    n
    for name, n in opcode.opmap.items()
    if name.startswith(("CALL", "RESUME")) and "INTRINSIC" not in name
}
