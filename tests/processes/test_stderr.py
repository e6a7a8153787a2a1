"""Nobody waits for a stderr that nobody reads, and a console ends with its reader."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from tests.processes.harness import until

# The master's stderr is filled to the last byte, and stays so while anybody writes to
# it: as other processes of a pool do that print.
FILLED = """
    import json, logging, os, signal, sys, threading, time
    import femtomp
    from tests.test_nowait import fill

    log = logging.getLogger("shop")
    log.setLevel("INFO")
    log.addHandler(femtomp.WorkerHandler(missing="stderr"))

    def lines(path):
        try:
            with open(path, "rb") as file:
                return sum(1 for _ in file)
        except OSError:
            return 0

    def until(condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)
"""


def start(source, *args, stderr, stdout=subprocess.PIPE):
    """Run a program whose stderr is this descriptor."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FILLED) + textwrap.dedent(source),
         *map(str, args)],
        stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, text=True,
    )  # fmt: skip


@pytest.fixture(name="stderr", params=["pipe", "socket"])
def _stderr(request):
    """Give both ends of a stderr: who reads, and who writes."""
    if request.param == "pipe":
        ends = os.pipe()
    else:
        ends = tuple(end.detach() for end in socket.socketpair())
    yield ends
    for descriptor in ends:
        os.close(descriptor)


def read_all(descriptor):
    """Return what a stream holds."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while part := os.read(descriptor, 65536):
            found += part
    except BlockingIOError:
        return found.lstrip(b"p").decode()
    return found.lstrip(b"p").decode()


def test_a_full_stderr_stops_no_sink(tmp_path, stderr):
    """Notes of pumps, engine and guardian, and prints of the user's own sink, go
    nowhere; the other sinks get every record, and `stop` keeps its time.
    """
    program = start(
        """
        parent, out = sys.argv[1:]
        os.mkfifo(f"{parent}/fifo")
        server = femtomp.start_server(
            [
                "file:" + out,
                femtomp.FileSink(f"{parent}/fifo", name="fifo"),
                "console",
                femtomp.HandlerSink("tests.processes.loud.Loud", name="loud"),
            ],
            spool_parent=parent,
        )
        fill(2)
        for number in range(200):
            log.info("before %d", number)
        until(lambda: lines(out) > 200)
        control = server._spool.control()
        os.kill(control[2], signal.SIGKILL)  # the guardian has something to say of it
        for number in range(200):
            log.info("after %d", number)
        until(lambda: lines(out) > 400)
        # And nobody has changed what the user's own prints rely on.
        assert os.get_blocking(2)
        begun = time.monotonic()
        report = server.stop(timeout=2)
        print(json.dumps({
            "took": time.monotonic() - begun,
            "pending": report.pending,
        }), flush=True)
        os._exit(0)  # the interpreter itself would wait for stderr
        """,
        tmp_path, tmp_path / "out.jsonl", stderr=stderr[1],
    )  # fmt: skip
    found, _ = program.communicate(timeout=60)
    said = json.loads(found)
    assert said["took"] < 3.5
    assert said["pending"]["file"] == 0
    assert said["pending"]["loud"] == 0


def test_what_the_supervisor_could_not_say_is_counted(tmp_path, stderr):
    """Once stderr is read again, the supervisor says how many lines were not written."""
    program = start(
        """
        parent, out = sys.argv[1:]
        server = femtomp.start_server(
            ["file:" + out, femtomp.HandlerSink("tests.processes.loud.Loud", name="a")],
            spool_parent=parent,
        )
        fill(2)
        for number in range(50):
            log.info("%d", number)
        server.flush(20)
        print("full", flush=True)
        sys.stdin.readline()
        server.stop()
        os._exit(0)
        """,
        tmp_path, tmp_path / "out.jsonl", stderr=stderr[1],
    )  # fmt: skip
    assert program.stdout.readline() == "full\n"
    found = ""

    def is_counted():
        nonlocal found
        found += read_all(stderr[0])
        return "could not be written here" in found

    until(is_counted, "the count is said")
    program.communicate(timeout=60)


def test_what_a_sink_prints_reaches_stderr(tmp_path):
    """Prints, log lines and a crash's own words reach the master's stderr in the end."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILLED) + textwrap.dedent("""
        parent, out = sys.argv[1:]
        server = femtomp.start_server(
            ["file:" + out, femtomp.HandlerSink("tests.processes.loud.Loud", name="a")],
            spool_parent=parent,
        )
        log.info("once")
        server.flush(20)
        log.info("crash")
        server.flush(20)
        server.stop()
        """), str(tmp_path), str(tmp_path / "out.jsonl")],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "printed by the sink: once\n" in done.stderr
    assert "written to descriptor 2: once\n" in done.stderr
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_worker_without_a_server_waits_for_no_stderr(tmp_path, stderr):
    """Records that have nowhere to go but a full stderr cost nothing, and are counted."""
    program = start(
        """
        os.environ.pop("FEMTOMP_SPOOL", None)
        fill(2)
        begun = time.monotonic()
        for number in range(1000):
            log.info("%d", number)
        print(time.monotonic() - begun, os.get_blocking(2), flush=True)
        sys.stdin.readline()
        """,
        stderr=stderr[1],
    )
    took, is_blocking = program.stdout.readline().split()
    assert float(took) < 2.0
    assert is_blocking == "True"
    program.communicate(timeout=60)


@pytest.mark.parametrize("kill", [False, True])
def test_a_console_ends_with_the_reader_of_its_pipe(tmp_path, kill):
    """`| head` takes what it wants: the rest is refused and counted, also by the next
    engine; the other sinks are told, `stop` does not wait, and nothing is left behind.
    """
    read, write = os.pipe()
    program = start(
        """
        parent, out, kill = sys.argv[1:]
        server = femtomp.start_server(
            [femtomp.ConsoleSink("stdout", format="text"), "file:" + out],
            spool_parent=parent,
        )
        log.info("first")
        sys.stdin.read()
        for number in range(1000):
            log.info("%d", number)
        if kill == "True":
            server.flush(20)
            os.kill(server._spool.control()[2], signal.SIGKILL)
            for number in range(500):
                log.info("more %d", number)
        begun = time.monotonic()
        report = server.stop(timeout=10)
        sys.stderr.write(json.dumps({
            "took": time.monotonic() - begun,
            "drained": report.drained,
            "refused": report.refused,
        }) + "\\n")
        """,
        tmp_path, tmp_path / "out.jsonl", kill,
        stderr=subprocess.PIPE, stdout=write,
    )  # fmt: skip
    os.close(write)
    found = b""
    while b"first" not in found:
        found += os.read(read, 65536)
    os.close(read)
    _, stderr = program.communicate(timeout=60)
    said = json.loads(next(x for x in stderr.splitlines() if x.startswith("{")))
    assert said["drained"] is True
    assert said["took"] < 5
    assert said["refused"]["console"] >= (1500 if kill else 1000) - 100
    assert "console has ended: the reader has gone" in stderr
    written = (tmp_path / "out.jsonl").read_text()
    records = [json.loads(line) for line in written.splitlines()]
    ended = [r for r in records if r.get("event_name") == "femtomp.sink.ended"]
    assert ended
    assert ended[0]["attributes"]["femtomp.sink"] == "console"
    assert [x.name for x in tmp_path.iterdir()] == ["out.jsonl"]
