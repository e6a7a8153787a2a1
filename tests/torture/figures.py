"""What a fault is given, and what it has to show: one line of the table."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


ALL_CASES_SCALE = 0.01


class Given(NamedTuple):
    """A seed, a scale of 1 for the whole figure, and a directory to work in."""

    seed: int
    scale: float
    directory: Path

    def count(self, full: int, least: int = 1) -> int:
        """Give a fault's count at this scale."""
        return max(least, round(full * self.scale))

    def chance(self, salt: str = "") -> random.Random:
        """Give a source of moments that is the same for the same seed."""
        return random.Random(f"{self.seed}/{salt}")

    def some(self, cases: Sequence, salt: str) -> Sequence:
        """Give all cases, or at the suite's small scales a part that the seed draws."""
        if self.scale >= ALL_CASES_SCALE:
            return cases
        return self.chance(salt).sample(cases, -(-len(cases) // 7))

    def below(self, name: str) -> Path:
        """Make a directory for a part of the fault."""
        path = self.directory / name
        path.mkdir(parents=True)
        return path


class Outcome(NamedTuple):
    """A fault's figures, and in words which of them were missed."""

    fault: str
    count: int
    lost: int = 0
    duplicates: int = 0
    worst: str = ""
    missed: tuple[str, ...] = ()
    seconds: float = 0.0
    # What was sampled meanwhile, printed below the line.
    samples: tuple[str, ...] = ()

    def row(self) -> str:
        """Give the fault's row of the table in docs/reliability.md."""
        seen = self.worst + (f"; MISSED: {'; '.join(self.missed)}" * bool(self.missed))
        return (
            f"| {self.fault} | {self.count:,} | {self.lost} | {self.duplicates} | "
            f"{seen} |"
        )

    def line(self) -> str:
        """Give the fault's line of the table."""
        mark = "" if not self.missed else "  MISSED: " + "; ".join(self.missed)
        return (
            f"{self.fault:<34} {self.count:>8} {self.lost:>6} {self.duplicates:>10} "
            f"{self.seconds:>8.1f}  {self.worst}{mark}"
        )


HEADING = (
    f"{'fault':<34} {'count':>8} {'lost':>6} {'duplicates':>10} {'seconds':>8}  worst"
)


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def seconds(self) -> float:
        """Tell how many have passed."""
        return time.monotonic() - self._begun


def misses(**conditions: bool) -> tuple[str, ...]:
    """Name, in words, the conditions that do not hold."""
    return tuple(
        name.replace("_", " ") for name, good in conditions.items() if not good
    )
