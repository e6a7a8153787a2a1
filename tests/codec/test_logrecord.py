"""LogRecords made of records, beside those that the records were made of."""

from __future__ import annotations

import io
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec import wire
from femtomp.codec.logrecord import level_of, to_log_record
from femtomp.record import Record, Resource, severity_number
from femtomp.worker.capture import from_log_record
from tests.codec.any_record import TEXT, VALUES
from tests.records import PLAIN, RESOURCE, make

# All that a format string may name, but for what only the first process has, or has
# before it formats (a LogRecord gets its `exc_text` from the first formatter).
EVERYTHING = " ".join(
    f"{name}=%({name})s"
    for name in sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
    if name
    not in {"args", "exc_info", "exc_text", "msg", "relativeCreated", "taskName"}
)


def carried(record: logging.LogRecord) -> Record:
    """Take a LogRecord through capture and wire, as a worker and the engine do."""
    fields = wire.decode(from_log_record(record, os.getpid()))
    resource = Resource(
        {
            "process.pid": record.process,
            "femtomp.worker.name": record.processName,
        }
    )
    return wire.to_record(fields, "e-1", resource, lambda pid, name: resource)


def logged(*args, level=logging.INFO, **options) -> logging.LogRecord:
    """Log one record and give the LogRecord of it."""
    caught = []
    logger = logging.Logger("shop.cart")
    handler = logging.Handler()
    handler.emit = caught.append
    logger.addHandler(handler)
    logger.log(level, *args, **options)
    return caught[0]


def test_formatter_writes_what_it_would_have_written_in_the_worker() -> None:
    """A line with every attribute is the same from the original and the rebuilt one."""
    form = logging.Formatter(f"%(message)s {EVERYTHING} %(item)s")
    try:
        raise KeyError("tea")
    except KeyError:
        record = logged(
            "sold %s for %d",
            "tea",
            4,
            level=logging.ERROR,
            exc_info=True,
            stack_info=True,
            extra={"item": "tea"},
        )
    made = to_log_record(carried(record))
    # The record's own time is read at its capture, a moment after the LogRecord's.
    made.created, made.msecs = record.created, record.msecs
    line = form.format(record)
    assert "KeyError: 'tea'" in line
    assert "Stack (most recent call last)" in line
    assert form.format(made) == line


@pytest.mark.parametrize("style", ["%", "{", "$"])
def test_every_style_of_format_string_works(style) -> None:
    """Extras are found by all three styles."""
    form = {"%": "%(levelname)s %(n)d", "{": "{levelname} {n}", "$": "$levelname ${n}"}
    made = to_log_record(carried(logged("x", extra={"n": 7})))
    assert logging.Formatter(form[style], style=style).format(made) == "INFO 7"


def test_every_standard_attribute_is_there() -> None:
    """A rebuilt record has the names of this Python's LogRecord, each of its type."""
    original = logged("x")
    made = to_log_record(carried(original))
    for name, value in original.__dict__.items():
        assert type(getattr(made, name)) is type(value), name


def test_types_of_extras_are_kept() -> None:
    """Numbers, lists and None are what they were."""
    extra = {"n": 1, "ratio": 0.5, "on": True, "none": None, "list": [1, {"a": "b"}]}
    made = to_log_record(carried(logged("x", extra=extra)))
    assert {name: getattr(made, name) for name in extra} == extra


def test_trace_and_uid_are_attributes() -> None:
    """What correlates is to be had by a format string."""
    record = make(trace_id="0a" * 16, span_id="0b" * 8, trace_flags=1)
    made = to_log_record(record)
    assert (made.trace_id, made.span_id) == ("0a" * 16, "0b" * 8)
    assert (made.trace_flags, made.uid) == (1, PLAIN.uid)
    assert not hasattr(to_log_record(PLAIN), "trace_id")


def test_extra_is_never_overwritten() -> None:
    """An extra keeps its own name before ours, and another one before a standard's."""
    extras = {
        "uid": "mine",
        "name": 1,
        "name_": 2,
        "msg": 3,
        "message": 4,
        "asctime": 5,
    }
    made = to_log_record(make(attributes=extras, body="hello"))
    assert (made.uid, made.name, made.msg) == ("mine", "shop.cart", "hello")
    assert (made.name_, made.name__, made.msg_, made.message_) == (2, 1, 3, 4)
    assert made.asctime_ == 5
    assert logging.Formatter("%(message)s").format(made) == "hello"


@pytest.mark.parametrize("level", [*range(60), 99, 10_000])
def test_level_has_its_severity(level) -> None:
    """Whatever the number was, the rebuilt one stands for the same severity."""
    number = severity_number(level)
    assert severity_number(level_of("nobody knows it", number)) == number
    assert level_of(logging.getLevelName(level), number) in {
        level,
        level // 10 * 10 + 5,
        *((5,) if 0 < level < 10 else ()),
        *((55,) if level > 53 else ()),
    }


def test_level_by_name_is_exact() -> None:
    """A level that `logging` knows by this name is that level."""
    logging.addLevelName(27, "SALE")
    try:
        assert level_of("SALE", severity_number(27)) == 27
        # Of the same name elsewhere, but of another severity.
        assert level_of("SALE", severity_number(40)) == 40
    finally:
        del logging._levelToName[27], logging._nameToLevel["SALE"]


@pytest.mark.parametrize(
    ("path", "filename", "module"),
    [
        ("/srv/shop/cart.py", "cart.py", "cart"),
        ("cart.py", "cart.py", "cart"),
        ("<stdin>", "<stdin>", "<stdin>"),
        ("/srv/.hidden", ".hidden", ".hidden"),
        ("/srv/..a.py", "..a.py", "..a"),
        ("/srv/..a", "..a", "..a"),
        ("/srv/a.b/c", "c", "c"),
        ("", "", ""),
    ],
)
def test_file_and_module_are_parts_of_the_path(path, filename, module) -> None:
    """File name and module are what `logging` makes of a path."""
    made = to_log_record(make(attributes={"code.file.path": path}))
    assert (made.filename, made.module) == (filename, module)
    stdlib = logging.LogRecord("", 0, path, 0, "", (), None)
    assert (stdlib.filename, stdlib.module) == (filename, module)


@pytest.mark.parametrize(
    ("timestamp", "created", "msecs"),
    [
        (0, 0.0, 0.0),
        (1_700_000_000_123_456_789, 1_700_000_000.123456789, 123.0),
        # A float of seconds is the next second's beginning.
        (1_677_903_920_999_999_900, 1_677_903_921.0, 0.0),
        (-1, 0.0, 0.0),
        (1 << 80, 253_402_214_400.0, 0.0),
    ],
)
def test_time_is_the_records(timestamp, created, msecs) -> None:
    """The time is the log call's, and one that no formatter refuses."""
    made = to_log_record(make(timestamp=timestamp))
    assert (made.created, made.msecs) == (created, msecs)
    assert logging.Formatter("%(asctime)s").format(made)


def test_record_of_another_making_has_what_formatters_need() -> None:
    """A record of the Logs API has no code and no thread; %d takes what stands there."""
    record = Record(0, 9, "", "", {"a": 1}, {}, Resource({}))
    form = "%(pathname)s:%(lineno)d %(funcName)s %(thread)d %(process)d %(message)s"
    assert logging.Formatter(form).format(to_log_record(record)) == (
        '(unknown file):0 (unknown function) 0 0 {"a":1}'
    )


def test_every_call_makes_a_new_one() -> None:
    """What a formatter changes in one is not in the next, nor in the record."""
    record = make(attributes={"n": 1})
    first = to_log_record(record)
    first.n = first.msg = "changed"
    assert (to_log_record(record).n, to_log_record(record).msg) == (1, PLAIN.body)
    assert record.attributes == {"n": 1}


KEYS = TEXT | st.sampled_from(sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__))  # fmt: skip


@given(
    timestamp=st.integers(),
    severity=st.integers(0, 24),
    texts=st.tuples(TEXT, TEXT),
    body=VALUES,
    attributes=st.dictionaries(
        KEYS | st.sampled_from(["code.file.path", "code.line.number", "thread.id"]),
        VALUES,
        max_size=6,
    ),
)
def test_no_record_is_refused(timestamp, severity, texts, body, attributes) -> None:
    """Any record can be rebuilt, formatted, and given to a handler; nothing is lost."""
    record = Record(timestamp, severity, *texts, body, attributes, RESOURCE)
    made = to_log_record(record)
    logging.Formatter(f"%(asctime)s %(message)s {EVERYTHING}").format(made)
    handler = logging.StreamHandler(io.StringIO())
    handler.handle(made)
    kept = list(made.__dict__.values())
    for key, value in attributes.items():
        if not key.startswith(("code.", "thread.")):
            assert any(value is other for other in kept), key


@pytest.mark.parametrize("level", [54, 60, 70, 75, 1000])
def test_level_above_the_scale_is_exact(level) -> None:
    """A level that no severity number says comes back with its number."""
    made = to_log_record(
        carried(logging.LogRecord("shop", level, "a.py", 1, "hi", (), None))
    )
    assert made.levelno == level
    assert "femtomp.level" not in made.__dict__
