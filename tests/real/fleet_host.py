"""One host of the fleet: a supervisor, its workers, and a master that is told what to do.

Runs in a network namespace of its own. In: a plan, JSON, as the argument; then a word a
line on stdin. Out: a JSON object a line. At the end of stdin it ends, whatever it does,
so that nothing outlives the test.

start   the server and its workers, which log steadily; says all their pids
look    says how many log calls returned, by worker, and what is pending
rest    the workers end; says how many calls returned
end     delivers and stops; says what became of the records
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys

import femtomp
from tests.processes.harness import Returned, fork

DRAIN_S = 60.0


def work(returned: Returned, worker: int, stop: int, plan: dict) -> None:
    """Log numbered records until the word `stop` is set, or the master is gone."""
    log = logging.getLogger("fleet")
    number, master = 0, os.getppid()
    while not returned[stop] and os.getppid() == master:
        log.info(
            "record %d of worker %d", number, worker,
            extra={"fleet.host": plan["host"], "worker": worker, "number": number},
        )  # fmt: skip
        number += 1
        returned.set(worker, number)
        signal.sigtimedwait((), 1 / plan["rate"])


class Host:
    """The master."""

    def __init__(self, plan: dict) -> None:
        self._plan = plan
        self._stop: int = plan["workers"]
        self._returned = Returned(self._stop + 1)
        self._workers: list[int] = []

    def start(self) -> dict:
        """Start the server, then fork the workers."""
        plan = self._plan
        sink = femtomp.OTLPSink(
            plan["endpoint"], protocol=plan["protocol"], timeout_s=plan["timeout_s"]
        )
        self._server = femtomp.start_server(
            sink,
            name=f"fleet-{plan['host']}",
            spool_parent=plan["directory"],
            resource={"service.name": "fleet"},
        )
        self._server.worker_init()
        self._workers = [
            fork(work, self._returned, worker, self._stop, plan)
            for worker in range(plan["workers"])
        ]
        return {"pids": [self._server.pid, *self._workers]}

    def look(self) -> dict:
        """Say how far it is."""
        found = self._server.stats().sinks["otlp"]
        return {
            "returned": self._returned.all()[: self._stop],
            "delivered": found.delivered,
            "pending": found.pending,
        }

    def rest(self) -> dict:
        """End the workers."""
        self._returned.set(self._stop, 1)
        statuses = [os.waitpid(pid, 0)[1] for pid in self._workers]
        return {"returned": self._returned.all()[: self._stop], "statuses": statuses}

    def end(self) -> dict:
        """Deliver what is left, and stop."""
        flushed = self._server.flush(DRAIN_S)
        stats = self._server.stats()
        report = self._server.stop(DRAIN_S)
        found = stats.sinks["otlp"]
        return {
            "flushed": flushed,
            "drained": report.drained,
            "committed": found.committed,
            "delivered": found.delivered,
            "lost": found.refused + found.evicted + found.corrupt + found.quarantined,
            "dropped": sum(stats.dropped.values()),
            "engine_starts": stats.engine_starts,
        }


def main() -> None:
    """Do what stdin says."""
    host = Host(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(getattr(host, line.strip())()), flush=True)


if __name__ == "__main__":
    main()
