"""Exceptions: the text as Python has it, the structure beside it, and nothing held."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
import traceback
import types
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from femtomp.codec.exception_tree import ExceptionTree, read_exception
from femtomp.codec.exceptions import to_value
from femtomp.record import Limits
from femtomp.worker import exceptions
from femtomp.worker.exceptions import (
    MAX_EXACT_EXCEPTIONS,
    MAX_EXCEPTIONS,
    MAX_FRAMES,
    MAX_MEMBERS,
    MAX_TEXT_CHARS,
    take,
)
from tests.worker.test_plain import Raises, assert_plain

HERE = __file__


def raised(make_error) -> BaseException:
    """Give what a call raises, as `except` would have it."""
    try:
        make_error()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def taken(error, limits: Limits | None = None) -> tuple[str, ExceptionTree]:
    """Take an exception; give its text and its structure, read again."""
    info = (type(error), error, error.__traceback__)
    found = take(info) if limits is None else take(info, None, limits)
    assert found is not None
    value = to_value(found.structure)
    assert_plain(value)
    assert json.loads(json.dumps(value)) == value
    return found.stacktrace, read_exception(value)


def exact(error) -> str:
    return "".join(traceback.format_exception(error)).removesuffix("\n")


def without_marks(text: str) -> str:
    """Leave out the lines that mark positions."""
    return "\n".join(
        line for line in text.splitlines() if not re.fullmatch(r"[ |]*[~^]+ *", line)
    )


def chained(error: BaseException, count: int) -> BaseException:
    for number in range(count):
        outer = ValueError(f"outer {number}")
        outer.__cause__ = error
        error = outer
    return error


def _plain():
    raise KeyError("tea")


def _cause():
    try:
        _plain()
    except KeyError as exc:
        raise ValueError("outer") from exc


def _context():
    try:
        _plain()
    except KeyError:
        raise ValueError("outer")  # noqa: B904 - a context is what is tested


def _suppressed():
    try:
        _plain()
    except KeyError:
        raise ValueError("outer") from None


def _notes():
    error = ValueError("with\nlines")
    error.add_note("a note")
    error.add_note("another\nof two lines")
    raise error


def _group():
    members = [raised(_cause), raised(_notes), ValueError("never raised")]
    inner = ExceptionGroup("inner", [raised(_plain), TypeError("t")])
    raise ExceptionGroup("outer", [*members, inner])


def _group_in_chain():
    try:
        _group()
    except ExceptionGroup as exc:
        raise RuntimeError("because") from exc


def _group_with_cause():
    try:
        _cause()
    except ValueError as exc:
        raise ExceptionGroup("g", [KeyError(1)]) from exc


def _wide():
    raise ExceptionGroup("wide", [ValueError(n) for n in range(40)])


def _deep_groups():
    error: Exception = ValueError("innermost")
    for number in range(30):
        error = ExceptionGroup(f"level {number}", [error, KeyError(number)])
    raise error


def _recursion():
    def again():
        again()

    again()


def _syntax():
    compile("if True:\n    a = = 3\n", "made.py", "exec")


def _syntax_with_tabs():
    compile("if True:\n\ta\t= 3 4\n", "made.py", "exec")


def _no_place():
    raise SyntaxError("no place at all")


def _empty():
    raise ValueError


def _method():
    class Cart:
        def pay(self):
            _plain()

    Cart().pay()


def _exec():
    exec(compile("def f():\n    1/0\nf()", "<made>", "exec"), {})


def _cyclic():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def _own_cause():
    error = ValueError("own")
    error.__context__ = error.__cause__ = None
    raise error


CASES = [
    _plain,
    _cause,
    _context,
    _suppressed,
    _notes,
    _group,
    _group_in_chain,
    _group_with_cause,
    _wide,
    _deep_groups,
    _recursion,
    _syntax,
    _syntax_with_tabs,
    _no_place,
    _empty,
    _method,
    _exec,
    _cyclic,
    _own_cause,
]


@pytest.mark.parametrize("make_error", CASES, ids=lambda f: f.__name__)
def test_text_is_exactly_pythons(make_error) -> None:
    """The stack trace is `traceback.format_exception`'s, less the last newline."""
    error = raised(make_error)
    assert taken(error)[0] == exact(error)


@pytest.mark.parametrize(
    "make_error",
    [c for c in CASES if c not in (_recursion, _deep_groups)],  # bounded otherwise
    ids=lambda f: f.__name__,
)
def test_text_of_the_structure_is_pythons_but_for_marks(make_error) -> None:
    """What is read again renders as the stack trace did, without marks in lines."""
    error = raised(make_error)
    text, tree = taken(error)
    assert without_marks(tree.text()) == without_marks(text)


def test_syntax_errors_mark_their_place() -> None:
    """Where a SyntaxError is stays marked in the text that the structure gives."""
    for make_error in (_syntax, _syntax_with_tabs):
        text, tree = taken(raised(make_error))
        assert tree.text().splitlines()[-4:] == text.splitlines()[-4:]


def test_frames_say_where() -> None:
    """A frame has file, line, qualified function, module and the source."""
    tree = taken(raised(_method))[1]
    assert tree.type == "KeyError"
    assert tree.message == "'tea'"
    assert [f.function for f in tree.frames] == [
        "raised",
        "_method",
        "_method.<locals>.Cart.pay",
        "_plain",
    ]
    last = tree.frames[-1]
    assert (last.file, last.module, last.source) == (
        HERE,
        __name__,
        'raise KeyError("tea")',
    )
    assert last.line == _plain.__code__.co_firstlineno + 1


def test_causes_contexts_and_suppression() -> None:
    """What Python shows above an exception is its cause, its context, or nothing."""
    tree = taken(raised(_cause))[1]
    assert tree.cause.type == "KeyError"
    assert (tree.context, tree.suppress_context) == (None, True)
    tree = taken(raised(_context))[1]
    assert tree.context.type == "KeyError"
    assert (tree.cause, tree.suppress_context) == (None, False)
    tree = taken(raised(_suppressed))[1]
    assert (tree.cause, tree.context, tree.suppress_context) == (None, None, True)


def test_notes_and_groups() -> None:
    """Notes and the members of groups are there, each with what led to it."""
    tree = taken(raised(_group))[1]
    assert tree.is_group
    assert [m.type for m in tree.members] == [
        "ValueError",
        "ValueError",
        "ValueError",
        "ExceptionGroup",
    ]
    assert tree.members[0].cause.type == "KeyError"
    assert tree.members[1].notes == ("a note", "another\nof two lines")
    assert [m.message for m in tree.members[3].members] == ["'tea'", "t"]


def test_wide_and_deep_groups_are_bounded() -> None:
    """Of a group fifteen members are kept, and ten groups in groups; others counted."""
    tree = taken(raised(_wide))[1]
    assert (len(tree.members), tree.members_left_out) == (MAX_MEMBERS, 25)
    tree = taken(raised(_deep_groups))[1]
    depth = 0
    while tree.members:
        tree, depth = tree.members[0], depth + 1
    assert (depth, tree.members_left_out) == (exceptions.MAX_GROUP_DEPTH, 2)


@pytest.mark.parametrize(
    ("error", "most_s"),
    [
        (lambda: chained(raised(_plain), 100_000), 1.0),
        (lambda: ExceptionGroup("g", [raised(_plain)] * 100_000), 1.0),
        (
            lambda: ExceptionGroup(
                "g", [chained(raised(_plain), 100) for _ in range(1000)]
            ),
            1.0,
        ),
    ],
    ids=["chain", "group", "group of chains"],
)
def test_many_exceptions_are_bounded(error, most_s) -> None:
    """Of 100,000 exceptions a few are kept, in no time, and it is said."""
    made = error()
    begun = time.process_time()
    text, tree = taken(made)
    assert time.process_time() - begun < most_s * 5
    assert "more exceptions" in text or "exceptions left out" in text
    count, trees = 0, [tree]
    while trees:
        one = trees.pop()
        count += 1
        trees += [t for t in (one.cause, one.context, *one.members) if t is not None]
    assert count <= MAX_EXCEPTIONS
    assert count + tree.exceptions_left_out + tree.members_left_out > 256
    _unchain(made)


@pytest.mark.parametrize("count", [MAX_EXCEPTIONS, 65, 100, 256, 257, 300, 100_000])
def test_long_chain_keeps_its_root_and_says_what_is_left_out(count) -> None:
    """Of a chain the nearest ones and the root are kept, with the gap between them."""
    made = chained(raised(_plain), count - 1)
    text, tree = taken(made)
    lines = text.splitlines()
    assert lines[-1] == f"ValueError: outer {count - 2}"
    assert "KeyError: 'tea'" in lines
    gap = max(0, count - MAX_EXCEPTIONS)
    said = f"[{gap} exception{'s' if gap > 1 else ''} left out]"
    # Python's own text, up to the limit, has them all.
    is_exact = count <= MAX_EXACT_EXCEPTIONS
    assert is_exact or lines.index("KeyError: 'tea'") + 2 == lines.index(said)
    assert (said in tree.text()) == bool(gap)
    kept, root = 1, tree
    while root.cause is not None:
        kept, root = kept + 1, root.cause
    assert (kept, root.type) == (min(count, MAX_EXCEPTIONS), "KeyError")
    assert root.frames[-1].function == "_plain"
    assert tree.exceptions_left_out == gap
    _unchain(made)


def test_circle_of_many_ends() -> None:
    """A chain that leads back into itself, beyond what is kept, is left in the end."""
    made = chained(ValueError("first"), 1000)
    first = made
    for _ in range(1000):
        first = first.__cause__
    middle = made
    for _ in range(500):
        middle = middle.__cause__
    first.__cause__ = middle
    _, tree = taken(made)
    assert tree.exceptions_left_out > 900
    first.__cause__ = None
    _unchain(made)


def test_chain_ends_where_it_is_suppressed() -> None:
    """What `raise ... from None` hides is no root, and is not counted."""
    error = chained(ValueError("hidden"), 10)
    last = KeyError("shown")
    last.__context__, last.__suppress_context__ = error, True
    text, tree = taken(chained(last, 300))
    assert "hidden" not in text
    assert text.startswith("KeyError: 'shown'")
    assert tree.exceptions_left_out == 301 - MAX_EXCEPTIONS


def _unchain(error: BaseException | None) -> None:
    # Python frees a chain of 100,000 by recursion.
    while error is not None:
        error.__cause__, error = None, error.__cause__


def test_frames_are_bounded() -> None:
    """Of 100,000 frames the oldest and the newest are kept, and the others counted."""
    error = _deep_error(100_000)
    begun = time.process_time()
    text, tree = taken(error)
    assert time.process_time() - begun < 5
    assert len(tree.frames) == MAX_FRAMES
    assert tree.frames_left_out == 100_000 - MAX_FRAMES
    assert [f.left_out_before for f in tree.frames if f.left_out_before] == [
        100_000 - MAX_FRAMES
    ]
    assert f"[{100_000 - MAX_FRAMES} frames left out]" in text
    assert text.endswith("ValueError: deep")
    assert len(text) < 100_000
    error.__traceback__ = None


def _deep_error(count: int) -> BaseException:
    """Give an exception with so many frames; no stack need be so deep for that."""
    error = raised(_plain)
    trace = error.__traceback__
    for number in range(count - 2):
        trace = types.TracebackType(trace, trace.tb_frame, 0, number + 1)
    error = ValueError("deep")
    error.__traceback__ = trace
    return error


def test_frames_of_many_exceptions_share_their_room() -> None:
    """Tasks that failed far down are all told, with four frames at least."""
    members = [_deep_error(100) for _ in range(15)]
    text, tree = taken(ExceptionGroup("tasks", members))
    kept = [len(member.frames) for member in tree.members]
    assert kept == [100] * 10 + [24] + [4] * 4
    assert [m.frames_left_out for m in tree.members] == [100 - n for n in kept]
    assert text == exact(ExceptionGroup("tasks", members))


def test_recursion_error_is_exact_and_its_structure_bounded() -> None:
    """A RecursionError of a thousand frames is shown as ever; 128 of them are kept."""
    error = raised(_recursion)
    text, tree = taken(error)
    assert re.search(r"\[Previous line repeated \d+ more times\]", text)
    assert len(tree.frames) == MAX_FRAMES
    assert tree.frames_left_out > 500
    assert f"[{tree.frames_left_out} frames left out]" in tree.text()


def test_cycles_end() -> None:
    """An exception that is its own cause's cause is told once."""
    tree = taken(raised(_cyclic))[1]
    assert tree.cause.message == "other"
    assert tree.cause.cause is None


def test_long_messages_are_cut_in_the_structure_alone() -> None:
    """A message is whole in `exception.message`, and at most 4096 in the structure."""
    error = ValueError("x" * 100_000)
    error.add_note("y" * 100_000)
    found = take((ValueError, error, None))
    tree = read_exception(to_value(found.structure))
    assert found.message == "x" * 100_000
    assert len(tree.message) == len(tree.notes[0]) == MAX_TEXT_CHARS


# -- exceptions that resist ------------------------------------------------------------


class _RaisingStr(Exception):
    def __str__(self):
        raise RuntimeError("hostile")

    __repr__ = __str__


class _RaisingNotes(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("hostile")


class _OddCause(Exception):
    __cause__ = "no exception"
    __context__ = property(lambda _: 5)
    __suppress_context__ = False


class _RaisingCause(Exception):
    __cause__ = property(lambda _: 1 / 0)


class _OddMembers(ExceptionGroup):
    exceptions = ("not", 5, "exceptions")


class _RaisingMembers(ExceptionGroup):
    exceptions = property(lambda _: 1 / 0)


class _Truthy(Exception):
    def __bool__(self):
        raise RuntimeError("hostile")


class _OddSyntax(SyntaxError):
    pass


def _odd_syntax():
    error = _OddSyntax(
        "m",
        ("f", 1, 2, "text", 3, 4),
    )
    error.lineno, error.offset, error.text = "x", -5, Raises()
    return error


def _with(error, **values):
    for name, value in values.items():
        setattr(error, name, value)
    return error


HOSTILE = {
    "raising str": _RaisingStr,
    "raising notes": lambda: _RaisingNotes("x"),
    "notes that are none": lambda: _with(ValueError(1), __notes__=5),
    "notes that raise": lambda: _with(ValueError(1), __notes__=[Raises(), 5]),
    "odd cause": lambda: _OddCause("x"),
    "raising cause": lambda: _RaisingCause("x"),
    "odd members": lambda: _OddMembers("g", [ValueError(1)]),
    "raising members": lambda: _RaisingMembers("g", [ValueError(1)]),
    "false": lambda: _with(ValueError(1), __cause__=_Truthy()),
    "odd syntax": _odd_syntax,
    "surrogates": lambda: ValueError("\udc80"),
    "exit": lambda: SystemExit(Raises()),
    "of a hostile member": lambda: ExceptionGroup("g", [_RaisingCause("x")]),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("with_trace", [True, False])
def test_hostile_exceptions_are_kept(name, with_trace) -> None:
    """Whatever an exception's own code does, type, message and some text are there."""
    error = HOSTILE[name]()
    if with_trace:
        error = raised(lambda: _throw(error))
    info = (type(error), error, error.__traceback__)
    found = take(info)
    assert found.kind.rpartition(".")[2] == type(error).__name__
    assert type(found.message) is str
    assert type(found.stacktrace) is str
    assert found.stacktrace
    if with_trace:
        assert "_throw" in found.stacktrace
    if found.structure is not None:
        assert_plain(to_value(found.structure))


def _throw(error):
    raise error


@pytest.mark.parametrize("info", [True, 5, "x", (), (None, None, None), (1, 2), []])
def test_what_is_no_exception_is_none(info) -> None:
    """`exc_info` outside of an `except`, or of any odd kind, gives nothing."""
    assert take(info) is None
    found = take(info, "text from a queue")
    assert found == ("", "", "text from a queue", None)


def test_instance_as_exc_info() -> None:
    """An exception itself will do, with the trace that it has."""
    error = raised(_plain)
    assert take(error).stacktrace == exact(error)
    assert take(ValueError("never raised")).stacktrace == "ValueError: never raised"


def test_trace_of_the_triple_is_the_one_that_counts() -> None:
    """Where the triple has another trace than the exception, it is the triple's."""
    error, other = raised(_cause), raised(_plain)
    found = take((type(error), error, other.__traceback__))
    assert "_plain" in found.stacktrace.rpartition("direct cause")[2]


class _Local:
    pass


def test_nothing_keeps_a_frame_alive() -> None:
    """Locals of the frames go when the exception goes, without the collector."""
    gc.collect()
    gc.disable()
    try:
        for make_error in (_hold, _hold_hostile):
            reference = make_error()
            assert reference() is None
    finally:
        gc.enable()


def _hold():
    local = _Local()
    reference = weakref.ref(local)
    try:
        _keep(local)
    except ValueError:
        take(sys.exc_info())
    del local
    return reference


def _hold_hostile():
    local = _Local()
    reference = weakref.ref(local)
    try:
        _keep_hostile(local)
    except _RaisingCause:
        take(sys.exc_info())
    del local
    return reference


def _keep(local):
    raise ValueError("x")


def _keep_hostile(local):
    raise _RaisingCause("x")


# -- options ---------------------------------------------------------------------------


def _through_a_library():
    json.loads("{", object_hook=None)


def test_frames_of_libraries_are_left_out() -> None:
    """With "application" no library's frames are kept, and it is said where they were."""
    error = raised(_through_a_library)
    text, tree = taken(error, Limits(exception_frames="application"))
    assert {f.file for f in tree.frames} == {HERE}
    left_out = len(traceback.extract_tb(error.__traceback__)) - 2
    assert tree.frames_left_out == left_out > 1
    assert f"  [{left_out} frames left out]\njson.decoder.JSONDecodeError" in text
    assert "raw_decode" not in text


@pytest.mark.parametrize(
    ("keep", "functions"),
    [
        (("json",), ["loads", "JSONDecoder.decode", "JSONDecoder.raw_decode"]),
        (("json.decoder",), ["JSONDecoder.decode", "JSONDecoder.raw_decode"]),
        (("jso", "none"), ["JSONDecoder.raw_decode"]),
        ((__name__,), ["raised", "_through_a_library"]),
        ((os.path.dirname(HERE) + "/",), ["raised", "_through_a_library"]),
    ],
)
def test_frames_of_named_places_are_kept(keep, functions) -> None:
    """A tuple names modules, with all below them, and directories; one is left."""
    tree = taken(raised(_through_a_library), Limits(exception_frames=keep))[1]
    assert [f.function for f in tree.frames] == functions


def test_nothing_to_leave_out_changes_nothing() -> None:
    """An exception without frames of libraries is exact, whatever is left out."""
    error = raised(_cause)
    assert taken(error, Limits(exception_frames="application"))[0] == exact(error)


# -- any exceptions --------------------------------------------------------------------

MESSAGES = st.text(max_size=20) | st.integers() | st.none()
ERRORS = st.recursive(
    st.builds(
        lambda kind, said: kind(said),
        st.sampled_from([ValueError, KeyError, OSError, SystemExit, SyntaxError]),
        MESSAGES,
    ).map(lambda error: raised(lambda: _throw(error))),
    lambda inner: st.one_of(
        st.builds(
            lambda one, other, name: _with(one, **{name: other}),
            inner,
            inner,
            st.sampled_from(["__cause__", "__context__"]),
        ),
        st.builds(
            BaseExceptionGroup,
            st.text(max_size=10),
            st.lists(inner, min_size=1, max_size=4),
        ),
        st.builds(
            lambda one, notes: _with(one, __notes__=notes),
            inner,
            st.lists(st.text(max_size=10), max_size=3),
        ),
    ),
    max_leaves=12,
)


@given(ERRORS)
def test_any_exception_is_exact_and_can_be_read_again(error) -> None:
    """Text as Python's, a structure that is a tree, and a text of that."""
    text, tree = taken(error)
    assert text == exact(error)
    assert tree.text().endswith("\n")


def test_limits_agree_with_each_other() -> None:
    """What is exact in the text is more than what is kept of the structure."""
    assert MAX_EXACT_EXCEPTIONS > MAX_EXCEPTIONS
    assert exceptions.MAX_EXACT_FRAMES > MAX_FRAMES
