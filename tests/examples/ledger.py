"""The example's shop, wrapped: it writes down which log calls have returned.

Each record gets an attribute, `ledger.id` ("PID.NUMBER"), and when the call that made
it has returned from all handlers, that id goes into LEDGER_DIRECTORY/PID with one
os.write: what the kernel has taken survives SIGKILL. So every id in a ledger is of a
record that must not be lost. Responses tell which process and threads there are.

gunicorn loads it as `tests.examples.ledger:wrapped()` in the example's directory.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading

import femtomp


def wrapped():
    """Make the application; from here on, this process's log calls are noted."""
    import shop

    logging.Logger.handle = noting(logging.Logger.handle)

    def app(environ, start_response):
        def start(status, headers, *rest):
            return start_response(status, [*headers, *about_process()], *rest)

        return shop.app(environ, start)

    return app


def noting(handle):
    """Let a logger do what it does with a record, and then note that it is done."""
    numbers = itertools.count()

    def handle_and_note(logger, record) -> None:
        # A preloading master logs before there is a server.
        handlers = logging.root.handlers
        served = any(isinstance(each, femtomp.WorkerHandler) for each in handlers)
        serial = f"{os.getpid()}.{next(numbers)}"
        record.__dict__["ledger.id"] = serial
        handle(logger, record)
        if served:
            os.write(ledger(os.getpid()), f"{serial}\n".encode())

    return handle_and_note


@functools.cache
def ledger(pid: int) -> int:
    """Open the file of this process."""
    path = os.path.join(os.environ["LEDGER_DIRECTORY"], str(pid))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def about_process() -> list[tuple[str, str]]:
    """Give the response headers that tell who answers."""
    # In this order: `threading` knows of a thread before the system has it.
    tasks = len(os.listdir("/proc/self/task"))
    return [
        ("X-Pid", str(os.getpid())),
        ("X-Tasks", str(tasks)),
        ("X-Active-Count", str(threading.active_count())),
        ("X-Threads", ",".join(thread.name for thread in threading.enumerate())),
    ]
