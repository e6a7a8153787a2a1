"""Tasks and threads: each record carries what its own caller had, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import femtomp
from femtomp.testing import captured_records
from femtomp.worker.capture import TASK, from_log_record
from tests.worker.test_capture import PID, captured, load, make

HAS_TASK_NAMES = sys.version_info >= (3, 12)
TRACER = TracerProvider().get_tracer("test")


async def _work(log: logging.Logger, number: int, seen: dict) -> None:
    with (
        TRACER.start_as_current_span(f"work {number}") as span,
        femtomp.log_context(number=number),
    ):
        own = span.get_span_context()
        seen[number] = (own.trace_id, own.span_id, int(own.trace_flags))
        for step in range(3):
            await asyncio.sleep(0)
            # The second one takes the careful path.
            extra = {"step": [step] if step == 1 else step}
            log.info("task %d", number, extra=extra)


async def _tasks(log: logging.Logger, count: int) -> dict:
    seen: dict = {}
    tasks = [
        asyncio.create_task(_work(log, n, seen), name=f"task-{n}") for n in range(count)
    ]
    await asyncio.gather(*tasks)
    return seen


def test_a_thousand_tasks_have_their_own_spans() -> None:
    """Each record of 1,000 interleaved tasks has its task's span, fields and name."""
    with captured_records(logger="tasks") as records:
        seen = asyncio.run(_tasks(logging.getLogger("tasks"), 1000))
        found = list(records)
    assert len(found) == 3000
    for record in found:
        number = record.attributes["number"]
        assert record.body == f"task {number}"
        ids = int(record.trace_id, 16), int(record.span_id, 16), record.trace_flags
        assert ids == seen[number]
        name = f"task-{number}" if HAS_TASK_NAMES else None
        assert record.attributes.get(TASK) == name
    assert len({record.span_id for record in found}) == 1000
    # The records of one task were not written in one go.
    order = [record.attributes["number"] for record in found]
    assert order[:3] != [order[0]] * 3


def test_threads_have_their_own_spans() -> None:
    """A hundred threads at once: name, id, span and fields are the caller's."""
    log = logging.getLogger("threads")
    seen: dict = {}
    barrier = threading.Barrier(20)

    def work(number: int) -> None:
        with (
            TRACER.start_as_current_span("work") as span,
            femtomp.log_context(number=number),
        ):
            own = span.get_span_context()
            seen[number] = own.span_id, threading.get_ident()
            barrier.wait()
            for step in range(10):
                log.info("step %d", step)

    with captured_records(logger="threads") as records:
        threads = [
            threading.Thread(target=work, args=(n,), name=f"worker {n}")
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = list(records)
    assert len(found) == 200
    for record in found:
        number = record.attributes["number"]
        own = int(record.span_id, 16), record.attributes["thread.id"]
        assert own == seen[number]
        assert record.attributes["thread.name"] == f"worker {number}"
        assert record.resource["process.pid"] == os.getpid()
        assert TASK not in record.attributes


def test_span_of_the_caller_not_of_the_moment() -> None:
    """What is active when the record is read has no say."""
    with TRACER.start_as_current_span("first") as span:
        payload = from_log_record(make(), PID)
    with TRACER.start_as_current_span("second"):
        found = load(payload)
    assert found.span_id == trace.format_span_id(span.get_span_context().span_id)


@pytest.mark.skipif(not HAS_TASK_NAMES, reason="LogRecord.taskName is of Python 3.12")
@pytest.mark.parametrize("exc_info", [None, (ValueError, ValueError("x"), None)])
def test_names_of_tasks(exc_info) -> None:
    """A record of a task has the task's name, whatever else it has; an extra wins."""
    assert captured(make(exc_info=exc_info, taskName="t")).attributes[TASK] == "t"
    assert captured(make(exc_info=exc_info, taskName=5)).attributes[TASK] == "5"
    assert TASK not in captured(make(exc_info=exc_info)).attributes
    own = make(exc_info=exc_info, taskName="t", **{TASK: "own"})
    assert captured(own).attributes[TASK] == "own"
    with femtomp.log_context(a=1):
        found = captured(make(exc_info=exc_info, taskName="t", b=2))
    assert (found.attributes["a"], found.attributes["b"]) == (1, 2)
    assert found.attributes[TASK] == "t"
