"""Limits on records: the server's options, kept by every worker, and said where used."""

from __future__ import annotations

import logging
import os

import pytest

import femtomp
from femtomp.errors import ConfigError
from femtomp.lanes import place
from femtomp.lanes.queue import Puller
from femtomp.lanes.spool import STATE, State
from femtomp.options import LIMIT_NAMES, check_options, split_limits
from femtomp.record import DEFAULT_LIMITS, Limits, Record, Resource
from femtomp.testing import wait_until
from femtomp.worker.capture import TRUNCATED, from_log_record, from_record
from femtomp.worker.handler import release, worker_handler
from tests.worker.test_capture import PID, load, make, raised


def limited(record: logging.LogRecord, **options) -> Record:
    """Capture under limits and read."""
    before = dict(record.__dict__)
    found = load(from_log_record(record, PID, Limits.of(options)))
    assert record.__dict__ == before
    return found


def mine(record: Record) -> dict:
    return {k: v for k, v in record.attributes.items() if "." not in k}


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 127, 129, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 200])
def test_attributes_are_counted(limit, count) -> None:
    """So many extras are kept, the first ones, and the others counted."""
    record = make(**{f"a{n}": n for n in range(count)})
    found = limited(record, attribute_count_limit=limit)
    assert list(mine(found)) == [f"a{n}" for n in range(min(count, limit))]
    assert found.dropped_attributes_count == max(0, count - limit)


def test_fields_of_the_context_count_too() -> None:
    """Extras and fields of `log_context` share the room, by default as well."""
    with femtomp.log_context(**{f"c{n}": n for n in range(100)}):
        found = load(from_log_record(make(**{f"a{n}": n for n in range(100)}), PID))
        assert found.dropped_attributes_count == 72
        assert len(mine(found)) == 128


@pytest.mark.parametrize("length", [0, 1, 10, 100])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 50, lambda n: "x" * min(n, 50)),
        (b"x" * 50, lambda n: b"x" * min(n, 50)),
        (["a" * 50, 1], lambda n: ["a" * min(n, 50), 1]),
        ({"k": {"d": "a" * 50}}, lambda n: {"k": {"d": "a" * min(n, 50)}}),
        (bytearray(50), lambda n: bytes(min(n, 50))),
        ("\U0001f600" * 50, lambda n: "\U0001f600" * min(n, 50)),
    ],
    ids=["str", "bytes", "list", "dict", "bytearray", "emoji"],
)
def test_values_are_cut_and_it_is_said(length, value, expected) -> None:
    """A text or bytes of any depth is cut to the limit; the record says how long it was."""
    found = limited(
        make("text", (), value=value, n=7), attribute_value_length_limit=length
    )
    assert found.attributes["value"] == expected(length)
    assert found.attributes["n"] == 7
    said = {"value": 50} if length < 50 else None
    assert found.attributes.get(TRUNCATED) == said
    assert found.body == "text"


def test_fast_path_obeys_the_limits() -> None:
    """A record of scalars, which takes no care, is cut all the same."""
    found = limited(make(a="x" * 11, b="x" * 10), attribute_value_length_limit=10)
    assert mine(found) == {"a": "x" * 10, "b": "x" * 10}
    assert found.attributes[TRUNCATED] == {"a": 11}


def test_code_and_thread_are_not_cut() -> None:
    """Where a record is from is no attribute that somebody gave."""
    found = limited(make(), attribute_value_length_limit=1)
    assert found.attributes["code.file.path"] == "/app.py"
    assert found.attributes["thread.name"] == "MainThread"


def test_body_and_template_are_cut() -> None:
    """The body has a limit of its own, its template that of any attribute."""
    record = make("%s and" + "y" * 100, ("x" * 100,))
    found = limited(record, body_length_limit=20, attribute_value_length_limit=30)
    assert found.body == "x" * 20
    assert found.attributes["femtomp.template"] == "%s and" + "y" * 24
    assert found.attributes[TRUNCATED] == {"body": 204, "femtomp.template": 106}
    found = limited(make("z" * 21), body_length_limit=20)
    assert (found.body, found.attributes[TRUNCATED]) == ("z" * 20, {"body": 21})
    found = limited(make("z" * 20), body_length_limit=20)
    assert TRUNCATED not in found.attributes


@pytest.mark.parametrize("length", [0, 1, 5, 40, 200])
def test_stack_traces_keep_both_ends(length) -> None:
    """A stack trace loses its middle: its last lines say what happened."""
    error = raised(lambda: int("no number"))
    record = make(exc_info=error, stack_info="Stack:\n" + "line\n" * 100 + "here")
    found = limited(record, stacktrace_length_limit=length)
    for name in ("exception.stacktrace", "code.stacktrace"):
        text = found.attributes[name]
        assert len(text) == length
        assert found.attributes[TRUNCATED][name] > length
        if length >= 40:
            assert "\n…\n" in text
    if length == 200:
        assert found.attributes["exception.stacktrace"].startswith("Traceback")
        assert found.attributes["exception.stacktrace"].endswith("'no number'")
    assert found.attributes["exception.message"].endswith("'no number'")


def test_exception_message_is_an_attribute() -> None:
    """Messages of exceptions are cut as other attributes are, everywhere."""
    record = make(exc_info=(ValueError, ValueError("x" * 100), None))
    found = limited(record, attribute_value_length_limit=9)
    assert found.attributes["exception.message"] == "x" * 9
    assert found.attributes[TRUNCATED] == {"exception.message": 100}
    (one,) = found.attributes["femtomp.exception"]["exceptions"]
    assert len(one["message"]) == 9


def test_depth_is_limited() -> None:
    """Containers deeper than allowed are named, those of the context as well."""
    found = limited(make(value=[[[[1]]]]), attribute_depth_limit=3)
    assert found.attributes["value"] == [[["<list: deeper than 3 levels>"]]]
    with femtomp.log_context(value={"a": {"b": {"c": 1}}}):
        found = limited(make(), attribute_depth_limit=2)
    assert found.attributes["value"] == {"a": {"b": "<dict: deeper than 2 levels>"}}


def test_records_from_a_queue_are_limited() -> None:
    """A Record that is put is held to the limits as a log call is."""
    given = Record(5, 9, "INFO", "lib", "b" * 9, {"a": "x" * 9, "b": 1}, Resource({}))
    limits = Limits(1, 5, body_length=7, harmless_bytes=5)
    found = load(from_record(given, PID, limits))
    assert found.body == "b" * 7
    assert found.attributes == {"a": "x" * 5, TRUNCATED: {"a": 9, "body": 9}}
    assert found.dropped_attributes_count == 1


# -- options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attribute_count_limit", -1),
        ("attribute_count_limit", None),
        ("attribute_count_limit", 10_001),
        ("attribute_count_limit", 1.5),
        ("attribute_count_limit", True),
        ("attribute_value_length_limit", -1),
        ("attribute_value_length_limit", "10"),
        ("attribute_depth_limit", 0),
        ("attribute_depth_limit", 9),
        ("attribute_depth_limit", None),
        ("body_length_limit", -1),
        ("stacktrace_length_limit", b"5"),
        ("exception_frames", None),
        ("exception_frames", "some"),
        ("exception_frames", ()),
        ("exception_frames", ("",)),
        ("exception_frames", (5,)),
        ("exception_frames", 5),
    ],
)
def test_odd_limits_are_refused_by_name(option, value) -> None:
    """What cannot be a limit is an error in the master, which says what can."""
    with pytest.raises(ConfigError, match=f"{option} must be "):
        check_options({option: value})


def test_unknown_option_names_the_limits() -> None:
    """The list of options has the limits too."""
    with pytest.raises(
        ConfigError, match=r"attribute_count_limit, .*body_length_limit"
    ):
        check_options({"attribute_limit": 5})


def test_defaults_are_the_limits_of_no_options() -> None:
    """No option, or what is the default anyway, gives the very default."""
    assert Limits.of({}) is DEFAULT_LIMITS
    assert Limits.of({"attribute_count_limit": 128}) is DEFAULT_LIMITS
    assert {*LIMIT_NAMES} == {f"{n}_limit" for n in Limits._fields[:5]} | {
        "exception_frames"
    }


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "5"}, {"attribute_count_limit": 5}),
        (
            {
                "OTEL_ATTRIBUTE_COUNT_LIMIT": "5",
                "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "6",
            },
            {"attribute_count_limit": 6},
        ),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": ""}, {}),
        (
            {"OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": " 70 "},
            {"attribute_value_length_limit": 70},
        ),
        (
            {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "0"},
            {"attribute_value_length_limit": 0},
        ),
    ],
)
def test_opentelemetrys_variables_are_limits(environ, expected) -> None:
    """What no option says the SDK's variables say, the one for records first."""
    assert split_limits({"block_s": 1}, environ) == (expected, {"block_s": 1})
    own = dict.fromkeys(expected, 9)
    assert split_limits(own, environ) == (own, {})


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "99999"])
def test_odd_variable_is_refused_by_name(value) -> None:
    """A variable that holds no such number is an error that names it."""
    with pytest.raises(ConfigError, match="OTEL_ATTRIBUTE_COUNT_LIMIT must be"):
        split_limits({}, {"OTEL_ATTRIBUTE_COUNT_LIMIT": value})


# -- on their way to the workers -------------------------------------------------------


def test_every_process_knows_the_limits_from_its_first_record_on(tmp_path) -> None:
    """The first record, the next ones, and a forked child's are all held to them."""
    options = {"attribute_count_limit": 1, "body_length_limit": 4}
    spool = place.create(
        tmp_path, "shop", level=1, sinks=(), master={"pid": os.getpid()}, limits=options
    )
    spool.set_control(STATE, State.RUNNING)
    handler = worker_handler(spool=spool.path)
    logger = logging.Logger("shop")
    logger.addHandler(handler)
    puller = Puller(spool, {})
    try:
        for _ in range(3):
            logger.info("parent", extra={"a": 1, "b": 2})
        pid = os.fork()
        if not pid:
            logger.info("child's", extra={"a": 1, "b": 2})
            os._exit(0)
        os.waitpid(pid, 0)
        records = wait_until(puller.pull)
    finally:
        release(handler)
        spool.close()
    assert [r.body for r in records] == ["pare", "pare", "pare", "chil"]
    assert [r.dropped_attributes_count for r in records] == [1] * 4
    assert [mine(r) for r in records] == [{"a": 1}] * 4


def test_new_lane_has_the_limits_of_the_server_that_is_there(tmp_path) -> None:
    """Where another server has adopted the spool, a lane opened since obeys its limits."""
    spool = place.create(
        tmp_path, "shop", level=1, sinks=(), master={"pid": os.getpid()}
    )
    spool.set_control(STATE, State.RUNNING)
    handler = worker_handler(spool=spool.path)
    logger = logging.Logger("shop")
    logger.addHandler(handler)
    puller = Puller(spool, {})
    try:
        logger.info("whole")
        manifest = {**spool.manifest, "limits": {"body_length_limit": 2}}
        place.describe(spool.descriptor, manifest, {})
        pid = os.fork()
        if not pid:
            logger.info("opens a lane")
            logger.info("cut")
            os._exit(0)
        os.waitpid(pid, 0)
        records = wait_until(puller.pull)
    finally:
        release(handler)
        spool.close()
    assert [r.body for r in records] == ["whole", "opens a lane", "cu"]


def test_old_spools_have_no_limits() -> None:
    """A manifest that says nothing of limits, or odd things, means the defaults."""
    assert Limits.of({"attribute_count_limit": None}) is DEFAULT_LIMITS
    assert Limits.of({"of_the_future": 5}) is DEFAULT_LIMITS


def test_server_tells_its_workers(tmp_path) -> None:
    """An option of `start_server` holds in its workers, whose records say what was cut."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(
        femtomp.FileSink(path),
        spool_parent=tmp_path,
        body_length_limit=5,
        exception_frames=("shop",),
    ) as server:
        assert server._spool.manifest["limits"] == {
            "body_length_limit": 5,
            "exception_frames": ["shop"],
        }
        logger = logging.Logger("shop")
        logger.addHandler(femtomp.worker_handler(spool=server.spool))
        try:
            int("x")
        except ValueError:
            logger.exception("too long")
        handler = logger.handlers[0]
        server.queue.put({"body": "put too long"})
        assert server.flush()
        lines = path.read_text()
    release(handler)
    assert '"body":"too l"' in lines
    assert '"femtomp.truncated":{"body":8}' in lines
    assert '"femtomp.truncated":{"body":12}' in lines
