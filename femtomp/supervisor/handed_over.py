"""News that an engine was to tell, and leaves to the one that follows it.

In and out: what waits for each sink, in a file beside `lanes/`, out of the workers'
reach. It is written by an engine that makes way for another one, and read once. One
that is killed writes none: what it did not tell is not told.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = "news"
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def leave(directory: int, waiting: Mapping[str, list[Any]]) -> None:
    """Write what waits, if anything does.

    Raises
    ------
    OSError
        If that cannot be.
    """
    if any(waiting.values()):
        with open(os.open(_NAME, _FLAGS, 0o600, dir_fd=directory), "w") as file:
            json.dump(waiting, file)


def take(directory: int) -> dict[str, list[Any]]:
    """Return what was left, once; nothing if it cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(_NAME, flags, dir_fd=directory)) as file:
            found = json.load(file)
        os.unlink(_NAME, dir_fd=directory)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
