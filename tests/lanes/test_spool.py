"""The spool: a private directory that is checked whenever it is opened."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from femtomp.errors import SpoolError
from femtomp.lanes import place
from femtomp.lanes.cursor import Counters, Cursor, CursorFile, Position, read_cursors
from femtomp.lanes.spool import DEADLINE, STATE, Spool, State

NOBODY = 65534


@pytest.fixture
def spool(tmp_path):
    made = place.create(
        tmp_path, "shop", level=10, sinks=("file", "otlp"), master={"pid": 1}
    )
    yield made
    made.close()


def test_new_spool_is_private(spool) -> None:
    """The directory and its lanes are 0700, and say what workers need to know."""
    for path in (Path(spool.path), Path(spool.path) / "lanes"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert spool.sinks == ("file", "otlp")
    assert spool.manifest["level"] == 10
    assert spool.manifest["name"] == "shop"
    assert spool.manifest["writer"] in ("mmap", "write")
    assert spool.manifest["master"] == {"pid": 1}


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("shop", "shop"),
        ("a/b/../c", "a-b-..-c"),
        ("..", "app"),
        ("", "app"),
        ("\n\0 x", "x"),
        ("été", "t"),
        ("x" * 500, "x" * 48),
    ],
)
def test_any_name_gives_a_directory_below_the_parent(tmp_path, name, slug) -> None:
    """A server's name becomes a part of a file name, and never a way out."""
    made = place.create(tmp_path, name, level=1, sinks=(), master={"pid": 1})
    made.close()
    assert Path(made.path).parent == tmp_path
    assert Path(made.path).name.startswith(f"femtomp-{slug}-{os.geteuid()}-")
    assert made.manifest["name"] == name


def test_two_spools_of_a_name_differ(tmp_path) -> None:
    """A second server of the same name gets a directory of its own."""
    made = [
        place.create(tmp_path, "a", level=1, sinks=(), master={"pid": 1})
        for _ in range(3)
    ]
    assert len({s.path for s in made}) == 3
    for each in made:
        each.close()


def test_control_words_are_read_back(spool) -> None:
    """Each control word keeps its value, and others theirs."""
    assert set(spool.control()) == {0}
    spool.set_control(STATE, State.RUNNING)
    spool.set_control(DEADLINE, (1 << 64) - 1)
    words = Spool(spool.path).control()
    assert (words[STATE], words[DEADLINE]) == (State.RUNNING, (1 << 64) - 1)
    assert sum(1 for w in words if w) == 2


@pytest.mark.parametrize("content", [None, b"", b"\x01", b"\xff" * 8])
def test_control_page_that_is_cut_or_gone_reads_as_zeros(spool, content) -> None:
    """What of the control page cannot be read is zero, and never an exception."""
    path = Path(spool.path) / "control"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    words = spool.control()
    assert len(words) == 64
    assert not any(words[1:])


def _replace(path: Path, make) -> None:
    """Move something away and put something else in its place."""
    path.rename(path.with_name(f"{path.name}.away"))
    make(path)


def _link(path: Path) -> None:
    path.symlink_to(path.with_name(f"{path.name}.away"))


def _manifest(content: bytes):
    return lambda path: (path / "manifest.json").write_bytes(content)


WRONG = {
    "missing": lambda path: _replace(path, lambda _: None),
    "a file": lambda path: _replace(path, Path.touch),
    "a symbolic link": lambda path: _replace(path, _link),
    "readable by others": lambda path: path.chmod(0o755),
    "writable by the group": lambda path: path.chmod(0o720),
    "open to all": lambda path: path.chmod(0o777),
    "lanes open to all": lambda path: (path / "lanes").chmod(0o777),
    "lanes readable by the group": lambda path: (path / "lanes").chmod(0o750),
    "no lanes": lambda path: (path / "lanes").rmdir(),
    "lanes elsewhere": lambda path: _replace(path / "lanes", _link),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "manifest elsewhere": lambda path: _replace(path / "manifest.json", _link),
    "manifest a pipe": lambda path: _replace(path / "manifest.json", os.mkfifo),
    "manifest no JSON": _manifest(b"{"),
    "manifest a list": _manifest(b"[]"),
    "manifest a number": _manifest(b"5"),
    "manifest no text": _manifest(b"\xff\xfe\0"),
    "manifest deep": _manifest(b"[" * 20_000),
    "manifest of no format": _manifest(b"{}"),
    "another format": _manifest(b'{"format": 99}'),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_spool_is_refused_by_name(tmp_path, how, request) -> None:
    """What is no spool of ours is a SpoolError that names it, and nothing leaks."""
    made = place.create(tmp_path, "a", level=1, sinks=(), master={"pid": 1})
    made.close()
    path = Path(made.path)
    WRONG[how](path)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(SpoolError, match=path.name):
        Spool(made.path)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_spool_of_another_user_is_refused(spool, monkeypatch) -> None:
    """A directory that belongs to somebody else, not root, is refused."""
    if os.geteuid() == 0:
        os.chown(spool.path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SpoolError, match="belongs to uid"):
        Spool(spool.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_lanes_of_another_user_than_the_manifests_are_refused(spool) -> None:
    """Only workers that the server named may own `lanes/`."""
    os.chown(Path(spool.path) / "lanes", 12345, -1)
    with pytest.raises(SpoolError, match="lanes belongs to uid 12345"):
        Spool(spool.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_directory_of_somebody_else_in_the_spools_place_is_refused(spool) -> None:
    """In a parent that all may write without the sticky bit, a spool can be replaced;
    nobody logs into what is there then.
    """
    path = Path(spool.path)
    path.parent.chmod(0o777)
    path.rename(path.with_suffix(".away"))
    for made in (path, path / "lanes"):
        made.mkdir(mode=0o700)
        os.chown(made, 12345, 12345)
    (path / "manifest.json").write_text('{"format": 1}')
    assert not spool.exists()
    with pytest.raises(SpoolError, match="belongs to uid 12345"):
        Spool(spool.path)


@pytest.mark.parametrize("planted", ["control", "manifest.json", "lanes"])
def test_nothing_is_written_through_what_was_planted(tmp_path, planted) -> None:
    """A new spool's files are made, never opened: no link there leads anywhere."""
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (tmp_path / "new").mkdir(mode=0o700)
    (tmp_path / "new" / planted).symlink_to(target)
    with pytest.raises(FileExistsError):
        place._fill(tmp_path / "new", {"worker_uid": None}, {}, None)
    assert target.read_bytes() == b"untouched"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_new_directory_that_was_replaced_is_not_filled(tmp_path) -> None:
    """Between making the directory and filling it, its owner is looked at again."""
    (tmp_path / "new").mkdir()
    os.chown(tmp_path / "new", 12345, -1)
    with pytest.raises(PermissionError, match="replaced"):
        place._fill(tmp_path / "new", {"worker_uid": None}, {}, None)
    assert list((tmp_path / "new").iterdir()) == []


def test_newer_format_says_what_to_do(spool) -> None:
    """A spool of a later version is left alone with a message that names both."""
    (Path(spool.path) / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(SpoolError, match="has format 2, this femtomp knows 1"):
        Spool(spool.path)


def test_removed_spool_is_gone_and_its_successor_stays(spool) -> None:
    """`remove` deletes the directory it opened, never one that took its place."""
    assert spool.exists()
    path = Path(spool.path)
    away = path.with_suffix(".away")
    path.rename(away)
    path.mkdir()
    assert not spool.exists()
    spool.remove()
    assert path.exists()
    path.rmdir()
    away.rename(path)
    spool.remove()
    assert not path.exists()
    assert not spool.exists()


def test_close_releases_all_and_may_be_repeated(tmp_path) -> None:
    """A closed spool holds no descriptor; closing it again does nothing."""
    before = sorted(os.listdir("/proc/self/fd"))
    made = place.create(tmp_path, "a", level=1, sinks=(), master={"pid": 1})
    assert len(os.listdir("/proc/self/fd")) == len(before) + 2
    assert all(number >= 512 for number, _, _ in made.descriptors())
    made.close()
    made.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ("given", {"FEMTOMP_SPOOL_PARENT": "env"}, "given"),
        (None, {"FEMTOMP_SPOOL_PARENT": "env", "STATE_DIRECTORY": "state"}, "env"),
        (
            None,
            {"STATE_DIRECTORY": "state", "RUNTIME_DIRECTORY": "run"},
            "state/femtomp",
        ),
        (None, {"STATE_DIRECTORY": "state:other"}, "state/femtomp"),
        (None, {"RUNTIME_DIRECTORY": "run", "XDG_RUNTIME_DIR": "xdg"}, "run"),
        (None, {"XDG_RUNTIME_DIR": "xdg"}, "xdg/femtomp"),
        (None, {"XDG_RUNTIME_DIR": "missing"}, None),
        (None, {}, None),
    ],
)
def test_parent_is_chosen_in_the_documented_order(
    tmp_path, given, variables, expected
) -> None:
    """Argument, variable, then systemd's and the user's directories, then the rest."""
    for name in ("given", "env", "state", "run", "xdg"):
        (tmp_path / name).mkdir()
    environ = {
        name: ":".join(str(tmp_path / part) for part in value.split(":"))
        for name, value in variables.items()
    }
    chosen = place.choose_parent(given and tmp_path / given, environ)
    if expected is None:
        assert not chosen.is_relative_to(tmp_path)
        assert chosen.is_dir()
    else:
        assert chosen == tmp_path / expected
        assert chosen.is_dir()


def test_relative_parent_is_made_absolute(tmp_path, monkeypatch) -> None:
    """A relative parent means the directory it meant in the master."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spools").mkdir()
    assert place.choose_parent("spools", {}) == tmp_path / "spools"


def test_parent_that_was_asked_for_must_be_there(tmp_path) -> None:
    """A parent that is missing is an error that says what to do, not another place."""
    with pytest.raises(SpoolError, match="not a directory: create it"):
        place.choose_parent(tmp_path / "missing", {})
    with pytest.raises(SpoolError, match="not a directory"):
        place.choose_parent(None, {"FEMTOMP_SPOOL_PARENT": str(tmp_path / "missing")})


def test_parent_without_permission_is_an_error_with_a_way_out(tmp_path) -> None:
    """Where no directory can be made, the error names the option and the variable."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"spool_parent=.*FEMTOMP_SPOOL_PARENT"):
        place.create(tmp_path / "file", "a", level=1, sinks=(), master={"pid": 1})


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "9p", "fuse.sshfs", "fuse", "cifs"])
def test_file_systems_without_trusted_locks_are_refused(
    tmp_path, monkeypatch, kind
) -> None:
    """Network and FUSE file systems are refused by name."""
    monkeypatch.setattr(place, "_file_system", lambda _: kind)
    with pytest.raises(SpoolError, match=f"is on {kind}"):
        place.create(tmp_path, "a", level=1, sinks=(), master={"pid": 1})
    assert os.listdir(tmp_path) == []


def test_file_system_of_a_path_is_found(tmp_path) -> None:
    """The longest mount point above a path tells its file system."""
    assert place._file_system(Path("/proc/self")) == "proc"
    assert place._file_system(tmp_path) == place._file_system(tmp_path / "x" / "y")
    assert place._file_system(tmp_path) not in ("", "proc")


@pytest.fixture(name="shared")
def _shared(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    monkeypatch.setattr(place, "_barrier", lambda *_: None)
    made = place.create(
        tmp_path, "shop", level=10, sinks=("file",), master={"pid": 1},
        workers=(NOBODY, NOBODY),
    )  # fmt: skip
    yield made
    made.close()


def test_workers_of_another_user_get_a_directory_and_root_has_its_own(shared) -> None:
    """`lanes/` is theirs, and `lanes-root/`, with the cursors, is root's."""
    status = {
        name: (Path(shared.path) / name).stat() for name in ("lanes", "lanes-root")
    }
    assert {n: s.st_uid for n, s in status.items()} == {
        "lanes": NOBODY,
        "lanes-root": 0,
    }
    assert {stat.S_IMODE(s.st_mode) for s in status.values()} == {0o700}
    assert shared.own_lanes == shared.cursors == shared.lanes_of_root
    assert shared.directories == (shared.lanes_of_root, shared.lanes)


def test_what_is_inherited_of_a_spool_opens_nothing(shared) -> None:
    """Of its directories a child has places only: they can be neither listed nor read."""
    for descriptor, _, _ in shared.descriptors():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(descriptor)


@pytest.mark.parametrize("mode", [0o777, 0o000, 0o4755])
def test_a_worker_that_opens_its_directory_to_others_mutes_nobody(shared, mode) -> None:
    """Whoever is root gives `lanes/` its mode back when it opens the spool."""
    lanes = Path(shared.path) / "lanes"
    lanes.chmod(mode)
    Spool(shared.path).close()
    assert stat.S_IMODE(lanes.stat().st_mode) == 0o700


def test_a_spool_of_an_older_version_gets_what_it_lacks(shared) -> None:
    """Root's directory is made, and the cursors go there as they are; a second time,
    half done, as well.
    """
    epoch, other = "ab" * 12, "cd" * 12
    Path(shared.path, "lanes-root").rmdir()
    older = Spool(shared.path)
    for each in (epoch, other):
        cursors = CursorFile(older.cursors, each, ("file",))
        cursors.commit("file", Cursor(Position(3, 128), Counters(7)))
        cursors.close()
    Path(shared.path, ".lanes-root").mkdir(mode=0o700)
    Path(shared.path, "lanes", f"{epoch}.cur").rename(
        Path(shared.path, ".lanes-root", f"{epoch}.cur")
    )
    place.give_root_lanes(older)
    newer = Spool(shared.path)
    for each in (epoch, other):
        (cursor,) = read_cursors(newer.cursors, each).values()
        assert cursor.counters.delivered == 7
    assert os.listdir(Path(shared.path, "lanes")) == []
    for each in (older, newer):
        each.close()
