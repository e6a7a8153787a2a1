"""The demo's pool: four forked workers and what happens to them.

In: a plan and a running server. Out: what each process counted of its own log calls.
All workers are reaped when it returns, and ended first if it raises.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from typing import TYPE_CHECKING, Final

from femtomp.cli.demo_ledger import Slot, ledger
from femtomp.cli.demo_report import Account
from femtomp.cli.demo_work import RUSH_RECORDS, Plan, Role, child_name, work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from multiprocessing.context import ForkProcess

    from femtomp.cli.demo_destinations import Destination
    from femtomp.supervisor.process import Server

_JOIN_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.001
# The kill comes after so many unpaced records at most, plus those logged meanwhile.
_LAST_KILL: Final = 500
# The last records of a worker come two at a time, and one more before os._exit.
_MARGIN: Final = 8


def run_pool(
    plan: Plan,
    server: Server,
    destinations: Sequence[Destination],
    stack: ExitStack,
    say: Callable[[str], None],
) -> list[Account]:
    """Run the pool to its end.

    Parameters
    ----------
    plan : Plan
    server : Server
        Its `worker_init` is what the workers call.
    destinations : sequence of Destination
        Told to serve once the workers are forked.
    stack : contextlib.ExitStack
        Gets the callbacks that end workers which still run.
    say : callable
        Told what happens, a line at a time.
    """
    roles = {f"worker-{number}": role for number, role in enumerate(Role, 1)}
    names = [*roles, *[child_name(n) for n, r in roles.items() if r is Role.FORKS]]
    slots = ledger(sorted(names), plan.records + RUSH_RECORDS + _MARGIN)
    context = multiprocessing.get_context("fork")
    workers = {
        name: context.Process(
            target=work, name=name, args=(role, plan, slots, name, server.worker_init)
        )
        for name, role in roles.items()
    }
    for worker in workers.values():
        worker.start()
        stack.callback(_end, worker)
    for destination in destinations:
        destination.serve()  # may start a thread: behind the forks
    victim = next(name for name, role in roles.items() if role is Role.KILLED)
    say(_kill_in_the_middle(plan, workers[victim], slots[victim]))
    ends = {}
    for name, worker in workers.items():
        worker.join()
        ends[name] = _end_of(roles[name], worker)
        say(f"{name} (pid {worker.pid}) has ended: {ends[name]}")
    return [_account(slot, ends.get(name, "")) for name, slot in slots.items()]


def _kill_in_the_middle(plan: Plan, worker: ForkProcess, slot: Slot) -> str:
    """SIGKILL a worker while it logs unpaced, after a number of records drawn."""
    # A demonstration that can be repeated, no secret.
    moment = plan.rush_at + random.Random(plan.seed).randint(1, _LAST_KILL)  # noqa: S311
    while slot.returned < moment and worker.exitcode is None:
        # Looked at without a pause once it rushes: that takes a few milliseconds.
        if slot.returned < plan.rush_at:
            time.sleep(_POLL_S)
    worker.kill()
    worker.join()
    found = f"{slot.returned} calls had returned"
    if slot.returned >= plan.rush_at + RUSH_RECORDS:
        found += ", and it waited: this machine is too busy for a kill in the middle"
    return f"SIGKILL to {worker.name} (pid {worker.pid}) from call {moment} on: {found}"


def _end_of(role: Role, worker: ForkProcess) -> str:
    code = worker.exitcode or 0
    if code < 0:
        return signal.Signals(-code).name
    return "os._exit" if role is Role.EXITS else f"status {code}"


def _account(slot: Slot, end: str) -> Account:
    # How a worker ended is said in the table where it is not as usual.
    label = slot.name if end in {"", "status 0"} else f"{slot.name} {end}"
    return Account(label, slot.pid, slot.returned, slot.latencies_ns())


def _end(worker: ForkProcess) -> None:
    """End a worker that still runs, as after an interrupt."""
    if worker.exitcode is None:
        worker.kill()
        worker.join(_JOIN_TIMEOUT_S)
