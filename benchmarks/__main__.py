"""femtomp beside what is used instead: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Plan, Round
from benchmarks.peers import DEFAULT, PEERS

# A round takes seconds; a peer that hangs must not hang the others.
_ROUND_S = 120.0


def main() -> int:
    given = _parser().parse_args()
    paced = given.rate is not None
    records = int(given.rate * given.seconds) if paced else given.records
    rounds: list[dict[str, Round]] = []
    print(report.machine())
    for number in range(given.rounds):
        done: dict[str, Round] = {}
        rounds.append(done)
        for name in _rotated(given.peers, number):
            plan = Plan(
                name, given.workers, records, given.rate or 0.0, given.seconds,
                given.directory,
            )  # fmt: skip
            found = _one(plan, _ROUND_S + given.seconds)
            if found is not None:
                done[name] = found
            print(f"round {number + 1}: {name}", file=sys.stderr)
    figures = report.FULL
    if paced:
        figures = report.PACED if records else report.IDLE
    print(report.table(rounds, given.peers, figures))
    print(report.spread(rounds, given.peers, figures))
    if bad := report.problems(rounds):
        print(bad)
    if not paced:
        print(report.goals(rounds))
    if given.json:
        report.write_json(
            given.json, rounds, {k: str(v) for k, v in vars(given).items()}
        )
    every = all(len(done) == len(given.peers) for done in rounds)
    return 0 if every and all(r.is_sound for d in rounds for r in d.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--records", type=int, default=10_000, help="of each worker")
    parser.add_argument(
        "--peers", nargs="+", choices=sorted(PEERS), default=list(DEFAULT)
    )
    parser.add_argument(
        "--rate",
        type=float,
        help="records a second of each worker, not as many as it can; 0 for none",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="with --rate")
    parser.add_argument(
        "--directory", default="", help="for the files; the temporary directory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    return parser


def _rotated(names: list[str], by: int) -> list[str]:
    """Let another peer be first each round: the place may matter."""
    by %= len(names)
    return names[by:] + names[:by]


def _one(plan: Plan, patience_s: float) -> Round | None:
    """Run a round in an interpreter and session of its own."""
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(asdict(plan))]
    master = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        output, _ = master.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(master.pid, signal.SIGKILL)
        master.wait()
        print(f"{plan.peer}: no result after {patience_s:g} s", file=sys.stderr)
        return None
    if master.returncode:
        print(f"{plan.peer}: failed", file=sys.stderr)
        return None
    return Round(**json.loads(output))


if __name__ == "__main__":
    sys.exit(main())
