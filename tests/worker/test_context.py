"""Context: each thread and task has its own, and a forked child its parent's no more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading

import pytest

import femtomp
from femtomp.testing import captured_records
from femtomp.worker.context import fields
from femtomp.worker.context import log_context as Context
from tests.worker.test_handler import in_child, run


def test_blocks_add_up_and_the_inner_one_wins() -> None:
    """Nested fields add up, and are gone behind their block, whatever ended it."""
    with femtomp.log_context(a=1, b=1, self=2):
        with contextlib.suppress(KeyError), femtomp.log_context(b=2, c=2):
            assert fields.get() == {"a": 1, "b": 2, "c": 2, "self": 2}
            raise KeyError
        assert fields.get() == {"a": 1, "b": 1, "self": 2}
    assert fields.get() == {}


def test_values_are_of_the_moment() -> None:
    """A value that changes later is not changed in the context."""
    items = [1]
    with femtomp.log_context(items=items):
        items.append(2)
        assert fields.get() == {"items": [1]}


def test_functions_are_decorated() -> None:
    """Each call of a decorated function is a block, recursive and concurrent ones too."""
    barrier = threading.Barrier(2)

    @femtomp.log_context(job="nightly")
    def work(n: int, *, wait: bool = False) -> list[dict[str, object]]:
        """Do it."""
        if wait:
            barrier.wait(10)
        seen = [fields.get()]
        return seen + (work(n - 1) if n else [])

    assert (work.__name__, work.__doc__) == ("work", "Do it.")
    assert work(2) == [{"job": "nightly"}] * 3
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(work(1, wait=True)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [[{"job": "nightly"}] * 2] * 2
    assert fields.get() == {}


def test_calls_that_overlap_end_each_for_itself() -> None:
    """Of two threads in one decorated function, the first to begin may end first."""
    begun, both, ended = (threading.Event() for _ in range(3))
    found: list[object] = []

    @femtomp.log_context(job="nightly")
    def work(mine: threading.Event, others: threading.Event) -> None:
        mine.set()
        assert others.wait(10)

    def first() -> None:
        work(begun, both)
        found.append(fields.get())
        ended.set()

    def second() -> None:
        assert begun.wait(10)
        work(both, ended)
        found.append(fields.get())

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [{}, {}]


def test_coroutine_functions_are_decorated() -> None:
    """A decorated coroutine function has its fields while it runs, not when it is made."""

    @femtomp.log_context(job="nightly")
    async def work() -> object:
        await asyncio.sleep(0)
        return fields.get()

    async def main() -> None:
        waiting = work()
        assert fields.get() == {}
        with femtomp.log_context(a=1):
            assert await waiting == {"a": 1, "job": "nightly"}
        assert await asyncio.gather(work(), work()) == [{"job": "nightly"}] * 2
        assert fields.get() == {}

    asyncio.run(main())


def test_generators_are_refused() -> None:
    """A generator function is refused at once: its caller would have the fields."""

    def steps():
        yield

    async def others():
        yield

    for function in (steps, others):
        with pytest.raises(TypeError, match="generator"):
            femtomp.log_context(a=1)(function)


def test_threads_have_their_own() -> None:
    """What one thread sets no other one has."""
    barrier = threading.Barrier(8)
    found: dict[int, object] = {}

    def work(n: int) -> None:
        with femtomp.log_context(n=n):
            barrier.wait(10)
            found[n] = fields.get()
            barrier.wait(10)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    with femtomp.log_context(outer=1):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert found == {n: {"n": n} for n in range(8)}


def test_a_thousand_tasks_have_their_own_fields_and_spans() -> None:
    """Of 1,000 asyncio tasks each has its own span and fields on its own records."""
    trace = pytest.importorskip("opentelemetry.trace")
    log = femtomp.get_logger("tasks")
    order: list[int] = []

    async def work(n: int) -> None:
        span = trace.NonRecordingSpan(trace.SpanContext(n + 1, n + 7, False))
        with trace.use_span(span), femtomp.log_context(task=n):
            for step in range(3):
                log.info("step", step=step)
                order.append(n)
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(work, range(1000)))

    with captured_records(logger="tasks") as records:
        asyncio.run(main())
        found = [r for r in records if r.logger == "tasks"]
    assert len(found) == 3000
    assert order[:2] == [0, 1], "the tasks did not take turns"
    for record, n in zip(found, order, strict=True):
        assert record.attributes["task"] == n
        assert record.trace_id == f"{n + 1:032x}"
        assert record.span_id == f"{n + 7:016x}"


def test_left_in_another_context_it_is_no_error() -> None:
    """A block that is left in another context than it was entered (a web framework's
    dependency) raises nothing, and changes nothing there.
    """
    block = femtomp.log_context(a=1)
    contextvars.copy_context().run(block.__enter__)
    with femtomp.log_context(b=2):
        block.__exit__(None, None, None)
        assert fields.get() == {"b": 2}


# -- forks -----------------------------------------------------------------------------


def test_a_block_that_threads_share_ends_for_each() -> None:
    """One object that two threads are inside of leaves nothing behind in either."""
    shared, left = femtomp.log_context(job="nightly"), []
    entered, ended = threading.Event(), threading.Event()

    def work() -> None:
        with shared:
            entered.set()
            ended.wait(20)
            left.append(fields.get())
        left.append(fields.get())

    thread = threading.Thread(target=work)
    with shared:
        thread.start()
        entered.wait(20)
    assert fields.get() == {}
    ended.set()
    thread.join()
    assert left == [{"job": "nightly"}, {}]


def test_forked_child_has_none_of_it() -> None:
    """A forked child begins with no fields, though nothing was logged before."""
    code = """
import os, femtomp
from femtomp.worker.context import fields
with femtomp.log_context(a=1):
    if not os.fork():
        print(fields.get(), flush=True)
        os._exit(0)
    os.wait()
    print(fields.get())
"""
    assert run(code) == "{}\n{'a': 1}\n"


def test_forked_child_has_what_it_is_to_inherit() -> None:
    """What is marked as inherited is there in children and theirs, and nothing else."""
    with femtomp.log_context(a=1), femtomp.log_context(b=2).inherited():
        assert fields.get() == {"a": 1, "b": 2}
        assert in_child(fields.get) == "{'b': 2}"
        assert in_child(lambda: in_child(fields.get)) == "{'b': 2}"
    assert in_child(fields.get) == "{}"


def test_child_that_leaves_its_parents_block_has_none_still() -> None:
    """A child that goes on behind the block it was forked in does not find its parent's
    outer fields there.
    """
    read, write = os.pipe()
    with femtomp.log_context(a=1):
        with femtomp.log_context(b=2):
            pid = os.fork()
            if not pid:
                os.write(write, repr(fields.get()).encode())
        if not pid:
            os.write(write, repr(fields.get()).encode())
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"{}{}"
    os.waitpid(pid, 0)


def test_block_of_a_child_is_its_own() -> None:
    """Blocks that a child begins are right, beside the one that it was forked in."""

    def child() -> list[object]:
        with femtomp.log_context(c=3):
            inner = fields.get()
        return [inner, fields.get()]

    with femtomp.log_context(a=1):
        assert in_child(child) == "[{'c': 3}, {}]"


def test_one_block_may_be_entered_again() -> None:
    """The same block inside itself is left one by one."""
    block = Context(a=1)
    with block:
        with block:
            pass
        assert fields.get() == {"a": 1}
    assert fields.get() == {}
