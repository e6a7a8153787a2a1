"""The engine's table of lanes: readers, cursors, and whose they are.

In: the names in `lanes/`. Out: a `Member` for each lane, with the resource that its
records carry. Owner of the lanes' descriptors and cursor files; unlinks a lane when its
owner is gone and every sink has passed its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from femtomp.codec import identity as identity_codec
from femtomp.lanes import segment as seg
from femtomp.lanes.cursor import Counters, Cursor, CursorFile, Position
from femtomp.lanes.liveness import is_alive, pid_namespace
from femtomp.lanes.reader import Lane
from femtomp.lanes.resource import worker_resource
from femtomp.native import Lock
from femtomp.record import Identity, Record, Resource
from femtomp.supervisor.container import container_id, own_container_id

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from femtomp.lanes.spool import Spool
    from femtomp.supervisor.batch import Step

# Resources of foreign processes a lane may bring (a drained stock queue), kept for
# reuse.
_MAX_FOREIGN: Final = 1024


class Member:
    """One lane with its cursors and its owner."""

    def __init__(
        self,
        lane: Lane,
        cursors: CursorFile,
        identity: Identity,
        base: Mapping[str, Any],
    ) -> None:
        self.lane: Final = lane
        self.cursors: Final = cursors
        self.identity: Final = identity
        self._base = base
        self._foreign: dict[tuple[int, str], Resource] = {}
        self.resource: Final = worker_resource(
            identity, base, lane.epoch, _seen_from_outside(identity)
        )
        self.quiet_since = 0.0
        # Pumps commit their own sink's cursor; the poller moves any that lags too far.
        self._lock = Lock()

    def advance(self, sink: str, steps: Sequence[Step]) -> None:
        """Commit what a sink is done with.

        What was evicted meanwhile was counted as that, and is not counted again.

        Raises
        ------
        OSError
            If the cursor cannot be written. It is moved in memory all the same: should
            the engine die, these records come twice.
        """
        with self._lock:
            position, counters = self.cursors.cursors[sink] or Cursor()
            for step in steps:
                if step.number != seg.SIDE and step.number < position.segment:
                    continue
                position = position.behind(step.number, step.after, step.sequence)
                counters = counters.plus(step.counters)
            self._commit(sink, Cursor(position, counters))

    def waits_only_for(self, sinks: Container[str], number: int) -> bool:
        """Tell whether every sink but these has passed a segment."""
        return all(
            sink in sinks or (cursor or Cursor()).position.segment > number
            for sink, cursor in self.cursors.cursors.items()
        )

    def evict(self, number: int) -> dict[str, int]:
        """Move every sink over all segments up to a closed one; count what they miss.

        Returns
        -------
        dict of str to int
            How many records each sink lost, by its name.

        Raises
        ------
        OSError
            As `advance`.
        """
        lost: dict[str, int] = {}
        with self._lock:
            for sink, cursor in self.cursors.cursors.items():
                position, counters = cursor or Cursor()
                missed = Counters()
                while position.segment <= number:
                    counts, sequence = _rest(self.lane, position)
                    missed = missed.plus(counts)
                    position = position.behind(
                        position.segment + 1, seg.FRAMES_AT, sequence
                    )
                if missed != Counters() or position != (cursor or Cursor()).position:
                    self._commit(sink, Cursor(position, counters.plus(missed)))
                    lost[sink] = missed.evicted
        return lost

    def _commit(self, sink: str, cursor: Cursor) -> None:
        try:
            self.cursors.commit(sink, cursor)
        except OSError:
            self.cursors.cursors[sink] = cursor
            raise

    def of_process(self, pid: int, name: str) -> Resource:
        """Return the resource of another process whose record this lane brought."""
        found = self._foreign.get((pid, name))
        if found is None:
            if len(self._foreign) >= _MAX_FOREIGN:
                self._foreign.clear()
            who = self.identity._replace(
                pid=pid,
                name=str(name),
                parent_pid=0,
                start_ticks=0,
                command="",
                instance_id="",
            )
            found = worker_resource(who, self._base, f"{self.lane.epoch}/{pid}/{name}")
            self._foreign[(pid, name)] = found
        return found

    def started(self, timestamp: int) -> Record:
        """Return the event that says, once per lane, all there is of its worker."""
        return Record(
            timestamp=timestamp,
            severity_number=9,
            severity_text="INFO",
            logger="femtomp",
            body=f"worker {self.identity.name} started as pid {self.identity.pid}",
            attributes=dict(self.resource),
            resource=self.resource,
            uid=f"{self.lane.epoch}-started",
            event_name="femtomp.worker.started",
        )

    def is_drained(self) -> bool:
        """Tell whether every sink has passed the lane's end."""
        return all(
            not self.lane.has_more(self.lane.normalised((cursor or Cursor()).position))
            for cursor in self.cursors.cursors.values()
        )

    def unlink(self, cursors: int) -> None:
        """Delete the lane's files, `.own` last: until then it is found again.

        Parameters
        ----------
        cursors : int
            Descriptor of the directory that its cursors are in.

        Raises
        ------
        OSError
            If one cannot be deleted.
        """
        names = [seg.segment_name(self.lane.epoch, n) for n in self.lane.segments]
        names += self.lane.begun
        names += [
            f"{self.lane.epoch}.{kind}" for kind in ("side", "pull", "cur", "own")
        ]
        for name in names:
            at = cursors if name.endswith((".pull", ".cur")) else self.lane.directory
            seg.discard(at, name)


def _rest(lane: Lane, position: Position) -> tuple[Counters, int]:
    """Count what lies behind a position in its segment; tell the sequence behind it."""
    evicted = corrupt = 0
    number, offset, _, sequence = position
    while (found := lane.find(number, offset, sequence)) is not None:
        evicted += len(found.frames)
        corrupt += found.corrupt
        offset, sequence = found.after, found.sequence
    return Counters(evicted=evicted, corrupt=corrupt), sequence


def open_member(
    spool: Spool,
    directory: int,
    epoch: str,
    sinks: tuple[str, ...],
    base: Mapping[str, Any],
    *,
    needs_cursors: bool = False,
) -> Member:
    """Open a lane that was found in one of a spool's directories.

    Where there is no room for cursors, it goes on without them unless it needs them:
    should this process die, what was delivered comes twice.

    Raises
    ------
    CodecError
        If its files are not what they say.
    OSError
        If they cannot be opened now: no descriptor left, no room for the cursors.
    """
    lane = Lane(directory, epoch, hostile=spool.has_other_workers)
    identity = identity_codec.from_bytes(lane.read_own()[0])
    cursors = CursorFile(spool.cursors, epoch, sinks, may_wait=not needs_cursors)
    return Member(lane, cursors, identity, base)


def _seen_from_outside(identity: Identity) -> dict[str, Any]:
    """Return what the system knows of a live process and it need not know itself."""
    import psutil

    seen = {}
    if not is_alive(identity):
        # Who has ended in this pid namespace was in the same container.
        if identity.pid_namespace == pid_namespace() and own_container_id():
            seen["container.id"] = own_container_id()
        return seen
    if found := container_id(identity.pid):
        seen["container.id"] = found
    try:
        process = psutil.Process(identity.pid)
        with process.oneshot():
            return {
                **seen,
                "process.executable.name": process.name(),
                "process.executable.path": process.exe(),
                "process.owner": process.username(),
            }
    except (psutil.Error, OSError):
        return seen
