"""Cursors: one of two slots is whole whatever dies; position and counters together."""

from __future__ import annotations

import errno
import gc
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtomp.lanes import cursor as cursors
from femtomp.lanes.cursor import (
    Counters,
    Cursor,
    CursorFile,
    Position,
    read_cursors,
    sink_key,
)
from femtomp.lanes.segment import FRAMES_AT, SIDE

if TYPE_CHECKING:
    from pathlib import Path

EPOCH = "0123456789abcdef01234567"
SINKS = ("file", "otlp")


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def overwrite(path: Path, content: bytes) -> None:
    """Write in place: ext4 flushes a file to disk that was cut to nothing before."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def at(n: int) -> Cursor:
    """Give a cursor whose every number depends on n."""
    return Cursor(
        Position(n, FRAMES_AT + 8 * n, FRAMES_AT + 16 * n), Counters(*[n] * 6)
    )


def test_new_file_has_no_cursor(directory) -> None:
    """Before the first commit there is none, in memory and on disk."""
    assert CursorFile(directory, EPOCH, SINKS).cursors == {"file": None, "otlp": None}
    assert read_cursors(directory, EPOCH) == {}


def test_missing_file_has_no_cursor(directory) -> None:
    """A lane that no sink ever read has no cursor file, and that is no error."""
    assert read_cursors(directory, EPOCH) == {}


def test_commit_is_read_back(directory) -> None:
    """What was committed last is what the file says, for each sink by itself."""
    file = CursorFile(directory, EPOCH, SINKS)
    for n in range(1, 20):
        file.commit("file", at(n))
        if n % 3 == 0:
            file.commit("otlp", at(100 + n))
        found = read_cursors(directory, EPOCH)
        assert found[sink_key("file")] == at(n)
        if n >= 3:
            assert found[sink_key("otlp")] == at(100 + n // 3 * 3)


def test_reopened_file_goes_on(directory) -> None:
    """An engine that died goes on from the last commit, and the next one wins."""
    CursorFile(directory, EPOCH, SINKS).commit("otlp", at(7))
    for n in range(8, 12):
        file = CursorFile(directory, EPOCH, SINKS)
        assert file.cursors == {"file": None, "otlp": at(n - 1)}
        file.commit("otlp", at(n))
        file.close()


@pytest.mark.parametrize("order", [("otlp", "file"), ("new", "otlp"), ("a", "b", "c")])
def test_sinks_are_found_by_name(directory, order) -> None:
    """Sinks may be added, left out and reordered: each finds its own cursor."""
    file = CursorFile(directory, EPOCH, SINKS)
    file.commit("file", at(1))
    file.commit("otlp", at(2))
    again = CursorFile(directory, EPOCH, order)
    known = {"file": at(1), "otlp": at(2)}
    assert again.cursors == {name: known.get(name) for name in order}
    for n, name in enumerate(order):
        again.commit(name, at(50 + n))
    found = read_cursors(directory, EPOCH)
    for n, name in enumerate(order):
        assert found[sink_key(name)] == at(50 + n)
    for name in SINKS:
        if name not in order:
            assert found[sink_key(name)] == known[name]


@pytest.mark.parametrize("commits", [1, 2, 5])
def test_torn_commit_leaves_the_one_before(directory, tmp_path, commits) -> None:
    """A commit that was cut anywhere counts for nothing: the one before it holds."""
    path = tmp_path / f"{EPOCH}.cur"
    file = CursorFile(directory, EPOCH, ("file",))
    for n in range(commits):
        file.commit("file", at(n + 1))
    before = path.read_bytes()
    file.commit("file", at(99))
    behind = path.read_bytes()
    changed = [
        n
        for n in range(len(behind))
        if before.ljust(len(behind), b"\0")[n] != behind[n]
    ]
    for cut in changed:
        torn = behind[:cut] + before.ljust(len(behind), b"\0")[cut:]
        overwrite(path, torn)
        assert read_cursors(directory, EPOCH) == {sink_key("file"): at(commits)}, cut
    overwrite(path, behind)
    assert read_cursors(directory, EPOCH) == {sink_key("file"): at(99)}


def test_flipped_bit_goes_back_one_commit_at_most(directory, tmp_path) -> None:
    """Any flipped bit gives the last commit, the one before, or none; no mixture."""
    path = tmp_path / f"{EPOCH}.cur"
    file = CursorFile(directory, EPOCH, ("file",))
    file.commit("file", at(1))
    file.commit("file", at(2))
    good = path.read_bytes()
    for bit in range(0, len(good) * 8, 5):  # five: every bit of some byte
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        overwrite(path, damaged)
        found = read_cursors(directory, EPOCH)
        assert found in (
            {sink_key("file"): at(2)},
            {sink_key("file"): at(1)},
            {},
        ), bit
        assert bit < 64 * 8 or found, bit


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(64), bytes(10_000), b"\xff" * 600]
)
def test_foreign_file_is_begun_anew(directory, tmp_path, content) -> None:
    """A file that is no cursor file gives none, and is usable after opening it."""
    (tmp_path / f"{EPOCH}.cur").write_bytes(content)
    assert read_cursors(directory, EPOCH) == {}
    file = CursorFile(directory, EPOCH, SINKS)
    assert file.cursors == {"file": None, "otlp": None}
    file.commit("otlp", at(3))
    assert read_cursors(directory, EPOCH) == {sink_key("otlp"): at(3)}


def test_file_of_another_lane_is_not_believed(directory, tmp_path) -> None:
    """A cursor file that was copied from another lane gives no cursor."""
    CursorFile(directory, EPOCH, SINKS).commit("file", at(5))
    other = "f" * 23 + "e"
    (tmp_path / f"{other}.cur").write_bytes((tmp_path / f"{EPOCH}.cur").read_bytes())
    assert read_cursors(directory, other) == {}


TRAPS = {
    "symbolic link": lambda path, target: path.symlink_to(target),
    "hard link": lambda path, target: os.link(target, path),
    "pipe": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: (path / "full").mkdir(parents=True),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_stands_in_the_files_place_is_put_aside(directory, tmp_path, trap) -> None:
    """A trap is not read, written or waited for; the cursors get a file of their own."""
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    TRAPS[trap](tmp_path / f"{EPOCH}.cur", target)
    assert read_cursors(directory, EPOCH) == {}
    CursorFile(directory, EPOCH, SINKS).commit("file", at(5))
    assert read_cursors(directory, EPOCH)[sink_key("file")] == at(5)
    assert target.read_bytes() == b"untouched"
    assert len(list(tmp_path.glob(f".{EPOCH}.cur.*.refused"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_cursors_of_another_user_are_not_believed(directory, tmp_path) -> None:
    """A worker that may write in the directory cannot move the engine's cursors."""
    CursorFile(directory, EPOCH, SINKS).commit("file", at(5))
    os.chown(tmp_path / f"{EPOCH}.cur", 65534, -1)
    assert read_cursors(directory, EPOCH) == {}
    assert CursorFile(directory, EPOCH, SINKS).cursors["file"] is None


@pytest.mark.parametrize("written", [None, 0, 100, 255])
def test_failed_commit_raises_and_the_one_before_holds(
    directory, monkeypatch, written
) -> None:
    """Where a commit cannot be written, or only in part, it raises and counts for
    nothing; the next one holds.
    """
    file = CursorFile(directory, EPOCH, ("file",))
    file.commit("file", at(1))
    file.commit("file", at(2))
    real = os.pwrite

    def failing(descriptor, data, offset):
        if written is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:written], offset)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError):
        file.commit("file", at(3))
    assert file.cursors["file"] == at(2)
    assert read_cursors(directory, EPOCH) == {sink_key("file"): at(2)}
    monkeypatch.undo()
    file.commit("file", at(4))
    assert read_cursors(directory, EPOCH) == {sink_key("file"): at(4)}


def test_no_temporary_descriptor_is_kept(directory) -> None:
    """Reading keeps no descriptor open; a file lets go of its own."""
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    file = CursorFile(directory, EPOCH, SINKS)
    read_cursors(directory, EPOCH)
    del file
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_position_moves_in_one_file_at_a_time() -> None:
    """Behind a segment's frame the side's place stays, and the other way round."""
    start = Position()
    assert start.behind(4, 999, 7) == Position(4, 999, FRAMES_AT, 7)
    assert start.behind(SIDE, 999, 0) == Position(0, FRAMES_AT, 999)


def test_keys_of_names_differ() -> None:
    """Names that are close have keys that are not."""
    names = ["file", "file2", "File", "\0dropped", "é", ""]
    assert len({sink_key(n) for n in names}) == len(names)
    assert all(len(sink_key(n)) == 16 for n in names)


U64 = st.integers(0, (1 << 64) - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, (1 << 32) - 1),
            st.lists(U64, min_size=8, max_size=8),
        ),
        max_size=20,
    ),
    st.integers(0, 19),
)
def test_any_sequence_of_commits_and_deaths(tmp_path_factory, commits, dies_at) -> None:
    """After any commits and a reopening in between, each sink has its last cursor."""
    path = tmp_path_factory.mktemp("cursors")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = CursorFile(descriptor, EPOCH, ("a", "b", "c"))
        model: dict[str, Cursor] = {}
        for number, (sink, segment, values) in enumerate(commits):
            if number == dies_at:
                file = CursorFile(descriptor, EPOCH, ("c", "a", "b"))
            cursor = Cursor(Position(segment, *values[:2]), Counters(*values[2:]))
            file.commit(sink, cursor)
            model[sink] = cursor
        expected = {sink_key(s): c for s, c in model.items()}
        assert read_cursors(descriptor, EPOCH) == expected
        assert {s: c for s, c in file.cursors.items() if c} == model
    finally:
        os.close(descriptor)


def test_every_sink_that_may_be_is_read_back(directory) -> None:
    """As many sinks as the format allows are committed and read back."""
    names = tuple(f"s{n}" for n in range(cursors.MAX_SINKS))
    file = CursorFile(directory, EPOCH, names)
    for n, name in enumerate(names):
        file.commit(name, at(n))
    assert CursorFile(directory, EPOCH, names).cursors == {
        name: at(n) for n, name in enumerate(names)
    }
