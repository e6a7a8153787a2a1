"""Files that somebody put into `lanes/`: left alone by name, never followed or waited for."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from pathlib import Path

import pytest

from femtomp.codec import frame
from femtomp.errors import CodecError
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Position
from femtomp.lanes.spool import Spool
from femtomp.supervisor import notes
from femtomp.supervisor.poller import Poller
from femtomp.supervisor.room import _size
from femtomp.supervisor.totals import read_totals
from tests.lanes.conftest import drain, payload_of
from tests.lanes.test_reader import EPOCH, Forge, frames

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


TRAPS = {
    "symbolic link": lambda path, target: path.symlink_to(target),
    "dangling link": lambda path, target: path.symlink_to(f"{target}.missing"),
    "hard link": lambda path, target: os.link(target, path),
    "pipe": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
    "socket": lambda path, _: os.mknod(path, 0o140600),
    "device": lambda path, _: os.mknod(path, 0o020600, os.makedev(1, 5)),
    "another user's": lambda path, target: (
        path.write_bytes(target.read_bytes()),
        os.chown(path, NOBODY, -1),
    ),
}


@pytest.fixture(params=TRAPS)
def trap(request, tmp_path_factory):
    """Replace a file by a trap that would lead to its content."""
    if os.geteuid() != 0 and request.param in ("device", "another user's"):
        pytest.skip("needs root")

    def spring(path: Path) -> None:
        target = tmp_path_factory.mktemp("outside") / "target"
        os.rename(path, target)
        TRAPS[request.param](path, target)

    return spring


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_trap_is_refused_by_name(tmp_path, trap, flags) -> None:
    """Each is an error that names the file and says what to do, and no descriptor leaks."""
    (tmp_path / "name").write_bytes(b"secret")
    trap(tmp_path / "name")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(CodecError, match=r"^name .*delete"):
        seg.open_regular(directory, "name", flags, owners=(os.geteuid(),))
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(directory)


@pytest.mark.parametrize("number", [0, 1, seg.SIDE])
def test_trap_hides_no_record_but_its_own(tmp_path, trap, number) -> None:
    """What stands in a segment's place is left alone, and the others are read."""
    forge = Forge(tmp_path)
    for n in (0, 1, 2):
        forge.segment(n, frames([n], n))
    forge.segment(seg.SIDE, frames(["side"], 9))
    trap(tmp_path / seg.segment_name(EPOCH, number))
    lane = forge.lane()
    values, _, _ = drain(lane)
    assert set(values) == {0, 1, 2, "side"} - {"side" if number == seg.SIDE else number}
    assert seg.segment_name(EPOCH, number) in lane.refused
    lane.close()
    os.close(forge.descriptor)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Give a spool and a poller over it, with what the poller says."""
    from femtomp.lanes import place

    said: list[str] = []
    monkeypatch.setattr(
        "femtomp.supervisor.poller.note", lambda _, text: said.append(text)
    )
    spool = place.create(tmp_path, "a", level=1, sinks=("file",), master={"pid": 1})
    yield Poller(spool, {}, lambda: None), Path(spool.path) / "lanes", said
    spool.close()


def write_lane(lanes: Path, epoch: str, bodies: list) -> None:
    """Put a whole lane there, as its worker would have."""
    from femtomp.codec import identity as identity_codec
    from femtomp.worker.identity import read_identity

    raw = bytes.fromhex(epoch)
    who = identity_codec.to_bytes(read_identity("worker"))
    (lanes / f"{epoch}.own").write_bytes(seg.pack_own(raw, who))
    body = b"".join(
        frame.encode(payload_of(b), n, frame.seed(raw)) for n, b in enumerate(bodies)
    )
    header = seg.pack_segment_header(raw, 0, seg.WRITER_WRITE)
    (lanes / f"{epoch}.0.seg").write_bytes(header + body)


GOOD = "aa" * 12


@pytest.mark.parametrize("kind", ["own", "cur", "0.seg"])
def test_planted_files_mute_no_other_lane(engine, trap, kind) -> None:
    """Beside a lane with a trap in it, others are found; what was found is said."""
    poller, lanes, said = engine
    for epoch in (EPOCH, GOOD):
        write_lane(lanes, epoch, ["a"])
    (lanes / f"{EPOCH}.cur").write_bytes(b"")
    trap(lanes / f"{EPOCH}.{kind}")
    for _ in range(3):
        poller._tend_at = 0.0
        poller.poll()
    assert drain(poller.members[GOOD].lane)[0] == ["a"]
    if kind == "cur":
        assert drain(poller.members[EPOCH].lane)[0] == ["a"]
    else:
        assert any(f"{EPOCH}.{kind} " in text and "delete" in text for text in said)
        assert kind != "own" or EPOCH not in poller.members


@root_only
def test_planted_lane_of_another_user_is_left_alone(engine) -> None:
    """A whole lane with a valid name, but a foreign owner, is not read."""
    poller, lanes, said = engine
    write_lane(lanes, EPOCH, ["planted"])
    for file in lanes.glob(f"{EPOCH}*"):
        os.chown(file, NOBODY, -1)
    poller.poll()
    assert poller.members == {}
    assert any(f"belongs to uid {NOBODY}" in text for text in said)


def test_planted_temporary_names_are_ignored(engine) -> None:
    """Names of half-made files lead to no lane, and stand in no writer's way."""
    poller, lanes, said = engine
    for name in (f".{EPOCH}.own.tmp", f".{EPOCH}.0.seg.tmp", f"{EPOCH}.own.tmp"):
        (lanes / name).symlink_to("/etc/passwd")
    os.mkfifo(lanes / f".{GOOD}.own.tmp")
    poller.poll()
    assert poller.members == {}
    assert said == []


def test_temporary_name_that_is_taken_is_not_followed(tmp_path) -> None:
    """A link under the temporary name is an error for the writer, and stays a link."""
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (tmp_path / ".name.tmp").symlink_to(target)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(FileExistsError):
        seg.create(directory, "name", b"content")
    os.close(directory)
    assert target.read_bytes() == b"untouched"


@pytest.mark.parametrize("what", ["pipe", "directory", "symbolic link"])
def test_a_new_engine_starts_over_planted_totals(engine, tmp_path, what) -> None:
    """What was put in the place of the statistics does not keep an engine from starting."""
    poller, lanes, _ = engine
    totals = lanes / ("f" * 24 + ".cur")
    totals.unlink()
    TRAPS[what](totals, tmp_path / "target")
    Poller(Spool(str(lanes.parent)), {}, lambda: None)
    assert totals.is_file()
    assert not totals.is_symlink()
    del poller


@root_only
def test_lanes_of_another_user_are_read_with_care(tmp_path) -> None:
    """Where the directory is the workers', a payload that would grow is not loaded."""
    forge = Forge(tmp_path)
    bomb = b"\x80\x05)" + b"2\x86" * 16 + b"."
    body = frames(["a"]) + frame.encode(bomb, 1, frame.seed(bytes.fromhex(EPOCH)))
    forge.segment(0, body)
    assert type(drain(forge.lane())[0][1]) is tuple
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, NOBODY, -1)
    values = drain(forge.lane())[0]
    assert values[0] == "a"
    assert isinstance(values[1], CodecError)
    os.close(forge.descriptor)


@pytest.mark.parametrize("kind", ["own", "0.seg", "side"])
def test_a_lease_is_that_files_alone(engine, kind) -> None:
    """A file with a lease on it is left alone by name; it is not waited for, the other
    lanes are read, and nobody takes it for something that is still to be opened.
    """
    poller, lanes, said = engine
    for epoch in (EPOCH, GOOD):
        write_lane(lanes, epoch, ["a"])
    (lanes / f"{EPOCH}.side").write_bytes(b"")
    leased = os.open(lanes / f"{EPOCH}.{kind}", os.O_RDWR)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        for _ in range(3):
            poller._tend_at = 0.0
            poller.poll()
        assert drain(poller.members[GOOD].lane)[0] == ["a"]
        assert sum(f"{EPOCH}.{kind} has a lease" in text for text in said) == 1
        poller.members.clear()
        assert poller.is_drained()
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, before)


def test_planted_lanes_by_the_thousand_fill_no_log(engine, monkeypatch) -> None:
    """The first ones are said by name, the rest under one key, which is rate limited."""
    poller, lanes, _ = engine
    keys = set()
    monkeypatch.setattr("femtomp.supervisor.poller.note", lambda key, _: keys.add(key))
    for number in range(100):
        (lanes / f"{number:024x}.own").write_bytes(b"")
    poller.poll()
    assert len(poller.damaged()) == 100
    assert len(keys) < 20


def test_the_name_of_the_sums_is_no_lanes(engine) -> None:
    """A lane that is called like the sums of all lanes is none."""
    poller, lanes, _ = engine
    write_lane(lanes, "f" * 24, ["a"])
    poller.poll()
    assert poller.members == {}


def test_numbers_of_a_lane_overflow_no_sum(engine) -> None:
    """Whatever a lane says of itself, it can be added to the sums, and read of them."""
    poller, lanes, _ = engine
    for epoch in (EPOCH, GOOD):
        write_lane(lanes, epoch, ["a"])
        with (lanes / f"{epoch}.own").open("r+b") as file:
            file.seek(seg.WORDS_AT)
            file.write(b"\xff" * 8 * seg.WORDS)
    poller.poll()
    for epoch, member in poller.members.items():
        poller._totals.add(epoch, member)
    assert read_totals(poller._spool.cursors).started() > 0


@pytest.mark.parametrize("pid", [-1, 1 << 31, 1 << 62])
def test_a_pid_that_is_none_is_no_identity(engine, pid) -> None:
    """A lane whose owner cannot be a process is left alone as damaged."""
    from femtomp.codec import identity as identity_codec
    from femtomp.worker.identity import read_identity

    poller, lanes, said = engine
    who = identity_codec.to_bytes(read_identity("worker")._replace(pid=pid))
    content = seg.pack_own(bytes.fromhex(EPOCH), who)
    (lanes / f"{EPOCH}.own").write_bytes(content)
    poller.poll()
    assert poller.members == {}
    assert any("not an identity" in text for text in said)


def test_a_first_sequence_that_no_record_has_is_not_begun_at(tmp_path) -> None:
    """Who is new to a lane whose first segments are gone believes no number there."""
    forge = Forge(tmp_path)
    forge.segment(1, frames(["a"], (1 << 64) - 1))
    position = forge.lane().normalised(Position())
    assert position.sequence < seg.SIDE_SEQUENCE
    os.close(forge.descriptor)


@pytest.mark.parametrize("number", [0, seg.SIDE])
def test_a_sparse_file_is_gone_through_no_further_than_writers_write(
    tmp_path, number
) -> None:
    """A file of a terabyte that holds nothing takes neither time nor room."""
    forge = Forge(tmp_path)
    path = tmp_path / seg.segment_name(EPOCH, number)
    if number == seg.SIDE:
        forge.segment(0, b"")
    forge.segment(number, frames(["a"]))
    os.truncate(path, 1 << 40)
    lane = forge.lane()
    assert max(lane.end[1:]) <= 1 << 30
    assert drain(lane)[0] == ["a"]
    assert _size(forge.descriptor, path.name) < 1 << 20
    os.close(forge.descriptor)


def test_hostile_numbers_in_an_own_file(tmp_path) -> None:
    """A length that lies is a CodecError, not a large read."""
    raw = bytes.fromhex(EPOCH)
    content = bytearray(seg.pack_own(raw, b"x"))
    struct.pack_into("<I", content, 24, 0xFFFFFFFF)
    with pytest.raises(CodecError):
        seg.unpack_own(bytes(content), raw)


def test_notes_are_limited(capfd) -> None:
    """A worker that plants files by the thousand fills no log: one line a key."""
    for _ in range(1000):
        notes.note("lane:planted", "left alone")
    assert capfd.readouterr().err.count("\n") == 1


def test_note_is_one_plain_line(capfdbinary) -> None:
    """What a note quotes can neither begin a line of its own nor drive a terminal."""
    notes.note("hostile", "name\nfemtomp[1]: all is well\x1b[2J\r\u2028")
    line = capfdbinary.readouterr().err
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert b"\x1b" not in line
    assert b"\r" not in line
