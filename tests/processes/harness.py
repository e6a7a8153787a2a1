"""Forked workers that log, and say truthfully how many calls returned; files read back.

A worker adds one to its word of an anonymous shared mapping after each call has returned:
SIGKILL can neither take that back nor add to it.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import femtomp

SEED = int(
    os.environ.get("FEMTOMP_TEST_SEED") or random.SystemRandom().randrange(1 << 32)
)


def until(condition, what, timeout=20.0):
    """Wait for a condition, by looking at it; fail with words after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        os.sched_yield()
        signal.sigtimedwait((), 0.002)
    return value


def is_running(pid):
    """Tell whether a process runs; a zombie does not."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it may end between two calls
        return False


class Returned:
    """A shared word a worker: how many of its log calls have returned."""

    def __init__(self, workers):
        # One store a word: `struct.pack_into` writes zeros first, and a process killed
        # between would have said that nothing ever returned.
        self._words = memoryview(mmap.mmap(-1, 8 * workers)).cast("Q")
        self.workers = workers

    def __getitem__(self, worker):
        return self._words[worker]

    def set(self, worker, count):
        """Say that `count` calls of this worker have returned."""
        self._words[worker] = count

    def all(self):
        """Return the counts, by worker."""
        return [self[i] for i in range(self.workers)]


def fork(work, *args):
    """Run a function in a forked child, which ends by `os._exit`; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(*args)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def log_steadily(returned, worker, count, name="shop.worker"):
    """Log records numbered from 0 until `count`, or for ever if that is None."""
    log = logging.getLogger(name)
    number = 0
    while count is None or number < count:
        log.info("record %d", number, extra={"worker": worker, "number": number})
        number += 1
        returned.set(worker, number)


def lines(path):
    """Return the JSON records of a file, without femtomp's own events."""
    records = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
    return [r for r in records if not r.get("event_name", "").startswith("femtomp.")]


def arrived(path):
    """Return how many records are in a file that may be in the middle of a write."""
    if not Path(path).exists():
        return 0
    whole = Path(path).read_bytes().rpartition(b"\n")[0]
    return sum(b'"event_name":"femtomp.' not in line for line in whole.splitlines())


def missing_and_double(records, returned):
    """Return (records missing of those whose call returned, records there twice)."""
    seen = Counter(
        (r["attributes"]["worker"], r["attributes"]["number"]) for r in records
    )
    missing = [
        (worker, number)
        for worker, count in enumerate(returned.all())
        for number in range(count)
        if (worker, number) not in seen
    ]
    return missing, [key for key, times in seen.items() if times > 1]


class Attached:
    """Femtomp's handler on a logger of its own for the time of a `with` block."""

    def __init__(self, name="shop"):
        self._logger = logging.getLogger(name)

    def __enter__(self):
        self._handler = femtomp.worker_handler()
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        return self._logger

    def __exit__(self, *_):
        self._logger.removeHandler(self._handler)
        self._logger.propagate = True
        self._logger.setLevel(logging.NOTSET)


def run_script(source, *args, flags=(), timeout=60, check=True, env=None):
    """Run a program in a fresh interpreter; return what it wrote."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(source), *map(str, args)],
        capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(
            f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def run_file(path, source, *args, flags=(), timeout=60, check=True, env=None):
    """Run a program from a file, as start methods that import `__main__` need."""
    path = Path(path)
    path.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, *flags, str(path), *map(str, args)],
        capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(
            f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done
