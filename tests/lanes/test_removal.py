"""A spool is deleted whatever somebody put into its lanes."""

from __future__ import annotations

import os

import pytest

from femtomp.lanes.removal import remove_tree

NOBODY = 65534
# Deeper than the interpreter's stack, and than any path may be long.
DEEP = 3000


def dig(path, depth: int) -> None:
    """Make a directory within a directory, and so on."""
    top = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=top)
        inner = os.open("d", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=top))
    os.close(top)


def test_directories_within_directories_go(tmp_path) -> None:
    """However deep they are, all of it is deleted, without an error."""
    (tmp_path / "lanes").mkdir()
    dig(tmp_path / "lanes", DEEP)
    remove_tree(str(tmp_path / "lanes"))
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path) -> None:
    """What a link leads to stays, be it a file or a directory."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"x")
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "lanes" / "file").symlink_to(tmp_path / "outside" / "file")
    remove_tree(str(tmp_path / "lanes"))
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "file").read_bytes() == b"x"


def test_what_is_not_there_is_no_error(tmp_path) -> None:
    """A directory that is gone, or a file in its place, is left as it is."""
    remove_tree(str(tmp_path / "lanes"))
    (tmp_path / "lanes").write_bytes(b"x")
    remove_tree(str(tmp_path / "lanes"))
    assert (tmp_path / "lanes").read_bytes() == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nobody_adds_to_what_is_deleted(tmp_path, monkeypatch) -> None:
    """Before anything is deleted the directory is taken from whose it was."""
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "file").write_bytes(b"x")
    os.chown(tmp_path / "lanes", NOBODY, -1)
    (tmp_path / "lanes").chmod(0o777)
    found = []
    real = os.unlink

    def unlink(name, *, dir_fd):
        status = os.fstat(dir_fd)
        found.append((status.st_uid, status.st_mode & 0o7777))
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    remove_tree(str(tmp_path / "lanes"))
    assert found == [(0, 0o700)]
    assert list(tmp_path.iterdir()) == []
