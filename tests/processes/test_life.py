"""How a server begins and ends, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import femtomp
from tests.processes.harness import Attached, is_running, lines, run_script, until


def supervisors(spool_parent):
    """Return pids of processes that name a spool below this directory in their files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(str(spool_parent)) for link in links):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.parametrize(
    ("sinks", "options", "error", "words"),
    [
        (["console"], {"lingers": 3}, femtomp.ConfigError, ["lingers", "linger_s"]),
        (["console"], {"linger_s": -1}, femtomp.ConfigError, ["linger_s"]),
        (["console"], {"grace_s": "x"}, femtomp.ConfigError, ["grace_s"]),
        (["konsole"], {}, femtomp.ConfigError, ["konsole", "console"]),
        (["console", 7], {}, femtomp.ConfigError, ["7"]),
        (["file:"], {}, femtomp.ConfigError, ["path"]),
        (["file:/no/such/place/a.jsonl"], {}, femtomp.ConfigError, ["/no/such/place"]),
        (["file:/proc/a.jsonl"], {}, femtomp.ConfigError, ["/proc"]),
        (["journald:/no/such/socket"], {}, femtomp.ConfigError, ["/no/such/socket"]),
        (["console"], {"level": "LOUD"}, femtomp.ConfigError, ["LOUD", "WARNING"]),
        (["console"], {"spool_parent": "/no/parent"}, femtomp.SpoolError, ["/no/parent"]),
        (["console"], {"resource": {"a": []}}, femtomp.ConfigError, ["a"]),
    ],
)  # fmt: skip
def test_what_cannot_be_built_fails_at_the_start(
    tmp_path, sinks, options, error, words
):
    """A wrong option, sink or place is an error that names it; no process is left."""
    options = {"spool_parent": tmp_path, **options}
    with pytest.raises(error) as caught:
        femtomp.start_server(sinks, **options)
    for word in words:
        assert word in str(caught.value)
    until(lambda: not supervisors(tmp_path), "the supervisor has ended")
    assert not list(tmp_path.iterdir()), "the spool is removed"
    assert "FEMTOMP_SPOOL" not in os.environ


def test_a_missing_extra_is_named(tmp_path):
    """Without OpenTelemetry's exporter an OTLP sink fails in the master, with the extra."""
    done = run_script(
        """
        import sys
        sys.modules["opentelemetry.exporter"] = None
        sys.modules["opentelemetry"] = None
        import femtomp
        try:
            femtomp.start_server("otlp", spool_parent=sys.argv[1])
        except femtomp.MissingExtraError as exc:
            print(exc)
        """,
        tmp_path,
    )
    assert 'pip install "femtomp[otel]"' in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_second_server_is_refused(tmp_path):
    """A process has one server at a time; after stop() it may have another."""
    first = femtomp.start_server(femtomp.FileSink(tmp_path / "a"))
    try:
        with pytest.raises(femtomp.AlreadyStartedError, match="stop"):
            femtomp.start_server(femtomp.FileSink(tmp_path / "b"))
    finally:
        first.stop()
    femtomp.start_server(femtomp.FileSink(tmp_path / "b")).stop()


def test_stop_leaves_nothing_behind(tmp_path):
    """After stop() there is no process, no spool and no environment variable."""
    server = femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=tmp_path
    )
    pids = supervisors(tmp_path)
    assert server.pid in pids
    assert len(pids) == 2
    assert os.environ["FEMTOMP_SPOOL"] == str(server.spool)
    report = server.stop()
    assert report.drained
    assert report.spool is None
    until(lambda: not any(map(is_running, pids)), "guardian and engine have ended")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert "FEMTOMP_SPOOL" not in os.environ
    assert server.stop() == report


def test_after_stop_records_go_to_stderr(tmp_path, capfd):
    """A handler whose server has stopped says each record on stderr, with one warning."""
    with (
        femtomp.start_server(femtomp.FileSink(tmp_path / "a")) as server,
        Attached() as log,
    ):
        log.warning("before")
        server.stop()
        log.warning("after 1")
        log.warning("after 2")
    said = capfd.readouterr().err
    assert "after 1" in said
    assert "after 2" in said
    assert said.count("cannot log to") == 1
    assert f"{server.spool} as uid {os.geteuid()}: the server was stopped;" in said
    assert "No such file" not in said
    assert [r["body"] for r in lines(tmp_path / "a")] == ["before"]


def test_what_cannot_be_delivered_is_reported_and_kept(tmp_path):
    """stop() gives up at its time, and says how much is left, and where."""
    endpoint = "http://127.0.0.1:9"  # discard: nobody listens
    server = femtomp.start_server([femtomp.OTLPSink(endpoint)], spool_parent=tmp_path)
    with Attached() as log:
        for number in range(10):
            log.info("kept %d", number)
    report = server.stop(timeout=0.5)
    assert not report.drained
    assert report.pending == {"otlp": 10}
    assert report.spool == server.spool
    assert server.spool.is_dir()


@pytest.mark.parametrize("timeout", [float("inf"), 1e12, 1e300, -1, 7])
def test_any_number_of_seconds_is_a_timeout(tmp_path, timeout):
    """stop() and flush() take infinity and numbers beyond any clock as no limit."""
    server = femtomp.start_server(femtomp.FileSink(tmp_path / "a"))
    with Attached() as log:
        log.info("one")
    assert server.flush(timeout) or timeout < 0
    assert server.stop(timeout).drained or timeout < 0


@pytest.mark.parametrize("timeout", [float("nan"), "5", [1]])
def test_what_is_no_number_of_seconds_is_refused(tmp_path, timeout):
    """Another timeout is an error that names it, and the server goes on."""
    with femtomp.start_server(femtomp.FileSink(tmp_path / "a")) as server:
        for call in (server.stop, server.flush):
            with pytest.raises(femtomp.ConfigError, match="number of seconds"):
                call(timeout)
        assert server.flush()


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("step", ["_ensure", "_end", "_reported"])
def test_stop_in_the_middle_of_stop_is_one_stop(tmp_path, step, behind):
    """stop() in a signal handler that comes during stop(): both return one report."""
    server = femtomp.start_server(
        femtomp.FileSink(tmp_path / "a"), spool_parent=tmp_path
    )
    with Attached() as log:
        log.info("one")
    own = getattr(server, step)
    inner = []

    def interrupted(*arguments):
        result = own(*arguments) if behind else None
        setattr(server, step, own)
        inner.append(server.stop())
        return result if behind else own(*arguments)

    setattr(server, step, interrupted)
    outer = server.stop()
    assert inner == [outer]
    assert outer.drained
    assert outer.pending == {"file": 0}
    assert not list(tmp_path.glob("femtomp-*"))
    femtomp.start_server(femtomp.FileSink(tmp_path / "a")).stop()


def test_a_server_says_what_it_is(tmp_path):
    """repr() has the guardian's pid while the server runs, and says when it does not."""
    server = femtomp.start_server(femtomp.FileSink(tmp_path / "a"))
    assert f"pid={server.pid} " in repr(server)
    server.stop()
    assert "stopped" in repr(server)
    assert "pid=" not in repr(server)


def test_options_too_large_for_a_manifest_are_refused(tmp_path):
    """Levels that no manifest could hold are an error that names them, at the start and
    later; nothing is left, and a server that runs goes on.
    """
    levels = {f"some.library.with.a.long.name.{n}": "WARNING" for n in range(2000)}
    options = {"name": "shop", "spool_parent": tmp_path}
    sink = femtomp.FileSink(tmp_path / "a")
    with pytest.raises(femtomp.ConfigError, match="'levels'"):
        femtomp.start_server(sink, levels=levels, **options)
    assert not list(tmp_path.iterdir())
    with femtomp.start_server(sink, **options) as server, Attached() as log:
        with pytest.raises(femtomp.ConfigError, match="'levels'"):
            server.reconfigure(levels=levels)
        log.info("one")
        assert server.flush()
    assert [r["body"] for r in lines(tmp_path / "a")] == ["one"]


def test_a_signal_to_the_supervisor_drains(tmp_path):
    """SIGTERM to the guardian delivers what is there; the master's stop() then agrees."""
    server = femtomp.start_server(femtomp.FileSink(tmp_path / "a"), grace_s=0.2)
    with Attached() as log:
        for number in range(100):
            log.info("kept %d", number)
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: not is_running(server.pid), "the guardian has ended")
    assert len(lines(tmp_path / "a")) == 100
    assert server.stop().drained


def test_secrets_are_in_memory_only(tmp_path):
    """A header's value is in no argument, environment or spool of the supervisor."""
    secret = "s3cr3t-value"
    sink = femtomp.OTLPSink("http://127.0.0.1:9", headers={"api-key": secret})
    with femtomp.start_server(sink, spool_parent=tmp_path) as server:
        for pid in supervisors(tmp_path):
            assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        for file in server.spool.rglob("*"):
            assert file.is_dir() or secret.encode() not in file.read_bytes()
        assert secret not in repr(sink)
        server.stop(timeout=1)


def test_sinks_come_from_the_environment(tmp_path):
    """FEMTOMP_SINKS is used where no sink is given, and FEMTOMP_LEVEL where no level is."""
    done = run_script(
        """
        import logging, femtomp
        with femtomp.start_server():
            femtomp.worker_init()
            logging.info("too low")
            logging.warning("shown", extra={"n": 1})
        """,
        env={
            "FEMTOMP_SINKS": f"console:json,file:{tmp_path}/a",
            "FEMTOMP_LEVEL": "WARNING",
        },
    )
    shown = [json.loads(line) for line in done.stderr.splitlines()]
    assert [r["body"] for r in shown if "event_name" not in r] == ["shown"]
    assert [r["body"] for r in lines(tmp_path / "a")] == ["shown"]


def test_a_worker_event_says_the_full_resource_once(tmp_path):
    """Each lane's first words in a sink are its worker's whole resource."""
    with (
        femtomp.start_server(
            femtomp.FileSink(tmp_path / "a"),
            resource={"service.name": "shop", "team": "x"},
        ),
        Attached() as log,
    ):
        log.info("one")
        log.info("two")
    records = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [r.get("event_name") for r in records] == [
        "femtomp.worker.started",
        None,
        None,
    ]
    full, brief = records[0]["attributes"], records[1]["resource"]
    assert full["process.pid"] == brief["process.pid"] == os.getpid()
    assert full["process.executable.path"]
    assert set(brief) == {
        "service.name", "service.instance.id", "process.pid", "host.name",
        "femtomp.worker.name", "team",
    }  # fmt: skip


def test_the_whole_group_may_get_the_signal(tmp_path):
    """Ctrl-C or a container's stop hits the group; the supervisor drains in its own."""
    program = tmp_path / "app.py"
    program.write_text(
        "import femtomp, logging, signal, sys\n"
        "server = femtomp.start_server(femtomp.FileSink(sys.argv[1]))\n"
        "femtomp.worker_init()\n"
        "logging.info('ready')\n"
        "try:\n    print('ready', flush=True)\n    while True:\n        signal.sigtimedwait((), 0.05)\n"
        "except KeyboardInterrupt:\n    logging.info('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, program, tmp_path / "a"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()
    assert [r["body"] for r in lines(tmp_path / "a")] == ["ready", "interrupted"]


def test_basic_config_is_one_line_and_may_be_run_twice(tmp_path):
    """A second `basic_config` uses the running server again; each record comes once."""
    root = logging.getLogger()
    level = root.level
    server = femtomp.basic_config(femtomp.FileSink(tmp_path / "a"), level="INFO")
    try:
        assert (
            femtomp.basic_config(femtomp.FileSink(tmp_path / "a"), level="INFO")
            is server
        )
        logging.getLogger("shop").info("once")
    finally:
        root.removeHandler(femtomp.worker_handler())
        root.setLevel(level)
        server.stop()
    assert [r["body"] for r in lines(tmp_path / "a")] == ["once"]


CONFIGURED = """
import logging, os, sys
import femtomp
server = femtomp.basic_config(femtomp.FileSink(sys.argv[1]))
logging.info("from the child")
assert server.stop().drained
print(server.pid, server.spool)
"""


def configured(path):
    """Run a program that calls `basic_config`; give its server's pid and spool."""
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED, path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pid, spool = done.stdout.split(maxsplit=1)
    return int(pid), spool.strip()


def test_basic_config_attaches_where_a_server_lives(tmp_path, monkeypatch):
    """A child process logs to its parent's server, and starts one if that is gone."""
    with femtomp.start_server(femtomp.FileSink(tmp_path / "a")) as server:
        assert configured(tmp_path / "b") == (0, str(server.spool))
        assert [r["body"] for r in lines(tmp_path / "a")] == ["from the child"]
    monkeypatch.setenv("FEMTOMP_SPOOL", str(server.spool))
    pid, _ = configured(tmp_path / "b")
    assert pid
    assert [r["body"] for r in lines(tmp_path / "b")] == ["from the child"]
