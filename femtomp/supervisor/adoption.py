"""The spool of a new server: one that an earlier server of its name left, or its own.

In: the server's name and what its manifest will say. Out: a spool with this process's
lock on it. An orphan is not read beside a new spool but served itself: workers that
still live go on in it, cursors and statistics go on where they were (docs/adr/0006).

What must never happen: two masters with one spool, a record that no sink of the new
server would ever get, or a spool of another name touched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from femtomp.errors import ConfigError, SpoolError
from femtomp.lanes import place
from femtomp.lanes.lock import MASTER_LOCK, Lock
from femtomp.lanes.segment import FORMAT_VERSION
from femtomp.lanes.spool import (
    DEADLINE,
    ENGINE,
    ENGINE_TICKS,
    EXITING,
    GUARDIAN,
    LANES,
    LANES_OF_ROOT,
    PULLER,
    STATE,
    Spool,
    State,
)
from femtomp.supervisor import levels, orphans
from femtomp.supervisor.notes import note
from femtomp.supervisor.said_once import age, command, say_of_others, say_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.supervisor.orphans import Claimed, Found

# A newborn spool looks like an orphan for an instant; that another master takes it
# twice in a row is not to be expected.
_MAX_TRIES: Final = 5


class Wanted(NamedTuple):
    """What the manifest of the new server says."""

    name: str
    script: str | None
    """What the name was guessed from; None: it was given; "": nothing that lasts."""
    level: int
    sinks: tuple[str, ...]
    master: Mapping[str, Any]
    workers: tuple[int, int] | None
    resource: Mapping[str, Any]
    limits: Mapping[str, Any] = {}
    levels: Mapping[str, int] = {}


class Taken(NamedTuple):
    """A spool for the server, and the lock that makes it this process's."""

    spool: Spool
    lock: Lock
    further: tuple[str, ...] = ()
    """Paths of others that fit too, and are served beside it."""


def adopt(parent: Path, wanted: Wanted) -> Taken | None:
    """Take over a spool that a server of this name left, if one fits.

    What is left alone is said on stderr, with the command that delivers it.
    """
    orphans.finish_removals(parent)
    found = orphans.find(parent)
    try:
        left = [each for each in found if orphans.is_left(each)]
        own = [each for each in left if _is_of(each, wanted)]
        claimed = [taken for each in own if (taken := _claim(each))]
        others = [each for each in left if each not in own and _holds_lanes(each)]
        say_of_others(parent, others)
    finally:
        for each in found:
            os.close(each.descriptor)
    fitting: list[Claimed] = []
    for one in claimed:
        problem = _misfit(one.spool, wanted)
        if problem:
            _leave(one, problem)
        else:
            fitting.append(one)
    # Workers that live can change the spool no more: theirs comes first.
    fitting.sort(key=lambda one: not orphans.has_workers(one.spool))
    further = tuple(one.spool.path for one in fitting[1:])
    for one in fitting[1:]:
        one.release()
    if further:
        what = "spool" if len(further) == 1 else "spools"
        note(
            f"further:{parent}",
            f"{len(further)} more {what} of this name, left behind in {parent}: "
            "delivered beside this server",
        )
    adopted = _taken_over(fitting[0], wanted) if fitting else None
    return adopted and adopted._replace(further=further)


def adopt_this(path: str, wanted: Wanted) -> Taken | None:
    """Take over the spool at a path, if it is still left and still fits.

    Who adopted another one has said what there was to say.
    """
    found = orphans.look_at(Path(path))
    if found is None:
        return None
    try:
        is_left = _is_of(found, wanted) and orphans.is_left(found)
        one = _claim(found) if is_left else None
    finally:
        os.close(found.descriptor)
    if one is None:
        return None
    if _misfit(one.spool, wanted):
        one.release()
        return None
    return _taken_over(one, wanted)


def _is_of(found: Found, wanted: Wanted) -> bool:
    manifest = found.manifest
    return (
        wanted.script != ""
        and manifest.get("name") == wanted.name
        and manifest.get("script") == wanted.script
    )


def _holds_lanes(found: Found) -> bool:
    for name in (LANES, LANES_OF_ROOT):
        try:
            if os.listdir(os.path.join(found.path, name)):
                return True
        except OSError:
            continue  # it has none of that name
    return False


def _claim(found: Found) -> Claimed | None:
    try:
        if orphans.is_known_format(found):
            return orphans.claim(found)
    except SpoolError:
        return None  # another master was faster, or it has gone
    version = found.manifest["format"]
    say_once(
        Path(found.path).parent,
        found,
        f"the spool {found.path} of an earlier server of this name is left alone: it "
        f"has format {version!r}, this femtomp knows {FORMAT_VERSION}",
    )
    return None


def _misfit(spool: Spool, wanted: Wanted) -> str:
    """Say why a spool cannot be served as it is, if it cannot."""
    before = workers_of(spool.manifest)
    if before != wanted.workers:
        return "its workers' uid and gid are {} and {}".format(*before or (None, None))
    gone = [name for name in spool.sinks if name not in wanted.sinks]
    waiting = orphans.sinks_with_records(spool, gone)
    if waiting:
        return f"it has records for {', '.join(waiting)}, which is no sink any more"
    return ""


def workers_of(manifest: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return uid and gid of a spool's workers, where these are another user."""
    uid, gid = manifest.get("worker_uid"), manifest.get("worker_gid")
    return None if uid is None or gid is None else (uid, gid)


def _leave(one: Claimed, problem: str) -> None:
    spool = one.spool
    found = orphans.Found(spool.path, spool.descriptor, spool.manifest)
    say_once(
        Path(spool.path).parent,
        found,
        f"the spool {spool.path} that an earlier server of this name left {age(found)} "
        f"ago is left alone: {problem}; `{command(found)}` delivers what is there",
    )
    one.release()


def _taken_over(one: Claimed, wanted: Wanted) -> Taken | None:
    """Make the spool say that it is the new server's."""
    path = one.spool.path
    manifest = {
        **one.spool.manifest,
        "level": wanted.level,
        "limits": dict(wanted.limits),
        "levels": dict(wanted.levels),
        "sinks": wanted.sinks,
        "master": dict(wanted.master),
    }
    try:
        place.check_size(manifest)
    except ConfigError:
        one.release()
        raise
    try:
        place.describe(one.spool.descriptor, manifest, wanted.resource)
        place.give_root_lanes(one.spool)
        orphans.readmit(one.spool)
        levels.clear(one.spool)
        # Until the last of these, workers of before find it stopped if it was.
        for word in (DEADLINE, PULLER, EXITING, GUARDIAN, ENGINE, ENGINE_TICKS):
            one.spool.set_control(word, 0)
        one.spool.set_control(STATE, State.STARTING)
        spool = Spool(path)  # with its new manifest
    except OSError as exc:
        _leave(one, f"it cannot be changed: {exc}")
        return None
    one.spool.close()
    return Taken(spool, one.lock)


def create(parent: Path, wanted: Wanted) -> Taken:
    """Make a spool that was nobody's before.

    Raises
    ------
    SpoolError
        If it cannot be made.
    """
    for _ in range(_MAX_TRIES):
        spool = place.create(
            parent,
            wanted.name,
            level=wanted.level,
            levels=wanted.levels,
            sinks=wanted.sinks,
            master=wanted.master,
            workers=wanted.workers,
            script=wanted.script,
            resource=wanted.resource,
            limits=wanted.limits,
        )
        try:
            return Taken(spool, Lock(spool, MASTER_LOCK))
        except SpoolError:
            spool.close()  # taken for an orphan, and not lost
    msg = f"cannot keep a spool of its own in {parent}: others take it at once"
    raise SpoolError(11, msg)
