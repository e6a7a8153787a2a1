"""Put each mutant into a copy of the tree and see its tests fail.

`python -m tests.mutants [words ...]` runs those whose names hold one of the words. It
exits with 1 if a mutant survives, if one no longer applies, or if a test fails without
any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.apply import ROOT, mutated
from tests.mutants.edits import MUTANTS, Mutant
from tests.mutants.journald import JOURNALD

# A mutant that makes a test wait for ever is found by that.
TIMEOUT_S = 180
SEED = "1"
TORTURE = "torture:"
# Exit codes of pytest: tests failed. Others say that nothing was tested.
TESTS_FAILED = 1


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("words", nargs="*", help="of the mutants' names; all if none")
    words = parser.parse_args().words
    chosen = [
        m for m in (*MUTANTS, *JOURNALD) if not words or any(w in m.name for w in words)
    ]
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        tree = Path(directory, "tree")
        tree.mkdir()
        for name in ("femtomp", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", tree)
        faults = _without(tree, chosen) + sum(not _is_found(tree, m) for m in chosen)
    print(f"{len(chosen)} mutants, {faults} faults")
    return 1 if faults else 0


def _without(tree: Path, mutants: list[Mutant]) -> int:
    """Count the tests that fail by themselves: they would find anything."""
    names = sorted({name for mutant in mutants for name in mutant.tests})
    failing = [name for name in names if _run(tree, name) != 0]
    for name in failing:
        print(f"FAILS WITHOUT A MUTANT: {name}", flush=True)
    return len(failing)


def _is_found(tree: Path, mutant: Mutant) -> bool:
    """Tell whether all tests of a mutant fail with it in the tree."""
    path = tree / "femtomp" / mutant.file
    before = path.read_text()
    begun = time.monotonic()
    try:
        path.write_text(mutated(before, mutant))
        survived = [name for name in mutant.tests if _run(tree, name) != TESTS_FAILED]
    except LookupError as exc:
        print(f"NO LONGER APPLIES: {mutant.name}: {exc}", flush=True)
        return False
    finally:
        path.write_text(before)
    word = "SURVIVED" if survived else "found"
    seconds = time.monotonic() - begun
    print(
        f"{word:<10} {seconds:>5.1f} s  {mutant.name}  {' '.join(survived)}", flush=True
    )
    return not survived


def _run(tree: Path, name: str) -> int:
    """Run a test; return pytest's exit code, and that of a failed test if it hangs."""
    command = [sys.executable, "-B", "-m"]
    if name.startswith(TORTURE):
        command += ["tests.torture", "--seed", SEED, "--scale", "0.1"]
        command += [name.removeprefix(TORTURE)]
    else:
        command += ["pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{name}"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "FEMTOMP_TEST_SEED": SEED}
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return TESTS_FAILED


if __name__ == "__main__":
    sys.exit(main())
