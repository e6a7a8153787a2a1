"""`import femtomp` is cheap and changes nothing.

Each test looks at a fresh interpreter: this one has loaded everything already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import femtomp

ROOT = Path(__file__).resolve().parents[1]

# Beyond what `import logging` loads. The door's own modules are about forty: what a log
# call needs at the interpreter's end is loaded before. One careless import (psutil: 30,
# msgspec: 38, OpenTelemetry: 300) does not fit.
MAX_NEW_MODULES = 64

HEAVY = (
    "asyncio",
    "concurrent",
    "femtomp.cli",
    "femtomp.integrations",
    "femtomp.sinks",
    "femtomp.supervisor",
    "femtomp.testing",
    "grpc",
    "http",
    "msgspec",
    "multiprocessing",
    "opentelemetry",
    "psutil",
    "rich",
    "socket",
    "ssl",
    "subprocess",
)

# State that an import must leave as it is; taken before and after.
SNAPSHOT = """
import atexit, json, logging, os, signal, sys, threading, warnings

def snapshot():
    return {
        "atexit": atexit._ncallbacks(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "environment": dict(os.environ),
        "factory": repr(logging.getLogRecordFactory()),
        "hooks": [repr(sys.excepthook), repr(threading.excepthook),
                  repr(sys.unraisablehook)],
        "logger_class": repr(logging.getLoggerClass()),
        "loggers": sorted(logging.root.manager.loggerDict),
        "raise_exceptions": logging.raiseExceptions,
        "root": [logging.root.level, logging.root.disabled,
                 [repr(h) for h in logging.root.handlers],
                 [repr(f) for f in logging.root.filters], logging.root.manager.disable],
        "all_handlers": len(logging._handlerList),
        "signals": [repr(signal.getsignal(s)) for s in signal.valid_signals()],
        "streams": [repr(sys.stdout), repr(sys.stderr)],
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": [t.name for t in threading.enumerate()],
        "warning_filters": len(warnings.filters),
    }
"""


def fresh(code: str) -> Any:
    """Run code in an interpreter of its own and return the JSON that it prints."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FEMTOMP_", "OTEL_", "PYTHON"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def loaded_by(statement: str) -> set[str]:
    """Give the modules that a statement loads, beyond those of `import logging`."""
    return set(
        fresh(
            "import sys, json, logging\n"
            "before = set(sys.modules)\n"
            f"{statement}\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
    )


def heavy_among(modules: set[str], heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """Give the modules that are, or are below, one of those named."""
    return sorted(
        m for m in modules if any(m == h or m.startswith(f"{h}.") for h in heavy)
    )


def test_import_loads_no_heavy_module() -> None:
    """The door loads no sink, no supervisor, no network and no third party."""
    assert heavy_among(loaded_by("import femtomp")) == []


def test_import_loads_few_modules() -> None:
    """The door costs a few modules more than logging itself."""
    loaded = loaded_by("import femtomp")
    assert "femtomp" in loaded
    assert len(loaded) < MAX_NEW_MODULES, sorted(loaded)


@pytest.mark.parametrize(
    "statement", ["import psutil", "import msgspec", "import http.client"]
)
def test_measure_sees_heavy_modules(statement: str) -> None:
    """What the door must not load is seen when it is loaded."""
    assert heavy_among(loaded_by(statement))


def test_import_changes_nothing() -> None:
    """The import starts no thread and touches no logger, hook, signal or variable."""
    before, after = fresh(
        SNAPSHOT + "before = snapshot()\n"
        "import femtomp\n"
        "print(json.dumps([before, snapshot()]))"
    )
    assert after == before


def test_snapshot_sees_changes() -> None:
    """A handler, a variable, a thread and an exit function are all noticed."""
    before, after = fresh(
        SNAPSHOT + "before = snapshot()\n"
        "logging.getLogger('x').addHandler(logging.NullHandler())\n"
        "os.environ['X'] = '1'\n"
        "atexit.register(print, end='')\n"
        "stop = threading.Event()\n"
        "threading.Thread(target=stop.wait, daemon=True).start()\n"
        "after = snapshot()\n"
        "stop.set()\n"
        "print(json.dumps([before, after]))"
    )
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {
        "all_handlers",
        "atexit",
        "environment",
        "loggers",
        "tasks",
        "threads",
    }


def test_every_public_name_resolves() -> None:
    """Every name in `__all__` is there, is in `dir()`, and is listed once."""
    names, found, listed = fresh(
        "import json, femtomp\n"
        "names = list(femtomp.__all__)\n"
        "found = [n for n in names if getattr(femtomp, n, None) is not None]\n"
        "print(json.dumps([names, found, dir(femtomp)]))"
    )
    assert names
    assert found == names
    assert sorted(set(names)) == sorted(names)
    assert set(names) <= set(listed)


def test_public_names_start_nothing() -> None:
    """To look at every public name starts no thread and touches no logger either."""
    before, after, loaded = fresh(
        SNAPSHOT + "before = snapshot()\n"
        "import femtomp\n"
        "for name in femtomp.__all__: getattr(femtomp, name)\n"
        "print(json.dumps([before, snapshot(), sorted(sys.modules)]))"
    )
    # The standard library's: multiprocessing registers an exit function, and
    # concurrent.futures makes a logger, when they are imported.
    for key in ("atexit", "loggers"):
        del before[key], after[key]
    assert after == before
    assert heavy_among(set(loaded), ("grpc", "opentelemetry", "rich")) == []


@pytest.mark.parametrize(
    "name",
    [
        "testing.captured_records",
        "otel.LoggerProvider",
        "integrations.pool.install",
        "integrations.asgi.RequestContext",
    ],
)
def test_public_modules_need_no_import_of_their_own(name: str) -> None:
    """What the documents print as `femtomp.testing.X` works after `import femtomp`."""
    command = [sys.executable, "-c", f"import femtomp; femtomp.{name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_there_is_no_integration_of_any_name() -> None:
    """An unknown one is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'fortran'"):
        _ = femtomp.integrations.fortran
    assert "gunicorn" in dir(femtomp.integrations)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that the door does not have is refused as by any module."""
    message = fresh(
        "import json, femtomp\n"
        "try: femtomp.no_such_name\n"
        "except AttributeError as exc: print(json.dumps(str(exc)))"
    )
    assert "no_such_name" in message
    assert "femtomp" in message
