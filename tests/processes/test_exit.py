"""The master's exit: what is logged until its last moment, and who waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.components import require, unshare_command
from tests.processes.harness import lines, run_script, until

# A callback that is older than the server's own, as those that libraries register when
# they are imported; it runs behind it.
OLDER = """
import atexit, logging, os, sys
atexit.register(lambda: logging.error("last %s", "words"))
import femtomp
server = femtomp.basic_config([f"file:{sys.argv[1]}"], name="exit")
logging.info("main")
"""


def bodies(path):
    return [r["body"] for r in lines(path)]


def test_older_exit_callbacks_are_heard(tmp_path):
    """What an atexit callback logs that was registered before the server started is
    delivered, nothing of it is on stderr, and no spool is left.
    """
    done = run_script(
        OLDER, tmp_path / "a", env={"FEMTOMP_SPOOL_PARENT": str(tmp_path)}
    )
    assert bodies(tmp_path / "a") == ["main", "last words"]
    assert done.stderr == ""
    assert not list(tmp_path.glob("femtomp-*"))


def test_what_finalisers_log_is_heard(tmp_path):
    """A record of a `__del__` at the interpreter's end is delivered as any other."""
    run_script(
        OLDER
        + """
class Connection:
    def __del__(self):
        logging.warning("never closed")
kept = sys.modules["kept"] = Connection()
""",
        tmp_path / "a",
    )
    assert sorted(bodies(tmp_path / "a")) == ["last words", "main", "never closed"]


def test_main_is_delivered_before_older_callbacks_run(tmp_path):
    """The server's own callback waits until what was logged before it is delivered."""
    run_script(
        """
        import atexit, logging, sys
        atexit.register(lambda: print(open(sys.argv[1]).read()))
        import femtomp
        femtomp.basic_config([f"file:{sys.argv[1]}"])
        logging.info("delivered by now")
        atexit._run_exitfuncs()
        """,
        tmp_path / "a",
    )
    assert bodies(tmp_path / "a") == ["delivered by now"]


def test_a_sink_that_is_down_holds_nobody_for_long(tmp_path):
    """Who waits for the program's streams does not wait for `linger_s`: the supervisor
    has what the exit left of its time, and names what it could not deliver.
    """
    begun = time.monotonic()
    done = run_script(
        "import femtomp.supervisor.process as p; p._EXIT_S = 1.0\n"
        + OLDER.replace(
            'name="exit"',
            'name="exit", linger_s=600, spool_parent=os.path.dirname(sys.argv[1])',
        ).replace('[f"file:', '["otlp", f"file:'),
        tmp_path / "a",
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        timeout=300,
    )
    assert time.monotonic() - begun < 60
    assert bodies(tmp_path / "a") == ["main", "last words"]
    assert "2 for otlp" in done.stderr
    assert len(list(tmp_path.glob("femtomp-*"))) == 1


def test_members_that_outlive_the_master_are_served(tmp_path):
    """A child that logs long after its parent's exit finds its server, which ends
    behind it.
    """
    started = subprocess.Popen(
        [
            sys.executable,
            "-c",
            OLDER
            + """
read, write = os.pipe()
if os.fork() == 0:
    os.close(write)
    os.read(read, 1)  # to its end: the parent has gone
    import signal
    signal.sigtimedwait((), 2.0)
    logging.info("child")
    os._exit(0)
""",
            tmp_path / "a",
        ],
        env={**os.environ, "FEMTOMP_SPOOL_PARENT": str(tmp_path)},
    )
    assert started.wait(30) == 0
    until(lambda: not list(tmp_path.glob("femtomp-*")), "the server has ended")
    assert bodies(tmp_path / "a") == ["main", "last words", "child"]


def test_an_engine_that_dies_at_the_exit_is_replaced(tmp_path):
    """What is logged behind the death of an engine at the exit is delivered, too."""
    run_script(
        OLDER.replace(
            "import femtomp\n",
            """
import femtomp
@atexit.register
def kill():
    import signal
    os.kill(server._spool.control()[2], signal.SIGKILL)
""",
        ),
        tmp_path / "a",
    )
    assert set(bodies(tmp_path / "a")) == {"main", "last words"}


@pytest.mark.parametrize(
    "first",
    [
        [sys.executable],
        ["sh", "-c", f'{sys.executable} "$@"; true', "sh"],
        ["sh", "-c", f'sh -c \'{sys.executable} "$@"; true\' sh "$@"; true', "sh"],
    ],
    ids=["first process", "child of the first", "child of its child"],
)
def test_where_the_exit_ends_the_container_the_server_is_stopped(tmp_path, first):
    """In a pid namespace that ends with the program all is delivered before; what older
    callbacks log is on stderr.
    """
    require("tmpfs")  # namespaces, that is
    apart = ["--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*unshare_command(), *apart, *first, "-c", OLDER, tmp_path / "a"],
        capture_output=True,
        text=True,
        env={**os.environ, "FEMTOMP_SPOOL_PARENT": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 0
    assert bodies(tmp_path / "a") == ["main"]
    assert "ERROR" in done.stderr
    assert "last words" in done.stderr
    assert not list(tmp_path.glob("femtomp-*"))


def test_a_program_in_a_container_that_goes_on_is_no_exception(tmp_path):
    """Where other processes of a pid namespace go on, older callbacks are heard."""
    require("tmpfs")
    apart = ["--pid", "--fork", "--kill-child", "--mount-proc"]
    run = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True, stderr=-1)"
    )
    first = [sys.executable, "-c", run]
    subprocess.run(
        [*unshare_command(), *apart, *first, run, OLDER, tmp_path / "a"],
        env={**os.environ, "FEMTOMP_SPOOL_PARENT": str(tmp_path)},
        timeout=60,
        check=True,
    )
    assert bodies(tmp_path / "a") == ["main", "last words"]
