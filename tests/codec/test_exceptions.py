"""Exceptions as an attribute: every version stays readable, and nothing else is read."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec import otlp, text, wire
from femtomp.codec.exception_tree import read_exception
from femtomp.codec.exceptions import ATTRIBUTE, render, to_value
from femtomp.codec.journald import Encoder
from femtomp.errors import CodecError
from femtomp.record import Resource, scrubbed
from tests.records import make

FIXTURES = Path(__file__).with_name("fixtures")
# As files were written once: never to be made anew.
STORED = json.loads((FIXTURES / "exception-1.json").read_text())
TEXT = (FIXTURES / "exception-1.txt").read_text()

FRAME = ("shop.py", 7, "sell", "shop", "pay()", 0)
TAKEN = (1, [("ValueError", "no tea", [FRAME], {"notes": ["a note"]})], 0)


def test_version_1_is_read() -> None:
    """A file of version 1 is read for ever, with all that it says."""
    tree = read_exception(STORED)
    assert (tree.type, tree.message) == ("shop.errors.SaleError", "no sale")
    assert tree.suppress_context
    assert tree.notes == ("order 7", "customer 9")
    assert tree.frames[1].function == "Cart.pay"
    assert tree.frames[1].left_out_before == 3
    assert tree.frames_left_out == 5
    assert tree.exceptions_left_out == 2
    group = tree.cause
    assert group.is_group
    assert [m.type for m in group.members] == ["KeyError", "SyntaxError"]
    assert group.members_left_out == 4
    assert group.members[0].context.type == "OSError"
    assert group.members[1].syntax.column == 9


def test_version_1_is_rendered() -> None:
    """The text that a stored exception gives is the one that it gave."""
    assert read_exception(STORED).text() == TEXT
    assert render(STORED) == TEXT


def test_what_is_read_is_frozen() -> None:
    """A tree cannot be changed, and is equal to another one of the same value."""
    tree = read_exception(STORED)
    assert tree == read_exception(copy.deepcopy(STORED))
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.message = "other"


def test_what_is_not_known_is_passed_over() -> None:
    """What a later release adds to version 1 does not keep it from being read."""
    value = to_value(TAKEN)
    value["new"] = value["exceptions"][0]["new"] = 1
    value["exceptions"][0]["frames"][0]["locals"] = {"a": 1}
    value["exceptions"][0]["syntax"] = {"line": 1, "new": 5}
    assert read_exception(value).notes == ("a note",)


@pytest.mark.parametrize(
    "value", [None, 5, {}, [], "x", {"version": "1"}, {"version": True}]
)
def test_what_is_no_exception_is_refused(value) -> None:
    """What has no version that is known is an error that says which are."""
    with pytest.raises(CodecError, match="this femtomp knows 1"):
        read_exception(value)


def test_newer_versions_are_refused() -> None:
    """A version that does not exist yet is named, with what to do."""
    with pytest.raises(CodecError, match=r"version 2 .* use the version that wrote it"):
        read_exception({"version": 2, "exceptions": []})


def exceptions(*entries):
    return {
        "version": 1,
        "exceptions": [
            {"type": "E", "message": "m", "frames": [], **e} for e in entries
        ],
    }


@pytest.mark.parametrize(
    "value",
    [
        {"version": 1},
        {"version": 1, "exceptions": []},
        {"version": 1, "exceptions": [5]},
        {"version": 1, "exceptions": [{}]},
        exceptions(*[{}] * 2000),
        exceptions({"type": 5}),
        exceptions({"message": None}),
        exceptions({"frames": [5]}),
        exceptions({"frames": [{"file": "a"}]}),
        exceptions({"frames": [{"file": "a", "line": "x", "function": "f"}]}),
        exceptions({"frames": [{"file": 1, "line": 1, "function": "f"}]}),
        exceptions({"notes": 5}),
        exceptions({"notes": [5]}),
        exceptions({"frames_left_out": -1}),
        exceptions({"frames_left_out": "many"}),
        exceptions({"cause": 0}),
        exceptions({"cause": 1}),
        exceptions({"cause": -1}),
        exceptions({"cause": True}, {}),
        exceptions({"cause": "1"}, {}),
        exceptions({"cause": 1}, {"cause": 0}),
        exceptions({"cause": 1, "context": 2}, {}, {}),
        exceptions({"members": [1, 1]}, {}),
        exceptions({"members": [1], "cause": 1}, {}),
        exceptions({"members": 5}),
        exceptions({"syntax": 5}),
        exceptions({"syntax": {"line": "x"}}),
    ],
    ids=range(27),
)
def test_unsound_values_are_refused(value) -> None:
    """A value of version 1 that is no tree of exceptions is an error, nothing else."""
    with pytest.raises(CodecError):
        read_exception(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *STORED,
                    *STORED["exceptions"][0],
                    "file",
                    "line",
                    "function",
                    "members",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "message",
                    "frames",
                    "notes",
                    "cause",
                    "context",
                    "members",
                    "syntax",
                ]
            ),
            JSON,
        ),
        max_size=4,
    )
)
def test_anything_is_read_or_refused(entries) -> None:
    """Whatever a value holds, it is read and rendered, or a `CodecError`."""
    value = exceptions(*entries)
    try:
        tree = read_exception(value)
    except CodecError:
        return
    assert tree.text().endswith("\n")


# -- in payloads -----------------------------------------------------------------------


def record(structure):
    """Give the record of a payload with an exception of that structure."""
    more = {
        "exception": ("ValueError", "no tea", "Traceback ..."),
        "structure": structure,
    }
    fields = (1, 5, 40, "ERROR", "a", "b", None, None, None, None, None, None, {}, more)
    return wire.to_record(
        wire.decode(wire.encode(fields)), "e-0", Resource({}), lambda *_: Resource({})
    )


def test_structure_becomes_an_attribute() -> None:
    """The tuples of a payload get their names in the engine."""
    assert record(TAKEN).attributes[ATTRIBUTE] == {
        "version": 1,
        "exceptions": [
            {
                "type": "ValueError",
                "message": "no tea",
                "frames": [
                    {
                        "file": "shop.py",
                        "line": 7,
                        "function": "sell",
                        "module": "shop",
                        "source": "pay()",
                    }
                ],
                "notes": ["a note"],
            }
        ],
    }


@pytest.mark.parametrize(
    "structure",
    [5, "x", (), (1,), (1, 5, 0), (1, [5], 0), (1, [()], 0), ("x", [], 0),
     (1, [("a", "b", [5], {})], 0), (1, [("a", "b", [], 5)], 0)],
    ids=range(10),
)  # fmt: skip
def test_damaged_structure_is_refused(structure) -> None:
    """A structure of another shape is damage, told as that."""
    with pytest.raises(CodecError):
        record(structure)


# -- in sinks --------------------------------------------------------------------------

ATTRIBUTES = {
    "n": 1,
    "exception.type": "ValueError",
    "exception.message": "no tea",
    "exception.stacktrace": "Traceback ...\nValueError: no tea",
    ATTRIBUTE: to_value(TAKEN),
}


def test_json_has_text_and_structure() -> None:
    """A line of JSON has the stack trace and, nested, the structure."""
    line = json.loads(text.json_line(make(attributes=ATTRIBUTES)))
    assert line["attributes"] == ATTRIBUTES
    assert read_exception(line["attributes"][ATTRIBUTE]).type == "ValueError"


def test_structure_survives_scrubbing() -> None:
    """A record that has to be cleaned first keeps the whole structure."""
    dirty = {**ATTRIBUTES, "dirty": "\udc80"}
    assert scrubbed(make(attributes=dirty)).attributes[ATTRIBUTE] == to_value(TAKEN)


def test_text_shows_the_stack_trace_alone() -> None:
    """The console says an exception once."""
    line = text.text_line(make(attributes=ATTRIBUTES), colour=False).decode()
    assert line.count("no tea") == 1
    assert ATTRIBUTE not in line
    assert line.splitlines()[0].endswith(" n=1")


def test_journal_has_the_stack_trace_alone() -> None:
    """The journal has a field for the stack trace and none for the structure."""
    sent = Encoder().datagram(make(attributes=ATTRIBUTES))
    assert b"EXCEPTION_STACKTRACE" in sent
    assert b"FEMTOMP_EXCEPTION" not in sent
    assert b"DROPPED_FIELDS" not in sent


@pytest.mark.parametrize("show", [Encoder().datagram, text.text_line])
def test_structure_without_text_is_shown(show) -> None:
    """A structure that came without its text is all there is: it is shown."""
    given = make(attributes={ATTRIBUTE: to_value(TAKEN)})
    shown = show(given, colour=False) if show is text.text_line else show(given)
    assert b"no tea" in shown


def test_otlp_has_the_structure_as_nested_values() -> None:
    """A collector gets lists of key-value lists."""
    pb2 = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    data = otlp.encode_request([make(attributes=ATTRIBUTES)], 5)
    request = pb2.ExportLogsServiceRequest.FromString(data)
    sent = request.resource_logs[0].scope_logs[0].log_records[0]
    values = {pair.key: pair.value for pair in sent.attributes}[ATTRIBUTE].kvlist_value
    listed = {pair.key: pair.value for pair in values.values}["exceptions"]
    first = listed.array_value.values[0].kvlist_value.values
    assert {pair.key: pair.value.string_value for pair in first}["message"] == "no tea"
