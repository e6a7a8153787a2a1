"""Every command that the documents print, once, at a small count: a step of CI.

`python -m tests.documented` runs them, each in a directory of its own where it writes
files. A command that compares figures may miss its goal here, on a busy machine and at
such a count. `tests/test_documented.py` holds the table against the documents.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENTS: Final = ("README.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md")
_LINE: Final = re.compile(
    r"^ *(?:\$ )?((?:make|python -m|femtomp) [^#\n]+)", re.MULTILINE
)
_INLINE: Final = re.compile(r"`((?:make|python -m|femtomp) [^`\n]+)`")
_LIMIT_S: Final = 300  # each takes seconds, the longest half a minute

# What is documented, and what makes it small.
SMALL: Final = {
    "make demo": "",
    "make torture": 'ARGS="--scale 0.002 worker"',
    "make mutants": 'ARGS="CRC"',
    "make benchmark": 'ARGS="--rounds 1 --records 500"',
    "python -m benchmarks --peers queue queue-thread file femtomp --json figures.json": (
        "--rounds 1 --records 500"
    ),
    "python -m benchmarks.fleet": "--hosts 100",
    "python -m benchmarks.formats": "--loops 50 --best-of 1",
    "python -m benchmarks.journald": "--rounds 1 --records 300",
    "python -m benchmarks.libsystemd": "",
    "python -m benchmarks.logger_call": "--rounds 3",
    "python -m benchmarks.otlp": "--rounds 1 --records 500",
    "python -m benchmarks.otlp_latency": "--rounds 1 --records 500",
    "python -m benchmarks.profile_call": "--loops 200 --best-of 1",
    "python -m benchmarks.redaction": "--rounds 1",
    "femtomp run --sink console:json --sink file:app.jsonl -- python app.py": "",
    "femtomp catalog": "",
}
# What is run elsewhere, or cannot be run here.
ELSEWHERE: Final = {
    "make test": "CI's other steps",
    "make test-oldest-otel": "CI's other steps",
    "make test-collector": "it builds the Collector, which needs Go's modules",
    "make test-journald": "it installs another Debian into a directory",
    "femtomp demo": "make demo",
    "femtomp recover": "tests/processes/test_recover.py",
    "femtomp reopen": "tests/processes/test_rotation.py",
    "femtomp run": "tests/cli/test_run.py",
    "python -m benchmarks": "make benchmark",
}
# They end with 1 if a figure was missed.
COMPARE: Final = ("python -m benchmarks.logger_call", "python -m benchmarks.otlp")
APP: Final = """
import logging, femtomp
femtomp.worker_init()
logging.getLogger("app").info("it runs")
"""


def documented() -> set[str]:
    """Return the commands that the documents print, without comments."""
    found = set()
    for pattern in DOCUMENTS:
        for path in ROOT.glob(pattern):
            for number, part in enumerate(path.read_text().split("```")):
                found |= set((_LINE if number % 2 else _INLINE).findall(part))
    return {command.strip() for command in found}


def is_known(command: str) -> bool:
    """Return whether a documented command is run, here or elsewhere."""
    return any(f"{command} ".startswith(f"{known} ") for known in (*SMALL, *ELSEWHERE))


def run(command: str, small: str) -> str:
    """Run one command; return what is wrong, or nothing."""
    bin_directory = str(Path(sys.executable).parent)
    environ = {
        **os.environ,
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    if command.startswith("make"):
        small = f"-C {ROOT} --no-print-directory VENV={sys.prefix} {small}"
    with tempfile.TemporaryDirectory(prefix="documented-") as directory:
        Path(directory, "app.py").write_text(APP)
        done = subprocess.run(
            ["timeout", str(_LIMIT_S), "bash", "-c", f"{command} {small}"],
            cwd=directory, env=environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    output = done.stdout + done.stderr
    missed = done.returncode == 1 and command in COMPARE and "Traceback" not in output
    if done.returncode and not missed:
        return f"{command} {small}: exit status {done.returncode}\n{output[-3000:]}"
    if not output.strip():
        return f"{command} {small}: it said nothing"
    return ""


def main() -> int:
    """Run all of them; 1 if one fails."""
    failed = 0
    for command, small in SMALL.items():
        wrong = run(command, small)
        failed += bool(wrong)
        print(wrong or f"ok: {command} {small}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
