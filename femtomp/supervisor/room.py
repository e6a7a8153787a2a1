"""Room in the spool: what is used, and whose oldest records make way.

In: the members, the limits. Out: the words of `lanes/space` kept true, and, with
`overflow="drop_old"`, cursors moved over the oldest segments where a quota comes near:
each sink that had not passed them counts what it misses, and the others miss nothing.
With "drop_new" and "block" nobody's cursor is moved, and the writers do what is left.

The lane that holds most gives first, so that one noisy worker behind a dead sink does
not cost the others their records. A segment that is still written to stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from femtomp.lanes import segment as seg
from femtomp.lanes.space import Overflow, Space, publish, read_space, whole_pages
from femtomp.supervisor.notes import note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from femtomp.supervisor.members import Member

# Writers stop at seven eighths: room is made before that, while they go on.
_SHORT_AT: Final = 3, 4


class Room:
    """Measure a spool and keep it below its quotas.

    Parameters
    ----------
    directory : int
        Descriptor of `lanes/`; not owned.
    limits : Space
        As the server was told; `used` is ignored.
    members : mapping
        The engine's table.
    free : callable
        Unlinks the segments of a member that every cursor has passed.
    """

    def __init__(
        self,
        directory: int,
        limits: Space,
        members: Mapping[str, Member],
        free: Callable[[Member], None],
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._members = members
        self._free = free
        self._held: dict[str, tuple[object, int]] = {}

    def is_short(self) -> bool:
        """Tell whether the writers' own tally comes near the quota: one `pread`."""
        return _is_near(read_space(self._directory).used, self._limits.quota)

    def measure(self) -> int:
        """Look what all lanes take, write it down, and return it."""
        self._held = {e: self._of(e, member) for e, member in self._members.items()}
        used = sum(held for _, held in self._held.values())
        publish(self._directory, self._limits._replace(used=used))
        return used

    def _of(self, epoch: str, member: Member) -> tuple[object, int]:
        state = (member.lane.segments, member.lane.end)
        known = self._held.get(epoch)
        if known is not None and known[0] == state:
            return known
        names = [seg.segment_name(epoch, n) for n in member.lane.segments]
        names += [f"{epoch}.{kind}" for kind in ("own", "side", "cur")]
        return state, sum(map(self._size, names))

    def _size(self, name: str) -> int:
        try:
            status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return whole_pages(status.st_size)

    def keep(self) -> None:
        """Measure, and make room where a quota comes near."""
        if self.is_short():
            for member in self._members.values():
                self._free(member)
        used = self.measure()
        if self._limits.overflow != Overflow.DROP_OLD:
            return
        while True:
            epochs = sorted(self._held, key=lambda e: self._held[e][1], reverse=True)
            if not epochs:
                return
            is_near = _is_near(used, self._limits.quota)
            makes_way = next(
                (
                    e
                    for e in epochs
                    if (is_near or _is_near(self._held[e][1], self._limits.lane_quota))
                    and self._has_closed(self._members[e])
                ),
                None,
            )
            if makes_way is None or not self._evict(self._members[makes_way]):
                return
            used = self.measure()

    def _evict(self, member: Member) -> bool:
        """Give up a lane's oldest segment; False if that freed nothing."""
        oldest = member.lane.segments[0]
        for sink, missed in member.evict(oldest).items():
            if missed:
                note(
                    f"{sink}:evicted",
                    f"{sink} is too far behind: {missed} records of process "
                    f"{member.identity.pid} made way for new ones, counted as evicted",
                )
        self._free(member)
        return oldest not in member.lane.segments

    @staticmethod
    def _has_closed(member: Member) -> bool:
        count = len(member.lane.segments)
        return count > 1 or (count == 1 and member.lane.ended)


def _is_near(held: int, quota: int) -> bool:
    part, whole = _SHORT_AT
    return bool(quota) and held > quota * part // whole
