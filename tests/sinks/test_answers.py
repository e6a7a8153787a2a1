"""What a driver answers is checked before anybody goes by it."""

from __future__ import annotations

import gc
import warnings

import pytest

from femtomp.sinks import Delivered, Refused, RetryAfter
from femtomp.sinks.answers import AnswerError, outcome_of, problem_of


async def _write() -> Delivered:
    return Delivered()


def test_none_means_delivered() -> None:
    """Who returns nothing has delivered the whole batch."""
    assert outcome_of(None, 3) == Delivered()


@pytest.mark.parametrize(
    "answer",
    [
        Delivered(),
        Delivered({"too old": 3}),
        Refused("never"),
        RetryAfter(0.5),
        RetryAfter(0, "busy", 3, {"bad": 1}),
    ],
)
def test_outcomes_are_what_they_are(answer) -> None:
    """A sound outcome is handed on."""
    assert outcome_of(answer, 3) is answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (True, r"True \(a bool\)"),
        (3, r"3 \(an? int\)"),
        ("ok", r"'ok' \(a str\)"),
        (Delivered, "the class Delivered"),
        (Refused, "the class Refused"),
        (Delivered(3), r"Delivered\(refused=3\)"),
        (Delivered({"x": 4}), "x"),
        (Delivered({"x": -1}), "x"),
        (Delivered({1: 1}), "1"),
        (Refused(None), "None"),
        (RetryAfter(-1), "-1"),
        (RetryAfter(True), "True"),
        (RetryAfter("5"), "'5'"),
        (RetryAfter(float("nan")), "nan"),
        (RetryAfter(float("inf")), "inf"),
        (RetryAfter(1, None), "None"),
        (RetryAfter(1, "", 4), "accepted=4"),
        (RetryAfter(1, "", 1, {"bad": 2}), "bad"),
        (RetryAfter(1, "", True), "True"),
        ((), r"\(\)"),
        ({"x": "y" * 1000}, r"\.\.\. \(a dict\)"),
    ],
)
def test_anything_else_is_said_with_what_it_may_be(answer, words) -> None:
    """The error has what was answered, shortened, and what may be."""
    with pytest.raises(AnswerError, match=words) as caught:
        outcome_of(answer, 3)
    assert "RetryAfter(delay_s)" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_coroutine_is_said_and_closed() -> None:
    """`async def write` is told apart, and Python does not warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AnswerError, match="async def"):
            outcome_of(_write(), 3)
        gc.collect()


def test_an_exception_without_a_text_is_said_all_the_same() -> None:
    """An exception whose own code raises is named by its class."""

    class Odd(BaseException):
        def __str__(self) -> str:
            raise SystemExit

    assert problem_of(Odd()) == "Odd: its text cannot be had"
    assert len(problem_of(ValueError("x" * 10_000))) < 600
