"""`worker_init` where it cannot do what it is for."""

from __future__ import annotations

import os
import subprocess
import sys


def test_without_a_server_it_says_so_once() -> None:
    """worker_init() that finds no server says what is missing, once a process; nothing
    where femtomp was disabled.
    """
    program = (
        "import femtomp, logging, os, sys\n"
        "femtomp.worker_init(); femtomp.worker_init()\n"
        "sys.stderr.flush()\n"
        "if os.fork() == 0:\n"
        "    femtomp.worker_init(); os._exit(0)\n"
        "os.wait()\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "FEMTOMP_SPOOL"}
    for more, times in (({}, 1), ({"FEMTOMP_DISABLED": "1"}, 0)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={**env, **more},
            check=True,
        )
        assert done.stderr.count("found no server") == times
        assert done.stderr.count("start_server") == times
