"""`femtomp demo`: a pool of workers, one of which is killed, and nothing is lost.

In: nothing but this machine. Out: records on the console, in a file, in the journal
and at an OTLP receiver, and a table that compares what was logged with what arrived.
The exit status is 1 if a record was lost. All that it starts ends with it; the file is
kept.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.journald_options import JOURNALD_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from femtomp.cli.demo_destinations import Destination
    from femtomp.cli.demo_report import Account
    from femtomp.cli.demo_work import Plan
    from femtomp.supervisor.process import Server

EXIT_LOST: Final = 1
EXIT_TERMINATED: Final = 128 + signal.SIGTERM
DEFAULT_RECORDS: Final = 300
MIN_RECORDS: Final = 12  # below it there is no room for what shall be seen
MAX_RECORDS: Final = 100_000
DEFAULT_SECONDS: Final = 8.0
_FLUSH_TIMEOUT_S: Final = 20.0
# The engine asks after its workers every half second, and of those quiet for one.
_SETTLE_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo",
        help="show a pool whose workers die, and count what arrives",
        description=(
            "Four workers log for a few seconds; one forks a child, one is killed, one "
            "ends by os._exit. Then what arrived in every sink is compared with what "
            "was logged. The exit status is 1 if a record was lost."
        ),
        epilog=(
            "A journald elsewhere, such as a namespace's, is used by --journald SOCKET "
            "and read back by --journal-directory DIRECTORY."
        ),
    )
    parser.add_argument(
        "--records", type=_record_count, default=DEFAULT_RECORDS, metavar="N",
        help="for each worker (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, metavar="S",
        help="that the workers take for them (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, metavar="N",
        help="draws the moment of the kill (default: another one each time, printed)",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=Path, metavar="PATH",
        help="for the JSON lines (default: a new one in the temporary directory)",
    )  # fmt: skip
    parser.add_argument("--journald", default=JOURNALD_SOCKET, help=argparse.SUPPRESS)
    parser.add_argument("--journal-directory", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def _record_count(text: str) -> int:
    number = int(text)
    if not MIN_RECORDS <= number <= MAX_RECORDS:
        msg = f"must be from {MIN_RECORDS} to {MAX_RECORDS}"
        raise argparse.ArgumentTypeError(msg)
    return number


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 0 if nothing was lost."""
    from femtomp.cli.demo_destinations import choose
    from femtomp.cli.demo_work import Plan, spans_problem

    name = secrets.token_hex(4)
    seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    if args.file is None:
        args.file = Path(tempfile.gettempdir(), f"femtomp-demo-{name}.jsonl")
    no_spans = spans_problem()
    plan = Plan(name, args.records, args.seconds / args.records, seed, no_spans is None)
    destinations, missing = choose(args, name)
    say(f"the moment of the kill is drawn from seed {seed} (again by --seed {seed})")
    if no_spans:
        missing.append(f"no spans: {no_spans}")
    for line in missing:
        say(line)
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        for destination in destinations:
            stack.callback(destination.close)
        return _play(plan, destinations, stack)


def _play(plan: Plan, destinations: list[Destination], stack: ExitStack) -> int:
    from femtomp import ConsoleSink, start_server
    from femtomp.cli.demo_pool import run_pool

    server = start_server(
        [ConsoleSink(name="console"), *[d.sink for d in destinations]],
        name="femtomp-demo",
        level="INFO",
    )
    stack.callback(server.stop)
    accounts = run_pool(plan, server, destinations, stack, say)
    if not server.flush(_FLUSH_TIMEOUT_S):
        say(f"the sinks were not done within {_FLUSH_TIMEOUT_S:g} s")
    delivered = _settled(server)
    server.stop()
    return _report(accounts, destinations, delivered)


def _settled(server: Server) -> int:
    """Return the console's deliveries once all lanes of ended workers are summed up."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while server.stats().lanes and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return server.stats().sinks["console"].delivered


def _report(
    accounts: list[Account], destinations: list[Destination], console_delivered: int
) -> int:
    from femtomp.cli import demo_report
    from femtomp.cli.demo_destinations import File

    returned = sum(account.returned for account in accounts)
    held = {each.name: each.read(returned) for each in destinations}
    table = demo_report.rows(accounts, held, {"console": console_delivered})
    print()
    demo_report.show(table)
    say(demo_report.CAPTION)
    for remark in demo_report.unreturned(table):
        say(remark)
    for destination in destinations:
        if isinstance(destination, File):
            say(f"in {destination.path}:")
            for remark in demo_report.remarks(list(destination.lines())):
                say(f"  {remark}")
    say(demo_report.verdict(table))
    return EXIT_LOST if any(row.lost for row in table) else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end the demo as an interrupt does: with its workers and server."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(EXIT_TERMINATED)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def say(text: str) -> None:
    """Print a line at once: the console sink writes beside it."""
    print(text, flush=True)
