"""A place for the spools of each test, where nobody else's are."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine takes its time for any example.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def own_spool_parent():
    """What other tests left behind would be spoken of on stderr, or adopted."""
    shm = Path("/dev/shm")
    parent = tempfile.mkdtemp(prefix="tests-", dir=shm if shm.is_dir() else None)
    os.chmod(parent, 0o711)  # workers of another user pass through
    before = os.environ.get("FEMTOMP_SPOOL_PARENT")
    os.environ["FEMTOMP_SPOOL_PARENT"] = parent
    yield
    if before is None:
        os.environ.pop("FEMTOMP_SPOOL_PARENT", None)
    else:
        os.environ["FEMTOMP_SPOOL_PARENT"] = before
    shutil.rmtree(parent, ignore_errors=True)
