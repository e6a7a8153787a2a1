"""The supervisor's own messages: to stderr, rate limited, never into the lanes.

In: short texts with a key each, and whatever OpenTelemetry, gRPC and urllib3 log here.
Out: at most one line a key and interval, with a count of what was left out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from femtomp import nowait
from femtomp.sinks.secrets import masked
from femtomp.supervisor.overheard import Overheard

INTERVAL_S: Final = 10.0
_said: Final[dict[str, tuple[float, int]]] = {}
_lock: Final = threading.Lock()
# Of a supervisor, from its beginning on.
_overheard: Overheard | None = None


def note(key: str, text: str) -> None:
    """Say a thing, unless one with the same key was said in the last ten seconds."""
    now = time.monotonic()
    with _lock:
        since, left_out = _said.get(key, (-INTERVAL_S, 0))
        if now - since < INTERVAL_S:
            _said[key] = (since, left_out + 1)
            return
        _said[key] = (now, 0)
    more = f" ({left_out} more like this were not shown)" if left_out else ""
    # What others said must neither show a secret nor begin a line, or move a cursor.
    line = "".join(c if c.isprintable() else " " for c in masked(text))
    said = f"femtomp[{os.getpid()}]: {line}{more}\n"
    # In a supervisor past its own descriptor 2, see `overheard`.
    (_overheard.mouth if _overheard else nowait.stderr).say(
        said.encode(errors="replace")
    )


def overhear(stderr: int) -> None:
    """Begin, in a supervisor: nothing in this process waits for the master's stderr.

    Parameters
    ----------
    stderr : int
        The master's; not closed.
    """
    global _overheard  # noqa: PLW0603 - one descriptor 2 a process
    _overheard = Overheard(stderr)


def forward() -> None:
    """Say what this process has printed to descriptor 2, and what could not be said."""
    if _overheard is not None:
        _overheard.forward()


class _NotesHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"log:{record.name}:{record.msg}", f"{record.name}: {record.getMessage()}")


def take_over_logging() -> None:
    """Send this process's own log records to `note`: they must never feed a sink."""
    root = logging.getLogger()
    root.handlers[:] = [_NotesHandler(logging.WARNING)]
    root.setLevel(logging.WARNING)
