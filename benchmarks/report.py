"""Figures of many rounds as a table: medians, and ratios to the reference.

A machine's speed changes from minute to minute, so a ratio is taken within each round,
where the peers ran one after the other, and the median of those is shown: it is much
steadier than the ratio of two medians.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.peers import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.measure import Round

    Figure = Callable[[Round], float]
    Rounds = Sequence[Mapping[str, Round]]


def _per_record(value: Callable[[Round], float]) -> Figure:
    return lambda r: value(r) / r.logged if r.logged else 0.0


FULL: dict[str, Figure] = {
    "p50 us": lambda r: r.p50_us,
    "p99 us": lambda r: r.p99_us,
    "p99.9 us": lambda r: r.p999_us,
    "rec/s": lambda r: r.logged / r.duration_s,
    "CPU us/rec": _per_record(lambda r: r.cpu_us),
    "workers": _per_record(lambda r: r.cpu_workers_us),
    "services": _per_record(lambda r: r.cpu_services_us),
    "master": _per_record(lambda r: r.cpu_master_us),
    "start ms": lambda r: r.cpu_start_us / 1000,
}
PACED: dict[str, Figure] = {
    "p50 us": lambda r: r.p50_us,
    "p99 us": lambda r: r.p99_us,
    "p99.9 us": lambda r: r.p999_us,
    "CPU us/rec": _per_record(lambda r: r.cpu_us),
    "workers": _per_record(lambda r: r.cpu_workers_us),
    "services": _per_record(lambda r: r.cpu_services_us),
    "master": _per_record(lambda r: r.cpu_master_us),
    "% of a core": lambda r: r.cpu_us / r.wall_s / 1e4,
    "not workers'": lambda r: (r.cpu_services_us + r.cpu_master_us) / r.wall_s / 1e4,
}
IDLE: dict[str, Figure] = {
    title: PACED[title] for title in ("% of a core", "not workers'")
}
_WITH_RATIO = ("p50 us", "p99 us", "p99.9 us", "rec/s", "CPU us/rec", "% of a core")


def sound(rounds: Rounds, peer: str) -> list[Round]:
    """Return a peer's rounds whose figures count."""
    return [r[peer] for r in rounds if peer in r and r[peer].is_sound]


def ratio(rounds: Rounds, peer: str, figure: Figure) -> float | None:
    """Return the median, over the rounds, of a peer's figure by the reference's."""
    found = [
        figure(r[peer]) / figure(r[REFERENCE])
        for r in rounds
        if peer in r and REFERENCE in r
        if r[peer].is_sound and r[REFERENCE].is_sound and figure(r[REFERENCE])
    ]
    return median(found) if found else None


def table(rounds: Rounds, names: Sequence[str], figures: Mapping[str, Figure]) -> str:
    """Return medians, and in brackets the ratio to the reference; as Markdown."""
    rows = [["peer", *figures, "rounds", "lost"]]
    for name in names:
        counted = sound(rounds, name)
        cells = [name]
        for title, figure in figures.items():
            if not counted:
                cells.append("-")
                continue
            text = _number(median(map(figure, counted)))
            if title in _WITH_RATIO and name != REFERENCE:
                by = ratio(rounds, name, figure)
                text += "" if by is None else f" ({by:.2f}x)"
            cells.append(text)
        every = [r[name] for r in rounds if name in r]
        lost = sum(r.lost for r in every)
        cells += [f"{len(counted)} of {len(every)}", str(lost)]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_row(row, widths) for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(rounds: Rounds, names: Sequence[str], figures: Mapping[str, Figure]) -> str:
    """Say how far the rounds of each peer lie apart, as lowest and highest."""
    lines = []
    for name in names:
        counted = sound(rounds, name)
        parts = [
            f"{title} {_number(min(map(figure, counted)))} to "
            f"{_number(max(map(figure, counted)))}"
            for title, figure in figures.items()
            if counted and title in ("p50 us", "rec/s", "CPU us/rec", "% of a core")
        ]
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    return "\n".join(lines)


def problems(rounds: Rounds) -> str:
    """Name the rounds that do not count, and why."""
    kinds = ("lost", "duplicated", "disordered", "damaged")
    return "\n".join(
        f"round {number}, {name}: "
        + ", ".join(f"{getattr(r, k)} {k}" for k in kinds if getattr(r, k))
        for number, by_peer in enumerate(rounds, 1)
        for name, r in by_peer.items()
        if not r.is_sound
    )


def goals(rounds: Rounds) -> str:
    """Say whether femtomp keeps what it promises against the reference."""
    lines = []
    for title, limit in (("p50 us", 1.0), ("CPU us/rec", 0.5)):
        by = ratio(rounds, "femtomp", FULL[title])
        if by is not None:
            verdict = "kept" if by < limit else "MISSED"
            lines.append(
                f"goal: {title} below {limit:g}x {REFERENCE}: {by:.2f}x, {verdict}"
            )
    return "\n".join(lines)


def machine() -> str:
    """Name what was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return (
        f"CPython {platform.python_version()}, Linux {platform.release()}, "
        f"{cores} cores ({model}), load {os.getloadavg()[0]:.1f}"
    )


def write_json(path: Path, rounds: Rounds, arguments: Mapping[str, object]) -> None:
    """Write everything that was measured."""
    content = {
        "machine": machine(),
        "arguments": dict(arguments),
        "rounds": [{name: asdict(r) for name, r in each.items()} for each in rounds],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
