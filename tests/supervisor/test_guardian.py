"""The guardian: when a dead engine needs no successor."""

from __future__ import annotations

import os
import shutil

import pytest

from femtomp.lanes import place
from femtomp.lanes.spool import STATE, State
from femtomp.supervisor.guardian import is_over


@pytest.fixture
def spool(tmp_path):
    """Give a spool that is served."""
    made = place.create(tmp_path, "test", level=20, sinks=("file",), master={"pid": 0})
    made.set_control(STATE, State.RUNNING)
    yield made
    made.close()


def test_a_spool_with_its_lanes_needs_an_engine(spool) -> None:
    """Nothing is deleted that may hold records."""
    assert not is_over(spool)
    os.unlink(f"{spool.path}/control")
    assert not is_over(spool)
    assert os.listdir(f"{spool.path}/lanes") == []


@pytest.mark.parametrize("died", ["before", "with the lanes gone", "last"])
def test_a_half_deleted_spool_needs_no_engine(spool, died) -> None:
    """An engine that died while it deleted the spool is not replaced; the rest goes."""
    if died == "before":
        spool.set_control(STATE, State.REMOVING)
    else:
        shutil.rmtree(f"{spool.path}/lanes")
        if died == "last":
            os.unlink(f"{spool.path}/control")
            os.unlink(f"{spool.path}/manifest.json")
    assert is_over(spool)
    assert not os.path.exists(spool.path)


def test_a_spool_that_somebody_moved_is_left_alone(spool, tmp_path) -> None:
    """A spool whose path leads elsewhere may come back: it is neither over nor deleted."""
    os.rename(spool.path, tmp_path / "moved")
    assert not is_over(spool)
    assert (tmp_path / "moved/lanes").is_dir()
