"""Reading a lane: everything once, in order; damage is stepped over and counted."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.codec import frame, wire
from femtomp.errors import CodecError
from femtomp.lanes import reader as readers
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Position
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan
from femtomp.testing import ManualClock
from tests.lanes.conftest import drain, payload_of

EPOCH = "0123456789abcdef01234567"
SEED = frame.seed(bytes.fromhex(EPOCH))


class Forge:
    """A lane made of bytes, as a writer that was killed, or a bad disk, leaves it."""

    def __init__(self, path, writer: int = seg.WRITER_WRITE) -> None:
        self.path = path
        self.writer = writer
        self.committed(0)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def committed(self, count: int) -> None:
        """Say in `.own` how many records have returned."""
        own = bytearray(seg.pack_own(bytes.fromhex(EPOCH), wire.encode(("who",))))
        for word in (seg.STARTED, seg.COMMITTED):
            struct.pack_into("<Q", own, seg.WORDS_AT + 8 * word, count)
        (self.path / f"{EPOCH}.own").write_bytes(own)

    def segment(self, number: int, body: bytes, writer: int | None = None) -> None:
        which = self.writer if writer is None else writer
        name = seg.segment_name(EPOCH, number)
        if number == seg.SIDE:
            which = seg.WRITER_WRITE
        data = bytearray(
            seg.pack_segment_header(bytes.fromhex(EPOCH), number, which) + body
        )
        if which == seg.WRITER_MMAP:
            struct.pack_into("<Q", data, seg.COMMIT_AT, len(data))
            data += bytes(4096 - len(data) % 4096)
        # Anew: ext4 flushes a file to disk that was cut to nothing before.
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_bytes(data)

    def lane(self, *, ended: bool = True) -> Lane:
        lane = Lane(self.descriptor, EPOCH)
        self.look(lane)
        lane.ended = lane.final = ended
        return lane

    def look(self, lane: Lane) -> None:
        scan(self.descriptor, {EPOCH: lane}, lambda _: None)
        lane.refresh()


@pytest.fixture(params=[seg.WRITER_WRITE, seg.WRITER_MMAP], ids=["write", "mmap"])
def forge(request, tmp_path):
    made = Forge(tmp_path, request.param)
    yield made
    os.close(made.descriptor)


def frames(values, first: int = 0) -> bytes:
    return b"".join(
        frame.encode(payload_of(v), n, SEED) for n, v in enumerate(values, first)
    )


def test_all_records_in_order_over_segments_and_side(lanes, kind, small_segments):
    """What was appended comes out once and in order, over any number of segments."""
    writer = lanes.open(kind)
    sent = [f"{n}" * 60 for n in range(300)]
    for value in sent:
        writer.append(payload_of(value))
    writer.append_side(payload_of("side"))
    lane = lanes.lane(writer.epoch)
    values, position, corrupt = drain(lane)
    assert [v for v in values if v != "side"] == sent
    assert values.count("side") == 1
    assert corrupt == 0
    assert not lane.is_behind(lane.normalised(position))
    assert lane.count(Position()) == 301
    assert lane.count(position) == 0


def test_reading_goes_on_where_it_stopped(lanes, kind, small_segments) -> None:
    """Records that come later are read from the position, whatever was read before."""
    writer = lanes.open(kind)
    lane = lanes.lane(writer.epoch)
    position, found = Position(), []
    for n in range(200):
        writer.append(payload_of(str(n) * 50))
        if n % 3 == 0:
            lanes.look(lane)
            values, position, _ = drain(lane, position)
            found += values
    lanes.look(lane)
    found += drain(lane, position)[0]
    assert found == [str(n) * 50 for n in range(200)]


def test_position_behind_each_frame_is_a_place_to_go_on(lanes, kind) -> None:
    """From behind any frame of a chunk exactly the frames after it are read."""
    writer = lanes.open(kind)
    for n in range(20):
        writer.append(payload_of(n))
    lane = lanes.lane(writer.epoch)
    chunk = lane.read(Position())
    for n, each in enumerate(chunk.frames):
        values, _, _ = drain(lane, Position(0, chunk.base + each.next))
        assert values == list(range(n + 1, 20))


def test_record_larger_than_a_chunk_is_read(lanes, kind) -> None:
    """A record of 4 MiB among small ones comes out whole."""
    writer = lanes.open(kind)
    large = "x" * (4 * 1024 * 1024 - 100)
    for value in ("before", large, "behind"):
        writer.append(payload_of(value))
    assert drain(lanes.lane(writer.epoch))[0] == ["before", large, "behind"]


def test_reader_beside_a_writer_misses_nothing(lanes, kind, small_segments) -> None:
    """A reader that looks all the time while a thread appends sees each record once."""
    writer = lanes.open(kind)
    lane = lanes.lane(writer.epoch)
    total = 3000
    thread = threading.Thread(
        target=lambda: [writer.append(payload_of(n)) for n in range(total)]
    )
    thread.start()
    position, found = Position(), []
    deadline = time.monotonic() + 20
    while len(found) < total and time.monotonic() < deadline:
        lanes.look(lane)
        values, position, corrupt = drain(lane, position)
        assert corrupt == 0
        found += values
    thread.join()
    assert found == list(range(total))


def test_reader_maps_nothing(forge, monkeypatch) -> None:
    """A lane is read without mapping it: its owner may cut the file short at any time,
    and what is behind the end of a mapped file is SIGBUS.
    """

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("mapped")

    forge.segment(0, frame.encode(payload_of("value"), 0, SEED))
    lane = forge.lane()
    monkeypatch.setattr(mmap, "mmap", refuse)
    assert drain(lane)[0] == ["value"]


@pytest.mark.parametrize("empty", [1, 2])
def test_empty_segments_are_stepped_over(forge, empty) -> None:
    """A segment that was made and never filled does not stop what is behind it."""
    forge.segment(0, frames(["a"]))
    for number in range(1, empty + 1):
        forge.segment(number, b"")
    forge.segment(empty + 1, frames(["b"], 1))
    lane = forge.lane()
    assert drain(lane)[0] == ["a", "b"]
    assert lane.count(Position()) == 2


def test_missing_segment_below_is_stepped_over(forge) -> None:
    """Segments that were unlinked behind every cursor do not stop a new one."""
    forge.segment(3, frames(["c"], 7))
    assert drain(forge.lane())[0] == ["c"]


def test_truncated_last_frame_is_not_a_record(tmp_path) -> None:
    """At every truncation of a dead writer's file the whole frames before it come out,
    nothing else does, and the lane is finished.
    """
    forge = Forge(tmp_path)
    body = frames(["first", "second"])
    first = len(frames(["first"]))
    for cut in range(len(body)):
        forge.segment(0, body[:cut])
        lane = forge.lane()
        values, position, _ = drain(lane)
        assert values == ["first"] * (cut >= first), cut
        assert not lane.is_behind(lane.normalised(position)), cut
    os.close(forge.descriptor)


def test_half_written_frame_of_a_live_writer_is_waited_for(tmp_path) -> None:
    """While its owner lives, a frame that is partly there is no damage: it is waited
    for, and read when it is whole.
    """
    forge = Forge(tmp_path)
    body = frames(["first", "second"])
    forge.segment(0, body[:-20])
    lane = forge.lane(ended=False)
    values, position, _ = drain(lane)
    assert values == ["first"]
    assert lane.read(position) is None
    forge.segment(0, body)
    forge.look(lane)
    lane.close()  # the file was written anew
    assert drain(lane, position)[0] == ["second"]
    os.close(forge.descriptor)


def test_flipped_bit_costs_one_record_and_is_counted(forge) -> None:
    """Of five records with any bit of the middle one flipped, four come out, and one is
    counted as corrupt; none is changed.
    """
    whole = [frames([v], n) for n, v in enumerate("abcde")]
    middle = len(whole[2])
    payload = len(payload_of("c"))
    for bit in range(middle * 8):
        if bit // 8 >= 16 + payload:
            continue  # padding, which is covered by nothing
        damaged = bytearray(whole[2])
        damaged[bit // 8] ^= 1 << bit % 8
        forge.segment(0, b"".join([*whole[:2], damaged, *whole[3:]]))
        forge.segment(1, b"")
        lane = forge.lane()
        values, _, corrupt = drain(lane)
        lane.close()
        assert values == list("abde"), bit
        assert corrupt == 1, bit


def test_every_damaged_record_is_counted(forge) -> None:
    """Of six records of which three neighbours are damaged, three are counted."""
    body = bytearray(frames("abcdef"))
    size = len(frames("a"))
    for n in (1, 2, 3):
        body[n * size + 20] ^= 1
    forge.segment(0, bytes(body))
    forge.segment(1, frames("g", 6))
    values, _, corrupt = drain(forge.lane())
    assert values == list("aefg")
    assert corrupt == 3


def test_missing_segment_is_counted(forge) -> None:
    """A segment that somebody deleted is missed by the next one's first sequence."""
    forge.segment(0, frames("ab"))
    forge.segment(2, frames("fg", 5))
    values, _, corrupt = drain(forge.lane())
    assert (values, corrupt) == (list("abfg"), 3)


@pytest.mark.parametrize("damaged", [False, True])
def test_who_is_new_to_a_lane_misses_nothing(forge, damaged) -> None:
    """Segments that were freed before a sink came are not lost to it."""
    body = bytearray(frames("fgh", 5))
    if damaged:
        body[20] ^= 1
    forge.segment(2, bytes(body))
    forge.segment(4, frames("k", 10))
    values, position, corrupt = drain(forge.lane())
    assert values == list("fghk")[damaged:]
    assert corrupt == 2
    assert position.sequence == 11


def test_what_is_there_twice_comes_once(forge) -> None:
    """Records that stand in a lane a second time, or too late, are not taken again:
    those that were passed over are counted already.
    """
    forge.segment(0, frames("abc") + frames("abc") + frames("fg", 5))
    forge.segment(1, frames("de", 3) + frames("h", 7))
    values, _, corrupt = drain(forge.lane())
    assert (values, corrupt) == (list("abcfgh"), 2)


def test_hostile_sequence_neither_stops_nor_overflows(forge) -> None:
    """A sequence that no segment can have is damage; a large one counts up to a limit."""
    large = seg.SIDE_SEQUENCE - 1
    forge.segment(0, frames("a") + frames("x", 1 << 63) + frames("b", 1))
    forge.segment(1, frames("c", large))
    values, position, corrupt = drain(forge.lane())
    assert values == ["a", "b", "c"]
    assert corrupt == readers.MAX_LOST
    assert position.sequence == large + 1


def test_record_that_returned_and_is_half_there_is_stepped_over(
    tmp_path, monkeypatch
) -> None:
    """With `write`, a cut frame of a live lane whose call had returned is damage."""
    clock = ManualClock()
    monkeypatch.setattr(readers, "time", clock)
    forge = Forge(tmp_path)
    forge.committed(2)
    body = bytearray(frames("abc"))
    body[len(frames("a")) + 1] ^= 0x40
    forge.segment(0, bytes(body))
    lane = forge.lane(ended=False)
    _, position, _ = drain(lane)
    clock.advance(readers.BAD_FRAME_GRACE_S * 1.1)
    assert drain(lane, position)[0] == ["c"]
    os.close(forge.descriptor)


@pytest.mark.parametrize("last", [True, False], ids=["last", "closed"])
def test_damaged_last_record_is_counted(forge, last) -> None:
    """A damaged record with none behind it in its segment was a record all the same."""
    forge.committed(2 + (not last))
    body = bytearray(frames("ab"))
    body[-10] ^= 1
    forge.segment(0, bytes(body))
    if not last:
        forge.segment(1, frames("c", 2))
    values, _, corrupt = drain(forge.lane())
    assert values == ["a"] + ["c"] * (not last)
    assert corrupt == 1


def test_damage_in_a_live_lane_is_stepped_over_after_a_while(
    forge, monkeypatch
) -> None:
    """A bad frame with others behind it is read again for 100 ms, then stepped over."""
    clock = ManualClock()
    monkeypatch.setattr(readers, "time", clock)
    body = bytearray(frames("abc"))
    body[len(frames("a")) + 18] ^= 1
    forge.segment(0, bytes(body))
    lane = forge.lane(ended=False)
    values, position, _ = drain(lane)
    assert values == ["a"]
    clock.advance(readers.BAD_FRAME_GRACE_S * 0.9)
    assert drain(lane, position)[0] == []
    clock.advance(readers.BAD_FRAME_GRACE_S * 0.2)
    values, _, corrupt = drain(lane, position)
    assert (values, corrupt) == (["c"], 1)


def test_damaged_length_in_a_live_lane_does_not_stop_it(forge, monkeypatch) -> None:
    """A length that reaches over the end, with frames behind it, is damage too."""
    forge.committed(3)
    clock = ManualClock()
    monkeypatch.setattr(readers, "time", clock)
    body = bytearray(frames("abc"))
    body[len(frames("a")) + 1] ^= 0x40
    forge.segment(0, bytes(body))
    lane = forge.lane(ended=False)
    values, position, _ = drain(lane)
    for _ in range(3):
        clock.advance(readers.BAD_FRAME_GRACE_S * 100)
        more, position, _ = drain(lane, position)
        values += more
    assert values == ["a", "c"]


@pytest.mark.parametrize(
    "number",
    [
        0,
        1,
    ],
)
def test_segment_that_cannot_be_opened_is_not_skipped(
    forge, monkeypatch, number
) -> None:
    """EMFILE and the like delay a lane; they never move its cursor over records."""
    for n in range(3):
        forge.segment(n, frames([n], n))
    lane = forge.lane()
    lane.close()
    real, broken = os.open, [True]

    def failing(path, *args, **kwargs):
        if broken[0] and str(path).endswith(f".{number}.seg"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    values, position, corrupt = drain(lane)
    broken[0] = False
    more, _, more_corrupt = drain(lane, position)
    assert corrupt + more_corrupt == 0
    assert values + more == [0, 1, 2]


@pytest.mark.parametrize("trap", ["symlink", "fifo", "directory", "hard link"])
def test_traps_are_not_read(forge, tmp_path_factory, trap) -> None:
    """What is no regular file of one name is not read; nothing blocks or raises."""
    outside = tmp_path_factory.mktemp("outside") / "secret"
    forge.segment(0, frames(["secret"]))
    inside = forge.path / f"{EPOCH}.0.seg"
    os.rename(inside, outside)
    match trap:
        case "symlink":
            inside.symlink_to(outside)
        case "fifo":
            os.mkfifo(inside)
        case "directory":
            inside.mkdir()
        case "hard link":
            os.link(outside, inside)
    lane = forge.lane()
    assert drain(lane)[0] == []
    assert lane.count(Position()) == 0


@pytest.mark.parametrize(
    "header",
    [
        b"",
        bytes(128),
        seg.pack_segment_header(bytes(12), 0, seg.WRITER_WRITE),
        seg.pack_segment_header(bytes.fromhex(EPOCH), 1, seg.WRITER_WRITE),
    ],
    ids=["none", "zeros", "another lane", "another number"],
)
def test_foreign_segment_is_not_read(tmp_path, header) -> None:
    """A file without the header of this segment of this lane gives no record."""
    forge = Forge(tmp_path)
    (tmp_path / f"{EPOCH}.0.seg").write_bytes(header + frames(["a"]))
    assert drain(forge.lane())[0] == []
    os.close(forge.descriptor)


@pytest.mark.parametrize("commit", [0, 1, 127, 129, 1 << 63, (1 << 64) - 1])
def test_hostile_commit_word_is_survived(tmp_path, commit) -> None:
    """Whatever the commit word says, reading ends, raises and forges nothing."""
    forge = Forge(tmp_path, seg.WRITER_MMAP)
    forge.segment(0, frames(["a"]))
    path = tmp_path / f"{EPOCH}.0.seg"
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, seg.COMMIT_AT, commit)
    path.write_bytes(data)
    values, _, _ = drain(forge.lane())
    assert values in ([], ["a"])
    os.close(forge.descriptor)


@pytest.mark.parametrize("offset", [0, 8, 1 << 40, (1 << 63) - 8])
def test_position_outside_the_segment_is_survived(forge, offset) -> None:
    """A cursor that lies outside of its file does not raise and invents no record."""
    forge.segment(0, frames(["a", "b"]))
    lane = forge.lane()
    values, _, _ = drain(lane, Position(0, offset, offset))
    assert set(values) <= {"a", "b"}


def test_own_file_is_checked(tmp_path) -> None:
    """A damaged `.own` is a CodecError, of whatever kind the damage is."""
    forge = Forge(tmp_path)
    forge.segment(0, b"")
    path = tmp_path / f"{EPOCH}.own"
    good = path.read_bytes()
    for at in (0, 9, 15, 25, 29, 513):
        data = bytearray(good)
        data[at] ^= 0x41
        path.write_bytes(data)
        lane = forge.lane()
        with pytest.raises(CodecError):
            lane.read_own()
        lane.close()
    for data in (b"", good[:100], good + b"x" * 10):
        path.write_bytes(data)
        lane = forge.lane()
        if len(data) < len(good):
            with pytest.raises(CodecError):
                lane.read_own()
        lane.close()
    os.close(forge.descriptor)


def test_undecodable_payload_is_an_error_in_its_place(forge) -> None:
    """A whole frame that holds no record comes out as the error that says why."""
    body = frames(["a"]) + frame.encode(b"no pickle", 1, SEED) + frames(["b"], 2)
    forge.segment(0, body)
    values, _, corrupt = drain(forge.lane())
    assert (values[0], values[2], corrupt) == ("a", "b", 0)
    assert isinstance(values[1], CodecError)


def test_reader_keeps_no_descriptor_after_close(forge) -> None:
    """A closed lane has released every file, and so has one that was let go of."""
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for n in range(3):
        forge.segment(n, frames([n], n))
    lane = forge.lane()
    assert drain(lane)[0] == [0, 1, 2]
    lane.read_own()
    lane.close(below=2)
    assert drain(lane, Position(2))[0] == [2]
    del lane
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_names_of_others_are_ignored(forge) -> None:
    """Files that are no lane's do not disturb the scan, and no lane lacks its owner."""
    forge.segment(0, frames(["a"]))
    for name in (
        "README",
        f".{EPOCH}.1.seg.tmp",
        f"{EPOCH}.01.seg",
        "f" * 24 + ".0.seg",
    ):
        (forge.path / name).write_bytes(b"junk")
    lanes: dict[str, Lane] = {}
    scan(forge.descriptor, lanes, lambda epoch: Lane(forge.descriptor, epoch))
    assert list(lanes) == [EPOCH]
    assert lanes[EPOCH].segments == (0,)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_arbitrary_damage_never_raises_nor_forges(tmp_path_factory, data) -> None:
    """Whatever part of a dead lane is overwritten, reading ends and what comes out was
    written, in order.
    """
    writer = data.draw(st.sampled_from([seg.WRITER_WRITE, seg.WRITER_MMAP]))
    forge = Forge(tmp_path_factory.mktemp("lane"), writer)
    sent = list(range(12))
    forge.segment(0, frames(sent[:6]))
    forge.segment(1, frames(sent[6:], 6))
    number = data.draw(st.sampled_from([0, 1]))
    path = forge.path / f"{EPOCH}.{number}.seg"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    content[at : at + len(junk)] = junk
    path.write_bytes(content)
    values, _, _ = drain(forge.lane())
    assert values == [v for v in sent if v in values]
    os.close(forge.descriptor)
