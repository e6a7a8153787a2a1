"""A server starts wherever Python runs: what is closed, missing, short or patched."""

from __future__ import annotations

import errno
import json
import os
import posix
import resource
import stat
import sys
import textwrap
from itertools import combinations
from pathlib import Path

import pytest

import femtomp
from femtomp.lanes import place
from femtomp.lanes.cursor import Cursor
from femtomp.lanes.reader import Lane
from femtomp.lanes.segment import high
from femtomp.lanes.writer import open_writer
from femtomp.supervisor.spawn import interpreter_flags, standard_first
from tests.components import require
from tests.processes.harness import fork, is_running, lines, run_file, run_script, until

NOBODY = 65534
SAYS_ALL = """
import json, logging, os, sys
import femtomp

def guardian(server):
    return open(f"/proc/{server.pid}/cmdline").read().split(chr(0))

out = sys.argv[1]
with femtomp.start_server([f"file:{out}"]) as server:
    femtomp.worker_init()
    logging.getLogger("shop").info("sold tea")
    command = guardian(server)
    if os.fork() == 0:
        logging.getLogger("shop").info("sold cake")
        os._exit(0)
    os.wait()
"""


def bodies(path):
    """Give what was said, sorted: of two processes either may come first."""
    return sorted(record["body"] for record in lines(path))


@pytest.mark.parametrize(
    "closed", [c for n in (1, 2, 3) for c in combinations((0, 1, 2), n)]
)
def test_server_starts_with_closed_streams(tmp_path, closed) -> None:
    """Whichever of the standard streams are closed, a server starts and delivers."""
    out = tmp_path / "out"
    closing = f"import os\nfor number in {closed}:\n    os.close(number)\n"
    run_script(closing + textwrap.dedent(SAYS_ALL), out)
    assert bodies(out) == ["sold cake", "sold tea"]


def test_nothing_of_a_start_lies_on_a_standard_streams_number(tmp_path) -> None:
    """With all standard streams closed and few descriptors, 0 to 2 stay free."""
    source = """
    import os, resource
    for number in (0, 1, 2):
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    """
    source = textwrap.dedent(source) + textwrap.dedent(SAYS_ALL).replace(
        "    os.wait()\n",
        "    os.wait()\n    open(out + '.low', 'w').write(repr(sorted(\n"
        "        int(n) for n in os.listdir('/proc/self/fd'))[1:]))\n",
    )
    out = tmp_path / "out"
    run_script(source, out)
    assert bodies(out) == ["sold cake", "sold tea"]
    # The first two are the file that says it and the directory that was read.
    opened = json.loads(Path(f"{out}.low").read_text())
    assert not {0, 2} & set(opened), opened


def test_descriptor_that_cannot_be_high_is_above_the_streams() -> None:
    """Where the limit forbids high numbers, one below 3 is moved all the same."""

    def move() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        os.close(1)
        descriptor = os.open(os.devnull, os.O_RDONLY)
        assert descriptor == 1
        assert high(descriptor) >= 3

    _, status = os.waitpid(fork(move), 0)
    assert status == 0


def test_server_starts_without_a_temporary_directory(tmp_path, monkeypatch) -> None:
    """With a place for its spool a server needs no other directory to write to."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with femtomp.start_server([f"file:{tmp_path}/out"]) as server:
        server.queue.put({"body": "sold tea"})
    assert bodies(tmp_path / "out") == ["sold tea"]


def test_no_place_at_all_is_a_spool_error(monkeypatch) -> None:
    """Where neither /dev/shm nor a temporary directory is to be had, it is said so."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(place, "_usable", lambda _: False)
    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(femtomp.SpoolError, match="FEMTOMP_SPOOL_PARENT"):
        place.choose_parent(None, {})


def test_server_starts_without_a_file_in_memory(tmp_path, monkeypatch) -> None:
    """Where `memfd_create` is missing, a long configuration goes through a pipe."""
    monkeypatch.delattr(os, "memfd_create")
    for number in range(3):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{number}", "x" * 100_000)
    with femtomp.start_server([f"file:{tmp_path}/out"]) as server:
        server.queue.put({"body": "sold tea"})
    assert bodies(tmp_path / "out") == ["sold tea"]


def test_server_of_a_python_made_for_an_old_c_library(tmp_path) -> None:
    """Where `os` lacks what is newer than glibc 2.17, all of a server's life is as usual."""
    for directory in ("site", "app"):
        (tmp_path / directory).mkdir()
    # In the supervisor, too.
    (tmp_path / "site" / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os, signal
        del os.pidfd_open, os.memfd_create, signal.pidfd_send_signal
        import posix
        spawn = posix.posix_spawn
        def old(*args, **kwargs):
            if "setsid" in kwargs:
                raise NotImplementedError
            return spawn(*args, **kwargs)
        posix.posix_spawn = old
    """)
    )
    source = textwrap.dedent(SAYS_ALL) + textwrap.dedent("""
    assert not os.path.exists(server.spool)
    try:
        femtomp.start_server(femtomp.HandlerSink("logging.Nothing"))
    except femtomp.FemtompError as exc:
        print(exc)
    """)
    env = {"PYTHONPATH": str(tmp_path / "site")}
    done = run_script(source, tmp_path / "out", env=env)
    assert bodies(tmp_path / "out") == ["sold cake", "sold tea"]
    assert "Nothing" in done.stdout


def test_what_a_supervisor_says_before_it_is_ready_needs_no_file_in_memory(
    tmp_path, monkeypatch
) -> None:
    """Without `memfd_create` its last words are kept in the spool, without a name."""
    monkeypatch.delattr(os, "memfd_create")
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit('no such' + 1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nos.write(2, b'no supervisor here')\nos._exit(3)"
    )
    with pytest.raises(femtomp.StartError, match="no supervisor here"):
        femtomp.start_server([f"file:{tmp_path}/out"])


GREEN = {
    "eventlet": "import eventlet; eventlet.monkey_patch()\n",
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("library", GREEN)
def test_server_of_a_monkey_patched_process(tmp_path, library, order) -> None:
    """Patched before or after femtomp's import, all of a server's life is as usual."""
    require(library)
    patch = GREEN[library]
    program = """
    import logging, os, signal, sys, time
    from concurrent.futures import ThreadPoolExecutor
    import femtomp
    PATCH
    out = sys.argv[1]
    server = femtomp.start_server([f"file:{out}"], overflow="block", block_s=0.1)
    femtomp.worker_init()
    log = logging.getLogger("shop")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: log.info("record %d", n), range(100)))
    assert server.flush()
    assert server.queue.get(timeout=10).body
    os.kill(server.pid, signal.SIGKILL)
    server.reconfigure([f"file:{out}", "console"], timeout=5)
    server.set_level("shop", "DEBUG")
    log.debug("the last")
    assert server.stop().drained
    """
    source = textwrap.dedent(program).replace(
        "PATCH", patch if order == "after" else ""
    )
    if order == "before":
        source = patch + source
    run_script(source, tmp_path / "out", flags=("-W", "ignore"))
    expected = [*(f"record {n}" for n in range(100)), "the last"]
    assert bodies(tmp_path / "out") == sorted(expected)


def test_thread_of_the_systems_own_logs_beside_greenlets(tmp_path) -> None:
    """Greenlets and real threads of one patched process log into one lane."""
    require("eventlet")
    program = """
    import logging, sys
    import femtomp
    with femtomp.start_server([f"file:{sys.argv[1]}"]):
        femtomp.worker_init()
        log = logging.getLogger("shop")
        def many(who):
            for n in range(50):
                log.info("%s %d", who, n)
                eventlet.sleep(0)
        green = [eventlet.spawn(many, f"green{n}") for n in range(3)]
        real = [eventlet.spawn(eventlet.tpool.execute, log.info, "real %d", n)
                for n in range(50)]
        for each in (*green, *real):
            each.wait()
    """
    source = "import eventlet, eventlet.tpool; eventlet.monkey_patch()\n"
    source += textwrap.dedent(program)
    run_script(source, tmp_path / "out", flags=("-W", "ignore"))
    assert len(bodies(tmp_path / "out")) == 200


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_log_call_in_eventlets_hub_is_like_any(tmp_path, kernel) -> None:
    """What runs in the hub itself may not wait, and logs, with a server and without."""
    require("eventlet")
    program = """
    import logging, sys
    import femtomp
    server = femtomp.start_server([f"file:{sys.argv[1]}"])
    femtomp.worker_init()
    done = []
    def work(what):
        logging.getLogger("shop").warning(what)
        done.append(what)
    def in_hub(what):
        eventlet.hubs.get_hub().schedule_call_global(0, work, what)
        while what not in done:
            eventlet.sleep(0)
    in_hub("served")
    server.stop()
    in_hub("not served")
    """
    source = "import eventlet, eventlet.hubs; eventlet.monkey_patch()\n"
    if kernel == "old":  # it cannot be asked not to wait
        source += "import femtomp.nowait; femtomp.nowait._NOWAIT = None\n"
    source += textwrap.dedent(program)
    done = run_script(source, tmp_path / "out", flags=("-W", "ignore"))
    assert bodies(tmp_path / "out") == ["served"]
    assert "not served" in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_are_handed_on(tmp_path) -> None:
    """The supervisor gets the options of the interpreter that started it."""
    source = SAYS_ALL + "\nprint(json.dumps(command))"
    flags = [
        "-I",
        "-S",
        "-B",
        "-X",
        "utf8=1",
        "-X",
        "frozen_modules=off",
        "-W",
        "error",
    ]
    root = Path(femtomp.__file__).parent.parent
    paths = [str(root), *(p for p in sys.path if p.endswith("site-packages"))]
    source = f"import sys; sys.path += {paths}\n{textwrap.dedent(source)}"
    done = run_script(source, tmp_path / "out", flags=flags)
    command = json.loads(done.stdout)
    options = command[1 : command.index("-c")]
    assert options == [
        "-B", "-S", "-I", "-Werror", "-X", "utf8=1", "-X", "frozen_modules=off",
    ]  # fmt: skip
    assert bodies(tmp_path / "out") == ["sold cake", "sold tea"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["-P"]),
        (["-E"], ["-E", "-P"]),
        (["-s"], ["-s", "-P"]),
        (["-P"], ["-P"]),
        (["-I"], ["-I"]),
        (["-OO"], ["-OO", "-P"]),
        (["-W", "ignore::UserWarning"], ["-P", "-Wignore::UserWarning"]),
    ],
)
def test_flags_of_an_interpreter(flags, expected) -> None:
    """Each option has its like, and none is there that was not given, but -P."""
    root = str(Path(femtomp.__file__).parents[1])
    source = f"""
    import json, sys
    sys.path.append({root!r})
    from femtomp.supervisor.spawn import interpreter_flags
    print(json.dumps(interpreter_flags()))
    """
    # With -I the environment cannot say that no bytecode is to be written.
    flags = [*flags, "-B"] if "-I" in flags else flags
    env = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "", "PYTHONWARNINGS": ""}
    found = json.loads(run_script(source, flags=flags, env=env).stdout)
    assert [flag for flag in found if flag != "-B" or "-I" not in flags] == expected
    assert interpreter_flags()


@pytest.mark.parametrize(("flag", "runs"), [("-I", 0), ("-E", 0), ("-P", 2)])
def test_startup_code_runs_in_the_supervisor_as_in_its_master(
    tmp_path, flag, runs
) -> None:
    """Where the master ignores PYTHONPATH, so does its supervisor."""
    ran = tmp_path / "ran"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(ran)!r}, 'a').write('x')")
    source = (
        f"import sys; sys.path.append({str(Path(femtomp.__file__).parents[1])!r})\n"
    )
    source += textwrap.dedent(SAYS_ALL)
    env = {"PYTHONPATH": str(tmp_path)}
    run_script(source, tmp_path / "out", flags=[flag], env=env)
    assert bodies(tmp_path / "out") == ["sold cake", "sold tea"]
    assert (len(ran.read_text()) if ran.exists() else 0) == runs


def test_nothing_shadows_the_standard_library_in_the_supervisor(tmp_path) -> None:
    """Files beside the script and backports in site-packages take no module's place."""
    shadows = ("http", "queue", "dataclasses", "pathlib", "typing", "json", "select")
    beside = tmp_path / "beside"
    beside.mkdir()
    for name in shadows:
        (beside / f"{name}.py").write_text("raise SystemExit('shadowed')")
    (beside / "sinks.py").write_text(
        "import logging\nclass Shop(logging.FileHandler): pass\n"
    )
    source = """
    import dataclasses, http, json, logging, pathlib, queue, select, sys, typing
    import femtomp
    import femtomp.supervisor.start
    out, beside = sys.argv[1:]
    sys.path.insert(0, beside)  # as for a script there, when all is imported
    sink = femtomp.HandlerSink("sinks.Shop", args={"filename": out})
    with femtomp.start_server([sink]):
        femtomp.worker_init()
        logging.getLogger("shop").info("sold tea")
    """
    run_file(tmp_path / "program.py", source, tmp_path / "out", beside)
    assert "sold tea" in (tmp_path / "out").read_text()


def test_scripts_neighbours_named_like_the_standard_library(tmp_path) -> None:
    """`http.py` and `queue.py` beside the script keep no server from starting."""
    for name in ("http", "queue"):
        (tmp_path / f"{name}.py").write_text("of = 'the shop'")
    program = "import http, queue; assert http.of == queue.of\n" + textwrap.dedent(
        SAYS_ALL
    )
    run_file(tmp_path / "program.py", program, tmp_path / "out")
    assert bodies(tmp_path / "out") == ["sold cake", "sold tea"]


def test_module_path_of_a_supervisor(tmp_path, monkeypatch) -> None:
    """The standard library is first, all else in its order, "" what it is now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    library = os.path.dirname(os.__file__)
    path = [
        "",
        "/srv/app",
        library,
        "lib",
        7,
        "a hook's name",
        f"{library}/lib-dynload",
    ]
    assert standard_first(path) == [
        library, f"{library}/lib-dynload",
        str(tmp_path), "/srv/app", str(tmp_path / "lib"), "a hook's name",
    ]  # fmt: skip
    assert standard_first(["/srv/app"]) == [library, "/srv/app"]


def test_server_is_of_the_very_femtomp_that_started_it(tmp_path) -> None:
    """Another femtomp on the module path is not the supervisor's."""
    other = tmp_path / "other" / "femtomp"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('another femtomp')")
    source = f"import sys, femtomp; sys.path.insert(0, {str(other.parent)!r})\n"
    run_script(source + textwrap.dedent(SAYS_ALL), tmp_path / "out")
    assert bodies(tmp_path / "out") == ["sold cake", "sold tea"]


@pytest.mark.parametrize("umask", [0o177, 0o777])
def test_server_starts_under_a_umask_that_leaves_nothing(tmp_path, umask) -> None:
    """Whatever the umask, a server starts and delivers what is logged."""
    out = tmp_path / "out"
    run_script(f"import os; os.umask({umask})\n" + textwrap.dedent(SAYS_ALL), out)
    assert bodies(out) == ["sold cake", "sold tea"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, whom modes bind")
@pytest.mark.parametrize("umask", [0o177, 0o777])
def test_files_of_a_spool_are_their_owners_under_any_umask(tmp_path, umask) -> None:
    """Who makes a spool and a lane under any umask can open and read them again."""
    parent = Path(os.environ["FEMTOMP_SPOOL_PARENT"]) / "of nobody"
    parent.mkdir()
    os.chown(parent, NOBODY, NOBODY)
    master = {"pid": 0, "start_ticks": 0, "boot_id": ""}

    def work() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.umask(umask)
        spool = place.create(parent, "shop", level=20, sinks=("x",), master=master)
        writer = open_writer("write", spool.lanes, b"", important=False)
        assert writer.append(b"x")
        assert spool.control()[0] == 0
        spool.set_control(0, 1)
        lane = Lane(spool.lanes, writer.epoch)
        lane.refresh()
        assert lane.count(Cursor().position) == 1

    _, status = os.waitpid(fork(work), 0)
    assert status == 0
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in parent.rglob("*")}
    assert set(modes.values()) == {0o600, 0o700}, modes


FEW = """
import os, resource, sys
import femtomp
from femtomp.supervisor import start, reconfigure  # noqa
out, free, imported = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if not imported:
    for name in [n for n in sys.modules if n.startswith("femtomp.supervisor")]:
        del sys.modules[name]

def take_all():
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""


@pytest.mark.parametrize("imported", [(), ("imported",)])
def test_start_with_too_few_descriptors_is_an_error_of_ours(tmp_path, imported) -> None:
    """However many descriptors are free, a server starts, or says that it cannot."""
    source = FEW + textwrap.dedent("""
    for free in range(int(sys.argv[2])):
        taken = take_all()
        while len(taken) and free:
            os.close(taken.pop())
            free -= 1
        try:
            server = femtomp.start_server([f"file:{out}"], name="few")
        except femtomp.FemtompError as exc:
            said, server = f"{type(exc).__name__}: {exc}", None
        for each in taken:
            os.close(each)
        if server is not None:
            assert server.stop().drained
            print("started")
            break
        assert "Too many open files" in said, said
    """)
    done = run_script(source, tmp_path / "out", 40, *imported)
    assert "started" in done.stdout
    assert not os.listdir(os.environ["FEMTOMP_SPOOL_PARENT"])


def test_reconfiguration_with_too_few_descriptors_changes_nothing(tmp_path) -> None:
    """Where it cannot start another supervisor, a server goes on as it was."""
    source = FEW + textwrap.dedent("""
    server = femtomp.start_server([f"file:{out}"])
    for free in range(14):
        taken = take_all()
        while len(taken) and free:
            os.close(taken.pop())
            free -= 1
        try:
            server.reconfigure([f"file:{out}", f"file:{out}.2"])
            said = ""
        except femtomp.FemtompError as exc:
            said = str(exc)
        for each in taken:
            os.close(each)
        assert "Too many open files" in said, said
        server.queue.put({"body": f"record {len(taken)}"})
    assert list(server.stats().sinks) == ["file"]
    report = server.stop()
    assert report.drained and list(report.pending) == ["file"]
    """)
    run_script(source, tmp_path / "out", 0, "imported")
    assert len(bodies(tmp_path / "out")) == 14


def test_revival_with_too_few_descriptors_is_tried_again(tmp_path) -> None:
    """A log call that cannot start a pair anew says so, and a later one starts it."""
    source = FEW + textwrap.dedent("""
    import logging, select, signal
    server = femtomp.start_server([f"file:{out}"])
    femtomp.worker_init()
    log = logging.getLogger("shop")
    log.info("before")
    assert server.flush()
    guardian, engine = server.pid, server._spool.control()[2]
    watched = [os.pidfd_open(pid) for pid in (guardian, engine)]
    for each in watched:
        signal.pidfd_send_signal(each, signal.SIGKILL)
        assert select.select([each], [], [], 20)[0]
    taken = take_all()
    for n in range(3):
        server._pair._look_at = 0
        log.info("meanwhile %d", n)
        server._pair.ensure()
    for each in taken:
        os.close(each)
    server._pair.ensure()
    assert server.pid != guardian
    log.info("after")
    assert server.stop().drained
    """)
    done = run_script(source, tmp_path / "out", 0, "imported")
    assert "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr
    assert bodies(tmp_path / "out") == [
        "after", "before", "meanwhile 0", "meanwhile 1", "meanwhile 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "no memory"),
        (errno.ENOENT, "No such file"),
    ],
)
def test_process_that_cannot_be_started_is_a_start_error(
    monkeypatch, number, advice
) -> None:
    """What keeps the interpreter from being started is said, with what to do."""

    def fail(*_, **__) -> int:
        raise OSError(number, os.strerror(number), "python")

    monkeypatch.setattr(posix, "posix_spawn", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(femtomp.StartError, match=advice):
        femtomp.start_server(["console"])
    assert os.listdir("/proc/self/fd") == before
    assert not os.listdir(os.environ["FEMTOMP_SPOOL_PARENT"])


def test_server_starts_in_a_directory_that_is_gone(tmp_path) -> None:
    """A working directory that was deleted, and is on the module path, is no hindrance."""
    source = """
    import os
    os.mkdir(sys.argv[1] + ".gone")
    os.chdir(sys.argv[1] + ".gone")
    os.rmdir(os.getcwd())
    """
    head = "import sys; sys.path.insert(0, '')\n" + textwrap.dedent(source)
    out = tmp_path / "out"
    # Without -P CPython 3.13.0 raises SystemError there for any missing attribute.
    source = "import femtomp\n" + head + textwrap.dedent(SAYS_ALL)
    run_script(source, out, flags=["-P"])
    assert bodies(out) == ["sold cake", "sold tea"]


def test_inherited_descriptors_are_closed_by_the_supervisor(tmp_path) -> None:
    """What the master's other children inherit, a listening socket say, it has not."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with femtomp.start_server([f"file:{tmp_path}/out"]) as server:
        pid = server.pid
        os.close(writing)
        assert os.read(reading, 1) == b""
        assert is_running(pid)
    os.close(reading)
    until(lambda: not is_running(pid), "the guardian has ended")
