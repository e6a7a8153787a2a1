"""Where journald has no socket: lines to stderr, with their priority if that is read.

In: the master's stderr. Out: the lines of a record's text, each with ``<6>`` before it,
as sd-daemon(3) describes it: what reads a service's stderr (journald's stream, a
container's log driver into a journal) takes the priority from there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from femtomp.codec.journald import priority_of
from femtomp.codec.text import text_line
from femtomp.sinks.console import lines_driver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.record import Record
    from femtomp.sinks import Driver

JOURNAL_STREAM: Final = "JOURNAL_STREAM"


def open_stderr(fd: int, environ: Mapping[str, str]) -> Driver:
    """Build the driver; the descriptor is not closed."""
    if wants_priorities(fd, environ):
        return lines_driver(fd, prefixed_lines)
    return lines_driver(fd, _plain_lines)


def wants_priorities(fd: int, environ: Mapping[str, str]) -> bool:
    """Tell whether what reads a stream may take priorities for more than text.

    JOURNAL_STREAM names the stream that a unit's output is: if stderr is another one by
    now, it was redirected, and people or programs read it that know no priorities.
    """
    stream = environ.get(JOURNAL_STREAM)
    if stream is None:
        return not os.isatty(fd)
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


def prefixed_lines(record: Record) -> bytes:
    r"""Return the text of a record, its priority before each line.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> lines = prefixed_lines(Record(0, 17, "ERROR", "a", "x\ny", {}, Resource({})))
    >>> [line[:3] for line in lines.splitlines()]
    [b'<3>', b'<3>']
    """
    mark = f"<{priority_of(record)}>".encode()
    lines = _plain_lines(record).splitlines(keepends=True)
    return b"".join([mark + line for line in lines])


def _plain_lines(record: Record) -> bytes:
    return text_line(record, colour=False)
