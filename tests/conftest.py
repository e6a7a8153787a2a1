"""A place for the spools of each test, where nobody else's are."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from femtomp import WorkerHandler

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


@pytest.fixture(autouse=True)
def own_logging():
    """Levels and handlers that a test sets are its own."""
    before = {logger: _state(logger) for logger in _loggers()}
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)
    for logger in _loggers():
        level, logger.disabled, logger.propagate, own = before.get(
            logger, (logging.NOTSET, False, True, [])
        )
        logger.setLevel(level)
        # Others than ours are pytest's, which takes them back by itself.
        for handler in [h for h in logger.handlers if isinstance(h, WorkerHandler)]:
            if handler not in own:
                logger.removeHandler(handler)


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(x for x in known if isinstance(x, logging.Logger))]


def _state(logger: logging.Logger) -> tuple:
    return logger.level, logger.disabled, logger.propagate, logger.handlers[:]
