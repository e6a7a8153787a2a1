"""Where the time of one record goes: `python -m benchmarks.profile_call`.

Each step alone, in a loop, best of many: what the code costs when nothing disturbs it.
In the worker the steps are parts of each other; in the engine they add up. The
supervisor is stopped by SIGSTOP meanwhile: the lane fills, and nobody competes for a
core.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import psutil

import femtomp
from benchmarks.report import machine
from femtomp.codec import wire
from femtomp.codec.text import json_line
from femtomp.lanes.cursor import Cursor, Position
from femtomp.lanes.reader import Lane
from femtomp.lanes.scan import scan
from femtomp.lanes.spool import Spool
from femtomp.record import Resource
from femtomp.supervisor.batch import merge, sort_out
from femtomp.worker.capture import from_log_record
from femtomp.worker.channel import channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MESSAGE = "request %s finished in %d us"
_EXTRA = {"user_id": 3_000_004_711, "path": "/cart/checkout"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", type=int, default=2000, help="of one measurement")
    parser.add_argument(
        "--best-of", type=int, default=15, help="measurements of a step"
    )
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        server = femtomp.start_server(femtomp.FileSink(Path(directory, "app.jsonl")))
        services = psutil.Process(server.pid).children()
        try:
            for service in services:
                service.suspend()
            print("\nworker, one log call" + " " * 28 + "ns")
            for title, call in _worker_steps(server.spool, Path(directory, "floor")):
                print(f"{title:44}{_best(call, given.loops, given.best_of):7,.0f}")
            dropped = sum(server.stats().dropped.values())
            print("\nengine, one record" + " " * 30 + "ns")
            for title, call, records in _engine_steps(server.spool, Path(directory)):
                loops = max(1, given.loops // records)
                each = _best(call, loops, given.best_of) / records
                print(f"{title:44}{each:7,.0f}")
            if dropped:
                print(f"\n{dropped} records were dropped: the figures do not count")
        finally:
            for service in services:
                service.resume()
            server.stop()


def _best(call: Callable[[], object], loops: int, best_of: int) -> float:
    """Return the least mean time of one call, in ns, its loop's 20 ns included."""
    least = float("inf")
    for _ in range(best_of):
        begun = perf_counter_ns()
        for _ in range(loops):
            call()
        least = min(least, (perf_counter_ns() - begun) / loops)
    return least


def _logger(name: str, handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return logger


def _worker_steps(
    spool: Path, floor: Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    handler = femtomp.worker_handler(spool=spool)
    null = _logger("benchmark.null", logging.NullHandler())
    full = _logger("benchmark.full", handler)
    silent = _logger("benchmark.silent", logging.NullHandler())
    silent.setLevel(logging.ERROR)
    path, extra = _EXTRA["path"], _EXTRA
    yield "level disabled", lambda: silent.info(_MESSAGE, path, 17, extra=extra)
    yield (
        "logging alone: Logger.info, NullHandler",
        lambda: null.info(_MESSAGE, path, 17, extra=extra),
    )
    yield (
        "whole: Logger.info, WorkerHandler",
        lambda: full.info(_MESSAGE, path, 17, extra=extra),
    )

    def made() -> logging.LogRecord:
        return full.makeRecord(
            full.name,
            logging.INFO,
            __file__,
            17,
            _MESSAGE,
            (path, 17),
            None,
            "main",
            _EXTRA,
        )

    record = made()
    pid = os.getpid()
    payload = from_log_record(record, pid)
    fields = wire.decode(payload)
    way = channel(str(spool))
    handler.handle(record)
    append = way.append  # found anew with each lane
    print(f"(a payload is {len(payload)} bytes)")
    record = made()  # now: an old one would take the slow path
    yield "  WorkerHandler.handle", lambda: handler.handle(record)
    yield "    capture.from_log_record", lambda: from_log_record(record, pid)
    yield "      record.getMessage", record.getMessage
    yield "      wire.encode", lambda: wire.encode(fields)
    yield "    Channel.send", lambda: way.send(payload)
    yield "      lane append", lambda: append(payload)
    with floor.open("ab", buffering=0) as file:
        number = file.fileno()
        yield (
            "floor: os.write of the payload, O_APPEND",
            lambda: os.write(number, payload),
        )


def _engine_steps(
    path: Path, directory: Path
) -> Iterator[tuple[str, Callable[[], object], int]]:
    spool = Spool(path)
    lanes: dict[str, Lane] = {}
    scan(spool.lanes, lanes, lambda epoch: Lane(spool.lanes, epoch))
    lane = next(iter(lanes.values()))
    lane.refresh()
    # Behind the first segment, which is small: a chunk of the usual size.
    position = Position()
    while (chunk := lane.read(position)).number == 0:
        position = lane.normalised(position.behind(0, chunk.after, chunk.sequence))
    size = len(chunk.frames)
    brief = {
        "service.name": "shop",
        "service.instance.id": "8f14e45fceea167a5a36dedd4bea2543",
        "process.pid": 4711,
        "host.name": "host-1",
        "femtomp.worker.name": "ForkProcess-1",
    }
    resource = Resource(brief)

    def records():
        return sort_out(
            lane.epoch, Cursor(position), chunk, 0, resource, None, print
        )  # fmt: skip

    stream = records()
    lines = b"".join(map(json_line, stream.records))
    print(f"({size} records a chunk, {len(lines) // size} bytes a line)")
    yield "reader: read, split, CRC, decode", lambda: lane.read(position), size
    yield "batch.sort_out: tuples to Records", records, size
    others = [stream._replace(epoch=str(n)) for n in range(4)]
    yield "batch.merge of four lanes", lambda: merge(others, []), 4 * size
    yield "text.json_line", lambda: [json_line(r) for r in stream.records], size
    with (directory / "lines").open("ab", buffering=0) as file:
        yield "os.write of the lines", lambda: file.write(lines), size
    spool.close()


if __name__ == "__main__":
    main()
