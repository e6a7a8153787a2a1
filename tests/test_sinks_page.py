"""docs/sinks.md: its example is whole, and does what the page says."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sinks.md"
BLOCK = re.compile(r"```python\n# (\w+\.py).*?\n(.*?)```", re.DOTALL)


@pytest.fixture
def example(tmp_path):
    """Write the page's files."""
    for name, source in BLOCK.findall(PAGE.read_text()):
        (tmp_path / name).write_text(source)
    return tmp_path


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_example_delivers_to_its_table(example) -> None:
    """The program of the page leaves its record in the database, once."""
    assert "sold tea" in run("shop.py", cwd=example)
    with closing(sqlite3.connect(example / "shop.db")) as db:
        rows = db.execute("SELECT json FROM log").fetchall()
    (sold,) = [text for (text,) in rows if "sold tea" in text]
    assert '"price": 4.2' in sold


def test_example_of_a_test_passes(example) -> None:
    """The test of the page passes, hostile records included."""
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop_sinks.py",
        cwd=example)  # fmt: skip
