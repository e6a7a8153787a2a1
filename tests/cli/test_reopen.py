"""`femtomp reopen` where not every spool is whole."""

from __future__ import annotations

import shutil

import femtomp
from tests.cli.processes import run


def test_a_broken_spool_keeps_nobody_from_being_asked(tmp_path) -> None:
    """Healthy servers beside a spool that cannot be opened reopen their files; what is
    broken, and served by nobody, is named and no failure.
    """
    path = tmp_path / "app.log"
    with femtomp.start_server(femtomp.FileSink(path), spool_parent=tmp_path) as server:
        broken = tmp_path / server.spool.name.replace("femtomp-", "femtomp-a-", 1)
        shutil.copytree(server.spool, broken)
        broken.chmod(0o700)
        shutil.rmtree(broken / "lanes")
        path.rename(tmp_path / "app.log.1")
        done = run("reopen", tmp_path, cwd=tmp_path)
        assert path.exists(), "the healthy server was asked"
    assert done.returncode == 0
    assert f"{broken} is left out" in done.stderr
