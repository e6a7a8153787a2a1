"""`femtomp recover`: deliver what a server left behind when all of it was killed.

In: a spool that nobody serves, or a directory of such, and sinks. Out: the records at
their destinations, and a report on stderr; the spool is removed when every sink that
should has everything. Exit status 0: all is delivered; 1: something is left; 2: the
spool is in use or cannot be read. SIGINT and SIGTERM end it cleanly: what was delivered
is noted, and a second run goes on from there.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.config import ConsoleSink, HandlerSink
from femtomp.errors import SpoolError
from femtomp.grammar import resolve_sinks
from femtomp.lanes.segment import FORMAT_VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import FrameType

    from femtomp.config import SinkOptions
    from femtomp.supervisor.orphans import Found
    from femtomp.supervisor.recovery import Outcome, Recovery

EXIT_LEFT: Final = 1
EXIT_IN_USE: Final = 2
# How often the line of progress is written.
_SHOW_S: Final = 0.1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "recover",
        help="deliver what a killed server left in its spool",
        description=(
            "Deliver the records of a spool that nobody serves any more. A sink that "
            "the server had, by name, goes on where it was; any other gets everything "
            "that is still there. The spool is removed when every sink given has "
            "everything and so have those that the server had."
        ),
        epilog=(
            "The exit status is 0 if all was delivered, 1 if something is left, 2 if "
            "the spool is in use or cannot be read."
        ),
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a spool, or the directory of several",
    )
    parser.add_argument(
        "--sink", action="append", dest="sinks", metavar="SINK", required=True,
        help="console, console:FORMAT, file:PATH, journald, otlp, or the import path "
        "of a handler or sink, package.callable (looked for in the current directory, "
        "too); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the spool though sinks that its server had did not get everything",
    )
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS",
        help="for each spool (default: until all is delivered)",
    )  # fmt: skip
    parser.add_argument(
        "--no-redact",
        action="store_true",
        help="deliver secrets as well (default: the standard keys' values and all "
        "known patterns are left out; the server's own rules are not known here)",
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError  # argparse says the rest
    return value


def run(args: argparse.Namespace) -> int:
    """Recover one spool or several; return the exit status."""
    from femtomp.supervisor.notes import take_over_logging

    sinks = resolve_sinks(args.sinks, os.environ)
    directory = args.directory.absolute()
    if any(isinstance(sink, HandlerSink) for sink in sinks):
        # Last, and only then: nothing that lies about there is loaded by accident.
        sys.path.append(str(Path.cwd()))
    take_over_logging()
    _raise_descriptor_limit()
    signals = _Signals()
    try:
        if (directory / "manifest.json").exists():
            return _one(directory, sinks, args, signals)
        return _several(directory, sinks, args, signals)
    finally:
        signals.restore()


def _one(
    path: Path,
    sinks: tuple[SinkOptions, ...],
    args: argparse.Namespace,
    signals: _Signals,
) -> int:
    from femtomp.supervisor import orphans

    found = orphans.look_at(path)
    if found is None:
        msg = f"{path} is not a spool of uid {os.geteuid()}"
        raise SpoolError(0, msg)
    try:
        return _recover(found, sinks, args, signals)
    finally:
        os.close(found.descriptor)


def _several(
    parent: Path,
    sinks: tuple[SinkOptions, ...],
    args: argparse.Namespace,
    signals: _Signals,
) -> int:
    from femtomp.supervisor import orphans

    if not parent.is_dir():
        msg = f"{parent} is no directory"
        raise SpoolError(20, msg)
    status = 0
    tried = 0
    for found in _each(parent):
        if signals.came or not orphans.is_left(found):
            status = EXIT_LEFT if signals.came else status
            continue
        tried += 1
        try:
            status |= _recover(found, sinks, args, signals)
        except SpoolError as exc:
            _say(exc.strerror or str(exc))
            status = EXIT_LEFT
    if not tried:
        _say(f"no spool in {parent} was left behind")
    return status


def _each(parent: Path) -> Iterator[Found]:
    from femtomp.supervisor import orphans

    for found in orphans.find(parent):
        try:
            yield found
        finally:
            os.close(found.descriptor)


def _recover(
    found: Found,
    sinks: tuple[SinkOptions, ...],
    args: argparse.Namespace,
    signals: _Signals,
) -> int:
    from femtomp.supervisor import orphans
    from femtomp.supervisor.recovery import CAREFUL, Recovery

    if not orphans.is_known_format(found):
        msg = (
            f"{found.path} is left alone: it has format {found.manifest['format']!r}, "
            f"this femtomp knows {FORMAT_VERSION}: use the version that made it"
        )
        raise SpoolError(0, msg)
    recovery = Recovery(found, sinks, None if args.no_redact else CAREFUL)
    # On one terminal with the records it would be in their way.
    is_shown = sys.stderr.isatty() and not any(
        isinstance(sink, ConsoleSink) for sink in sinks
    )
    progress = _Progress(recovery, args.timeout, signals, is_shown=is_shown)
    outcome: Outcome | None = None
    try:
        recovery.deliver(progress.go_on)
    finally:
        progress.clear()
        outcome = recovery.close(remove=args.remove)
    _report(found.path, outcome)
    return 0 if outcome.is_whole else EXIT_LEFT


def _report(path: str, outcome: Outcome) -> None:
    for name, sink in outcome.sinks.items():
        words = ", ".join(f"{count} {word}" for word, count in sink._asdict().items())
        _say(f"{path}: {name}: {words}")
    if outcome.dropped:
        words = ", ".join(f"{count} ({why})" for why, count in outcome.dropped.items())
        _say(f"{path}: its workers had dropped {words}")
    if outcome.kept_for:
        _say(f"{path} is kept: {outcome.kept_for}")
    else:
        _say(f"{path} is removed")


class _Signals:
    """SIGINT and SIGTERM ask for a clean end; the second one ends at once."""

    def __init__(self) -> None:
        self.came = False
        self._before = {
            number: signal.signal(number, self._come)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _come(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Progress:
    """A line on the terminal that says how far it is, and whether to go on."""

    def __init__(
        self,
        recovery: Recovery,
        timeout: float | None,
        signals: _Signals,
        *,
        is_shown: bool,
    ) -> None:
        self._recovery = recovery
        self._until = None if timeout is None else time.monotonic() + timeout
        self._signals = signals
        self._is_shown = is_shown
        self._show_at = 0.0
        self._most = 1

    def go_on(self) -> bool:
        """Show how far it is; False when the time is over or a signal came."""
        now = time.monotonic()
        if self._is_shown and now >= self._show_at:
            self._show_at = now + _SHOW_S
            self._show()
        return not self._signals.came and (self._until is None or now < self._until)

    def _show(self) -> None:
        left = self._recovery.left_bytes()
        self._most = max(self._most, left)
        done = 100 * (self._most - left) // self._most
        counts = ", ".join(
            f"{n} {count}" for n, count in self._recovery.delivered().items()
        )
        sys.stderr.write(f"\rfemtomp: {done:3} %  delivered: {counts} \x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _raise_descriptor_limit() -> None:
    # Some descriptors a lane, as for an engine.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(text: str) -> None:
    print(f"femtomp: {text}", file=sys.stderr)
