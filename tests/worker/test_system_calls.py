"""No system call of femtomp's own on the log path, as strace counts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

from tests.components import require

CALLS = 1000
SCRIPT = """
import logging, os, sys
import femtomp

def work(count):
    for number in range(count):
        log.info("sold %d", number, extra={"user_id": number, "path": "/cart"})

def trace(name):
    try:
        os.stat(f"/{name}-begins")
    except OSError:
        work(int(sys.argv[3]))
    try:
        os.stat(f"/{name}-ends")
    except OSError:
        pass

log = logging.getLogger("shop")
log.setLevel("INFO")
log.propagate = False
log.addHandler(nothing := logging.NullHandler())
trace("logging")
log.removeHandler(nothing)
sink = femtomp.FileSink(sys.argv[1] + "/app")
with femtomp.start_server(sink, spool_parent=sys.argv[2]):
    log.addHandler(handler := femtomp.worker_handler())
    work(1)
    # Until the segment is a large one that has room for all that is counted.
    while handler._channel._lane._size < 1 << 20:
        work(100)
    work(10)
    trace("femtomp")
"""
# Memory is the allocator's business, whoever asks for it.
OF_MEMORY = {"brk", "mmap", "munmap", "mremap", "madvise"}


def calls_between(trace, name):
    """Return the system calls that were made between two marks of the script."""
    calls = re.findall(r"^(\w+)\((.*)", trace, re.MULTILINE)
    begin = next(i for i, (_, text) in enumerate(calls) if f"/{name}-begins" in text)
    end = next(i for i, (_, text) in enumerate(calls) if f"/{name}-ends" in text)
    return Counter(call for call, _ in calls[begin + 1 : end] if call not in OF_MEMORY)


def test_a_log_call_makes_no_system_call(tmp_path):
    """A thousand calls in a row, traced: with mapped lanes as many as with a handler
    that does nothing, which is logging's own getpid.
    """
    require("strace")
    trace = tmp_path / "trace"
    parent = os.environ.get("FEMTOMP_SPOOL_PARENT", "/dev/shm")
    command = [
        "strace", "-o", str(trace), sys.executable, "-c", SCRIPT,
        str(tmp_path), parent, str(CALLS),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = trace.read_text()
    own, all_in_all = calls_between(text, "logging"), calls_between(text, "femtomp")
    assert own == {"getpid": CALLS}
    # Once a second the handler looks whether its lane is still there, and in the master
    # whether its supervisor is.
    print(all_in_all)
    assert sum((all_in_all - own).values()) <= 10
    assert all_in_all & own == own
