"""The Celery example, run as its README says, without a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.components import require
from tests.examples.pool import ROOT, until

EXAMPLE = ROOT / "examples/celery"


def test_the_example_sells_and_packs(tmp_path) -> None:
    """What a task and the task that it sends log is JSON on the console, with their
    ids and one root; what is tried again says how often it was.
    """
    require("celery")
    celery = [sys.executable, str(Path(sys.executable).with_name("celery"))]
    environ = {
        **{k: v for k, v in os.environ.items() if k != "CELERY_BROKER_URL"},
        "PYTHONPATH": str(ROOT),
        "CELERY_DIRECTORY": str(tmp_path),
        "C_FORCE_ROOT": "1",
        "OTEL_SERVICE_NAME": "shop",
    }
    arguments = ["-A", "shop", "--quiet", "worker", "-linfo", "-c2"]
    with (tmp_path / "said").open("wb") as said:
        worker = subprocess.Popen(
            [*celery, *arguments],
            cwd=EXAMPLE, env=environ, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip

    def records() -> dict[str, dict]:
        lines = (tmp_path / "said").read_text().splitlines()
        made = [json.loads(line) for line in lines if line.startswith("{")]
        return {record["body"]: record for record in made}

    try:
        until(lambda: any("ready." in body for body in records()), "ready", 30)
        send = "import shop; shop.sell.delay('tea'); shop.charge.delay(4.5)"
        subprocess.run(
            [sys.executable, "-c", send], cwd=EXAMPLE, env=environ, check=True
        )
        wanted = {"sold tea", "packed tea", "charged 4.50"}
        until(lambda: wanted <= records().keys(), "all tasks have run", 30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)
    sold, packed, charged = (
        records()[body]["attributes"]
        for body in ("sold tea", "packed tea", "charged 4.50")
    )
    assert sold["item"] == "tea"
    assert packed["celery.task.parent_id"] == sold["celery.task.id"]
    assert packed["celery.task.root_id"] == sold["celery.task.id"]
    assert charged["celery.task.retries"] == 2
