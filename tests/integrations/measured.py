"""What a pool's test counts: records, kills, and what must be 0; a row of docs/pools.md.

FEMTOMP_POOLS_TABLE names a file to which each measured pool adds its row.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# Of killed workers: true, and of no worker.
NEWS = {"femtomp.worker.died"}


class Row(NamedTuple):
    """A pool's figures."""

    pool: str
    workers: int
    records: int
    kills: int
    lost: int
    duplicated: int
    wrong: int

    def check(self) -> None:
        """Print the row, add it to the table, and demand that the last three be 0."""
        line = "| " + " | ".join(map(str, self)) + " |"
        print(line)
        if table := os.environ.get("FEMTOMP_POOLS_TABLE"):
            with Path(table).open("a") as file:
                file.write(f"{line}\n")
        assert (self.lost, self.duplicated, self.wrong) == (0, 0, 0), self


def read(path: Path) -> list[dict]:
    """Return the records of a JSON file, without the supervisor's own news."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if r.get("event_name") not in NEWS]


def returned(ledgers: Path) -> set[str]:
    """Return the `ledger.id` of every log call that is known to have returned."""
    return {
        line for path in ledgers.iterdir() for line in path.read_text().splitlines()
    }


def measure(pool: str, ledgers: Path, records: list[dict], kills: int) -> Row:
    """Compare what was delivered with the ledgers that the processes wrote."""
    known = returned(ledgers)
    owners = {r["attributes"].get("ledger.id"): r["resource"] for r in records}
    uids = Counter(record["uid"] for record in records)
    names: dict[tuple[int, str], set[str]] = {}
    for record in records:
        who = record["resource"]
        key = (who["process.pid"], who["service.instance.id"])
        names.setdefault(key, set()).add(who["femtomp.worker.name"])
    wrong = sum(
        serial is not None and serial.split(".")[0] != str(who["process.pid"])
        for serial, who in owners.items()
    )
    return Row(
        pool,
        len({serial.split(".")[0] for serial in known}),
        len(known),
        kills,
        len(known - owners.keys()),
        sum(uids.values()) - len(uids),
        wrong + sum(len(found) > 1 for found in names.values()),
    )
