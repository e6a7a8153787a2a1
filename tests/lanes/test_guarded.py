"""The writer of root: nothing mapped, one user, and what somebody else cuts is given up."""

from __future__ import annotations

import mmap
import os

import pytest

from femtomp.codec import wire
from femtomp.lanes import segment as seg
from femtomp.lanes.writer import LaneLostError, open_writer, owned
from tests.lanes.conftest import drain, payload_of

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(name="writer")
def _writer(lanes):
    return lanes.open("guarded")


def descriptor_of(writer, which):
    return writer._known[which][0]


def test_it_maps_nothing(lanes, monkeypatch) -> None:
    """Neither the segments nor the words are mapped."""

    def mapped(*_, **__):
        raise AssertionError("mapped")

    monkeypatch.setattr(mmap, "mmap", mapped)
    writer = lanes.open("guarded")
    assert writer.append(payload_of("a"))
    assert drain(lanes.lane(writer.epoch))[0] == ["a"]


def test_frames_and_words_are_those_of_the_other_writers(lanes, writer) -> None:
    """What it writes is a lane as any other: frames, words and several segments."""
    count = 200
    for number in range(count):
        assert writer.append(payload_of((number, "x" * 1000)))
    assert len(lanes.payloads(writer)) == count
    writer.drop("io")
    lane = lanes.lane(writer.epoch)
    assert drain(lane)[0] == [(number, "x" * 1000) for number in range(count)]
    words = lane.read_own()[1]
    assert (words[seg.STARTED], words[seg.COMMITTED]) == (count, count)
    assert seg.drops(words)["io"] == 1
    assert len(lane.segments) > 1


def test_retired_lane_tells_its_writer(lanes, writer) -> None:
    """The engine's word is seen by the next append, and is never written over."""
    lane = lanes.lane(writer.epoch)
    descriptor = os.open(f"{lanes.path}/{writer.epoch}.own", os.O_RDWR)
    os.pwrite(descriptor, b"\1", seg.WORDS_AT + 8 * seg.RETIRED)
    writer.check()
    with pytest.raises(LaneLostError):
        writer.append(payload_of("a"))
    assert os.pread(descriptor, 1, seg.WORDS_AT + 8 * seg.RETIRED) == b"\1"
    os.close(descriptor)
    assert drain(lane)[0] == ["a"]


@pytest.mark.parametrize("which", ["segment", "own"])
def test_what_somebody_truncates_is_given_up(lanes, writer, which) -> None:
    """The next append says that the lane is lost; what was in it and is not is counted."""
    for number in range(3):
        writer.append(payload_of(number))
    os.ftruncate(os.dup(descriptor_of(writer, which)), 0)
    with pytest.raises(LaneLostError):
        writer.append(payload_of(3))
    assert writer.epoch not in owned
    lane = lanes.lane(writer.epoch)
    words = lane.read_own()[1]
    assert (words[seg.COMMITTED], words[seg.CLOSED]) == (3, 1)
    lane.ended = lane.final = True
    lane.refresh()
    values, _, corrupt = drain(lane)
    assert len(values) + corrupt == 3
    assert (values == [0, 1, 2]) == (which == "own")


def test_what_somebody_writes_over_comes_back(lanes, writer) -> None:
    """Words and identity that were written over are there again at the next look."""
    writer.append(payload_of("a"))
    before = writer.own_bytes()
    os.pwrite(descriptor_of(writer, "own"), bytes(4096), 0)
    writer.check()
    assert writer.own_bytes() == before


def test_frames_go_where_they_belong(lanes, writer) -> None:
    """Whoever shares the descriptors moves no frame by the place where they stand."""
    for number in range(20):
        os.lseek(descriptor_of(writer, "segment"), 7, os.SEEK_SET)
        assert writer.append(payload_of(number))
    assert drain(lanes.lane(writer.epoch))[0] == [*range(20)]


def test_no_frame_and_no_word_gets_into_a_users_file(writer, tmp_path) -> None:
    """Where user code closed the descriptors and opened others, these stay as they are."""
    users = []
    for which in ("own", "segment"):
        number = descriptor_of(writer, which)
        users.append(path := tmp_path / which)
        path.write_bytes(b"mine")
        taken = os.open(path, os.O_RDWR)
        os.dup2(taken, number)
        os.close(taken)
    with pytest.raises(LaneLostError):
        writer.append(payload_of("a"))
    assert [path.read_bytes() for path in users] == [b"mine", b"mine"]


def test_call_inside_a_call_is_kept(lanes, writer) -> None:
    """A record that is logged in the middle of an append goes to the side file."""
    writer._busy = True
    assert writer.append(payload_of("inside"))
    writer._busy = False
    assert writer.append(payload_of("after"))
    assert sorted(drain(lanes.lane(writer.epoch))[0]) == ["after", "inside"]


def test_record_behind_a_thrown_exception_is_numbered(lanes, writer) -> None:
    """One whose call was left by an exception behind the write is there once."""

    class ThrownError(Exception):
        pass

    real = writer.words

    class Words:
        def __getitem__(self, at):
            return real[at]

        def __setitem__(self, at, value):
            if at == seg.COMMITTED:
                raise ThrownError
            real[at] = value

    writer.words = Words()
    with pytest.raises(ThrownError):
        writer.append(payload_of("thrown"))
    writer.words = real
    assert writer.append(payload_of("next"))
    assert drain(lanes.lane(writer.epoch))[0] == ["thrown", "next"]


@root_only
def test_another_user_leaves_the_lane(lanes) -> None:
    """A process that becomes another user closes the lane, says so in it, and has no
    descriptor of it any more; root again, it needs another one.
    """
    writer = open_writer("guarded", lanes.descriptor, wire.encode(("who",)))
    writer.append(payload_of("as root"))
    known = writer.descriptors()
    os.seteuid(NOBODY)
    try:
        with pytest.raises(LaneLostError):
            writer.append(payload_of("as nobody"))
    finally:
        os.seteuid(0)
    assert not any(seg.is_known(each) for each in known)
    with pytest.raises(LaneLostError):
        writer.append(payload_of("as root again"))
    lane = lanes.lane(writer.epoch)
    assert lane.word(seg.CLOSED) == 1
    assert lane.is_orphaned()
    assert drain(lane)[0] == ["as root"]
