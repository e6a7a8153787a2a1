"""What the demo's workers do: a shop that sells, with accidents.

In: a plan and the worker's slot of the ledger. Out: log calls, each one counted after
it returned. Runs in forked children, which end by themselves if the master is gone.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from femtomp.cli.demo_ledger import Slot

# What the worker that is to be killed logs at most while it waits for it, unpaced.
RUSH_RECORDS: Final = 5000
_PARENT_CHECK_S: Final = 0.05
_ITEMS: Final = ("tea", "bread", "milk", "apples", "soap", "candles")
_PRICE: Final = 1.35
_CUSTOMERS: Final = ("ada", "grace", "edsger", "barbara", "tony")
_log = logging.getLogger("shop.orders")


class Role(Enum):
    """How a worker ends, or what is special about it."""

    FORKS = "forks a child"
    KILLED = "SIGKILL"
    EXITS = "os._exit"
    STEADY = "ends"


class Plan(NamedTuple):
    """What all workers are told."""

    run: str
    """Name of this run: an attribute of every record."""
    records: int
    """For each worker."""
    interval_s: float
    """Between two records."""
    seed: int
    spans: bool
    """Whether OpenTelemetry's SDK is there to make spans."""

    @property
    def rush_at(self) -> int:
        """Number of the record from which on the one to be killed logs unpaced."""
        return self.records // 2


class Worker:
    """One process that logs, and keeps account of it.

    Parameters
    ----------
    plan : Plan
    slot : Slot
        Of the calling process.
    """

    def __init__(self, plan: Plan, slot: Slot) -> None:
        self._plan = plan
        self._slot = slot
        self._parent = os.getppid()
        # A game, and the same one for the same seed.
        self._random = random.Random(f"{plan.seed} {slot.name}")  # noqa: S311
        self._due = time.monotonic()
        self._span: Callable[[str], AbstractContextManager[Any]] = (
            _tracer().start_as_current_span if plan.spans else nullcontext
        )
        slot.claim()

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        **fields: object,
    ) -> None:
        """Make one log call; count it, and its time, after it has returned."""
        fields |= {
            "demo.run": self._plan.run,
            "demo.worker": self._slot.name,
            "demo.sequence": self._slot.returned,
        }
        begun = time.perf_counter_ns()
        _log.log(level, message, *args, exc_info=exc_info, extra=fields)
        self._slot.count(time.perf_counter_ns() - begun)

    def pace(self) -> None:
        """Wait until the next record is due; end if the parent is gone."""
        self._due += self._plan.interval_s
        time.sleep(max(0.0, self._due - time.monotonic()))
        if os.getppid() != self._parent:
            os._exit(1)

    def sell(self) -> None:
        """Log a sale: extras of every plain type."""
        number = self._random.randrange(1, 9)
        item = self._random.choice(_ITEMS)
        self.log(
            logging.INFO, "sold %d %s", number, item,
            order_id=self._slot.returned, price=round(number * _PRICE, 2), voucher=None,
            paid=number % 2 == 0, customer=self._random.choice(_CUSTOMERS),
        )  # fmt: skip

    def fail(self) -> None:
        """Log an exception that has a cause."""
        try:
            try:
                _till("drawer")
            except LookupError as cause:
                msg = "cannot take the money"
                raise RuntimeError(msg) from cause
        except RuntimeError as exc:
            self.log(logging.ERROR, "the sale failed", exc_info=exc, order_id=0)

    def ship(self) -> None:
        """Log two records inside a span."""
        with self._span("ship"):
            self.sell()
            self.log(logging.INFO, "shipped", parcels=["a", "b"], weight_kg=0.75)

    def go_on(self, until: int) -> None:
        """Log at the plan's pace until `until` calls have returned."""
        failure, shipments = self._plan.records // 4, self._plan.records // 3
        while self._slot.returned < until:
            if self._slot.returned == failure:
                self.fail()
            elif 0 <= self._slot.returned - shipments < self._plan.records // 10:
                self.ship()
            else:
                self.sell()
            self.pace()

    def rush(self) -> None:
        """Log as fast as it goes until somebody kills this process."""
        while self._slot.returned < self._plan.rush_at + RUSH_RECORDS:
            self.sell()
            os.sched_yield()  # the master may wait for this very processor
        while os.getppid() == self._parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)


def work(
    role: Role, plan: Plan, slots: dict[str, Slot], name: str, init: Callable[..., None]
) -> None:
    """Be one worker of the pool: what the forked process runs.

    Parameters
    ----------
    role : Role
    plan : Plan
    slots : dict of str to Slot
    name : str
        Of the worker: its slot's.
    init : callable
        The server's `worker_init`.
    """
    # The master sees to an interrupt; a worker's traceback would tell nothing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    init(force=True)
    worker = Worker(plan, slots[name])
    worker.go_on(plan.rush_at)
    if role is Role.KILLED:
        worker.rush()
    child = _fork_child(plan, slots[child_name(name)]) if role is Role.FORKS else 0
    worker.go_on(plan.records)
    if child:
        os.waitpid(child, 0)
    if role is Role.EXITS:
        worker.sell()
        os._exit(0)


def child_name(name: str) -> str:
    """Return the name of a worker's child."""
    return f"{name} child"


def _fork_child(plan: Plan, slot: Slot) -> int:
    """Fork a child that logs on its own; return its pid in the parent."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Worker(plan, slot).go_on(plan.records // 3)
            status = 0
        finally:
            os._exit(status)
    return pid


def spans_problem() -> str | None:
    """Say why there can be no spans; None, and the SDK loaded, if there can."""
    try:
        import opentelemetry.sdk.trace  # noqa: F401 - loaded once, before the forks
    except ImportError:
        return 'opentelemetry-sdk is not installed: pip install "femtomp[otel]"'
    return None


def _till(name: str) -> int:
    msg = f"the till has no {name}"
    raise LookupError(msg)


def _tracer() -> Tracer:
    from opentelemetry.sdk.trace import TracerProvider

    # The worker's own: a provider with a processor would not outlive a fork.
    return TracerProvider(shutdown_on_exit=False).get_tracer("femtomp.demo")
