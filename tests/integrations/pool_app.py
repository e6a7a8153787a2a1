"""Pools of all kinds whose tasks log and know nothing of femtomp; some die amid.

``python pool_app.py KIND METHOD``: logs to the file `records`; prints how many died.
"""

import logging
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import femtomp
from femtomp.integrations import pool as integration

log = logging.getLogger("tasks")


def work(records, kill=False):
    from tests.integrations import noted  # noqa: F401 - loky imports no __main__

    for number in range(records):
        log.info("task %d", number)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def processes(context):
    """30 bare processes, a third of which die."""
    for _ in range(6):
        started = [
            context.Process(target=work, args=(350, number < 2)) for number in range(5)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
    return 12


def pool(context):
    """Workers that are replaced after three tasks, or die, and are terminated."""
    with context.Pool(4, maxtasksperchild=3) as made:
        for _ in range(10):
            made.apply_async(work, (10, True))  # of which nothing is ever heard
        made.map(work, [250] * 40, chunksize=1)
    return 10


def executor(context):
    """An executor that breaks, and is made anew, ten times."""
    for _ in range(10):
        with ProcessPoolExecutor(3, mp_context=context) as made:
            list(made.map(work, [250] * 4))
            try:
                made.submit(work, 10, kill=True).result()
            except BrokenProcessPool:
                continue
            raise AssertionError("it should have broken")
    return 10


def manager(context):
    """A manager's own process, and tasks that use it."""
    with context.Manager() as made, context.Pool(2) as workers:
        kept = made.list([1])
        for _ in range(10):
            workers.apply_async(work, (10, True))
        workers.map(work, [250] * 40, chunksize=1)
        assert list(kept) == [1]
    return 10


def nested(context):
    """A child of a child."""
    child = context.Process(target=parent, args=(context.get_start_method(),))
    child.start()
    child.join()
    return 0


def parent(method):
    log.info("task of the parent")
    child = multiprocessing.get_context(method).Process(target=work, args=(10,))
    child.start()
    child.join()


def joblib(context):
    """What loky has: workers that are reused, broken, and made anew."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    for _ in range(10):
        Parallel(n_jobs=3)(delayed(work)(250) for _ in range(4))
        try:
            Parallel(n_jobs=3)(delayed(work)(10, kill=True) for _ in range(1))
            Parallel(n_jobs=3)(delayed(work)(5, kill=n == 1) for n in range(3))
        except TerminatedWorkerError:
            continue
        raise AssertionError("it should have broken")
    return 10


def main(kind, method):
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # One that is older than the server, and never sees FEMTOMP_SPOOL.
        from multiprocessing import forkserver

        forkserver.ensure_running()
    with femtomp.start_server("file:records", name="pools"):
        for _ in range(3):
            integration.install()
        print(globals()[kind](context))


if __name__ == "__main__":
    main(*sys.argv[1:])
