"""Files are made without a signal handler in the middle of it."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from femtomp.lanes.signals import undisturbed


class Raised(Exception):
    """By a signal handler."""


@pytest.fixture
def handled():
    """Give the list of what the handler of SIGUSR1 was called for."""
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: calls.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield calls
    signal.signal(signal.SIGUSR1, before)
    # Put right in any case: what is left blocked here is blocked in later tests' children.
    assert signal.pthread_sigmask(signal.SIG_SETMASK, mask) == mask


def test_handler_runs_afterwards(handled) -> None:
    def make(what: str) -> tuple[str, int]:
        signal.raise_signal(signal.SIGUSR1)
        return what, len(handled)

    assert undisturbed(make, "made") == ("made", 0)
    assert len(handled) == 1


def test_inner_call_does_not_let_them_in(handled) -> None:
    def make() -> int:
        signal.raise_signal(signal.SIGUSR1)
        undisturbed(int)
        return len(handled)

    assert undisturbed(make) == 0
    assert len(handled) == 1


def test_error_passes_and_blocks_nothing(handled) -> None:
    def make() -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        undisturbed(make)
    signal.raise_signal(signal.SIGUSR1)
    assert len(handled) == 1


def test_faults_of_the_processor_are_not_blocked() -> None:
    """Blocked, SIGSEGV kills although faulthandler has a handler for it."""
    mask = undisturbed(signal.pthread_sigmask, signal.SIG_BLOCK, ())
    assert {signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD} <= mask
    assert not {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL} & mask


@pytest.fixture(params=["alone", "beside another thread"])
def company(request):
    """Add a thread that takes signals while the main thread blocks them, or none.

    Their handlers run in the main thread all the same, at any moment.
    """
    if request.param == "alone":
        yield
        return
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            signal.raise_signal(signal.SIGALRM)

    # Not SIG_IGN: of a signal that is still to be handled Python would complain.
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=send)
    thread.start()
    yield
    done.set()
    thread.join()
    sys.setswitchinterval(interval)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("company")
def test_raising_handlers_leave_nothing_blocked(handled) -> None:
    """At 5 kHz, whatever moment they come at: half a second, thousands of calls."""
    made, raised = [], 0

    def handler(*_: object) -> None:
        if inside:
            raise Raised

    inside = False
    before = signal.signal(signal.SIGALRM, handler)
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        # Half a second; longer where the machine has little time for this.
        while (time_s := time.monotonic() - begun) < 0.5 or (
            min(raised, len(made)) <= 20 and time_s < 20
        ):
            try:
                inside = True
                undisturbed(made.append, 1)
                inside = False
            except Raised:
                inside = False
                raised += 1
            assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised > 20
    assert len(made) > 20
