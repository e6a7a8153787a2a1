"""How soon the records of one worker are at an OTLP receiver, of two trees in turn.

`python -m benchmarks.otlp_latency OTHER_TREE` compares this tree with another checkout
(`git worktree add --detach OTHER_TREE COMMIT`): pairs of rounds, in turn. A round forks
one worker that logs as fast as it can, waits for its end and calls `Server.flush`; the
figures are the times from the first log call (`arrived_s`, which has the worker's own
time in it) and from the worker's end (`behind_s`) until the last record is at the
receiver, in a process of its own that decodes nothing meanwhile.
"""

from __future__ import annotations

import argparse
import http.server
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 60.0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: list[tuple[float, bytes]] = []  # noqa: RUF012 - of the process, for a round

    def do_POST(self) -> None:
        """Keep a request and when it came."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.kept.append((time.monotonic(), body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def receive(told: Any) -> None:
    """Serve until asked; tell when the last record came, how many, and requests."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.send(server.server_address[1])
    told.recv()
    last, count = 0.0, 0
    for at, body in _Handler.kept:
        for worker in ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in worker.scope_logs:
                if scope.scope.name == "shop":
                    last = at
                    count += len(scope.log_records)
    told.send((last, count, len(_Handler.kept)))


def one_round(records: int) -> dict[str, float]:
    """Do a round in this process, which becomes the master."""
    import femtomp

    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    receiver = spawn.Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    if not ours.poll(WAIT_S):
        raise TimeoutError("the receiver did not start")
    sink = femtomp.OTLPSink(f"http://127.0.0.1:{ours.recv()}", protocol="http/protobuf")
    server = femtomp.start_server(sink, name=f"latency-{os.getpid()}")
    begun = time.monotonic()
    worker = os.fork()
    if worker == 0:
        femtomp.worker_init()
        log = logging.getLogger("shop")
        for number in range(records):
            log.info("request %d finished", number, extra={"user_id": number})
        os._exit(0)
    os.waitpid(worker, 0)
    logged = time.monotonic()
    if not server.flush(WAIT_S):
        raise TimeoutError("not all was delivered")
    flushed = time.monotonic()
    ours.send("?")
    last, count, requests = ours.recv()
    server.stop()
    receiver.join()
    if count != records:
        raise ValueError(f"{count} of {records} records arrived")
    return {
        "arrived_s": last - begun,
        "behind_s": last - logged,
        "flushed_s": flushed - begun,
        "requests": requests,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", nargs="?", help="another checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(one_round(given.records)))
        return 0
    trees = [ROOT, *([Path(given.other).resolve()] if given.other else [])]
    found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for number in range(given.rounds):
        for tree in trees if number % 2 else trees[::-1]:
            found[tree].append(_round_of(tree, given.records))
    for tree, rounds in found.items():
        medians = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        print(tree, " ".join(f"{k}={v:.3f}" for k, v in medians.items()))
    if given.other:
        ours, theirs = (found[tree] for tree in trees)
        for name in ("arrived_s", "behind_s"):
            pairs = zip(ours, theirs, strict=True)
            sooner = statistics.median(b[name] - a[name] for a, b in pairs)
            print(f"{name}: sooner by {sooner:.3f} s ({given.rounds} pairs)")
    return 0


def _round_of(tree: Path, records: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--once", f"--records={records}"],
        stdout=subprocess.PIPE, check=True, text=True, timeout=300, cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
