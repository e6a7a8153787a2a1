"""OTLP: femtomp beside the SDK's batch processor in every worker, to one receiver.

`python -m benchmarks.otlp`. Both send the same records, by HTTP, to a receiver in a
process of its own, which decodes nothing while it is measured. The SDK's arrangement is
what users have: a LoggerProvider with a BatchLogRecordProcessor and OTLPLogExporter in
each forked worker, with its defaults, and OpenTelemetry's handler on the root logger.
CPU time is that of everything but the receiver: the workers, from their fork to their
end, and femtomp's supervisor; the loggers' own share is in both.
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
import time
import warnings
from array import array
from pathlib import Path
from time import perf_counter_ns
from typing import Any

PATHS = ("/cart", "/cart/checkout", "/products/8812", "/login", "/account/orders")
# "null" logs to a NullHandler: what logging itself costs, and the benchmark's own loop.
PEERS = ("sdk", "femtomp", "null")
DRAIN_S = 60.0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: list[bytes] = []  # noqa: RUF012 - of the process, which serves one round

    def do_POST(self) -> None:
        """Keep a request for later."""
        self.kept.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def receive(told: Any) -> None:
    """Serve until asked what came; tell the port first, at the end what arrived."""
    import threading

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
    )

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.send(server.server_address[1])
    told.recv()
    seen = set()
    count = 0
    for body in _Handler.kept:
        for worker in ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in worker.scope_logs:
                for record in scope.log_records:
                    for pair in record.attributes:
                        if pair.key == "user_id":
                            seen.add(pair.value.int_value)
                            count += 1
    told.send((len(seen), count - len(seen), len(_Handler.kept)))


def log(records: int, rate: float, number: int, go: Any, results: str) -> None:
    """Log in a worker, and write down how long the calls took."""
    shop = logging.getLogger("shop.checkout")
    took = array("q", bytes(8 * records))
    go.wait()
    due = time.monotonic()
    for index in range(records):
        extra = {"user_id": number * 1_000_000_000 + index, "path": PATHS[index % 5]}
        if rate:
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            due += 1 / rate
        begun = perf_counter_ns()
        shop.info("request %s finished in %d us", extra["path"], index, extra=extra)
        took[index] = perf_counter_ns() - begun
    Path(results, f"{number}").write_bytes(took.tobytes())


def sdk_worker(*given: Any) -> None:
    """Log through a pipeline of the SDK's in this very worker."""
    warnings.simplefilter("ignore")
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    endpoint, *rest = given
    provider = LoggerProvider()
    exporter = OTLPLogExporter(endpoint=f"{endpoint}/v1/logs")
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    root = logging.getLogger()
    root.addHandler(LoggingHandler(logger_provider=provider))
    root.setLevel("INFO")
    log(*rest)
    provider.shutdown()


def femtomp_worker(_: str, *rest: Any) -> None:
    """Log through the lane."""
    import femtomp

    femtomp.worker_init()
    log(*rest)


def null_worker(_: str, *rest: Any) -> None:
    """Log to nowhere."""
    root = logging.getLogger()
    root.addHandler(logging.NullHandler())
    root.setLevel("INFO")
    log(*rest)


def one_round(plan: dict[str, Any]) -> dict[str, float]:
    """Do a round in this process, which becomes the master."""
    ours, theirs = multiprocessing.Pipe()
    receiver = multiprocessing.get_context("spawn").Process(
        target=receive, args=(theirs,), daemon=True
    )
    receiver.start()
    if not ours.poll(DRAIN_S):
        raise TimeoutError("the receiver did not start")
    endpoint = f"http://127.0.0.1:{ours.recv()}"
    server, services = None, None
    if plan["peer"] == "femtomp":
        server, services = _server(endpoint)
    elif plan["peer"] == "sdk":  # as a preloading master has it: no worker's own cost
        import opentelemetry.exporter.otlp.proto.http._log_exporter
        import opentelemetry.sdk._logs.export  # noqa: F401
    before = _cpu_ns(services)
    cpu_s = _run_workers(plan, endpoint)
    if server is not None and not server.flush(DRAIN_S):
        raise TimeoutError("not all was delivered")
    services_us = (_cpu_ns(services) - before) / 1000
    ours.send("?")
    came = ours.recv()
    if server is not None:
        server.stop()
    receiver.join()
    return _figures(plan, cpu_s * 1e6, services_us, came)


def _server(endpoint: str) -> tuple[Any, list[int]]:
    """Start femtomp; return it and the pids of guardian and engine."""
    import psutil

    import femtomp

    server = femtomp.start_server(femtomp.OTLPSink(endpoint), name="shop")
    guardian = psutil.Process(server.pid)
    return server, [guardian.pid, *(child.pid for child in guardian.children())]


def _run_workers(plan: dict[str, Any], endpoint: str) -> float:
    """Fork the workers, let them log, and return their CPU seconds."""
    fork = multiprocessing.get_context("fork")
    work = {"sdk": sdk_worker, "femtomp": femtomp_worker, "null": null_worker}
    go = fork.Event()
    workers = [
        fork.Process(
            target=work[plan["peer"]],
            args=(endpoint, plan["records"], plan["rate"], n, go, plan["results"]),
        )
        for n in range(plan["workers"])
    ]
    for worker in workers:
        worker.start()
    go.set()
    cpu_s = 0.0
    for worker in workers:
        _, _, usage = os.wait4(worker.pid or 0, 0)
        cpu_s += usage.ru_utime + usage.ru_stime
    return cpu_s


def _figures(
    plan: dict[str, Any], workers_us: float, services_us: float, came: tuple[int, ...]
) -> dict[str, float]:
    total = plan["records"] * plan["workers"]
    calls = array("q")
    for n in range(plan["workers"]):
        calls.frombytes(Path(plan["results"], f"{n}").read_bytes())
    ordered = sorted(calls)
    arrived, doubled, requests = came
    return {
        "p50_us": ordered[total // 2] / 1000,
        "p99_us": ordered[total * 99 // 100] / 1000,
        "cpu_us": (workers_us + services_us) / total,
        "workers_us": workers_us / total,
        "services_us": services_us / total,
        "lost": total - arrived,
        "doubled": doubled,
        "requests": requests,
    }


def _cpu_ns(pids: list[int] | None) -> int:
    from benchmarks.cpu import process_cpu_ns

    return sum(map(process_cpu_ns, pids or ()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--records", type=int, default=10_000, help="of each worker")
    parser.add_argument("--rate", type=float, default=0.0, help="records/s of each")
    given = parser.parse_args()
    total = given.workers * given.records
    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for number in range(given.rounds):
        for peer in PEERS if number % 2 else PEERS[::-1]:
            found[peer].append(_in_a_new_interpreter(peer, given))
    print(f"{'peer':8} " + " ".join(f"{name:>11}" for name in found["sdk"][0]))
    medians = {
        peer: {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        for peer, rounds in found.items()
    }
    for peer, row in medians.items():
        print(f"{peer:8} " + " ".join(f"{value:11.2f}" for value in row.values()))
    for name in ("cpu_us", "p50_us"):
        rounds = list(zip(found["sdk"], found["femtomp"], found["null"], strict=True))
        whole = statistics.median(ours[name] / sdk[name] for sdk, ours, _ in rounds)
        own = statistics.median(
            (ours[name] - null[name]) / (sdk[name] - null[name])
            for sdk, ours, null in rounds
        )
        print(f"{name}: {whole:.2f} of the SDK's; {own:.2f} beyond what logging costs")
    per_arrived = statistics.median(
        (ours["cpu_us"] - null["cpu_us"])
        / ((sdk["cpu_us"] - null["cpu_us"]) / (1 - sdk["lost"] / total))
        for sdk, ours, null in rounds
    )
    print(f"cpu_us by record that arrived: {per_arrived:.2f} of the SDK's")
    return 1 if any(r["lost"] or r["doubled"] for r in found["femtomp"]) else 0


def _in_a_new_interpreter(peer: str, given: argparse.Namespace) -> dict[str, float]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="benchmark-") as results:
        plan = {
            "peer": peer, "records": given.records, "rate": given.rate,
            "workers": given.workers, "results": results,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.otlp_round", json.dumps(plan)],
            stdout=subprocess.PIPE, check=True, text=True, timeout=300,
        )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
