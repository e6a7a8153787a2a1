"""CPU time of a live process, exactly: what `/proc/PID/stat` rounds to 10 ms.

The first number of `schedstat` is the time on a CPU in nanoseconds, of one thread. The
sum over a process's threads misses those that have ended, so the threads of what is
measured must live until it is read: those of the engine end only when it is stopped.
"""

from __future__ import annotations

import os
from pathlib import Path


def process_cpu_ns(pid: int) -> int:
    """Return the nanoseconds on a CPU of all live threads of a process.

    Raises
    ------
    FileNotFoundError
        If the process is gone: what it used is then unknown, and 0 would be wrong.
    """
    tasks = f"/proc/{pid}/task"
    return sum(
        int(Path(tasks, thread, "schedstat").read_text().split()[0])
        for thread in os.listdir(tasks)
    )
