"""A record that comes to several handlers of one branch of loggers is taken once.

In: records, as handlers get them. Out: whether this one was taken already. Usually it
is told by one float of the last record, which every LogRecord makes for itself: 15 ns,
and nothing but that float is kept alive. Once a record has come twice, each record is
known by itself for as long as it lives.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from types import FrameType

    _Seen = dict[int, tuple[ref[logging.LogRecord], object, object]]


class Taken:
    """What was taken on one way: a base of the channels.

    Attributes
    ----------
    last : object
        `relativeCreated` of the record that was taken last.
    seen : dict or None
        The records that were taken and still live, where they come several times.
    """

    last: object = None
    seen: _Seen | None = None

    def has(self, record: logging.LogRecord, frame: FrameType) -> bool:
        """Tell whether a record was taken already, by another handler of its branch.

        Parameters
        ----------
        record : logging.LogRecord
        frame : frame
            Of the handler's `handle`.
        """
        seen = self.seen
        if seen is not None:
            found = seen.get(id(record))
            return (
                found is not None
                and found[0]() is record
                # One that was given other words meanwhile is another one.
                and found[1] is record.msg
                and found[2] is record.args
            )
        made = getattr(record, "relativeCreated", None)
        if made is None or made is not self.last or self._handlers(frame) <= 1:
            return False  # a copy, say, that a handler makes of one line of many
        self.seen = {}
        self.take(record)
        return True

    def take(self, record: logging.LogRecord) -> None:
        """Note that a record is taken."""
        self.last = getattr(record, "relativeCreated", None)
        seen, number = self.seen, id(record)
        if seen is not None:
            try:
                known = ref(record, lambda _: seen.pop(number, None))
                seen[number] = known, record.msg, record.args
            except (TypeError, AttributeError):
                pass  # of a class that cannot be known so: taken as often as it comes

    def _handlers(self, frame: FrameType) -> int:
        """Return how many handlers of this way are on the branch of the call."""
        caller = frame.f_back
        if caller is None or caller.f_code.co_name != "callHandlers":
            return 0
        node: Any = caller.f_locals.get("self")
        count = 0
        while isinstance(node, logging.Logger):
            for each in node.handlers:
                count += getattr(each, "way", None) is self
            node = node.parent if node.propagate else None
        return count


# Of handlers that have no server.
nowhere = Taken()
