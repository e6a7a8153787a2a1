"""The native protocol, read back by a decoder that is written from its description."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.journald import MAX_FIELDS, MAX_SHAPES, Encoder
from femtomp.codec.wire import to_record
from femtomp.record import Resource, Scope
from femtomp.sinks.journald_stderr import prefixed_lines
from tests.codec.any_record import TEXT, VALUES
from tests.records import make

NAME = re.compile(rb"[A-Z][A-Z0-9_]{0,63}")
STANDARD = {
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "LOGGER",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "THREAD_NAME",
    "WORKER_PID",
    "WORKER_NAME",
    "EVENT_TIMESTAMP_USEC",
    "SERVICE_NAME",
    "LOG_RECORD_UID",
}


def decode(data: bytes) -> list[tuple[str, bytes]]:
    """Read one entry as systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes it."""
    fields = []
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline, "the last field has no newline: journald drops it"
        assert line, "an empty line starts another entry"
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, end = rest[8 : 8 + size], rest[8 + size : 9 + size]
            assert (len(value), end) == (size, b"\n")
            rest = rest[9 + size :]
        assert NAME.fullmatch(name), name
        fields.append((name.decode(), value))
        data = rest
    return fields


def fields(encoder=None, **changes) -> dict[str, list[str]]:
    """Encode a changed record and decode it."""
    found: dict[str, list[str]] = {}
    for name, value in decode((encoder or Encoder()).datagram(make(**changes))):
        found.setdefault(name, []).append(value.decode())
    return found


def test_plain_record_has_its_standard_fields() -> None:
    """Each part of a record is under the journal's name for it."""
    assert fields() == {
        "MESSAGE": ["user 42 logged in"],
        "PRIORITY": ["6"],
        "SYSLOG_IDENTIFIER": ["shop"],
        "SYSLOG_PID": ["812"],
        "WORKER_PID": ["812"],
        "WORKER_NAME": ["worker-1"],
        "SERVICE_NAME": ["shop"],
        "LOGGER": ["shop.cart"],
        "EVENT_TIMESTAMP_USEC": ["1700000000123456"],
        "LOG_RECORD_UID": ["0123456789abcdef01234567-1"],
        "CODE_FILE": ["/srv/shop/cart.py"],
        "CODE_LINE": ["12"],
        "CODE_FUNC": ["login"],
        "THREAD_ID": ["140000000"],
        "THREAD_NAME": ["MainThread"],
        "USER_ID": ["42"],
    }


def test_fields_that_are_sometimes_known() -> None:
    """Span, event, exception and count have fields where a record has them."""
    found = fields(
        trace_id="ab",
        span_id="cd",
        event_name="login",
        dropped_attributes_count=2,
        scope=Scope("lib"),
        attributes={
            "exception.type": "KeyError",
            "exception.message": "'a'",
            "exception.stacktrace": "Traceback:\n  x\n",
            "thread.native_id": 99,
        },
    )
    expected = {
        "TRACE_ID": ["ab"],
        "SPAN_ID": ["cd"],
        "EVENT_NAME": ["login"],
        "DROPPED_ATTRIBUTES_COUNT": ["2"],
        "EXCEPTION_TYPE": ["KeyError"],
        "EXCEPTION_MESSAGE": ["'a'"],
        "EXCEPTION_STACKTRACE": ["Traceback:\n  x\n"],
        "TID": ["99"],
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("numbers", "priority"),
    [
        ((0,), "6"),
        (range(1, 9), "7"),
        ((9,), "6"),
        (range(10, 13), "5"),
        (range(13, 17), "4"),
        (range(17, 21), "3"),
        (range(21, 25), "2"),
        ((99,), "2"),
        ((-1,), "6"),
    ],
)
def test_every_severity_has_a_priority(numbers, priority) -> None:
    """The mapping to syslog's priorities is total."""
    found = {fields(severity_number=number)["PRIORITY"][0] for number in numbers}
    assert found == {priority}


@pytest.mark.parametrize(
    ("level", "priority"),
    [(50, "2"), (54, "2"), (59, "2"), (60, "1"), (69, "1"), (70, "0"), (99, "0")],
)
def test_levels_above_critical_are_alerts_and_emergencies(level, priority) -> None:
    """Levels from 60 on are alerts, from 70 on emergencies, named or not."""
    payload = (1, 0, level, "LOUD", "", "hi", *[None] * 8)
    record = to_record(payload, "e-1", Resource({}), lambda *_: Resource({}))
    found = dict(decode(Encoder().datagram(record)))
    assert found["PRIORITY"].decode() == priority
    assert prefixed_lines(record).startswith(f"<{priority}>".encode())


ID = "0af7651916cd43dd8448eb211c80319c"
DASHED = "0af76519-16cd-43dd-8448-eb211c80319c"


@pytest.mark.parametrize(
    "given",
    [ID, DASHED, ID.upper(), DASHED.upper(), f"urn:uuid:{DASHED}", f"{{{DASHED}}}"],
)
def test_message_id_is_a_uuid_without_dashes(given) -> None:
    """A UUID in any of its forms is stored as journalctl looks for it."""
    assert fields(attributes={"MESSAGE_ID": given})["MESSAGE_ID"] == [ID]


@pytest.mark.parametrize(
    "given", ["hello", "", ID[1:], ID + "0", f"{ID}\n", f"{{{ID}", f"{ID[:-1]}g", 7]
)
def test_what_is_no_uuid_is_no_message_id(given) -> None:
    """Whatever else is given as MESSAGE_ID is kept as an extra."""
    for prefix in ("", "SHOP_"):
        found = fields(Encoder(prefix=prefix), attributes={"MESSAGE_ID": given})
        assert "MESSAGE_ID" not in found
        assert [v for k, v in found.items() if k.endswith("MESSAGE_ID")] == [
            [str(given)]
        ]


TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nKeyError: 1'


@pytest.mark.parametrize(
    ("body", "more", "message"),
    [
        ("cannot sell", {"exception.stacktrace": TRACE}, f"cannot sell\n{TRACE}"),
        ("", {"exception.stacktrace": TRACE}, TRACE),
        ("one", {"exception.stacktrace": "KeyError: 1"}, "one\nKeyError: 1"),
        ("here", {"code.stacktrace": "Stack:\n f"}, "here\nStack:\n f"),
        (
            "both",
            {"code.stacktrace": "Stack:\n f", "exception.stacktrace": TRACE},
            f"both\n{TRACE}\nStack:\n f",
        ),
        ({"a": 1}, {"exception.stacktrace": TRACE}, f'{{"a":1}}\n{TRACE}'),
    ],
)
def test_stack_trace_follows_the_text(body, more, message) -> None:
    """MESSAGE ends in what was raised, and the fields have it all the same."""
    found = fields(body=body, attributes=more)
    assert found["MESSAGE"] == [message]
    for key, value in more.items():
        assert found[key.replace(".", "_").upper()] == [value]


def test_stack_trace_can_be_left_to_the_fields() -> None:
    """With traceback="fields" MESSAGE is the text alone."""
    more = {"exception.stacktrace": TRACE, "code.stacktrace": "Stack"}
    found = fields(Encoder(traceback="fields"), body="x", attributes=more)
    assert found["MESSAGE"] == ["x"]
    assert found["EXCEPTION_STACKTRACE"] == [TRACE]
    assert found["CODE_STACKTRACE"] == ["Stack"]


def test_bytes_and_a_stack_trace_are_one_message() -> None:
    """A body of bytes stays what it is before a stack trace."""
    record = make(body=b"\xff", attributes={"exception.stacktrace": "KeyError: é"})
    found = dict(decode(Encoder().datagram(record)))
    assert found["MESSAGE"] == b"\xff\nKeyError: \xc3\xa9"


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("order.id", "ORDER_ID", "v"),
        ("_private", "PRIVATE", "v"),
        ("_PID", "PID", "v"),
        ("2fast", "F_2FAST", "v"),
        ("message", "F_MESSAGE", "v"),
        ("_MESSAGE", "F_MESSAGE", "v"),
        ("Priority", "F_PRIORITY", "v"),
        ("syslog.identifier", "F_SYSLOG_IDENTIFIER", "v"),
        ("code-file", "F_CODE_FILE", "v"),
        ("object_pid", "F_OBJECT_PID", "v"),
        ("extra", "F_EXTRA", "v"),
        ("x" * 100, "X" * 64, "v"),
        ("ключ", "EXTRA", "ключ=v"),
        ("", "EXTRA", "=v"),
        ("__", "EXTRA", "__=v"),
        ("a\nMESSAGE", "A_MESSAGE", "v"),
        ("message_id", "F_MESSAGE_ID", "v"),
        ("MESSAGE_ID", "F_MESSAGE_ID", "v"),
        ("object.systemd.unit", "F_OBJECT_SYSTEMD_UNIT", "v"),
        ("COREDUMP_UNIT", "F_COREDUMP_UNIT", "v"),
        ("unit", "F_UNIT", "v"),
        ("level", "F_LEVEL", "v"),
        ("trace_id", "F_TRACE_ID", "v"),
        ("%s", "S", "v"),
        ("femtomp.template", "FEMTOMP_TEMPLATE", "v"),
    ],
)
def test_names_of_extras(key, name, value) -> None:
    """Any key becomes a legal name that is neither femtomp's nor journald's own."""
    assert fields(attributes={key: "v"}).get(name) == [value]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, ""),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        (2**70, str(2**70)),
        ([b"\x00\xff"], '["AP8="]'),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ('"quoted"', '"quoted"'),
        ("\udc80", "\\udc80"),
        (["a\nb"], '["a\\nb"]'),
    ],
)
def test_values_of_extras(value, text) -> None:
    """Values are written plainly, nested ones as JSON."""
    assert fields(attributes={"k": value})["K"] == [text]


def test_bytes_are_written_as_they_are() -> None:
    """The journal holds any bytes; they need no other form."""
    every = bytes(range(256))
    record = make(attributes={"blob": every, "bad": b"\xff\xfe"})
    entry = dict(decode(Encoder().datagram(record)))
    assert (entry["BLOB"], entry["BAD"]) == (every, b"\xff\xfe")


def test_keys_that_fall_together_are_both_kept() -> None:
    """Two keys with one name make a field with two values, the second named."""
    found = fields(attributes={"a.b": 1, "a-b": 1, "A_B": "x\ny"})
    assert found["A_B"] == ["1", "1", "x\ny"]
    assert found["EXTRA"] == ["a-b=1", "A_B=x\ny"]


def test_long_keys_that_are_cut_to_one_name_are_both_kept() -> None:
    """What is cut off a key does not lose its value."""
    found = fields(attributes={"k" * 64 + "1": 1, "k" * 64 + "2": 2})
    assert found["K" * 64] == ["1", "2"]
    assert found["EXTRA"] == ["k" * 64 + "2=2"]


def test_a_prefix_is_before_every_extra() -> None:
    """Extras are told from all other fields; a name is never too long."""
    encoder = Encoder(prefix="SHOP_")
    attributes = {"user": 1, "message": 2, "code.file.path": "a.py", "k" * 80: 3}
    found = fields(encoder, attributes=attributes)
    assert (found["SHOP_USER"], found["SHOP_MESSAGE"]) == (["1"], ["2"])
    assert (found["CODE_FILE"], found["SHOP_" + "K" * 59]) == (["a.py"], ["3"])


def test_a_prefix_cannot_make_a_standard_name() -> None:
    """A prefix and a key that are CODE_FILE together are no CODE_FILE."""
    found = fields(Encoder(prefix="CODE_"), attributes={"file": "x"})
    assert found["F_CODE_FILE"] == ["x"]


def test_nested_values_are_fields_if_wanted() -> None:
    """Members of dicts have names of their own, items of lists share theirs."""
    value = {"id": 7, "items": ["a", "b"], "empty": {}, "deep": {"er": [{"x": 1}]}}
    found = fields(Encoder(nested="fields"), attributes={"cart": value})
    assert found["CART_ID"] == ["7"]
    assert found["CART_ITEMS"] == ["a", "b"]
    assert found["CART_EMPTY"] == ["{}"]
    assert found["CART_DEEP_ER_X"] == ["1"]
    assert "EXTRA" not in found


def test_nested_values_count_as_fields() -> None:
    """A list is not a way around the limit of fields."""
    record = make(attributes={"k": [str(n) for n in range(1500)]})
    entry = decode(Encoder(nested="fields").datagram(record))
    kept = sum(1 for name, _ in entry if name == "K")
    assert len(entry) <= MAX_FIELDS
    assert dict(entry)["DROPPED_FIELDS"] == b"%d" % (1500 - kept)


def test_a_level_of_ones_own_is_named() -> None:
    """The priority says which of the usual levels it is; others have a field."""
    assert fields(severity_text="AUDIT")["LEVEL"] == ["AUDIT"]
    assert "LEVEL" not in fields(severity_text="WARNING")


def test_identifier_is_the_option_the_service_or_python() -> None:
    """An entry always says what runs."""
    nameless = type(make().resource)({})
    assert fields(Encoder("api"))["SYSLOG_IDENTIFIER"] == ["api"]
    assert fields()["SYSLOG_IDENTIFIER"] == ["shop"]
    assert fields(resource=nameless)["SYSLOG_IDENTIFIER"] == ["python"]


def test_a_role_is_a_field_where_it_is_known() -> None:
    """Master and workers are told apart."""
    resource = Resource({"femtomp.worker.role": "master"})
    assert fields(resource=resource)["WORKER_ROLE"] == ["master"]


def test_a_line_in_a_resource_forges_nothing() -> None:
    """Even a service's name may hold a newline."""
    resource = Resource({"service.name": "a\nPRIORITY=0"})
    found = fields(resource=resource)
    assert found["PRIORITY"] == ["6"]
    assert found["SERVICE_NAME"] == found["SYSLOG_IDENTIFIER"] == ["a\nPRIORITY=0"]


def test_sets_of_names_do_not_pile_up() -> None:
    """A program that makes up keys costs time, not memory."""
    encoder = Encoder()
    for n in range(MAX_SHAPES + 10):
        encoder.datagram(make(attributes={f"k{n}": n}))
    assert len(encoder._shapes) <= MAX_SHAPES


def test_too_many_fields_are_counted() -> None:
    """No entry has more fields than journald takes; what is over is counted."""
    entry = decode(
        Encoder().datagram(make(attributes={f"k{n}": n for n in range(1500)}))
    )
    kept = [name for name, _ in entry if name.startswith("K")]
    assert MAX_FIELDS - 20 < len(entry) <= MAX_FIELDS
    assert entry[-1] == ("DROPPED_FIELDS", b"%d" % (1500 - len(kept)))


@given(
    identifier=TEXT.filter(bool),
    body=VALUES,
    logger=TEXT,
    event_name=st.none() | TEXT,
    level=st.sampled_from(["INFO", ""]) | TEXT,
    worker=TEXT,
    attributes=st.dictionaries(TEXT, VALUES, max_size=6),
    prefix=st.sampled_from(["", "SHOP_", "X"]),
    nested=st.sampled_from(["json", "fields"]),
)
def test_no_value_can_forge_a_field(
    identifier, body, logger, event_name, level, worker, attributes, prefix, nested
) -> None:
    """Whatever strings hold, there is one entry with one field for each part."""
    record = make(
        body=body,
        logger=logger,
        event_name=event_name,
        severity_text=level,
        attributes=attributes,
        resource=Resource({"femtomp.worker.name": worker}),
    )
    encoder = Encoder(identifier, prefix, nested)
    entry = decode(encoder.datagram(record))
    assert entry == decode(encoder.datagram(record)), "the same from the second time on"
    names = [name for name, _ in entry]
    usual = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", ""}
    head = 7 + (event_name is not None) + (level not in usual)
    if nested == "json":
        extras = names.count("EXTRA")
        assert head + len(attributes) <= len(names) <= head + len(attributes) + extras
    assert all(names.count(name) <= 1 for name in STANDARD)
    escaped = identifier.encode("utf-8", "backslashreplace")
    assert dict(entry)["SYSLOG_IDENTIFIER"] == escaped
    if isinstance(body, str):
        assert dict(entry)["MESSAGE"] == body.encode("utf-8", "backslashreplace")
    elif isinstance(body, bytes):
        assert dict(entry)["MESSAGE"] == body


HOSTILE_TEXT = st.text(alphabet="a=.#%\n\r\0é\ud800", max_size=8)


@given(
    body=HOSTILE_TEXT,
    logger=HOSTILE_TEXT,
    trace_id=st.none() | HOSTILE_TEXT,
    attributes=st.dictionaries(TEXT, HOSTILE_TEXT | st.integers(), max_size=3),
)
def test_the_fast_way_writes_what_the_careful_one_does(
    body, logger, trace_id, attributes
) -> None:
    """Both ways of encoding give the same fields, whichever a record takes."""
    encoder = Encoder()
    record = make(body=body, logger=logger, trace_id=trace_id, attributes=attributes)
    fast, careful = encoder.datagram(record), encoder._with_care(record)
    assert sorted(decode(fast)) == sorted(decode(careful))
