"""A Dask computation whose tasks log, some of them as their worker's last.

``python dask_app.py``; with ``--processes=0`` in threads of this process.
"""

import logging
import os
import signal
import sys
from pathlib import Path

import dask
from distributed import Client, LocalCluster

from femtomp.integrations.dask import Plugin


def work(number, kill=False):
    from tests.integrations import noted  # noqa: F401 - in the workers, too

    for each in range(250):
        logging.getLogger("app").info("task %d: %d", number, each)
    # A task that is tried again, after its worker was replaced, lives.
    died = Path(f"died-{number}")
    if kill and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def main(processes):
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 10,
            # A cluster drops a worker's place that is down now and was so then.
            "distributed.deploy.lost-worker-timeout": "1h",
        }
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=processes, dashboard_address=""
        ) as cluster,
        Client(cluster) as client,
    ):
        plugin = Plugin(["file:records"], name="dask")
        for _ in range(3):
            client.register_plugin(plugin)
        assert client.gather(client.map(work, range(30))) == list(range(30))
        if processes:
            for number in range(30, 40):
                key = f"last-{number}"
                assert (
                    client.submit(work, number, kill=True, key=key).result() == number
                )
            # Dask does not like to end while a nanny starts a worker.
            client.wait_for_workers(2)


if __name__ == "__main__":
    main("--processes=0" not in sys.argv)
