"""`femtomp catalog`: what femtomp's own events mean, for `journalctl -x`.

In: nothing. Out: the catalogue file on stdout; or installed where journalctl looks for
those of the local administrator, and its database made anew.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.errors import FemtompError

if TYPE_CHECKING:
    import argparse

DIRECTORY: Final = "usr/local/lib/systemd/catalog"
FILE_NAME: Final = "femtomp.catalog"
EXIT_NOT_UPDATED: Final = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "catalog",
        help="install what journalctl -x says of femtomp's own events",
        description=(
            "Print the message catalogue of femtomp's own events (a worker was killed, "
            "records were lost, a sink is down), or install it for journalctl -x."
        ),
        epilog=(
            "The exit status is 0 if it is done; 1 if the file is in its place and "
            "journalctl could not update its database; 2 if the file cannot be written."
        ),
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--install", action="store_true", help=f"write /{DIRECTORY}/{FILE_NAME}"
    )
    what.add_argument("--remove", action="store_true", help="delete it")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="of an image, instead of this system",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print, install or remove; return the exit status."""
    from femtomp.codec.journal_catalog import catalog_text

    if not args.install and not args.remove:
        print(catalog_text(), end="")
        return 0
    path = args.root / DIRECTORY / FILE_NAME
    try:
        if args.install:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(catalog_text(), encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    except OSError as exc:
        msg = f"{path}: {exc.strerror}; run it as root, or give --root"
        raise FemtompError(msg) from exc
    print(f"{'installed' if args.install else 'removed'} {path}")
    return _update(args.root)


def _update(root: Path) -> int:
    command = ["journalctl", "--update-catalog", f"--root={root}"]
    try:
        done = subprocess.run(  # noqa: S603 - of fixed words and a path
            command, capture_output=True, text=True, check=False
        )
    except OSError as exc:
        problem = exc.strerror or str(exc)
    else:
        if done.returncode == 0:
            return 0
        problem = done.stderr.strip() or f"exit status {done.returncode}"
    print(f"femtomp: {' '.join(command)}: {problem}", file=sys.stderr)
    return EXIT_NOT_UPDATED
