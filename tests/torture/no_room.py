"""No space, no descriptors, no directory: no exception, no SIGBUS, every loss counted.

A worker logs in steps that the test commands: well, while something is taken from it,
and after it was given back. What it says of itself in the end is held to what is there.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from femtomp.lanes.space import read_unkept
from femtomp.supervisor.stats import read_stats
from femtomp.worker import channel as channels
from tests.processes.harness import Returned, is_running, until
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, KINDS, remove, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "no room"
FULL = 100
# Thrice as many, while nothing is to be had, do not fit what was taken before.
RECORDS = 1500
RETRY_S = CHECK_S = 0.05
# The limit of these faults is not femtomp's own.
QUOTA_BYTES = 64 * 1024 * 1024
PARENT_BYTES = 4 * 1024 * 1024
# Less than any file of a lane has.
LIMIT_BYTES = 2048
_MOUNT = ["mount", "-t", "tmpfs", "-o", f"size={PARENT_BYTES}", "none"]


class Fault(NamedTuple):
    """What is taken from a worker, and given back; both run in that worker."""

    name: str
    take: Callable[[Place], object]
    give: Callable[[Place], object]
    # What is logged meanwhile may be gone without a count: its files were deleted.
    deleted: bool = False


class Place(NamedTuple):
    """Directories of one run."""

    top: Path  # the user's own, with the destination
    parent: Path  # of the spool
    spool: Path
    held: list[int]
    users: dict[str, bytes]


# -- what is taken ---------------------------------------------------------------------


def fill(place: Place) -> None:
    """Fill the spool's file system."""
    descriptor = os.open(place.parent / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError:
        pass
    finally:
        os.close(descriptor)


def empty(place: Place) -> None:
    """Give the space back."""
    (place.parent / "filler").unlink()


def limit(_: Place) -> None:
    """Let this process's files grow no further, as a quota does."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))


def unlimit(_: Place) -> None:
    """Let them grow again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def take_descriptors(place: Place) -> None:
    """Take all descriptors that the process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(600, len(place.held)), hard))
    try:
        while True:
            place.held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


def give_descriptors(place: Place) -> None:
    """Close them."""
    while place.held:
        os.close(place.held.pop())


def delete(place: Place) -> None:
    """Delete the spool, as a cleaner of temporary files does."""
    remove(place.spool)


def put_link(place: Place) -> None:
    """Put a link to a directory of the user's in the spool's place."""
    place.spool.rename(place.parent / "moved")
    place.spool.symlink_to(place.top / "users")


def take_link(place: Place) -> None:
    """Put the spool back."""
    place.spool.unlink()
    (place.parent / "moved").rename(place.spool)


def close_range(place: Place) -> None:
    """Close all descriptors and open files of the user's under their numbers."""
    os.closerange(3, 2048)
    for name, content in place.users.items():
        path = place.top / "users" / name
        # Written to by their owner, as a log frame would be.
        flags = os.O_RDWR | os.O_APPEND
        first = os.open(path, flags)
        assert os.pread(first, len(content), 0) == content
        place.held.append(first)
    while place.held[-1] < 1100:
        place.held.append(os.open(path, flags))


FAULTS = (
    Fault("no space", fill, empty),
    Fault("file sizes limited", limit, unlimit),
    Fault("no descriptors", take_descriptors, give_descriptors),
    Fault("descriptors closed, used anew", close_range, lambda _: None),
    Fault("a link in the spool's place", put_link, take_link),
    Fault("spool deleted", delete, lambda _: None, deleted=True),
)


# -- the run ---------------------------------------------------------------------------


def run(given: Given) -> list[Outcome]:
    """Take each thing from workers with each writer."""
    cases = [(fault, kind) for fault in FAULTS for kind in KINDS]
    return [_run(given, *case) for case in given.some(cases, NAME)]


def _run(given: Given, fault: Fault, kind: str) -> Outcome:
    watch = Watch()
    if fault.take is fill and not can_mount(given.below(f"probe-{kind}")):
        return Outcome(f"{fault.name} ({kind})", 0, worst="nothing may be mounted here")
    rounds = given.count(FULL)
    lost = dropped = aside = returned_in_all = 0
    missed: tuple[str, ...] = ()
    for turn in range(rounds):
        top = given.below(f"{fault.name}-{kind}-{turn}")
        one = _round(given, fault, kind, top)
        lost += one["lost"]
        dropped += one["dropped"]
        aside += one["aside"]
        returned_in_all += one["returned"]
        missed += one["missed"]
    worst = (
        f"{returned_in_all} records returned, {dropped} counted as dropped, {aside} to "
        f"stderr"
    )
    if fault.deleted:
        worst += f", {lost} of up to {CHECK_S:g} s gone with the files"
        lost = 0
    return Outcome(
        f"{fault.name} ({kind})", rounds, lost, 0, worst, tuple(sorted(set(missed))),
        watch.seconds(),
    )  # fmt: skip


def _round(given: Given, fault: Fault, kind: str, top: Path) -> dict:
    returned = Returned(2)
    users = {f"file{n}": os.urandom(64) for n in range(3)}
    (top / "users").mkdir()
    for name, content in users.items():
        (top / "users" / name).write_bytes(content)
    (top / "parent").mkdir()
    with (
        small_tmpfs(top / "parent") if fault.take is fill else nullcontext(),
        serving(
            top,
            kind=kind,
            parent=top / "parent",
            patience_s=1 if fault.deleted else 10,
            spool_quota_bytes=QUOTA_BYTES,
        ) as server,
    ):
        place = Place(top, top / "parent", server.spool, [], users)
        workers = [
            oracle.forked(_work, returned, given, fault, place, w) for w in range(2)
        ]
        ends = [os.waitstatus_to_exitcode(os.waitpid(w, 0)[1]) for w in workers]
        gone = fault.take is delete
        flushed = gone or server.flush(FLUSH_S)
        ended = not gone or until(lambda: not is_running(server.pid), "it ends")
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(top / "app.jsonl"))
        stats = None if gone else read_stats(server._spool)
        # What came to no lane is counted beside the lanes, too, where that works.
        unkept = 0 if gone else sum(read_unkept(server._spool.directories).values())
    said = [json.loads((top / f"said{n}").read_text()) for n in range(2) if not ends[n]]
    in_lane = sum(stats.dropped.values()) - unkept if stats else 0
    beside = sum(each["dropped"] for each in said)
    lost = verdict.lost - in_lane - beside
    came_back = all(_is_there(verdict, each, "after") for each in said)
    missed = misses(
        no_exception_and_no_SIGBUS=ends == [0, 0],
        what_was_safe_before_is_there=all(
            _is_there(verdict, each, "before") for each in said
        ) or fault.take is delete,
        every_loss_counted=lost <= 0 or fault.deleted,
        nothing_counted_that_is_there=lost >= 0,
        no_wrong_record=verdict.wrong == 0,
        no_duplicates=verdict.duplicates == 0,
        all_flushed=flushed,
        supervisor_ends_without_its_spool=ended,
        the_users_files_untouched=all(
            (top / "users" / n).read_bytes() == c for n, c in users.items()
        ) and sorted(os.listdir(top / "users")) == sorted(users),
        recovery_when_it_is_back=came_back or fault.take is delete,
        # Here stderr is a file, and may not grow either.
        dropped_lines_are_on_stderr=fault.take is limit
        or all(each["dropped"] <= each["lines"] for each in said),
        it_was_felt=in_lane + beside > 0 or fault.take is close_range,
        what_is_dropped_in_lanes_is_counted=stats is None
        or stats.sinks["file"].committed + in_lane + unkept <= stats.started,
    )  # fmt: skip
    return {
        "lost": max(0, lost), "dropped": in_lane, "aside": beside, "missed": missed,
        "returned": sum(returned.all()),
    }  # fmt: skip


def _is_there(verdict: oracle.Verdict, said: dict, step: str) -> bool:
    first, last = said[step]
    rows = verdict.rows(said["worker"])
    return all(number < len(rows) and rows[number] for number in range(first, last))


def _work(returned: Returned, given: Given, fault: Fault, place: Place, worker: int):
    """Log before, while and after; worker 1 comes to its first record only meanwhile."""
    channels.RETRY_S, channels.CHECK_S = RETRY_S, CHECK_S
    os.dup2(os.open(place.top / f"stderr{worker}", os.O_WRONLY | os.O_CREAT), 2)
    logging.raiseExceptions = True
    said: dict = {"worker": worker}
    each = fault.take in (take_descriptors, close_range, limit)
    steps = (("before", 0 if worker else RECORDS), ("while", RECORDS if worker else 3 * RECORDS),
             ("after", RECORDS))  # fmt: skip
    for step, count in steps:
        if step == "while":
            _together(place, worker, "take", fault.take, each=each)
        elif step == "after":
            _together(place, worker, "give", fault.give, each=each)
            # A lane is tried again, and looked after, at these intervals.
            time.sleep(3 * max(RETRY_S, CHECK_S))
            oracle.log_count(returned, given.seed, worker, 1)
        first = returned[worker]
        oracle.log_count(returned, given.seed, worker, count)
        said[step] = first, returned[worker]
    said["dropped"] = channels.channel(str(place.spool)).dropped
    with (place.top / f"stderr{worker}").open() as lines:
        said["lines"] = sum(1 for _ in lines)
    (place.top / f"said{worker}").write_text(json.dumps(said))


def _together(place: Place, worker: int, step: str, act, *, each: bool) -> None:
    """Act when both workers have come as far: each for itself, or the first for both."""
    if each:
        act(place)  # each for itself: nobody waits, and no file can be made meanwhile
        return
    (place.top / f"{step}-ready{worker}").touch()
    until((place.top / f"{step}-ready{1 - worker}").exists, "the other worker", 30)
    if worker == 0:
        act(place)
        (place.top / f"{step}-done").touch()
    else:
        until((place.top / f"{step}-done").exists, "it is done", 30)


@contextmanager
def small_tmpfs(path: Path) -> Iterator[None]:
    """Mount a small file system."""
    subprocess.run([*_MOUNT, str(path)], check=True, capture_output=True)
    try:
        yield
    finally:
        # Lazily: a guardian that is about to end may still have it open.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def can_mount(path: Path) -> bool:
    """Tell whether a file system may be mounted here."""
    try:
        with small_tmpfs(path):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
