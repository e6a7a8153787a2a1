"""Formats where users meet them: in the files and on the streams of a real server."""

from __future__ import annotations

import json

from tests.processes.harness import run_file, run_script

MODULE = """
import logging

class Line(logging.Formatter):
    def __init__(self, form="%(levelname)s %(processName)s %(message)s %(item)s"):
        super().__init__(form, defaults={"item": "-"})
"""
PROGRAM = """
import logging, multiprocessing, sys
import femtomp, shoplines

def sell():
    logging.info("sold %s", "tea", extra={"item": "tea", "level": 1})
    try:
        {}["price"]
    except KeyError:
        logging.exception("no\\nprice")

if __name__ == "__main__":
    place = sys.argv[1]
    sinks = [
        femtomp.FileSink(f"{place}/{form}.log", format=form)
        for form in ("flat", "ecs", "otlp-json", "logfmt", "shoplines.Line")
    ]
    own = shoplines.Line("%(asctime)s %(process)d %(message)s")
    sinks.append(femtomp.FileSink(f"{place}/own.log", format=own))
    with femtomp.start_server(sinks, resource={"service.name": "shop"}):
        femtomp.worker_init()
        worker = multiprocessing.get_context("fork").Process(target=sell, name="w-1")
        worker.start()
        worker.join()
"""


def test_every_format_from_worker_to_file(tmp_path):
    """Two records of a worker are in each file, in its format.

    A path and an object of a module beside the program are found by the supervisor.
    """
    (tmp_path / "shoplines.py").write_text(MODULE)
    run_file(tmp_path / "program.py", PROGRAM, tmp_path)

    def read(form):
        return (tmp_path / f"{form}.log").read_text().splitlines()

    flat = [json.loads(line) for line in read("flat")]
    sold, failed = (line for line in flat if "event" not in line)
    assert (sold["message"], sold["item"], sold["worker"]) == ("sold tea", "tea", "w-1")
    assert (sold["level"], sold["level_"]) == ("INFO", 1)
    assert failed["exception"].endswith("KeyError: 'price'")

    ecs = [json.loads(line) for line in read("ecs")][-2:]
    assert [line["message"] for line in ecs] == ["sold tea", "no\nprice"]
    assert ecs[1]["error.type"] == "KeyError"
    assert [line["event.id"] for line in ecs] == [sold["uid"], failed["uid"]]

    otlp = [json.loads(line) for line in read("otlp-json")][-2:]
    (scope,) = otlp[0]["resourceLogs"][0]["scopeLogs"]
    assert scope["logRecords"][0]["body"] == {"stringValue": "sold tea"}

    logfmt = read("logfmt")[-2:]
    assert ' message="sold tea" ' in logfmt[0]
    assert ' message="no\\nprice" ' in logfmt[1]

    by_path, own = read("shoplines.Line"), read("own")
    assert "INFO w-1 sold tea tea" in by_path
    at = by_path.index("ERROR w-1 no")
    assert by_path[at + 1 : at + 3] == ["price -", "Traceback (most recent call last):"]
    assert by_path[-1] == "KeyError: 'price'"
    assert [line for line in own if line.endswith(f" {sold['pid']} sold tea")]


def test_formatter_of_the_program_itself_fails_at_the_start():
    """The supervisor cannot import the user's script, and the error says so."""
    done = run_script(
        """
        import logging, femtomp
        class Line(logging.Formatter):
            pass
        try:
            femtomp.start_server(femtomp.ConsoleSink(format=Line()))
        except femtomp.ConfigError as exc:
            print(exc)
        """
    )
    assert done.stdout.startswith("format=__main__.Line: cannot be loaded")
    assert "not in the program's own script" in done.stdout


def test_console_format_comes_from_the_environment():
    """`FEMTOMP_CONSOLE_FORMAT` replaces "auto", and only that."""
    program = """
        import logging, femtomp
        with femtomp.start_server([femtomp.ConsoleSink(), femtomp.ConsoleSink(
                "stdout", format="logfmt", name="out")]):
            femtomp.worker_init()
            logging.info("hello")
        """
    done = run_script(program, env={"FEMTOMP_CONSOLE_FORMAT": "flat"})
    assert json.loads(done.stderr.splitlines()[-1])["message"] == "hello"
    assert " message=hello " in done.stdout.splitlines()[-1]
    failed = run_script(program, env={"FEMTOMP_CONSOLE_FORMAT": "yaml"}, check=False)
    assert failed.returncode == 1
    assert "FEMTOMP_CONSOLE_FORMAT: format must be one of auto, text" in failed.stderr


DICTS = """
import logging, sys
import femtomp

if __name__ == "__main__":
    place = sys.argv[1]
    sinks = [
        femtomp.FileSink(f"{place}/{form}.log", format=form)
        for form in ("json", "text", "flat", "ecs", "otlp-json", "logfmt")
    ]
    own = logging.Formatter("%(message)s")
    sinks.append(femtomp.FileSink(f"{place}/own.log", format=own))
    with femtomp.start_server(sinks) as server:
        femtomp.worker_init()
        said = {"order": 7, "password": "hunter2"}
        logging.info(said)
        femtomp.get_logger().info(said)
        server.queue.put(logging.LogRecord("", 20, "a.py", 1, said, (), None))
        server.queue.put({"body": said})
"""


def test_dict_as_the_message_in_every_format(tmp_path):
    """A dict is the body itself in JSON and OTLP, and JSON text elsewhere; whatever
    way it took, its secrets are left out.
    """
    run_file(tmp_path / "program.py", DICTS, tmp_path)
    body = {"order": 7, "password": "[redacted]"}
    text = json.dumps(body, separators=(",", ":"))

    def read(form):
        return (tmp_path / f"{form}.log").read_text().splitlines()[-4:]

    assert [json.loads(line)["body"] for line in read("json")] == [body] * 4
    for line in read("otlp-json"):
        (scope,) = json.loads(line)["resourceLogs"][0]["scopeLogs"]
        values = scope["logRecords"][0]["body"]["kvlistValue"]["values"]
        assert [pair["key"] for pair in values] == [*body]
    assert all(f": {text}" in line for line in read("text"))
    assert [json.loads(line)["message"] for line in read("flat")] == [text] * 4
    assert [json.loads(line)["message"] for line in read("ecs")] == [text] * 4
    assert all(f"message={json.dumps(text)}" in line for line in read("logfmt"))
    assert read("own") == [text] * 4
