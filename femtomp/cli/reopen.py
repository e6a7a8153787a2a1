"""`femtomp reopen`: log files that were moved are let go of, and made anew.

In: a spool, or a directory of them. Out: an exit status of 0 when every file sink of
the servers there has opened the file that its path names: nothing is written to the old
one any more, so that it may be compressed. Without this command the same happens at the
next record. A server that is not running has nothing open.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.errors import SpoolError
from femtomp.native import pidfd_open, pidfd_send_signal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from femtomp.lanes.spool import Spool

EXIT_LATE: Final = 1
DEFAULT_TIMEOUT_S: Final = 10.0
_LOOK_S: Final = 0.005


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "reopen",
        help="have running servers open their log files anew",
        description=(
            "Have running servers open their log files anew, and wait until they have: "
            "for logrotate's postrotate, run as the servers' user. SIGUSR1 and SIGHUP "
            "to a server's pid do the same without waiting."
        ),
        epilog=(
            "The exit status is 0 if all have, or none is running; 1 if one has not in "
            "time, or its spool is broken; 2 if DIR cannot be read."
        ),
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        nargs="?",
        help="a spool, or the directory of several (default: FEMTOMP_SPOOL, else where "
        "spools lie)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="to wait for all of them (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Have the servers reopen; return the exit status."""
    deadline = time.monotonic() + args.timeout
    requests, broken = _requests(args.directory)
    while not all([request.is_done() for request in requests]):  # noqa: C419 - asks all
        if time.monotonic() >= deadline:
            return _say_late(requests)
        time.sleep(_LOOK_S)
    return EXIT_LATE if broken else 0


def _requests(given: Path | None) -> tuple[list[Request], int]:
    """Ask every server; return what was asked, and how many could not be.

    One whose spool is broken must not keep the others from being asked.
    """
    from femtomp.lanes.lock import is_orphaned
    from femtomp.lanes.place import choose_parent
    from femtomp.lanes.spool import Spool
    from femtomp.supervisor import orphans

    told = os.environ.get("FEMTOMP_SPOOL")
    directory = given or (Path(told) if told else choose_parent(None, os.environ))
    directory = directory.absolute()
    if not directory.is_dir():
        msg = f"{directory} is no directory"
        raise SpoolError(20, msg)
    if (directory / "manifest.json").exists():
        return [Request(Spool(directory))], 0
    requests, broken = [], 0
    for found in orphans.find(directory):
        try:
            if orphans.is_known_format(found):
                requests.append(Request(Spool(found.path)))
        except OSError as exc:
            # What nobody serves has no file open.
            broken += not is_orphaned(found)
            text = getattr(exc, "strerror", None) or exc
            print(f"femtomp: {found.path} is left out: {text}", file=sys.stderr)
        finally:
            os.close(found.descriptor)
    return requests, broken


class Request:
    """What one server was asked for.

    Parameters
    ----------
    spool : Spool
    """

    def __init__(self, spool: Spool) -> None:
        from femtomp.lanes.spool import REOPEN

        self.path: Final = spool.path
        self._spool = spool
        self._told = 0
        self._number = spool.control()[REOPEN] + 1
        spool.set_control(REOPEN, self._number)

    def is_done(self) -> bool:
        """Tell whether nobody has an old file open; tell a new engine of it, too."""
        from femtomp.lanes.lock import is_orphaned
        from femtomp.lanes.spool import ENGINE, ENGINE_TICKS, REOPENED

        words = self._spool.control()
        if words[REOPENED] >= self._number:
            return True
        if words[ENGINE] != self._told and _tell(words[ENGINE], words[ENGINE_TICKS]):
            self._told = words[ENGINE]
        return not self._spool.exists() or is_orphaned(self._spool)


def _tell(engine: int, ticks: int) -> bool:
    """Signal an engine, and no other process that has its pid by now."""
    from femtomp.lanes.liveness import start_ticks

    if not engine:
        return False
    try:
        descriptor = pidfd_open(engine)
    except OSError:
        return False
    try:
        if start_ticks(engine) != ticks:
            return False
        pidfd_send_signal(descriptor, signal.SIGUSR1)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _say_late(requests: Sequence[Request]) -> int:
    late = ", ".join(r.path for r in requests if not r.is_done())
    print(f"femtomp: not reopened in time: {late}", file=sys.stderr)
    return EXIT_LATE if late else 0
