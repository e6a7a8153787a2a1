"""What a signal handler throws into a log call is the caller's; all else stays inside.

The record is whole or absent then, never twice and never damaged.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time

import pytest

import femtomp
from femtomp.worker import identity
from tests.processes.harness import fork
from tests.worker.test_handler import Shop


@pytest.fixture(autouse=True)
def _no_callbacks_of_the_collector():
    """Hypothesis has one: what is raised in it is heard of by nobody."""
    before, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = before


class LimitError(Exception):
    """Celery's soft time limit is such a one."""


class NoNumberError(ValueError):
    """Of the kinds that femtomp's own faults are of."""


THROWN = (
    LimitError,
    NoNumberError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    RecursionError,
    MemoryError,
    ImportError,
    TimeoutError,
    lambda: OSError(28, "No space left on device"),
    lambda: PermissionError(13, "Permission denied"),
    lambda: FileNotFoundError(2, "No such file"),
    KeyboardInterrupt,
    SystemExit,
)


@pytest.fixture(params=["mmap", "write"])
def shop(request, tmp_path):
    made = Shop(tmp_path, request.param)
    made.logger.error("first")
    yield made
    made.close()


@pytest.fixture
def strikes(monkeypatch):
    """Install a handler that raises; give what interrupts the code that calls it."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(make):
        def raises():
            raise make()

        def handler(_number, _frame) -> None:
            raises()

        signal.signal(signal.SIGUSR1, handler)

    def strike(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(100):
            pass
        return "not struck"

    strike.install = install
    strike.install(LimitError)
    yield strike
    signal.signal(signal.SIGUSR1, before)


class Struck:
    """Is interrupted while femtomp looks at it."""

    def __init__(self, strike, name: str) -> None:
        self.__class__ = type("Struck", (Struck,), {name: strike})


class StruckError(Exception):
    """Is interrupted when it is rendered."""

    strike = None

    def __str__(self) -> str:
        return type(self).strike()


def fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("make", THROWN)
@pytest.mark.parametrize("what", ["argument", "extra", "key", "message", "list"])
def test_thrown_into_the_code_of_a_value(shop, strikes, what, make) -> None:
    """Whatever kind of exception it is, it reaches the caller, and the record is absent."""
    strikes.install(make)
    kind = type(make()) if not isinstance(make, type) else make
    shown, kept = Struck(strikes, "__str__"), Struck(strikes, "__repr__")
    calls = {
        "argument": ("%s", (shown,), {}),
        "message": (shown, (), {}),
        "extra": ("x", (), {"value": kept}),
        "list": ("x", (), {"values": [1, {"a": kept}]}),
        "key": ("x", (), {"more": {shown: 1}}),
    }
    message, arguments, extra = calls[what]
    with pytest.raises(kind):
        shop.logger.error(message, *arguments, extra=extra)
    shop.logger.error("next")
    assert shop.bodies() == ["first", "next"]


@pytest.mark.parametrize(
    "make", [LimitError, NoNumberError, OSError, KeyboardInterrupt]
)
def test_thrown_into_an_exceptions_words(shop, strikes, make) -> None:
    """An exception that is interrupted while it is rendered costs its record alone."""
    strikes.install(make)
    StruckError.strike = strikes
    try:
        fails(StruckError())
    except StruckError:
        with pytest.raises(make):
            shop.logger.exception("failed")
    assert shop.bodies() == ["first"]


def test_thrown_into_a_filter(shop, strikes) -> None:
    """A filter that is interrupted is no filter that fails."""
    shop.handler.addFilter(strikes)
    with pytest.raises(LimitError):
        shop.logger.error("x")
    shop.handler.removeFilter(strikes)
    assert shop.bodies() == ["first"]


@pytest.mark.parametrize("make", THROWN)
def test_thrown_into_the_append(shop, strikes, monkeypatch, make) -> None:
    """Before the record is in the lane or behind, it reaches the caller; the record is
    absent or whole, and comes once.
    """
    strikes.install(make)
    kind = type(make()) if not isinstance(make, type) else make
    way = shop.handler._channel
    append = way.append
    for is_behind in (False, True):

        def interrupted(payload, is_behind=is_behind):
            if is_behind:
                append(payload)
            strikes()

        monkeypatch.setattr(way, "append", interrupted)
        with pytest.raises(kind):
            shop.logger.error("behind" if is_behind else "before")
    monkeypatch.undo()
    assert shop.bodies() == ["first", "behind"]


@pytest.mark.parametrize("make", [LimitError, NoNumberError, PermissionError])
def test_thrown_into_the_look_after_the_lane(shop, strikes, monkeypatch, make) -> None:
    """While the lane's files are looked after it reaches the caller too."""
    strikes.install(make)
    real = os.stat

    def stat(*args, **options):
        strikes()
        return real(*args, **options)

    shop.handler._channel.fresh_until = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        with pytest.raises(make):
            shop.logger.error("x")
    shop.logger.error("next")
    assert shop.bodies() == ["first", "next"]
    assert len(shop.lanes()) == 1


@pytest.mark.parametrize("make", [LimitError, NoNumberError, PermissionError])
def test_thrown_into_who_says_who_this_is(tmp_path, strikes, monkeypatch, make) -> None:
    """While a lane is opened, a callable of `identify` included, it is the caller's."""
    strikes.install(make)
    monkeypatch.setattr(identity, "_tellers", [lambda: strikes() and {}])
    shop = Shop(tmp_path)
    with pytest.raises(make):
        shop.logger.error("x")
    monkeypatch.undo()
    shop.logger.error("next")
    assert shop.bodies() == ["next"]
    shop.close()


@pytest.mark.parametrize("make", [LimitError, KeyError, KeyboardInterrupt])
def test_thrown_into_a_call_of_get_logger(shop, strikes, monkeypatch, make) -> None:
    """Femtomp's own loggers let it pass, out of values and lambdas."""
    strikes.install(make)
    logger = logging.getLogger("femtomp-test.thrown")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [shop.handler])
    log = femtomp.get_logger("femtomp-test.thrown")
    with pytest.raises(make):
        log.error("x", value=Struck(strikes, "__repr__"))
    with pytest.raises(make):
        log.error("x", value=lambda: strikes())  # noqa: PLW0108 - lambdas are called
    log.error("next")
    with pytest.raises(make):
        log.error("%s", Struck(strikes, "__str__"))
    assert shop.bodies() == ["first", "next"]


def test_thrown_through_a_call_within_a_call(shop, strikes) -> None:
    """From a log call that a value makes while it is rendered, it reaches the outermost
    caller.
    """

    class Logs:
        def __repr__(self) -> str:
            shop.logger.error("inner")
            shop.logger.error("%s", Struck(strikes, "__str__"))
            return "never"

    with pytest.raises(LimitError):
        shop.logger.error("outer %r", Logs())
    assert shop.bodies() == ["first", "inner"]


def test_what_a_handler_logs_is_a_record_as_any(shop, strikes) -> None:
    """What is wrong with the record of a signal handler's own call stays inside it."""

    class Wrong:
        def __repr__(self) -> str:
            raise LimitError

    def handler(_number, _frame) -> None:
        shop.logger.error("in the handler: %r", Wrong())

    signal.signal(signal.SIGUSR1, handler)
    assert strikes() == "not struck"
    assert len(shop.records()) == 2


@pytest.mark.parametrize("make", [LimitError, RuntimeError, NameError, StopIteration])
def test_what_nobody_throws_in_stays_inside(shop, monkeypatch, capfd, make) -> None:
    """A fault of femtomp's own, of whatever kind, is counted and said, and no caller's."""

    def append(_payload):
        raise make

    way = shop.handler._channel
    monkeypatch.setattr(way, "append", append)
    shop.logger.error("lost")
    said = capfd.readouterr().err
    assert "a record of shop was dropped: " in said
    assert make.__name__ in said
    assert "shop: lost" in said
    assert way.dropped == 1


@pytest.mark.parametrize("base", [Exception, OSError, BaseException])
@pytest.mark.parametrize("what", ["plain", "nested", "exception", "wrong"])
def test_at_any_moment(shop, base, what, monkeypatch) -> None:  # noqa: C901 - loops
    """Of alarms at random moments of many calls each is heard of, and the records are
    whole and come once.
    """

    class Late(base):
        pass

    fired, inside = 0, False

    def late(*_: object) -> None:
        nonlocal fired
        if inside:
            fired += 1
            raise Late

    def call(number: int) -> None:
        if what == "plain":
            shop.logger.error("step %d", number, extra={"n": number})
        elif what == "nested":
            shop.logger.error("step %d", number, extra={"n": {"a": [number, {2}]}})
        elif what == "wrong":
            shop.logger.error("step %d", "none", extra={"n": number})
        else:
            try:
                fails(LimitError("boom"))
            except LimitError:
                shop.logger.exception("step %d", number, extra={"n": number})

    def calls() -> None:
        nonlocal number
        seen = fired
        while fired == seen and time.monotonic() < end:
            number += 1
            call(number)

    def strike() -> None:
        nonlocal number, inside, end
        # It is also raised in callbacks of weak references, and would be in pytest's
        # hook.
        elsewhere: list[object] = []
        sys.unraisablehook = elsewhere.append
        signal.signal(signal.SIGALRM, late)
        heard = 0
        end = time.monotonic() + 20
        while heard < 100 and time.monotonic() < end:
            # Again, should it come before the call has begun.
            signal.setitimer(signal.ITIMER_REAL, 0.0003 + heard * 0.000013, 0.5)
            try:
                inside = True
                calls()
                inside = False
            except Late:
                inside = False
                heard += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert heard + len(elsewhere) == fired >= 20, (heard, elsewhere, fired)

    # Where it asks for these, `logging` catches any Exception by itself.
    monkeypatch.setattr(logging, "logMultiprocessing", False)
    monkeypatch.setattr(logging, "logAsyncioTasks", False, raising=False)
    number, end = 0, 0.0
    # A child has one thread: of several any may take a signal that this one holds back
    # while the standard library's own `except` would take the exception.
    pid = fork(strike)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    records = shop.records()[1:]
    assert len({r.uid for r in records}) == len(records) > 0
    for record in records:
        attributes = record.attributes
        assert (record.logger, record.severity_text) == ("shop", "ERROR")
        assert "femtomp.capture_error" not in attributes
        assert ("femtomp.format_error" in attributes) == (what == "wrong")
        assert "cannot be" not in repr(attributes)
        assert "failed>" not in repr(attributes)
    steps = [str(r.attributes["n"]) for r in records]
    assert len(set(steps)) == len(steps)
