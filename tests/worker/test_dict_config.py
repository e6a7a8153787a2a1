"""`logging.config.dictConfig` with femtomp: each shape of it, before and after a start."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.processes.harness import run_script

# Each case is a program's body; it ends with what the file has: logger and body.
PRELUDE = """
import json, logging, logging.config, logging.handlers, os, sys
import femtomp

PATH = sys.argv[1]

def config(handler, **more):
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"f": {"format": "F %(message)s"}},
        "filters": {"shop": {"name": "shop"}},
        "handlers": {"femtomp": handler},
        "root": {"level": "INFO", "handlers": ["femtomp"]},
        **more,
    }

def start():
    return femtomp.start_server(f"file:{PATH}/app", spool_parent=PATH)

def configure(handler, **more):
    logging.config.dictConfig(config(handler, **more))

def arrived(server):
    assert server.stop().drained
    lines = [json.loads(line) for line in open(f"{PATH}/app")]
    print(json.dumps([
        [r["logger"], r["body"]] for r in lines if r["logger"] != "femtomp"
    ]))
"""
CLASS = '{"class": "femtomp.WorkerHandler"}'
FACTORY = '{"()": "femtomp.worker_handler"}'
MADE = '{"()": "femtomp.WorkerHandler"}'


def run(tmp_path, body, **options):
    done = run_script(PRELUDE + textwrap.dedent(body), tmp_path, **options)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


each = pytest.mark.parametrize("handler", [CLASS, FACTORY, MADE])


@each
def test_after_the_start_and_twice(tmp_path, handler):
    """Configured twice, with `worker_init` besides: one handler, one copy."""
    found, said = run(
        tmp_path,
        f"""
        server = start()
        for _ in range(2):
            configure({handler})
        femtomp.worker_init()
        logging.getLogger().addHandler(femtomp.worker_handler())
        assert len(logging.getLogger().handlers) == 1
        logging.info("once")
        arrived(server)
        """,
    )
    assert found == [["root", "once"]]
    assert said == ""


@each
@pytest.mark.parametrize("missing", ["stderr", "ignore"])
def test_before_the_start(tmp_path, handler, missing):
    """Made before there is a server, a handler finds it once it is there."""
    found, said = run(
        tmp_path,
        f"""
        configure({{**{handler}, "missing": {missing!r}}})
        logging.info("nowhere")
        server = start()
        logging.info("there")
        arrived(server)
        """,
    )
    assert found == [["root", "there"]]
    assert ("nowhere" in said) == (missing == "stderr")
    assert "there" not in said


@each
def test_before_the_start_it_is_an_error_that_says_what_to_do(tmp_path, handler):
    """By default a handler without a server cannot be configured."""
    done = run_script(
        f"{PRELUDE}\nconfigure({handler})", tmp_path, check=False
    )  # fmt: skip
    assert done.returncode
    assert "call femtomp.start_server() in the master first" in done.stderr
    assert "missing='stderr'" in done.stderr


@each
def test_a_second_server_of_the_process(tmp_path, handler):
    """What was configured once goes on with the server after the first one."""
    found, _ = run(
        tmp_path,
        f"""
        first = start()
        configure({handler})
        logging.info("first")
        first.stop()
        second = start()
        logging.info("second")
        arrived(second)
        """,
    )
    assert found == [["root", "first"], ["root", "second"]]


@pytest.mark.parametrize(
    "again",
    [
        f"configure({FACTORY})",
        "logging.getLogger().addHandler(femtomp.worker_handler())",
        "femtomp.worker_init()",
        "second.worker_init()",
        "femtomp.basic_config()",
    ],
)
@pytest.mark.parametrize(
    "once",
    [
        f"configure({FACTORY})",
        "logging.getLogger().addHandler(femtomp.worker_handler())",
        "femtomp.worker_init()",
    ],
)
def test_a_second_server_and_all_that_one_may_do_again(tmp_path, once, again):
    """Set up for the first server, and again for the second: one copy of a record."""
    found, _ = run(
        tmp_path,
        f"""
        first = start()
        {once}
        logging.warning("first")
        first.stop()
        second = start()
        {again}
        logging.warning("second")
        arrived(second)
        """,
    )
    assert found == [["root", "first"], ["root", "second"]]


@each
def test_worker_init_beside_a_handler_with_a_level(tmp_path, handler):
    """The root's own femtomp handler stays as it was configured, and alone."""
    found, _ = run(
        tmp_path,
        f"""
        first = start()
        configure({{**{handler}, "level": "WARNING"}})
        femtomp.worker_init()
        logging.warning("first")
        first.stop()
        second = start()
        femtomp.worker_init()
        logging.info("filtered")
        logging.warning("second")
        arrived(second)
        """,
    )
    assert found == [["root", "first"], ["root", "second"]]


@each
def test_levels_and_filters_are_the_handlers_own(tmp_path, handler):
    """Two handlers with levels and filters change neither each other nor `worker_init`'s.

    Configured twice, no filter is there twice.
    """
    found, _ = run(
        tmp_path,
        f"""
        server = start()
        femtomp.worker_init()
        mine = femtomp.worker_handler()
        for _ in range(2):
            logging.config.dictConfig({{
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {{"cart": {{"name": "shop.cart"}}}},
                "handlers": {{
                    "errors": {{**{handler}, "level": "ERROR"}},
                    "cart": {{**{handler}, "filters": ["cart"]}},
                }},
                "loggers": {{
                    "shop": {{"handlers": ["errors"], "propagate": False}},
                    "other": {{"handlers": ["cart"], "propagate": False}},
                }},
            }})
            (cart,) = logging.getLogger("other").handlers
            assert len(cart.filters) == 1
        assert (mine.level, mine.filters) == (0, [])
        assert femtomp.worker_handler() is mine
        logging.info("root")
        logging.getLogger("shop").info("no error")
        logging.getLogger("shop").error("error")
        logging.getLogger("other").info("filtered")
        arrived(server)
        """,
    )
    assert found == [["root", "root"], ["shop", "error"]]


@each
def test_a_formatter_is_an_error_that_says_where_formats_go(tmp_path, handler):
    """The sinks have formats: a handler's formatter would change nothing."""
    found, _ = run(
        tmp_path,
        f"""
        server = start()
        try:
            configure({{**{handler}, "formatter": "f"}})
        except ValueError as exc:
            said = f"{{type(exc.__cause__).__name__}}: {{exc.__cause__}}"
            assert said.startswith("ConfigError: WorkerHandler takes no formatter"), said
            assert 'FileSink("app.log", format="text")' in said
        else:
            raise AssertionError
        configure({handler})
        logging.info("%s", "body")
        arrived(server)
        """,
    )
    assert found == [["root", "body"]]


def test_the_formatter_of_basic_config_counts_as_none(tmp_path):
    """`logging.basicConfig` gives each handler a formatter: without a format of the
    user's it is no error, with one it is.
    """
    found, _ = run(
        tmp_path,
        """
        server = start()
        logging.basicConfig(handlers=[femtomp.worker_handler()], level="INFO")
        logging.info("%s", "body")
        try:
            logging.basicConfig(
                handlers=[femtomp.worker_handler()], format="%(message)s", force=True
            )
        except femtomp.ConfigError:
            pass
        else:
            raise AssertionError
        arrived(server)
        """,
    )
    assert found == [["root", "body"]]


@each
def test_disabled_loggers_stay_disabled(tmp_path, handler):
    """`disable_existing_loggers` does what it always does, and to femtomp nothing."""
    found, _ = run(
        tmp_path,
        f"""
        server = start()
        before = logging.getLogger("before")
        configure({handler}, disable_existing_loggers=True)
        before.error("disabled")
        logging.getLogger("after").error("said")
        assert server.flush()
        arrived(server)
        """,
    )
    assert found == [["after", "said"]]


@each
def test_incremental(tmp_path, handler):
    """An incremental configuration changes the handler's level by its name."""
    found, _ = run(
        tmp_path,
        f"""
        server = start()
        configure({handler})
        logging.info("one")
        logging.config.dictConfig({{
            "version": 1, "incremental": True,
            "handlers": {{"femtomp": {{"level": "ERROR"}}}}, "root": {{"level": "DEBUG"}},
        }})
        logging.info("filtered")
        logging.error("two")
        arrived(server)
        """,
    )
    assert found == [["root", "one"], ["root", "two"]]


@each
@pytest.mark.skipif(sys.version_info < (3, 12), reason="handlers= came with 3.12")
def test_behind_a_queue_handler(tmp_path, handler):
    """A QueueHandler of 3.12 hands on to femtomp's handler by its listener."""
    found, _ = run(
        tmp_path,
        f"""
        server = start()
        logging.config.dictConfig({{
            "version": 1,
            "handlers": {{
                "femtomp": {handler},
                "queue": {{
                    "class": "logging.handlers.QueueHandler", "handlers": ["femtomp"],
                }},
            }},
            "root": {{"level": "INFO", "handlers": ["queue"]}},
        }})
        listener = logging.getHandlerByName("queue").listener
        listener.start()
        logging.info("queued")
        listener.stop()
        arrived(server)
        """,
    )
    assert found == [["root", "queued"]]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="handlers= may be left out")
def test_a_queue_handler_over_the_servers_queue(tmp_path):
    """The server's queue is one for QueueHandler: `"queue": server.queue`."""
    found, _ = run(
        tmp_path,
        """
        server = start()
        logging.config.dictConfig({
            "version": 1,
            "handlers": {"queue": {
                "class": "logging.handlers.QueueHandler", "queue": server.queue,
            }},
            "root": {"level": "INFO", "handlers": ["queue"]},
        })
        logging.info("queued")
        arrived(server)
        """,
    )
    assert found == [["root", "queued"]]


@each
def test_forked_and_spawned_workers_configure_themselves(tmp_path, handler):
    """A settings module that is run in the master and in each worker: one copy each."""
    path = tmp_path / "app.py"
    path.write_text(
        PRELUDE
        + textwrap.dedent(
            f"""
            import multiprocessing

            def work(number):
                configure({handler})
                logging.info("%d", number)

            if __name__ == "__main__":
                server = start()
                configure({handler})
                for number, method in enumerate(("fork", "spawn", "forkserver")):
                    context = multiprocessing.get_context(method)
                    worker = context.Process(target=work, args=(number,))
                    worker.start()
                    worker.join()
                arrived(server)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, path, tmp_path], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        ["root", "0"], ["root", "1"], ["root", "2"],
    ]  # fmt: skip


def test_basic_config_of_a_file(tmp_path):
    """`basic_config(config=...)` takes sinks and level of the file; again it is reused."""
    found, _ = run(
        tmp_path,
        """
        config = {"level": "WARNING", "sinks": [f"file:{PATH}/app"]}
        server = femtomp.basic_config(config=config, spool_parent=PATH)
        assert femtomp.basic_config(config=config) is server
        logging.info("filtered")
        logging.warning("said")
        arrived(server)
        """,
    )
    assert found == [["root", "said"]]
