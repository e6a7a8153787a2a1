"""Ways into the journal, side by side: `python -m benchmarks.journald`.

Forked workers log as fast as they can; the clock stops when the last entry is read. What
reads is a real systemd-journald, or a process that only empties the socket: the first is
what users have, the second shows what the senders cost. CPU time is that of every
process: workers, services, reader. Peers that are not installed are left out.

It makes a mount and a network namespace for itself (root), in which /run is a directory
of its own, since the peers know one path only, and sockets have the queue that systemd
sets (net.unix.max_dgram_qlen=512).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.cpu import process_cpu_ns

ROOT = Path(__file__).resolve().parents[1]
SOCKET = "/run/systemd/journal/socket"
PEERS = {
    "femtomp": "femtomp",
    "femtomp, worker": "femtomp",
    "systemd-python": "systemd",
    "cysystemd": "cysystemd",
    "logging-journald": "logging_journald",
}
READERS = ("journald", "drain")
CONFIGURATION = """[Journal]
Storage=volatile
RateLimitIntervalSec=0
ReadKMsg=no
Audit=no
ForwardToWall=no
RuntimeMaxUse=4G
RuntimeKeepFree=1M
"""
_END = b"the end"


def handler(peer: str) -> logging.Handler:
    """Make the handler that a peer puts into every worker."""
    if peer == "systemd-python":
        from systemd.journal import JournalHandler

        return JournalHandler()
    if peer == "cysystemd":
        from cysystemd.journal import JournaldLogHandler

        return JournaldLogHandler()
    from logging_journald import JournaldLogHandler

    return JournaldLogHandler()


def work(records: int) -> None:
    log = logging.getLogger("shop.checkout")
    for index in range(records):
        log.info(
            "request %s finished in %d us",
            "/cart",
            index,
            extra={"user_id": index, "path": "/cart"},
        )


# -- what reads -------------------------------------------------------------------------


class Drain:
    """A process that reads datagrams and forgets them."""

    def __init__(self) -> None:
        Path(SOCKET).parent.mkdir(parents=True, exist_ok=True)
        Path(SOCKET).unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(SOCKET)
        read, self._ended = os.pipe()
        self._read = read
        self.pid = os.fork()
        if not self.pid:
            space = bytearray(1 << 20)
            while True:
                size = receiver.recv_into(space)
                if space[:size] == _END:
                    os.write(self._ended, b".")
        receiver.close()

    def settle(self) -> None:
        """Return when all that was sent before is read."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(SOCKET)
            sender.send(_END)
        os.read(self._read, 1)

    def count(self) -> int | None:
        return None

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        Path(SOCKET).unlink()


class RealJournald:
    """systemd-journald on this namespace's /run."""

    def __init__(self) -> None:
        for path in ("systemd/journal", "log/journal", "systemd/journald.conf.d"):
            Path("/run", path).mkdir(parents=True, exist_ok=True)
        Path("/run/systemd/journald.conf.d/b.conf").write_text(CONFIGURATION)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            Path("/run/ready").unlink(missing_ok=True)
            ready.bind("/run/ready")
            self._process = subprocess.Popen(
                ["/lib/systemd/systemd-journald"],
                env={**os.environ, "NOTIFY_SOCKET": "/run/ready"},
                stderr=subprocess.DEVNULL,
            )
            while b"READY=1" not in ready.recv(4096):
                pass
        self.pid = self._process.pid

    def settle(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as varlink:
            varlink.connect("/run/systemd/journal/io.systemd.journal")
            varlink.sendall(b'{"method":"io.systemd.Journal.Synchronize"}\0')
            while not varlink.recv(65536).endswith(b"\0"):
                pass

    def count(self) -> int:
        found = subprocess.run(
            ["journalctl", "-q", "-o", "cat", "--output-fields=MESSAGE"],
            capture_output=True,
        )
        return found.stdout.count(b"request /cart finished")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree("/run/log/journal", ignore_errors=True)


# -- one round --------------------------------------------------------------------------


class Handlers:
    """A handler in every worker, and no services."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def set_up_worker(self) -> None:
        logging.getLogger().handlers = [handler(self._peer)]
        logging.getLogger().setLevel(logging.INFO)

    def cpu_ns(self) -> int:
        return 0

    def finish(self) -> None:
        pass

    stop = finish


class Server:
    """femtomp: the services are guardian and engine."""

    def __init__(self, peer: str) -> None:
        import psutil

        import femtomp

        sender = "worker" if "worker" in peer else "supervisor"
        sink = femtomp.JournaldSink(sender=sender)
        self._server = femtomp.start_server(sink, name="shop", level="INFO")
        guardian = psutil.Process(self._server.pid)
        self._pids = [guardian.pid, *(child.pid for child in guardian.children())]
        self.set_up_worker = femtomp.worker_init

    def cpu_ns(self) -> int:
        return sum(map(process_cpu_ns, self._pids))

    def finish(self) -> None:
        assert self._server.flush(120)

    def stop(self) -> None:
        self._server.stop()


def one_round(peer: str, reader_name: str, workers: int, records: int) -> dict:
    reader = Drain() if reader_name == "drain" else RealJournald()
    services = (Server if peer.startswith("femtomp") else Handlers)(peer)
    go_read, go = os.pipe()
    pids = []
    for _ in range(workers):
        if not (pid := os.fork()):
            os.close(go)
            services.set_up_worker()
            os.read(go_read, 1)
            work(records)
            os._exit(0)
        pids.append(pid)
    time.sleep(0.3)  # until all wait
    before_reader, before_services = process_cpu_ns(reader.pid), services.cpu_ns()
    begun = time.monotonic()
    os.close(go)
    cpu_workers = 0.0
    for pid in pids:
        usage = os.wait4(pid, 0)[2]
        cpu_workers += usage.ru_utime + usage.ru_stime
    services.finish()
    reader.settle()
    wall = time.monotonic() - begun
    total = workers * records
    figures = {
        "rec/s": total / wall,
        "workers": cpu_workers * 1e6 / total,
        "services": (services.cpu_ns() - before_services) / 1e3 / total,
        "reader": (process_cpu_ns(reader.pid) - before_reader) / 1e3 / total,
    }
    figures["senders"] = figures["workers"] + figures["services"]
    figures["all"] = figures["senders"] + figures["reader"]
    services.stop()
    stored = reader.count()
    reader.stop()
    if stored not in (None, total):
        print(f"{peer}: {stored} of {total} stored", file=sys.stderr)
    return figures


# -- all of them ------------------------------------------------------------------------


def inside(given: argparse.Namespace) -> None:
    """Do it all, in namespaces of its own."""
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text(str(given.queue))
    known = importlib.util.find_spec
    peers = [name for name in PEERS if known(PEERS[name]) is not None]
    for reader in given.readers:
        found: dict[str, list[dict]] = {peer: [] for peer in peers}
        for _ in range(given.rounds):
            for peer in peers:
                command = [sys.executable, "-m", "benchmarks.journald", "--one", peer,
                           reader, str(given.workers), str(given.records)]  # fmt: skip
                done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT)
                if done.returncode == 0:
                    found[peer].append(json.loads(done.stdout))
        print_table(reader, found)


def print_table(reader: str, found: dict[str, list[dict]]) -> None:
    titles = ("rec/s", "all", "senders", "workers", "services", "reader")
    print(f"\nInto {reader}: records a second; CPU in us a record (medians)")
    print(f"{'':20}" + "".join(f"{title:>10}" for title in titles))
    for peer, rounds in found.items():
        if rounds:
            values = [median(r[title] for r in rounds) for title in titles]
            cells = "".join(
                f"{value:>10,.{0 if value > 999 else 1}f}" for value in values
            )
            print(f"{peer:20}{cells}")
    others = [p for p in found if not p.startswith("femtomp") and found[p]]
    if not others:
        print("No other way into the journal is installed: there is no comparison.")
        return
    for title, best in (("rec/s", max), ("senders", min), ("all", min)):
        ratios = [
            best(found[p][n][title] for p in others) / found["femtomp"][n][title]
            for n in range(min(len(found[p]) for p in (*others, "femtomp")))
        ]
        if ratios:
            by = median(ratios)
            by = 1 / by if best is max else by
            print(f"femtomp against the best other, {title}: {by:.2f} times better")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--records", type=int, default=10_000, help="of each worker")
    parser.add_argument("--queue", type=int, default=512, help="max_dgram_qlen")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        peer, reader, workers, records = given.one
        print(json.dumps(one_round(peer, reader, int(workers), int(records))))
        return 0
    if given.inside:
        inside(given)
        return 0
    with tempfile.TemporaryDirectory(prefix="jb") as run:
        script = 'mount --make-rprivate /; mount --bind "$0" /run; exec "$@"'
        command = ["unshare", "-m", "-n", "sh", "-c", script, run, sys.executable,
                   "-m", "benchmarks.journald", "--inside", *sys.argv[1:]]  # fmt: skip
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
