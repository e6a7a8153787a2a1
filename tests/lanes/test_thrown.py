"""An exception of a signal handler's is told from all others."""

from __future__ import annotations

import functools
import os
import signal
import sys
from unittest import mock

import pytest

from femtomp.lanes.thrown import thrown_in


class LateError(Exception):
    """A task's time limit, say."""


def fails() -> None:
    raise LateError


def function(_number, _frame) -> None:
    fails()


def with_more(_more, _number, _frame) -> None:
    fails()


def passes_on(number, frame) -> None:
    function(number, frame)


def once(number, _frame) -> None:
    signal.signal(number, signal.SIG_DFL)
    fails()


class Limits:
    def method(self, _number, _frame) -> None:
        fails()

    @staticmethod
    def static(_number, _frame) -> None:
        fails()

    @classmethod
    def of_class(cls, _number, _frame) -> None:
        fails()

    def __call__(self, *_: object) -> None:
        fails()


class Made:
    def __init__(self, _number, _frame) -> None:
        fails()


HANDLERS = {
    "function": function,
    "function that passes on": passes_on,
    "function that takes itself away": once,
    "lambda": lambda _number, _frame: fails(),
    "lambda of anything": lambda *_: fails(),
    "method": Limits().method,
    "static method": Limits.static,
    "class method": Limits.of_class,
    "callable object": Limits(),
    "class": Made,
    "partial": functools.partial(with_more, 1),
    "partial of a method": functools.partial(Limits().method),
    "partial of a partial": functools.partial(functools.partial(Limits())),
    "cached": functools.cache(function),
    "mock": mock.Mock(side_effect=LateError),
}


@pytest.fixture
def install():
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(100):
        pass


@pytest.mark.parametrize("name", HANDLERS)
def test_whatever_a_handler_is(name, install) -> None:
    """A handler's exception is thrown in, whatever kind of callable the handler is."""
    install(HANDLERS[name])
    with pytest.raises(LateError) as caught:
        interrupted()
    assert thrown_in(caught.value)


@pytest.mark.parametrize("name", HANDLERS)
def test_what_code_raises_by_itself(name, install) -> None:
    """What the interrupted code raises is its own, whatever handler is installed."""
    install(HANDLERS[name])
    with pytest.raises(LateError) as caught:
        fails()
    assert not thrown_in(caught.value)


def test_what_goes_wrong_in_a_handler(install) -> None:
    """An error in what a handler calls, and catches, was not thrown into that."""
    found = []

    def works() -> None:
        try:
            fails()
        except LateError as exc:
            found.append(thrown_in(exc))

    def handler(_number, _frame) -> None:
        works()

    install(handler)
    interrupted()
    assert found == [False]


def test_a_function_that_is_given_some_frame() -> None:
    """Who gets its caller's frame, without a signal's number, is no handler."""

    def looks(_where, _frame) -> None:
        fails()

    with pytest.raises(LateError) as caught:
        looks("here", sys._getframe())
    assert not thrown_in(caught.value)


def test_an_exception_that_was_never_raised() -> None:
    """An exception without a traceback is nobody's."""
    assert not thrown_in(LateError())
