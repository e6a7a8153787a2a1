"""What one engine writes in its slots, the next one finds: whole, or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from femtomp.supervisor.slots import Slots

MAGIC = b"FMTPTEST"
SLOT_BYTES = 128
HEADER_BYTES = 64


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def open_slots(directory, *sinks: str, magic: bytes = MAGIC) -> Slots:
    return Slots(directory, "slots", magic, SLOT_BYTES, sinks)


def found(slots: Slots) -> dict[str, bytes]:
    return {sink: body.rstrip(b"\0") for sink, body in slots.found.items()}


def test_slots_survive(directory, tmp_path) -> None:
    """Each sink finds its own bytes, in whatever order the sinks are named."""
    first = open_slots(directory, "a", "b")
    assert first.found == {}
    first.write("a", b"old")
    first.write("a", b"new")
    first.write("b", b"other")
    second = open_slots(directory, "b", "more", "a")
    assert found(second) == {"a": b"new", "b": b"other"}
    assert second.epoch == first.epoch
    assert stat.S_IMODE((tmp_path / "slots").stat().st_mode) == 0o600


def test_slot_of_a_sink_that_is_gone_is_kept(directory) -> None:
    """A sink that comes back finds what it had left; nobody took its slot."""
    first = open_slots(directory, "a", "b")
    first.write("a", b"of a")
    first.write("b", b"of b")
    open_slots(directory, "new").write("new", b"of new")
    assert found(open_slots(directory, "new", "b", "a")) == {
        "a": b"of a", "b": b"of b", "new": b"of new",
    }  # fmt: skip


@pytest.mark.parametrize("at", range(0, SLOT_BYTES, 9))
def test_damaged_slot_is_none(directory, tmp_path, at) -> None:
    """A flipped bit, wherever, costs that slot and no other."""
    slots = open_slots(directory, "a", "b")
    slots.write("a", b"of a")
    slots.write("b", b"of b")
    content = bytearray((tmp_path / "slots").read_bytes())
    content[HEADER_BYTES + at] ^= 1
    (tmp_path / "slots").write_bytes(content)
    assert found(open_slots(directory, "a", "b")) == {"b": b"of b"}


@pytest.mark.parametrize("at", range(0, 28, 3))
def test_damaged_header_is_begun_anew(directory, tmp_path, at) -> None:
    """A file that cannot be trusted to be of this format is none."""
    first = open_slots(directory, "a")
    first.write("a", b"of a")
    content = bytearray((tmp_path / "slots").read_bytes())
    content[at] ^= 1
    (tmp_path / "slots").write_bytes(content)
    assert open_slots(directory, "a").found == {}


@pytest.mark.parametrize("size", range(0, HEADER_BYTES + SLOT_BYTES, 7))
def test_cut_file_works_again(directory, tmp_path, size) -> None:
    """Of a file that was cut nothing is found, and it can be written to."""
    slots = open_slots(directory, "a")
    slots.write("a", b"of a")
    os.truncate(tmp_path / "slots", size)
    again = open_slots(directory, "a")
    assert again.found == {}
    again.write("a", b"again")
    assert found(open_slots(directory, "a")) == {"a": b"again"}


def test_file_of_another_kind_is_begun_anew(directory) -> None:
    """What another file wrote is not taken for one's own."""
    first = open_slots(directory, "a")
    first.write("a", b"of a")
    second = open_slots(directory, "a", magic=b"FMTPELSE")
    assert second.found == {}
    assert second.epoch != first.epoch


def test_room_is_taken_at_once(directory, tmp_path) -> None:
    """All slots have their room from the start: no write needs more of the disk."""
    slots = open_slots(directory, "a", "b", "c")
    size = (tmp_path / "slots").stat().st_size
    slots.write("c", b"of c")
    assert (tmp_path / "slots").stat().st_size == size
