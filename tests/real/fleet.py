"""A fleet on one machine: hosts and a gateway in network namespaces, joined by veths.

A namespace lives as long as a process in it, and a veth as long as its namespace: there
is nothing to be cleaned up but processes, and these end when their stdin does, which
is when the test's process ends at the latest. The addresses are those that RFC 2544
sets aside for tests; no namespace has a route to anywhere else.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.components import otelcol_path
from tests.processes.harness import is_running, until
from tests.real.otelcol_process import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parent.parent.parent
GRPC_PORT, HTTP_PORT, BACKEND_PORT = 4317, 4318, 9000
ANSWER_TIMEOUT_S = 90.0
# A request that got no answer by then is tried again.
REQUEST_TIMEOUT_S = 4.0

# No queue and no retries: the Collector answers when the backend has answered.
CONFIG = f"""
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "0.0.0.0:{GRPC_PORT}"}}
      http: {{endpoint: "0.0.0.0:{HTTP_PORT}"}}
exporters:
  otlp_http:
    endpoint: "http://127.0.0.1:{BACKEND_PORT}"
    encoding: json
    compression: none
    sending_queue: {{enabled: false}}
    retry_on_failure: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [otlp_http]}}
"""


class Told:
    """A process in a network namespace that does what its stdin says."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.pid = self._process.pid

    def heard(self) -> bytes:
        """Wait for the next line that it says."""
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else b""
        assert line, f"{self._process.args} said nothing"
        return line

    def ask(self, word: str) -> None:
        """Tell it to do something."""
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    def say(self, word: str) -> dict:
        """Tell it to do something, and return what came of it."""
        self.ask(word)
        return json.loads(self.heard())

    def close(self) -> None:
        """Let it end, or else make it."""
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._process.kill()
        self.close()


def within(pid: int) -> list[str]:
    """Return the command that enters a process's network namespace."""
    return ["nsenter", "-t", str(pid), "-n"]


def python(module: str, *args: object) -> list[str]:
    """Return the command that runs a module of the tests."""
    return [sys.executable, "-m", f"tests.real.{module}", *map(str, args)]


class Arrived(NamedTuple):
    """One record, as the backend wrote it down."""

    time_ns: int
    request: str
    uid: str
    name: str
    host: int
    worker: int
    number: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What the worker that made it knows it by."""
        return self.host, self.worker, self.number


class Gateway:
    """A Collector and a backend in a namespace; a Python receiver where none is built.

    rotel will not do: it says that it has taken what it has not passed on yet, so what
    it held when it was killed is gone.
    """

    def __init__(self, directory: Path) -> None:
        ready = "ip link set lo up; echo ready; exec cat"
        self._holder = Told(["unshare", "-n", "sh", "-c", ready])
        self._holder.heard()
        self._book = directory / "book"
        self._read = 0
        self._arrived: list[Arrived] = []
        self._enter = within(self._holder.pid)
        self._collector: Collector | None = None
        self._backend: Told | None = None
        if otelcol_path() is not None:
            self._backend = self._told("json", BACKEND_PORT)
            self._collector = Collector(directory, f"yaml:{CONFIG}", enter=self._enter)
        self.kind = "otelcol" if self._collector else "Python's receiver"

    def _told(self, how: str, *ports: int) -> Told:
        told = Told([*self._enter, *python("fleet_backend", how, self._book, *ports)])
        told.heard()
        return told

    def start(self) -> None:
        """Start the Collector."""
        if self._collector:
            self._collector.start()
        else:
            self._backend = self._told("otlp", GRPC_PORT, HTTP_PORT)

    def stop(self) -> None:
        """End the Collector as systemd would."""
        if self._collector:
            assert self._collector.stop() == 0
        else:
            self._backend.close()

    def kill(self) -> None:
        """SIGKILL the Collector."""
        self._collector.kill() if self._collector else self._backend.kill()

    def pause(self, number: int = signal.SIGSTOP) -> None:
        """Let the Collector stand still, or go on."""
        pid = self._collector.pid if self._collector else self._backend.pid
        os.kill(pid, number)

    def slow(self, seconds: float) -> None:
        """Let the backend take so long for each answer."""
        self._backend.ask(str(seconds))
        self._backend.heard()

    def run(self, *command: str) -> None:
        """Run a command in the namespace."""
        subprocess.run([*self._enter, *command], check=True)

    def join(self, host: int, pid: int) -> None:
        """Lay a cable to a host's namespace."""
        self.run(
            *["ip", "link", "add", f"host{host}", "type", "veth"],
            *["peer", "name", "uplink", "netns", str(pid)],
        )
        self.run("ip", "address", "add", f"198.18.{host}.1/24", "dev", f"host{host}")
        self.cable(host, "up")

    def cable(self, host: int, state: str) -> None:
        """Pull a host's cable ("down"), or put it back ("up")."""
        self.run("ip", "link", "set", f"host{host}", state)

    def arrived(self) -> list[Arrived]:
        """Read what the backend wrote down so far."""
        if self._book.exists():
            with self._book.open("rb") as book:
                book.seek(self._read)
                whole = book.read().rpartition(b"\n")[0]
            self._read += len(whole) + bool(whole)
            rows = (line.split() for line in whole.decode().splitlines())
            self._arrived += [
                Arrived(int(r[0]), *r[1:4], *map(int, r[4:])) for r in rows
            ]
        return self._arrived

    def close(self) -> None:
        """End all of it."""
        if self._collector:
            self._collector.kill()
        for told in (self._backend, self._holder):
            if told:
                told.close()


class Fleet:
    """Hosts with a supervisor and workers each, and their gateway; a context manager.

    Every second host speaks gRPC, the others HTTP.
    """

    def __init__(self, directory: Path, hosts: int, workers: int, rate: float) -> None:
        self.gateway = Gateway(directory)
        self.hosts: list[Told] = []
        self._pids: list[int] = []
        self._plan = {"workers": workers, "rate": rate, "timeout_s": REQUEST_TIMEOUT_S}
        self._size = hosts

    def __enter__(self) -> Self:
        try:
            self.gateway.start()
            for host in range(self._size):
                self._add(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, host: int) -> None:
        port = GRPC_PORT if host % 2 else HTTP_PORT
        plan = {
            **self._plan,
            "host": host,
            "protocol": "grpc" if host % 2 else "http/protobuf",
            "endpoint": f"http://198.18.{host}.1:{port}",
            "directory": os.environ["FEMTOMP_SPOOL_PARENT"],
        }
        script = 'hostname "$1" && ip link set lo up && shift && exec "$@"'
        program = python("fleet_host", json.dumps(plan))
        told = Told(
            ["unshare", "-n", "-u", "sh", "-c", script, "sh", f"host-{host}", *program]
        )
        self.hosts.append(told)
        told.heard()
        self.gateway.join(host, told.pid)
        for command in (
            ["address", "add", f"198.18.{host}.2/24", "dev", "uplink"],
            ["link", "set", "uplink", "up"],
        ):
            subprocess.run([*within(told.pid), "ip", *command], check=True)
        self._pids += told.say("start")["pids"]

    def all_say(self, word: str) -> list[dict]:
        """Tell every host the same."""
        for told in self.hosts:
            told.ask(word)
        return [json.loads(told.heard()) for told in self.hosts]

    def until_heard(self, hosts: Iterable[int]) -> float:
        """Wait until records that are logged from now on arrive; return the seconds."""
        begun, hosts = time.monotonic(), set(hosts)
        returned = self.all_say("look")
        # Numbers begin at 0: this is the record behind the last whose call returned.
        wanted = {
            (host, worker, number)
            for host in hosts
            for worker, number in enumerate(returned[host]["returned"])
        }
        read = 0

        def is_heard() -> bool:
            nonlocal read
            found = self.gateway.arrived()
            wanted.difference_update(one.key for one in found[read:])
            read = len(found)
            return not wanted

        until(is_heard, f"hosts {sorted(hosts)} are heard", timeout=60)
        return time.monotonic() - begun

    def until_waiting(self, hosts: Iterable[int], records: int) -> None:
        """Wait until hosts have that many records that they cannot deliver."""
        until(
            lambda: (
                min(self.all_say("look")[host]["pending"] for host in hosts) >= records
            ),
            f"hosts {sorted(hosts)} keep their records",
            timeout=60,
        )

    def __exit__(self, *_: object) -> None:
        for told in self.hosts:
            told.close()
        for pid in self._pids:
            until(
                lambda pid=pid: not is_running(pid), "workers and guardians have ended"
            )
        self.gateway.close()
