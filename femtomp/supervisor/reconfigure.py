"""Other sinks and options for a running server: one pair hands the spool to the next.

In: a spool, the pair that serves it, what the server was told before and is told now.
Out: another pair at the same cursors, or the one of before and an error. The workers
see nothing of it: their lanes stay, and wait for as long as it takes to start an
interpreter. While nobody serves the spool its files are this process's to change.

What must never happen: a sink that stays missing a record, or getting one twice because
of this; a spool that nobody serves after a sink could not be built.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import CodecError, ConfigError, SpoolError
from femtomp.lanes import place
from femtomp.lanes.cursor import (
    MAX_SINKS,
    Cursor,
    CursorFile,
    Position,
    read_cursors,
    sink_key,
)
from femtomp.lanes.scan import names
from femtomp.lanes.segment import COMMITTED, SIDE, parse_name
from femtomp.supervisor import totals
from femtomp.supervisor.notes import note
from femtomp.supervisor.stats import (
    DrainReport,
    SinkStats,
    open_lanes,
    wait_delivered,
)

if TYPE_CHECKING:
    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.pair import Pair
    from femtomp.supervisor.told import Told

# A cursor file has so many places, and a sink keeps its own after it went; some are
# for the sums.
MAX_NAMES: Final = MAX_SINKS - 8


class Change:
    """One change of a server's configuration.

    Parameters
    ----------
    spool : Spool
    before, after : Told

    Raises
    ------
    ConfigError
        If the server had too many sinks of different names.
    """

    def __init__(self, spool: Spool, before: Told, after: Told) -> None:
        old = [str(sink.name) for sink in before.config.sinks]
        new = [str(sink.name) for sink in after.config.sinks]
        self._spool = spool
        self._after = after
        self._going = [name for name in old if name not in new]
        self._coming = [name for name in new if name not in old]
        # Where none stays: those that come take over from those that go.
        self._leading = [name for name in old if name in new] or old
        self._manifest = spool.manifest
        self._resource = before.config.resource
        known = {*spool.manifest.get("former", ()), *old}
        if len(known | {*new}) > MAX_NAMES:
            msg = (
                f"the server has had {len(known)} sinks of different names, and can "
                f"have {MAX_NAMES}: use names again, or start another server"
            )
            raise ConfigError(msg)
        self._former = sorted(known - {*new})
        self._counts: dict[str, SinkStats] = {}
        place.check_size(self._new_manifest())

    def _new_manifest(self) -> dict[str, Any]:
        config = self._after.config
        return {
            **self._manifest,
            "level": config.level,
            "limits": dict(self._after.limits),
            "levels": self._after.levels,
            "sinks": [str(sink.name) for sink in config.sinks],
            "former": self._former,
        }

    def make(self, pair: Pair, timeout: float | None) -> DrainReport:
        """Make it; if that fails, the server goes on as before.

        Raises
        ------
        FemtompError
            The sink's own error, or what kept the files from being written.
        """
        begun = time.monotonic()
        if self._going:
            wait_delivered(self._spool, timeout, pair.tend, self._going)
        try:
            pair.replace(self._after.config, self._write, self._write_back)
        except OSError as exc:
            if isinstance(exc, SpoolError) or exc.errno is None:
                raise
            msg = f"cannot change the spool {self._spool.path}: {exc}"
            raise SpoolError(exc.errno, msg) from exc
        return self._report(time.monotonic() - begun)

    def make_of_level(self) -> DrainReport:
        """Make one of nothing but the workers' level, which no supervisor needs.

        Raises
        ------
        SpoolError
        """
        try:
            self._write()
        except OSError as exc:
            msg = f"cannot change the spool {self._spool.path}: {exc}"
            raise SpoolError(exc.errno or 0, msg) from exc
        return DrainReport()

    def _write(self) -> None:
        """Say what the server is from now on, while nobody serves the spool."""
        self._counts = {name: _counted(self._spool, name) for name in self._going}
        if self._coming:
            join(self._spool, self._coming, self._leading)
            totals.join(self._spool.cursors, self._coming)
        self._describe(self._new_manifest(), self._after.config.resource)

    def _write_back(self) -> None:
        try:
            self._describe(self._manifest, self._resource)
        except OSError as exc:
            note("reconfigure", f"the spool's manifest cannot be put back: {exc}")

    def _describe(self, manifest: Any, resource: Any) -> None:
        place.describe(self._spool.descriptor, manifest, resource)
        self._spool.refresh()

    def _report(self, duration_s: float) -> DrainReport:
        pending = {name: stats.pending for name, stats in self._counts.items()}
        for name, number in pending.items():
            if number:
                note(
                    f"reconfigure:{self._spool.path}:{name}",
                    f"{name} is no sink any more: {number} records that it had not got "
                    "are not delivered to it",
                )
        return DrainReport(
            drained=not any(pending.values()),
            pending=pending,
            refused={name: stats.refused for name, stats in self._counts.items()},
            quarantined={n: stats.quarantined for n, stats in self._counts.items()},
            duration_s=duration_s,
        )


def _counted(spool: Spool, sink: str) -> SinkStats:
    """Return what became of a sink's records, and how many it has not got.

    By their numbers: to read through them takes as long as workers write more.
    """
    counters = totals.read_totals(spool.cursors).sink(sink)
    pending = 0
    for lane in open_lanes(spool):
        try:
            committed = lane.read_own()[1][COMMITTED]
            cursors = read_cursors(spool.cursors, lane.epoch)
        except (OSError, CodecError):
            continue  # damaged: it is left alone
        cursor = cursors.get(sink_key(sink), Cursor())
        pending += max(0, committed - cursor.position.sequence)
        side = cursor.position.side
        while lane.has_side and (found := lane.find(SIDE, side)) is not None:
            pending += len(found.frames)
            side = found.after
        counters = counters.plus(cursor.counters)
    return SinkStats(*counters, pending=pending)


def join(spool: Spool, coming: list[str], leading: list[str]) -> None:
    """Have new sinks begin where the slowest of the others is, in every lane.

    What is before that may be deleted already; one that was here before, and went, has
    no claim to it either.

    Raises
    ------
    OSError
        If a cursor cannot be written.
    """
    for name in names(spool.cursors):
        parsed = parse_name(name)
        if parsed and parsed.kind == "cur" and parsed.epoch != totals.EPOCH:
            _join_lane(spool.cursors, parsed.epoch, coming, leading)


def _join_lane(
    directory: int, epoch: str, coming: list[str], leading: list[str]
) -> None:
    file = CursorFile(directory, epoch, (*leading, *coming))
    try:
        places = [(file.cursors[name] or Cursor()).position for name in leading]
        first = min(places)._replace(side=min(each.side for each in places))
        for name in coming:
            position, counters = file.cursors[name] or Cursor()
            joined = max(position, first)._replace(side=max(position.side, first.side))
            if joined not in (position, Position()):
                file.commit(name, Cursor(joined, counters))
    finally:
        file.close()
