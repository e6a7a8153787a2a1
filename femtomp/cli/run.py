"""`femtomp run`: a server around any command.

In: sinks and a command. Out: the command's exit status. The command runs as a child
with `FEMTOMP_SPOOL` in its environment; signals are passed on to it; when it has ended
the server drains and ends too. This process waits with its signals blocked, so that
none can come between two steps. What must never happen: a process left behind, or a
status that is not the command's.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.supervisor.stats import DrainReport

# A POSIX shell's statuses: command not found, and found but not executable.
EXIT_NOT_FOUND: Final = 127
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_SIGNAL_BASE: Final = 128
EXIT_USAGE: Final = 2
FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Python ignores these at start-up, and an ignored signal stays so across exec.
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
# si_code of a signal that the kernel made: a terminal's goes to its whole foreground
# process group, the command included (sigaction(2)).
_SI_KERNEL: Final = 0x80
DEFAULT_TIMEOUT_S: Final = 10.0
_PYTHON: Final = re.compile(r"(python|pypy)(\d+(\.\d+)?)?t?")
# python(1): those of an interpreter's options whose value may be the next word.
_WITH_VALUE: Final = ("-W", "-X", "--check-hash-based-pycs")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a command with a server around it",
        description=(
            "Start a server, run COMMAND with FEMTOMP_SPOOL in its environment, and "
            "stop the server when it has ended. The exit status is the command's; "
            "128 + n if signal n ended it, 127 if it was not found, 126 if it cannot "
            "be executed."
        ),
        usage="femtomp run [--sink SINK ...] [options] [--] COMMAND [ARGUMENT ...]",
    )
    parser.add_argument(
        "--sink",
        action="append",
        dest="sinks",
        metavar="SINK",
        help="console, console:FORMAT, file:PATH, journald, otlp, or the import path "
        "of a handler or sink, package.callable; may be repeated "
        "(default: what FEMTOMP_SINKS says, else the console)",
    )
    parser.add_argument(
        "--name", help="of the server and the service (default: the command's name)"
    )
    parser.add_argument(
        "--level", help="of the workers' loggers (default: FEMTOMP_LEVEL, else INFO)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="for the delivery of what is left when the command has ended "
        "(default: %(default)g)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    command = list(args.command)
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        return _say(
            "run needs a command, as in: femtomp run -- python app.py", EXIT_USAGE
        )
    unusable = _unusable(command[0])
    if unusable is not None:
        return unusable
    # An inherited SIG_IGN would take the command's status away from waitpid.
    inherited = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    awaited = {*FORWARDED, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        return _serve(args, command, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, inherited)


def _serve(
    args: argparse.Namespace, command: Sequence[str], mask: set[int | signal.Signals]
) -> int:
    from femtomp import start_server
    from femtomp.supervisor.told import GuessedName

    # "python" is many: what such a server left is adopted by the same command only.
    guess = GuessedName(name_of(command), shlex.join(command))
    name = args.name or guess
    server = start_server(args.sinks, name=name, level=args.level)
    try:
        try:
            pid = _spawn(command, mask)
        except OSError as exc:
            status = _not_executed(command[0], exc)
        else:
            status = wait_for(pid)
    finally:
        report = server.stop(args.timeout)
    said = left_over(report)
    if said:
        _say(said)
    return status


def name_of(command: Sequence[str]) -> str:
    """Return what a command is called: of a Python, the script or module that it runs.

    Examples
    --------
    >>> name_of(["/usr/bin/python3", "-X", "dev", "shop/app.py", "--fast"])
    'app'
    >>> name_of(["python", "-m", "shop.worker"]), name_of(["gunicorn", "app:app"])
    ('shop.worker', 'gunicorn')
    """
    program = Path(command[0]).name
    if not _PYTHON.fullmatch(program):
        return program
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, program)
        if word.startswith("-m"):
            return word[2:]
        if word.startswith("-c") or word == "-":
            return program
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            path = Path(word)
            is_main = path.name in ("__main__.py", "manage.py")
            return (path.absolute().parent.name if is_main else path.stem) or program
    return program


def _unusable(program: str) -> int | None:
    """Say that a command cannot be run before a server is started for it."""
    if shutil.which(program):
        return None
    is_directory = "/" in program and Path(program).is_dir()
    if is_directory or shutil.which(program, os.F_OK):
        return _say(f"cannot execute {program}: not executable", EXIT_NOT_EXECUTABLE)
    return _say(f"cannot find the command {program}", EXIT_NOT_FOUND)


def _spawn(command: Sequence[str], mask: set[int | signal.Signals]) -> int:
    # Not subprocess: a signal mask for the child would need Python code run in it.
    return os.posix_spawnp(
        command[0],
        list(command),
        os.environ,
        setsigmask=mask,
        setsigdef=_IGNORED_BY_PYTHON,
    )


def _not_executed(program: str, exc: OSError) -> int:
    status = (
        EXIT_NOT_FOUND if isinstance(exc, FileNotFoundError) else EXIT_NOT_EXECUTABLE
    )
    return _say(f"cannot execute {program}: {exc.strerror}", status)


def wait_for(pid: int) -> int:
    """Pass signals on to a child until it has ended; return a shell's status of it.

    All of `FORWARDED` and SIGCHLD must be blocked. Other children are reaped too: the
    first process of a container gets every orphan.

    Parameters
    ----------
    pid : int
        Of the child.
    """
    while True:
        info = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if info.si_signo == signal.SIGCHLD:
            status = _reap(pid)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else EXIT_SIGNAL_BASE - code
        elif info.si_code != _SI_KERNEL:
            os.kill(pid, info.si_signo)


def _reap(pid: int) -> int | None:
    # One SIGCHLD may stand for several children.
    status = None
    while status is None:
        try:
            ended, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not ended:
            break
        if ended == pid:
            status = found
    return status


def left_over(report: DrainReport) -> str:
    """Say in one line what was not delivered; nothing if there is nothing to say.

    Parameters
    ----------
    report : DrainReport

    Examples
    --------
    >>> from femtomp import DrainReport
    >>> left_over(DrainReport(dropped={"quota": 2, "size": 0}))
    '2 records were dropped (quota)'
    >>> left_over(DrainReport())
    ''
    """
    said = []
    left = [f"{count} for {sink}" for sink, count in report.pending.items() if count]
    if left:
        said.append(f"records were left in {report.spool}: {', '.join(left)}")
    elif not report.drained:
        said.append("the server did not say whether everything was delivered")
    reasons = [reason for reason, count in report.dropped.items() if count]
    if reasons:
        total = sum(report.dropped.values())
        said.append(f"{total} records were dropped ({', '.join(reasons)})")
    for sink, count in report.quarantined.items():
        if count:
            said.append(f"{count} killed the engine and were stepped over for {sink}")
    return "; ".join(said)


def _say(text: str, status: int = 0) -> int:
    print(f"femtomp: {text}", file=sys.stderr)
    return status
