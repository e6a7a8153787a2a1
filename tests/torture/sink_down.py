"""One sink's destination refuses connections while engines die; the other sink goes on.

Every record reaches the collector once it is back. How long records took to the file is
measured meanwhile: with both sinks well, and with one down.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import femtomp
from femtomp.supervisor.stats import read_stats
from tests.processes.harness import Returned, until
from tests.torture import oracle
from tests.torture.figures import Given, Outcome, Watch, misses
from tests.torture.place import FLUSH_S, engine_of, kill, serving, starts_of

if TYPE_CHECKING:
    from pathlib import Path

NAME = "sink down"
FULL_S = 600.0
KILLS = 20
WORKERS = 2
PAUSE_S = 0.005
# An engine that lived for less is restarted later each time.
STEADY_S = 1.05
BACK_S = 20.0
# The other sink's delay, while this one is down, against what it was before; shared
# cores alone make it as much.
MOST, ROOM_S = 3.0, 0.05
# Behind the longest delay between attempts, which is 30 s.
RETURN_S = 120.0


class Collector:
    """An OTLP receiver on a port that refuses connections until it is opened."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.found: list[oracle.Found] = []
        self._server: http.server.ThreadingHTTPServer | None = None

    def open(self) -> None:
        """Take connections from now on."""
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", self.port), _handler(self.found)
        )
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()

    def close(self) -> None:
        """Refuse connections again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _handler(found: list[oracle.Found]) -> type[http.server.BaseHTTPRequestHandler]:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportLogsServiceRequest.FromString(body)
            found.extend(_found(request))
            content = ExportLogsServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _found(request):
    for worker in request.resource_logs:
        for scope in worker.scope_logs:
            for record in scope.log_records:
                at = {pair.key: pair.value for pair in record.attributes}
                if "worker" in at:
                    yield oracle.Found(
                        at["log.record.uid"].string_value, at["worker"].int_value,
                        at["number"].int_value, record.body.string_value,
                    )  # fmt: skip


class Follower:
    """Follows a file as it grows: how old each record is when it can be read there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self.ages: list[float] = []
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        until(self._path.exists, "the file is there")
        rest = b""
        with self._path.open("rb") as file:
            while not self._stop.wait(0.01):
                *whole, rest = (rest + file.read()).split(b"\n")
                now = time.time_ns()
                for line in whole:
                    self._add(now, line)

    def _add(self, now: int, line: bytes) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            return  # an engine's last line, which the next one takes back
        stamp = record.get("attributes", {}).get("stamp")
        if stamp is not None:
            self.ages.append((now - stamp) / 1e9)

    def taken(self) -> list[float]:
        """Give the ages since the last call, sorted."""
        ages, self.ages = self.ages, []
        return sorted(ages)

    def end(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join()


def run(given: Given) -> list[Outcome]:
    """Refuse connections for a while, kill engines meanwhile, then take them."""
    watch = Watch()
    down_s = max(1.2, FULL_S * given.scale)
    kills = max(1, min(KILLS, int(down_s / (2 * STEADY_S))))
    collector = Collector()
    endpoint = f"http://127.0.0.1:{collector.port}"
    sink = femtomp.OTLPSink(endpoint, protocol="http/protobuf")
    returned = Returned(WORKERS)
    path = given.directory / "app.jsonl"
    try:
        with serving(given.directory, sink) as server:
            follower = Follower(path)
            try:
                phases = _phases(given, server, collector, follower, returned,
                                 down_s, kills)  # fmt: skip
            finally:
                follower.end()
            until(lambda: server.flush(1.0), "the collector has all", RETURN_S)
            flushed = server.flush(FLUSH_S)
            at_collector = oracle.Verdict(given.seed, returned).see(collector.found)
            in_file = oracle.Verdict(given.seed, returned).see(oracle.in_file(path))
            stats = read_stats(server._spool)
    finally:
        collector.close()
    well, down, killed = phases
    missed = misses(
        **at_collector.faults(),
        **{f"{k} (file)": v for k, v in in_file.faults().items()},
        **oracle.conserves(stats, in_file, returned),
        **{
            f"{k} (otlp)": v
            for k, v in oracle.conserves(stats, at_collector, returned, "otlp").items()
        },
        nothing_refused=stats.sinks["otlp"].refused == 0,
        all_flushed=flushed,
        engines_as_deaths=stats.engine_starts == kills + 1,
        file_undisturbed=_late(down) <= MOST * _late(well) + ROOM_S,
    )
    worst = (
        f"{kills} engines killed; to the file p99 {_late(well) * 1000:.0f} ms with both "
        f"well, {_late(down) * 1000:.0f} with one down, {_late(killed) * 1000:.0f} with "
        f"kills besides; {sum(returned.all())} records"
    )
    return [
        Outcome(
            f"{NAME} for {down_s:.0f} s", kills, at_collector.lost,
            at_collector.duplicates, worst, missed, watch.seconds(),
        )
    ]  # fmt: skip


def _phases(given, server, collector, follower, returned, down_s, kills):
    """Give the file's delays: both well, one down, one down and engines killed."""
    spool, chance = server._spool, given.chance(NAME)
    workers = [
        oracle.forked(oracle.log_stamped, returned, given.seed, w, PAUSE_S)
        for w in range(WORKERS)
    ]
    collector.open()  # behind the forks: they must not hold its socket
    try:
        until(lambda: len(follower.ages) > WORKERS * 10, "records arrive")
        follower.taken()
        time.sleep(max(0.3, down_s / 10))
        well = follower.taken()
        collector.close()
        began = time.monotonic()
        time.sleep(max(0.3, down_s / 10))
        down = follower.taken()
        for _ in range(kills):
            steady_s = STEADY_S if kills > 1 else 0
            time.sleep(steady_s + chance.uniform(0, down_s / kills / 4))
            dead, starts = engine_of(spool), starts_of(spool)
            os.kill(dead, signal.SIGKILL)
            until(lambda s=starts: starts_of(spool) > s, "it is restarted", BACK_S)
            until(lambda d=dead: engine_of(spool) != d, "it runs", BACK_S)
        time.sleep(max(0.0, began + down_s - time.monotonic()))
        killed = follower.taken()
        collector.open()
    finally:
        kill(*workers)
    return well, down, killed


def _late(ages: list[float]) -> float:
    return ages[int(len(ages) * 0.99)] if ages else 0.0
