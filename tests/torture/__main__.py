"""Run faults and hold them to their figures: `python -m tests.torture [name ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.torture.faults import FAULTS
from tests.torture.figures import HEADING, Given


def main() -> int:
    """Run what the command line names; 1 if a figure was missed."""
    options = _options()
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32)
    print(
        f"seed {seed}, scale {options.scale:g}, CPython {platform.python_version()}, "
        f"{os.cpu_count()} cores, Linux {platform.release()}, {options.directory}"
    )
    if not options.markdown:
        print(HEADING, flush=True)
    missed = 0
    for name in options.names or FAULTS:
        directory = Path(tempfile.mkdtemp(f"-{name}", "torture-", options.directory))
        try:
            for outcome in FAULTS[name](Given(seed, options.scale, directory)):
                print(outcome.row() if options.markdown else outcome.line(), flush=True)
                for sample in outcome.samples:
                    print(sample, file=sys.stderr)
                missed += bool(outcome.missed)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    print(f"{missed} figures missed" if missed else "all figures met")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--seed", type=int, help="of all moments and contents")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="part of the whole counts (1)"
    )
    parser.add_argument(
        "--directory", default="/dev/shm", help="where the spools lie (/dev/shm)"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="rows for docs/reliability.md"
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(FAULTS))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(FAULTS))
    if unknown:
        parser.error(f"no fault {', '.join(unknown)}: there are {', '.join(FAULTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
