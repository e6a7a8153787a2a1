"""Tasks of a tiny shop. They log with `logging` and know nothing of femtomp.

Without a broker to install: messages are files below CELERY_DIRECTORY (the temporary
directory's `shop-celery`). CELERY_BROKER_URL=redis://localhost uses a real one.
"""

import logging
import os
import tempfile
import time
from pathlib import Path

from celery import Celery

from femtomp.integrations import celery as femtomp_celery

log = logging.getLogger("shop")

app = Celery("shop")
if not os.environ.get("CELERY_BROKER_URL"):
    place = Path(
        os.environ.get("CELERY_DIRECTORY") or tempfile.gettempdir() + "/shop-celery"
    )
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

os.environ.setdefault("FEMTOMP_SINKS", "console:json")
femtomp_celery.install(app)


@app.task
def sell(item, quantity=1):
    """Sell something, and have it packed."""
    log.info("sold %s", item, extra={"item": item, "quantity": quantity})
    pack.delay(item)
    return quantity


@app.task
def pack(item):
    """Pack it: a library below would log the same way, with the task's fields."""
    logging.getLogger("shop.packing").info("packed %s", item)


@app.task(bind=True, max_retries=3)
def charge(self, amount):
    """Ask the bank, which is closed at first."""
    if self.request.retries < 2:
        log.warning("the bank did not answer")
        raise self.retry(countdown=0)
    log.info("charged %.2f", amount, extra={"amount": amount})


@app.task
def slow(seconds=30):
    """Take its time: to be killed in the middle."""
    log.info("counting stock")
    time.sleep(seconds)
