"""A worker's exit while every sink takes nothing: it waits for none of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import femtomp
from tests.processes.harness import Returned
from tests.torture import oracle
from tests.torture.figures import ALL_CASES_SCALE, Given, Outcome, Watch, misses
from tests.torture.place import engine_of, left_in, remove, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "exit with every sink black-holed"
FULL = 1_000
RECORDS = 200
LIMIT_S = 0.1
# What only a wait for a sink takes; a child of a busy machine may wait for a core.
STUCK_S = 5.0
STOP_S = 0.3

# A fresh interpreter, which ends as every program does; it says when its last log call
# had returned.
PROGRAM = """
import sys, time
from tests.processes.harness import Attached
from tests.torture import oracle
class Nowhere:
    def __getitem__(self, _): return 0
    def set(self, *_): pass
with Attached(oracle.LOGGER):
    oracle.log_count(Nowhere(), int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(str(time.monotonic_ns()))
"""


@contextmanager
def black_holes(directory: Path) -> Iterator[list[object]]:
    """Give sinks whose destinations exist and take nothing."""
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    holder = os.open(pipe, os.O_RDWR)  # read by nobody: full after 64 KiB
    listener = socket.create_server(("127.0.0.1", 0))  # accepts nothing
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(directory / "journal"))
    try:
        yield [
            femtomp.FileSink(pipe, name="pipe"),
            femtomp.OTLPSink(f"http://127.0.0.1:{listener.getsockname()[1]}",
                             protocol="http/protobuf"),
            femtomp.JournaldSink(str(directory / "journal")),
        ]  # fmt: skip
    finally:
        journal.close()
        listener.close()
        os.close(holder)


def run(given: Given) -> list[Outcome]:
    """Time exits of forked workers and of whole interpreters."""
    watch = Watch()
    forks, programs = given.count(FULL, least=10), given.count(FULL // 20, least=2)
    returned = Returned(forks + programs)
    with (
        black_holes(given.directory) as sinks,
        serving(given.directory, *sinks, patience_s=STOP_S) as server,
    ):
        took = [_fork(given, returned, worker) for worker in range(forks)]
        took_whole = [
            _program(given, returned, forks + worker) for worker in range(programs)
        ]
        path, engine = server.spool, engine_of(server._spool)
        file_flushed = _wait_for_file(given, returned)
        os.kill(engine, signal.SIGKILL)  # it sits in a write that nobody reads
    verdict = oracle.Verdict(given.seed, returned)
    verdict.see(left_in(path) if path.exists() else ())
    remove(path)
    # In the suite other tests run on the same cores.
    limit_s = LIMIT_S if given.scale >= ALL_CASES_SCALE else STUCK_S
    took.sort()
    took_whole.sort()
    middle, whole = took[len(took) // 2], took_whole[len(took_whole) // 2]
    missed = misses(
        no_record_lost=verdict.lost == 0,
        no_wrong_record=verdict.wrong == 0,
        forked_exit_below_100_ms=middle < limit_s,
        interpreter_exit_below_100_ms=whole < limit_s,
        none_waited=max(took[-1], took_whole[-1]) < STUCK_S,
        the_file_went_on=file_flushed,
    )
    worst = (
        f"forked: median {middle * 1000:.1f} ms, longest {took[-1] * 1000:.1f}; whole "
        f"interpreters: {whole * 1000:.1f}, {took_whole[-1] * 1000:.1f}"
    )
    return [
        Outcome(
            NAME, forks + programs, verdict.lost, verdict.duplicates, worst, missed,
            watch.seconds(),
        )
    ]  # fmt: skip


def _wait_for_file(given: Given, returned: Returned) -> bool:
    """Tell whether the file, beside three sinks that hang, gets all records."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        verdict = oracle.Verdict(given.seed, returned)
        verdict.see(oracle.in_file(given.directory / "app.jsonl"))
        if verdict.lost == 0:
            return True
        time.sleep(0.05)
    return False


def _fork(given: Given, returned: Returned, worker: int) -> float:
    read, write = os.pipe()

    def work() -> None:
        oracle.log_count(returned, given.seed, worker, RECORDS)
        os.write(write, struct.pack("=q", time.monotonic_ns()))
        logging.shutdown()  # then `os._exit`, as a child of multiprocessing ends

    pid = oracle.forked(work)
    os.close(write)
    os.waitpid(pid, 0)
    ended = time.monotonic_ns()
    (said,) = struct.unpack("=q", os.read(read, 8))
    os.close(read)
    return (ended - said) / 1e9


def _program(given: Given, returned: Returned, worker: int) -> float:
    command = [sys.executable, "-c", PROGRAM]
    command += [str(given.seed), str(worker), str(RECORDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.wait()
        ended = time.monotonic_ns()
        said = int(process.stdout.read())
    returned.set(worker, RECORDS)
    return (ended - said) / 1e9
