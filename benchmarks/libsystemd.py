"""sd_journal_sendv beside femtomp's own sender: `python -m benchmarks.libsystemd`.

Both write the same fields to the same journald, from one thread: how long that takes,
what arrives, and what each does where journald is not there or does not read. Runs in
the namespaces of `benchmarks.journald`, as root.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.journald import ROOT, SOCKET, Drain, RealJournald
from femtomp.config import JournaldSink
from femtomp.record import Record, Resource
from femtomp.sinks.journald import open_driver

RECORDS = 20_000
ROUNDS = 5
RESOURCE = Resource(
    {"process.pid": 812, "femtomp.worker.name": "w", "service.name": "s"}
)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class Libsystemd:
    """A driver as femtomp's own, by the library."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL("libsystemd.so.0").sd_journal_sendv
        self._call.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self.results: set[int] = set()

    def write(self, batch) -> None:
        for record in batch:
            parts = [f"{name}={value}".encode() for name, value in fields(record)]
            array = (Iovec * len(parts))(*[(part, len(part)) for part in parts])
            self.results.add(self._call(array, len(parts)))


class Prepared(Libsystemd):
    """The call alone: the arguments of one record, made once."""

    def write(self, batch) -> None:
        parts = [f"{name}={value}".encode() for name, value in fields(batch[0])]
        array = (Iovec * len(parts))(*[(part, len(part)) for part in parts])
        for _ in batch:
            self.results.add(self._call(array, len(parts)))


def fields(record):
    """The same fields as femtomp's encoder writes."""
    yield "SYSLOG_IDENTIFIER", "s"
    yield "SYSLOG_PID", 812
    yield "WORKER_PID", 812
    yield "WORKER_NAME", "w"
    yield "SERVICE_NAME", "s"
    yield "MESSAGE", record.body
    yield "PRIORITY", 6
    yield "LOGGER", record.logger
    yield "EVENT_TIMESTAMP_USEC", record.timestamp // 1000
    yield "LOG_RECORD_UID", record.uid
    for key, value in record.attributes.items():
        yield key.upper(), value


def batch(size: int, name: str) -> list[Record]:
    attributes = {"user_id": 7, "path": "/cart", "status": 200, "millis": 12}
    return [
        Record(
            time.time_ns(),
            9,
            "INFO",
            "shop",
            f"{name} {n}",
            attributes,
            RESOURCE,
            f"{name}-{n}",
        )
        for n in range(size)
    ]


def own():
    return open_driver(JournaldSink(), stderr_fd=2, environ={})


DRIVERS = {"femtomp": own, "libsystemd": Libsystemd}
SPEEDS = {**DRIVERS, "libsystemd, prepared": Prepared}


def speed(name: str, reader) -> tuple[float, float]:
    """Return wall and own CPU time in us a record."""
    driver = SPEEDS[name]()
    records = rest = batch(RECORDS, name)
    begun, cpu = time.monotonic(), time.thread_time()
    while (outcome := driver.write(rest)) and (done := getattr(outcome, "accepted", 0)):
        rest = rest[done:]
    cpu = time.thread_time() - cpu
    reader.settle()
    wall = time.monotonic() - begun
    return wall / len(records) * 1e6, cpu / len(records) * 1e6


def behaviour(name: str) -> str:
    """Say what a driver does with one record now, in a process that may hang."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        driver = DRIVERS[name]()
        for record in batch(600, "x"):
            outcome = driver.write([record])
            text = outcome if name == "femtomp" else driver.results
            if "Retry" in str(text) or (name == "libsystemd" and text - {0}):
                break
        os.write(write, str(text).encode())
        os._exit(0)
    ready, _, _ = select.select([read], [], [], 3)
    said = os.read(read, 300).decode() if ready else "blocks (more than 3 s)"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return said


def inside() -> None:
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512")
    for kind in (RealJournald, Drain):
        for _ in range(ROUNDS):
            for name in SPEEDS:
                reader = kind()
                wall, cpu = speed(name, reader)
                print(f"{kind.__name__} {name}: {wall:.1f} us, own CPU {cpu:.1f} us")
                reader.stop()
    journald = RealJournald()
    for name in DRIVERS:
        os.kill(journald.pid, signal.SIGSTOP)
        print(f"stopped by SIGSTOP, {name}: {behaviour(name)}")
        os.kill(journald.pid, signal.SIGCONT)
        journald.settle()
    journald._process.kill()
    journald._process.wait()
    for name in DRIVERS:
        print(f"killed, {name}: {behaviour(name)}")
    Path(SOCKET).unlink()
    print(f"no socket, libsystemd: {behaviour('libsystemd')}")


def main() -> int:
    if sys.argv[1:] == ["--inside"]:
        inside()
        return 0
    with tempfile.TemporaryDirectory(prefix="jb") as run:
        script = 'mount --make-rprivate /; mount --bind "$0" /run; exec "$@"'
        command = ["unshare", "-m", "-n", "sh", "-c", script, run, sys.executable,
                   "-m", "benchmarks.libsystemd", "--inside"]  # fmt: skip
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
