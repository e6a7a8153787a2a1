"""The command `femtomp`: one module a command.

In: arguments. Out: an exit status. A command's module has `add_parser`, which
declares it, and `run`, which does it and loads what it needs only then. An error of
femtomp is one line on stderr and status 2, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

from femtomp.cli import catalog, demo, recover, reopen, run
from femtomp.errors import FemtompError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = (demo, run, recover, reopen, catalog)
EXIT_ERROR: Final = 2
# What a shell reports for a process that a signal ended.
EXIT_SIGNAL_BASE: Final = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process if not given.

    Returns
    -------
    int
        The exit status: the command's own, 2 for an error of femtomp, 128 + n if
        signal n ended it.

    Raises
    ------
    SystemExit
        From argparse, for arguments that it cannot use and after `--help`.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.run is None:
        parser.print_help()
        return EXIT_ERROR
    try:
        status = int(args.run(args))
        sys.stdout.flush()
    except FemtompError as exc:
        print(f"femtomp: {in_words(exc)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_SIGNAL_BASE + signal.SIGINT
    except BrokenPipeError:
        # Its reader has gone; the interpreter would fail again at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_SIGNAL_BASE + signal.SIGPIPE
    return status


def in_words(exc: FemtompError) -> str:
    """Return what an error says, in one line and without its number."""
    text = (isinstance(exc, OSError) and exc.strerror) or str(exc)
    return " ".join(text.split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="femtomp",
        description="Multiprocessing-safe logging for Python worker pools.",
    )
    parser.add_argument("--version", action="version", version=f"femtomp {_version()}")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _version() -> str:
    try:
        return metadata.version("femtomp")
    except metadata.PackageNotFoundError:
        return "of a source tree that is not installed"
