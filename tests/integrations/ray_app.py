"""Ray tasks and actors that log; some tasks are their worker's last."""

import logging
import os
import signal
from pathlib import Path

import ray

import femtomp
from femtomp.integrations.ray import setup

log = logging.getLogger("app")


@ray.remote(max_retries=5)
def work(number, directory, kill=False):
    from tests.integrations import noted  # noqa: F401 - in the workers

    for each in range(250):
        log.info("task %d: %d", number, each)
    died = Path(directory, f"died-{number}")
    if kill and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@ray.remote
class Actor:
    def __init__(self):
        from tests.integrations import noted  # noqa: F401

    def act(self):
        log.info("in an actor")


def main():
    with femtomp.start_server("file:records", name="ray"):
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            runtime_env={"worker_process_setup_hook": setup},
        )
        here = os.getcwd()
        ray.get([work.remote(number, here) for number in range(30)])
        for number in range(30, 40):
            assert ray.get(work.remote(number, here, kill=True)) == number
        ray.get(Actor.remote().act.remote())
        ray.shutdown()


if __name__ == "__main__":
    main()
