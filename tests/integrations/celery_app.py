"""The Celery application of the tests: its tasks log, and some kill their process."""

import logging
import os
import signal
import time
from pathlib import Path

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

import femtomp
from femtomp.integrations import celery as integration
from tests.integrations import noted  # noqa: F401 - has an effect

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

log = logging.getLogger("tasks")
library = logging.getLogger("library")

app = Celery("tests")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_pool_start_method=os.environ.get("START_METHOD") or "fork",
)
if url := os.environ.get("TEST_BROKER", ""):
    app.conf.update(broker_url=url, result_backend=url)
else:
    place = Path(os.environ["CELERY_DIRECTORY"])
    for folder in ("messages", "processed", "control", "results"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    app.conf.update(
        broker_url="filesystem://",
        broker_transport_options={
            "data_folder_in": str(place / "messages"),
            "data_folder_out": str(place / "messages"),
            "processed_folder": str(place / "processed"),
            "control_folder": str(place / "control"),
        },
        result_backend=f"file://{place}/results",
    )

for _ in range(3):  # as modules that are imported from everywhere do
    integration.install(app, ["file:records"], name="tests")


@app.task
def burst(records, *, kill=False):
    for number in range(records):
        (log if number % 2 else library).info("burst %d", number)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@app.task(bind=True, max_retries=2)
def again(self):
    log.info("attempt")
    if self.request.retries < 2:
        raise self.retry(countdown=0)


@app.task(soft_time_limit=1, time_limit=2)
def endless():
    log.info("begun")
    try:
        time.sleep(60)
    except Exception:
        log.warning("stopped")
        raise


@app.task(bind=True, soft_time_limit=0.3, time_limit=30)
def chatters(self):
    """Log until the time limit is heard of; leave a file that says whether it was."""
    said = Path(f"{self.request.id}.said")
    end = time.monotonic() + 5
    number = 0
    try:
        while time.monotonic() < end:
            number += 1
            log.info("step %d", number, extra={"n": number, "more": {"a": [number]}})
    except SoftTimeLimitExceeded:
        said.write_text("heard")
    else:
        said.write_text("never heard")


def send(task: str, count: int, records: int, kills: int) -> None:
    with femtomp.log_context().traced(TRACE):
        for number in range(count):
            if task == "burst":
                burst.delay(records, kill=number < kills)
            else:
                app.tasks[f"tests.integrations.celery_app.{task}"].delay()
