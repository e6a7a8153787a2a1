"""A place for the spools of all tests, where nobody else's are."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def spool_parent():
    """What other runs left in /dev/shm would be spoken of on stderr, and adopted."""
    shm = Path("/dev/shm")
    parent = tempfile.mkdtemp(prefix="tests-", dir=shm if shm.is_dir() else None)
    os.chmod(parent, 0o711)  # workers of another user pass through
    os.environ["FEMTOMP_SPOOL_PARENT"] = parent
    yield Path(parent)
    del os.environ["FEMTOMP_SPOOL_PARENT"]
    shutil.rmtree(parent, ignore_errors=True)
