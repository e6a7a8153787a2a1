"""Many workers at once: more of them than the supervisor may have open files."""

from __future__ import annotations

import pytest

from tests.processes.harness import lines, run_script

pytestmark = pytest.mark.slow

# Few descriptors for everybody; hundreds of workers that come and go while the engine
# stands still, and a sum of those whose records returned.
STORM = """
import logging, os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))
import femtomp
path, workers = sys.argv[1], int(sys.argv[2])
server = femtomp.start_server(femtomp.FileSink(path))
femtomp.worker_init()
engine = server._spool.control()[2]
os.kill(engine, signal.SIGSTOP)
for number in range(workers):
    if os.fork() == 0:
        for n in range(3):
            logging.info("%d %d", number, n)
        os._exit(0)
    os.wait()
os.kill(engine, signal.SIGCONT)
assert server.flush(60)
stats = server.stats()
assert stats.engine_starts == 1, "it had descriptors enough"
assert stats.sinks["file"].delivered == 3 * workers, stats.sinks
assert server.stop(60).drained
"""


def test_a_storm_of_workers_needs_no_more_descriptors(tmp_path) -> None:
    """Three hundred ended workers under a limit of 700 open files: all are delivered,
    by an engine that never ran out, and master and guardian keep within it too.
    """
    path = tmp_path / "app.jsonl"
    run_script(STORM, path, 300)
    bodies = sorted(line["body"] for line in lines(path) if line["logger"] == "root")
    assert bodies == sorted(f"{w} {n}" for w in range(300) for n in range(3))
