"""The resource of a worker's logs is that of its spans."""

from __future__ import annotations

import json

import pytest

from tests.components import require
from tests.processes.harness import run_script

PROGRAM = """
    import json, logging, os, sys
    import femtomp
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    def own():
        return trace.get_tracer_provider().resource.attributes.get("service.instance.id")

    given = {"service.instance.id": "mine"} if sys.argv[2] == "given" else {}
    trace.set_tracer_provider(TracerProvider(resource=Resource.create(given)))
    with femtomp.start_server([f"file:{sys.argv[1]}"]):
        femtomp.worker_init()
        logging.info("", extra={"own": own()})
        for _ in range(2):
            if not os.fork():
                logging.info("", extra={"own": own()})
                os._exit(0)
            os.wait()
"""


@pytest.mark.parametrize("kind", ["default", "given"])
def test_instance_is_the_one_of_the_spans(tmp_path, kind) -> None:
    """`service.instance.id` is what the worker's tracer provider has, after a fork too."""
    require("otlp")
    path = tmp_path / "app.jsonl"
    run_script(PROGRAM, path, kind)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = [
        (r["attributes"]["own"], r["resource"]["service.instance.id"])
        for r in records
        if r["logger"] == "root"
    ]
    assert len(found) == 3
    if kind == "given":
        assert found[0] == ("mine", "mine")
    ids = {instance for _, instance in found}
    # An SDK without an instance of its own leaves it to femtomp: one a worker.
    assert all(own in (None, instance) for own, instance in found)
    assert all(ids)
    assert len(ids) in {1, 3}
