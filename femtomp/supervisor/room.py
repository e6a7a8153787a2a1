"""Room in the spool: what is used, and whose oldest records make way.

In: all lanes, the limits. Out: the words of `lanes/space` kept true, and, with
`overflow="drop_old"`, cursors moved over the oldest segments: each sink that had not
passed them counts what it misses, and the others miss nothing. With "drop_new" and
"block" nobody's cursor is moved, and the writers do what is left.

A sink whose destination is down gives up its oldest records when a quota comes near, so
that writers never wait for that. One that works but lags may catch up: it gives only
when a writer has found no room. After an engine was dead or stopped for long, a full
spool is therefore delivered, not given up.

The lane that holds most gives first, so that one noisy worker behind a dead sink does
not cost the others their records. A segment that is still written to stays.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from femtomp.lanes import segment as seg
from femtomp.lanes.space import Overflow, Space, publish, read_space, whole_pages
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.members import Member

# Writers stop at seven eighths: room is made before that where it costs no delivery.
SHORT_AT: Final = 3, 4
# For sinks that work, before what they have not got to is given up: half of what a
# writer waits.
_CATCH_UP_S: Final = 0.05


class Room:
    """Measure a spool and keep it below its quotas.

    Parameters
    ----------
    spool : Spool
    limits : Space
        As the server was told; `used` is ignored.
    members : mapping
        The engine's table.
    others : mapping
        Lanes that are not in it: that wait, or cannot be read. They take room as well.
        By name the directory and the files.
    free : callable
        Unlinks the segments of a member that every cursor has passed.
    stalled : callable
        Names the sinks whose destination takes nothing now.
    """

    def __init__(
        self,
        spool: Spool,
        limits: Space,
        members: Mapping[str, Member],
        others: Mapping[str, tuple[int, list[str]]],
        free: Callable[[Member], None],
        stalled: Callable[[], Container[str]],
    ) -> None:
        self._spool = spool
        self._others = others
        self._limits = limits
        self._members = members
        self._free = free
        self._stalled = stalled
        self._used = 0
        self._asked_since: float | None = None
        self._held: dict[str, tuple[object, int]] = {}

    def measure(self) -> int:
        """Look what all lanes take, write it down, and return it."""
        self._held = {
            e: self._measured(e, member) for e, member in self._members.items()
        }
        used = sum(held for _, held in self._held.values())
        for directory, names in self._others.values():
            used += sum(_size(directory, name) for name in names)
        for directory in self._spool.directories:
            publish(directory, self._limits._replace(used=used))
        return used

    def _of(self, epoch: str) -> int:
        return self._held[epoch][1] if epoch in self._held else 0

    def _measured(self, epoch: str, member: Member) -> tuple[object, int]:
        state = (member.lane.segments, member.lane.end)
        known = self._held.get(epoch)
        if known is not None and known[0] == state:
            return known
        names = [seg.segment_name(epoch, n) for n in member.lane.segments]
        names += [f"{epoch}.{kind}" for kind in ("own", "side")]
        held = sum(_size(member.lane.directory, name) for name in names)
        return state, held + _size(self._spool.cursors, f"{epoch}.cur")

    def keep(self) -> None:
        """Measure, and make room where a quota comes near."""
        space = self._read()
        if space.is_asked() or _is_near(space.used, self._limits.quota):
            for member in self._members.values():
                self._freed(member)
        self._used = self.measure()
        if self._limits.overflow != Overflow.DROP_OLD:
            return
        while self._make_way(self._near(), self._stalled()):
            pass
        now = time.monotonic()
        if not space.is_asked():
            self._asked_since = None
        elif self._asked_since is None:
            self._asked_since = now
        elif now - self._asked_since >= _CATCH_UP_S:
            while self._make_way(self._full(), None):
                pass

    def is_asked(self) -> bool:
        """Tell whether a writer waits for room."""
        return self._read().is_asked()

    def _read(self) -> Space:
        """Return the words, with the last time that anybody asked, wherever it was."""
        spaces = [read_space(each) for each in self._spool.directories]
        asked = max(space.asked_ns for space in spaces)
        return spaces[0]._replace(asked_ns=asked)

    def _freed(self, member: Member) -> None:
        try:
            self._free(member)
        except OSError as exc:
            epoch = member.lane.epoch
            note(f"tend:{epoch}", f"lane {epoch} cannot be looked after: {exc}")

    def _near(self) -> list[str]:
        """Return the lanes that come near a quota, the one that holds most first."""
        everybody = _is_near(self._used, self._limits.quota)
        quota = self._limits.lane_quota
        return [e for e in self._largest() if everybody or _is_near(self._of(e), quota)]

    def _full(self) -> list[str]:
        """Return the lanes that must give for the next segment to find room."""
        more = self._limits.segment_bytes(seg.SEGMENT_BYTES)
        limits = self._limits._replace(used=self._used)
        everybody = not limits.has_room(more, 0, important=False)
        alone = limits._replace(used=0)
        return [
            e
            for e in self._largest()
            if everybody or not alone.has_room(more, self._of(e), important=False)
        ]

    def _largest(self) -> list[str]:
        epochs = [e for e, member in self._members.items() if _has_closed(member)]
        return sorted(epochs, key=self._of, reverse=True)

    def _make_way(self, epochs: list[str], sinks: Container[str] | None) -> bool:
        """Give up the oldest segment of the first lane where that frees it.

        Parameters
        ----------
        epochs : list of str
        sinks : container of str or None
            Whose cursors may be moved; None: everybody's.
        """
        for epoch in epochs:
            member = self._members[epoch]
            oldest = member.lane.segments[0]
            if sinks is not None and not member.waits_only_for(sinks, oldest):
                continue
            for sink, missed in member.evict(oldest).items():
                if missed:
                    note(
                        f"{sink}:evicted",
                        f"{sink} is too far behind: {missed} records of process "
                        f"{member.identity.pid} made way for new ones, counted as "
                        "evicted",
                    )
            self._freed(member)
            if oldest not in member.lane.segments:
                self._used = self.measure()
                return True
        return False


def _size(directory: int, name: str) -> int:
    """Return what a file takes: of one with holes no more than is there."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return 0
    return min(whole_pages(status.st_size), 512 * status.st_blocks)


def _has_closed(member: Member) -> bool:
    count = len(member.lane.segments)
    return count > 1 or (count == 1 and member.lane.ended)


def _is_near(held: int, quota: int) -> bool:
    part, whole = SHORT_AT
    return bool(quota) and held > quota * part // whole
