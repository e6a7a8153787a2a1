"""What redaction costs the engine: `python -m benchmarks.redaction`.

The engine's work on a chunk of records (decode, sort out, encode as JSON lines, write
to a file), without redaction and with it, in turns in the same run: CPU time, the least
and the median of the rounds, and the ratio of each round's two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from femtomp.codec import wire
from femtomp.codec.frame import Frame
from femtomp.codec.text import json_lines
from femtomp.lanes.chunk import Chunk
from femtomp.lanes.cursor import Cursor
from femtomp.record import Resource
from femtomp.redaction import Redaction
from femtomp.supervisor.batch import sort_out
from femtomp.supervisor.redacting import redact_by

RECORDS = 2000
ROUNDS = 60
BRIEF = {
    "service.name": "shop", "service.instance.id": "7c1e", "process.pid": 812,
    "host.name": "web-1", "femtomp.worker.name": "worker-1",
}  # fmt: skip
RESOURCE = Resource(BRIEF, BRIEF)

# what -> body, template, extras of the n-th record
KINDS = {
    "clean": lambda n: (
        f"user {n} bought 3 things", "user %d bought %d things",
        {"item": "tea", "price": 4.2, "user_id": n},
    ),
    "clean, no fields": lambda n: (f"user {n} bought 3 things", "user %d bought 3", None),
    "clean, key=value": lambda n: (
        f"GET /cart status=200 ms={n}", "GET %s status=%d ms=%d",
        {"user_id": n, "path": "/cart"},
    ),
    "clean, nested": lambda n: (
        "request", None, {"request": {"path": "/cart", "user": {"id": n, "name": "ann"}}},
    ),
    "a secret each": lambda n: (
        f"login of {n} password=hunter2", "login of %d password=%s", {"api_key": "abc"},
    ),
}  # fmt: skip
RULES = {"standard": Redaction(), "all patterns": Redaction(patterns="all")}


def chunk_of(kind: str) -> tuple[bytes, list[Frame]]:
    """Encode records as a worker does, one behind the other."""
    data = bytearray()
    frames = []
    for n in range(RECORDS):
        body, template, extras = KINDS[kind](n)
        payload = wire.encode((
            1, 1_700_000_000_000_000_000 + n, 20, "INFO", "shop.cart", body, template,
            "/srv/shop/cart.py", 12, "buy", 140_000_000, "MainThread", extras, None,
        ))  # fmt: skip
        data += bytes(16)
        frames.append(Frame(len(data), len(data) + len(payload), n, 0))
        data += payload
    return bytes(data), frames


def cpu_us(file: int, data: bytes, frames: list[Frame], redact) -> float:
    """Do the engine's work once; return microseconds a record."""
    begun = time.process_time_ns()
    chunk = Chunk(0, frames, wire.decode_chunk(data, frames), 0)
    records = sort_out("e", Cursor(), chunk, 9, RESOURCE, None, None).records
    os.write(file, json_lines(records if redact is None else redact(records)))
    return (time.process_time_ns() - begun) / RECORDS / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    print(f"CPython {sys.version.split()[0]}, us a record: least (median of rounds)")
    for kind in KINDS:
        data, frames = chunk_of(kind)
        for name, rules in RULES.items():
            redact = redact_by(rules)
            without, with_it = [], []
            with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
                for _ in range(rounds):
                    without.append(cpu_us(file.fileno(), data, frames, None))
                    with_it.append(cpu_us(file.fileno(), data, frames, redact))
                    file.truncate(0)
            ratio = statistics.median(
                b / a for a, b in zip(without, with_it, strict=True)
            )
            print(
                f"{kind:18} {name:13} {min(without):5.2f} -> {min(with_it):5.2f} "
                f"(x{ratio:.2f}; of the least x{min(with_it) / min(without):.2f})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
