"""The context of a call in a pool's task: there for its time, and gone afterwards."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

import femtomp
from femtomp.worker.context import fields
from tests.components import missing, require
from tests.processes.harness import Attached, lines, run_file, run_script

if missing("otlp") is None:
    from opentelemetry import baggage, trace
    from opentelemetry.context import attach, detach, get_current
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    TRACER = TracerProvider().get_tracer("tests")


def seen():
    """Tell what a task sees: fields, ids, trace state, baggage."""
    context = trace.get_current_span().get_span_context()
    return (
        dict(fields.get()),
        f"{context.trace_id:032x}" if context.is_valid else None,
        f"{context.span_id:016x}" if context.is_valid else None,
        context.trace_state.to_header(),
        dict(baggage.get_all()),
    )


NOTHING = ({}, None, None, "", {})


def seen_and_said(number):
    """Log, and tell what a task sees."""
    logging.getLogger("shop").warning("task %d", number, extra={"number": number})
    return os.getpid(), seen()


LEFT = ContextVar("left", default=None)


def forget_everything():
    """Leave a context behind, as careless work does."""
    LEFT.set("left")
    femtomp.log_context(left="behind").__enter__()
    span = TRACER.start_span("left behind")
    attach(trace.set_span_in_context(span))
    attach(baggage.set_baggage("left", "behind"))


def left():
    """Tell what the last task has left, and what is seen."""
    return LEFT.get(), seen()


@pytest.fixture(name="span")
def _span():
    """Give an active span with trace state and baggage, and a log context."""
    require("otlp")
    state = TraceState([("vendor", "opaque")])
    context = SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False,
        trace_flags=TraceFlags(1), trace_state=state,
    )  # fmt: skip
    span = trace.NonRecordingSpan(context)
    token = attach(
        baggage.set_baggage("tenant", "a b;c", trace.set_span_in_context(span))
    )
    with femtomp.log_context(request="r1", n=7):
        yield span
    detach(token)


EVERYTHING = (
    {"request": "r1", "n": 7},
    "0af7651916cd43dd8448eb211c80319c",
    "b7ad6b7169203331",
    "vendor=opaque",
    {"tenant": "a b;c"},
)
METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.parametrize("method", METHODS)
def test_task_has_the_context_of_its_submission(span, method) -> None:
    """Whatever the start method, a task sees fields, ids, trace state and baggage."""
    context = multiprocessing.get_context(method)
    with femtomp.ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(seen).result(60) == EVERYTHING
        assert list(pool.map(_seen_of, range(2))) == [EVERYTHING] * 2
        token = attach(trace.set_span_in_context(trace.INVALID_SPAN, _empty()))
        try:
            inner = pool.submit(seen).result(60)
        finally:
            detach(token)
        assert inner == ({"request": "r1", "n": 7}, None, None, "", {})
    assert seen() == EVERYTHING


def _empty():
    from opentelemetry.context import Context

    return Context()


def _seen_of(_):
    return seen()


@pytest.mark.parametrize("method", METHODS)
def test_task_leaves_nothing_behind(method) -> None:
    """What one task forgets to take back is not there for the next."""
    require("otlp")
    context = multiprocessing.get_context(method)
    with femtomp.ProcessPoolExecutor(1, context) as pool:
        pool.submit(forget_everything).result(60)
        assert pool.submit(left).result(60) == (None, NOTHING)


def test_error_leaves_nothing_behind(span) -> None:
    """A task that raises has its error told, and its context is gone."""
    with femtomp.ProcessPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(60)
        token = attach(_empty())
        assert pool.submit(trace.get_current_span).result(60) is not None
        detach(token)


def test_context_is_that_of_the_wrapping(span) -> None:
    """`with_context` takes it when it is called; the call may come much later."""
    carried = femtomp.with_context(seen)
    token = attach(_empty())
    with femtomp.log_context(request="another"):
        assert carried() == EVERYTHING
        assert pickle.loads(pickle.dumps(carried))() == EVERYTHING
        assert seen()[:2] == ({"request": "another", "n": 7}, None)
    detach(token)


def test_thread_has_the_very_span(span) -> None:
    """In the same process it is the span itself, so that work can add to it."""
    with (
        TRACER.start_as_current_span("parent") as parent,
        ThreadPoolExecutor(1) as pool,
    ):
        carried = femtomp.with_context(trace.get_current_span)
        assert pool.submit(carried).result() is parent
        assert pool.submit(trace.get_current_span).result() is trace.INVALID_SPAN


def test_standard_pools_take_it(span) -> None:
    """`multiprocessing.Pool` and `Process` call what `with_context` gives."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(femtomp.with_context(seen)) == EVERYTHING
    results = multiprocessing.SimpleQueue()
    carried = femtomp.with_context(_put_seen)
    child = multiprocessing.get_context("fork").Process(target=carried, args=(results,))
    child.start()
    assert results.get() == EVERYTHING
    child.join(20)


def _put_seen(results):
    results.put(seen())


def test_span_of_the_task_is_a_child(span) -> None:
    """A span that a task begins belongs to the trace of its submission."""
    with femtomp.ProcessPoolExecutor(1) as pool:
        trace_id, parent_id, is_remote = pool.submit(_begin_span).result(60)
    assert f"{trace_id:032x}" == EVERYTHING[1]
    assert f"{parent_id:016x}" == EVERYTHING[2]
    assert is_remote


def _begin_span():
    with TRACER.start_as_current_span("task") as inner:
        parent = inner.parent
        return inner.get_span_context().trace_id, parent.span_id, parent.is_remote


@pytest.mark.parametrize("method", METHODS)
def test_logs_of_a_task_have_its_ids_in_every_sink(span, tmp_path, method) -> None:
    """In file and OTLP a task's records have the ids and fields of its submission."""
    from tests.real.otlp import Receiver

    path = tmp_path / "app.jsonl"
    with Receiver() as receiver:
        sinks = [femtomp.FileSink(path), femtomp.OTLPSink(receiver.http_endpoint)]
        with femtomp.start_server(sinks) as server, Attached("root.of.nothing"):
            context = multiprocessing.get_context(method)
            with femtomp.ProcessPoolExecutor(2, context) as pool:
                pids = {pool.submit(seen_and_said, n).result(60)[0] for n in range(4)}
            assert server.flush(20)
        exported = {
            record.trace_id.hex() + record.span_id.hex()
            for _, scope, record in receiver.records()
            if scope == "shop"
        }
    records = [r for r in lines(path) if r["logger"] == "shop"]
    # Of two lanes: their order in the file is of no meaning.
    assert sorted(r["attributes"]["number"] for r in records) == list(range(4))
    assert {r["resource"]["process.pid"] for r in records} == pids
    assert {(r["trace_id"], r["span_id"]) for r in records} == {EVERYTHING[1:3]}
    assert {r["attributes"]["request"] for r in records} == {"r1"}
    assert exported == {EVERYTHING[1] + EVERYTHING[2]}


def test_journal_has_the_ids_of_a_task(span) -> None:
    """In the journal they are fields of the entry."""
    require("journald")
    from tests.real.journald import Journald

    with Journald() as journald:
        sink = femtomp.JournaldSink(journald.socket)
        with femtomp.start_server(sink) as server:
            context = multiprocessing.get_context("spawn")
            with femtomp.ProcessPoolExecutor(1, context) as pool:
                pool.submit(seen_and_said, 1).result(60)
            assert server.flush(20)
        journald.sync()
        (entry,) = journald.entries("LOGGER=shop")
    assert (entry["TRACE_ID"], entry["SPAN_ID"]) == EVERYTHING[1:3]
    assert entry["REQUEST"] == "r1"


WITHOUT = """
    import sys
    sys.modules["opentelemetry"] = None
    import femtomp
    from femtomp.worker.context import fields

    def work():
        return dict(fields.get()), "opentelemetry.trace" in sys.modules

    if __name__ == "__main__":
        with femtomp.ProcessPoolExecutor(1) as pool, femtomp.log_context(request="r1"):
            print(pool.submit(work).result(30), femtomp.with_context(work)())
        with femtomp.ProcessPoolExecutor(1) as pool:
            print(pool.submit(work).result(30))
"""


def test_without_opentelemetry_fields_are_carried(tmp_path) -> None:
    """Nothing of OpenTelemetry is needed, nor loaded."""
    said = run_file(tmp_path / "app.py", WITHOUT).stdout.splitlines()
    request = ({"request": "r1"}, False)
    assert said == [f"{request} {request}", "({}, False)"]


def test_headers_mean_nothing_where_opentelemetry_is_missing() -> None:
    """A task that comes from where it is installed runs where it is not."""
    require("otlp")
    token = attach(trace.set_span_in_context(TRACER.start_span("span")))
    with femtomp.log_context(request="r1"):
        carried = pickle.dumps(femtomp.with_context(_fields_of_now))
    detach(token)
    program = f"""
        import pickle, sys
        sys.modules["opentelemetry"] = None
        from femtomp.worker import context
        sys.modules["tests.worker.test_carry"] = sys.modules["__main__"]
        def _fields_of_now(): return dict(context.fields.get())
        print(pickle.loads({carried!r})())
    """
    assert run_script(program).stdout == "{'request': 'r1'}\n"


def _fields_of_now():
    return dict(fields.get())


async def _coroutine():
    """Do nothing."""


def _generator():
    yield


@pytest.mark.parametrize("given", [7, "text", _coroutine, _generator])
def test_what_cannot_be_carried_is_refused(given) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(TypeError, match="with_context"):
        femtomp.with_context(given)


class _Unwritable:
    def __str__(self):
        """Fail."""
        raise RuntimeError("no text")


@pytest.mark.parametrize("value", ["\udc80", _Unwritable()], ids=["surrogate", "code"])
def test_baggage_that_is_no_header_stays_behind(span, value, capfd) -> None:
    """The task goes with its trace, and whoever hands it over gets no exception."""
    from opentelemetry import baggage, context

    token = context.attach(baggage.set_baggage("who", value))
    try:
        task = femtomp.with_context(_fields_of_now)
    finally:
        context.detach(token)
    assert set(task.headers) == {"traceparent", "tracestate"}
    assert task() == {"request": "r1", "n": 7}
    assert "baggage not carried" in capfd.readouterr().err


def test_names_are_the_functions_own() -> None:
    """What a pool shows of a task is what it was given; values are not shown."""
    with femtomp.log_context(password="hunter2"):
        carried = femtomp.with_context(seen)
    assert (carried.__name__, carried.__doc__) == ("seen", seen.__doc__)
    assert "hunter2" not in repr(carried)


def test_initializer_runs_and_workers_are_replaced() -> None:
    """The standard class's options mean what they mean there."""
    context = multiprocessing.get_context("spawn")
    with femtomp.ProcessPoolExecutor(
        1, context, _initialise, ("FEMTOMP_TEST_INIT", "yes"),
        max_tasks_per_child=1,
    ) as pool:  # fmt: skip
        first, second = (pool.submit(os.getpid).result(60) for _ in range(2))
        assert first != second
        assert pool.submit(os.getenv, "FEMTOMP_TEST_INIT").result(60) == "yes"
    with pytest.raises(TypeError, match="callable"):
        femtomp.ProcessPoolExecutor(1, initializer=7)


def _initialise(name, value):
    os.environ[name] = value


def test_get_current_is_untouched(span) -> None:
    """To carry a context changes nothing where it is taken."""
    before = get_current()
    femtomp.with_context(seen)()
    assert get_current() == before
