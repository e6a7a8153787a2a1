"""Imports go one way: the package's rooms and who may import whom.

The whole source is walked as a syntax tree, so that imports inside functions, behind
`TYPE_CHECKING` and by `import_module("femtomp...")` count as much as those at the top.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "femtomp"

BASE = frozenset({"base"})
ANYTHING = frozenset(
    {
        "base",
        "cli",
        "codec",
        "door",
        "integrations",
        "lanes",
        "otel",
        "sinks",
        "supervisor",
        "testing",
        "worker",
    }
)

# room -> the rooms that it may import, beside itself
ALLOWED: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "codec": BASE,
    "lanes": BASE | {"codec"},
    "worker": BASE | {"codec", "lanes"},
    "otel": BASE | {"codec", "lanes", "worker"},
    "sinks": BASE | {"codec"},
    "supervisor": BASE | {"codec", "lanes", "sinks"},
    "integrations": frozenset({"door"}),
    "door": ANYTHING,
    "cli": ANYTHING,
    "testing": ANYTHING,
}

# module or package directly below femtomp -> its room
ROOMS: dict[str, str] = {
    "": "door",
    "__main__": "cli",
    "cli": "cli",
    "codec": "codec",
    "checks": "base",
    "config": "base",
    "options": "base",
    "grammar": "base",
    "settings": "base",
    "limits": "base",
    "nowait": "base",
    "errors": "base",
    "formats": "base",
    "frozen": "base",
    "native": "base",
    "file_options": "base",
    "otlp_options": "base",
    "integrations": "integrations",
    "journald_options": "base",
    "lanes": "lanes",
    "otel": "otel",
    "pyinstaller_hooks": "door",
    "pytest_plugin": "testing",
    "record": "base",
    "redaction": "base",
    "sinks": "sinks",
    "supervisor": "supervisor",
    "testing": "testing",
    "worker": "worker",
}

# Annotations of any room may name these.
TYPES_FOR_ALL = frozenset(
    {
        "femtomp.config",
        "femtomp.limits",
        "femtomp.options",
        "femtomp.record",
        "femtomp.redaction",
    }
)

# Whoever imports one of these does I/O, reads a clock, draws random numbers or waits.
IMPURE = frozenset(
    {
        "asyncio",
        "concurrent",
        "fcntl",
        "ftplib",
        "getpass",
        "glob",
        "http",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "platform",
        "queue",
        "random",
        "resource",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "smtplib",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
    }
)

# The one codec whose product is a class of such a module; it asks nothing else of it.
MAKES = {"femtomp.codec.logrecord": "logging"}


class Import(NamedTuple):
    """One imported module: its full name, the line, and if only for annotations."""

    target: str
    line: int
    typing_only: bool


def modules() -> dict[str, Path]:
    """Give every module of the package, by its full name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def room_of(module: str) -> str | None:
    """Tell in which room a module is; None if in none."""
    return ROOMS.get(module.partition(".")[2].partition(".")[0])


def imports(tree: ast.Module, module: str, *, is_package: bool) -> list[Import]:
    """List all imports of a module, `from package import name` as package.name."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package=is_package)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _is_import_call(node):
            targets = [ast.literal_eval(node.args[0])]
        else:
            continue
        found += [Import(t, node.lineno, id(node) in typing_only) for t in targets]
    return found


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    drop = node.level - is_package
    parts = parts[: len(parts) - drop]
    return ".".join([*parts, node.module] if node.module else parts)


def _is_import_call(node: ast.Call) -> bool:
    name = ast.unparse(node.func).rpartition(".")[2]
    return (
        name in {"import_module", "__import__"}
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Say what a module imports that its room may not."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room: add it to ROOMS, and to the drawing"]
    wrong = []
    for target, line, typing_only in imports(
        ast.parse(source), module, is_package=is_package
    ):
        place = f"{module}:{line} ({room})"
        top = target.partition(".")[0]
        if room == "codec" and top in IMPURE and MAKES.get(module) != top:
            wrong.append(f"{place} imports {top}: a codec has no I/O and no clock")
        if top != "femtomp" or room == "door":
            continue
        # A name that is no module of the package is one of the door's names.
        other = room_of(target) or "door"
        typed = ".".join(target.split(".")[:2]) in TYPES_FOR_ALL and typing_only
        if other != room and other not in ALLOWED[room] and not typed:
            wrong.append(f"{place} imports {target} ({other})")
    return wrong


@pytest.mark.parametrize("module", modules())
def test_module_imports_only_what_its_room_may(module: str) -> None:
    """Every module imports its own room and the rooms below it, nothing else."""
    path = modules()[module]
    found = violations(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("femtomp.record", "from femtomp.codec import wire"),
        ("femtomp.config", "from femtomp import worker_handler"),
        ("femtomp.codec.wire", "import femtomp.lanes.spool"),
        ("femtomp.codec.wire", "def f():\n    import time"),
        ("femtomp.codec.wire", "from os import path"),
        ("femtomp.lanes.queue", "from femtomp.worker import capture"),
        ("femtomp.worker.handler", "def f():\n    from femtomp.sinks import file"),
        ("femtomp.worker.handler", "from ..supervisor.process import Server"),
        ("femtomp.worker", "from . import handler\nfrom ..sinks import file"),
        ("femtomp.worker.handler", "from femtomp import supervisor"),
        ("femtomp.worker.handler", "import_module('femtomp.sinks.otlp')"),
        ("femtomp.worker.handler", "from femtomp import WorkerHandler"),
        (
            "femtomp.worker.handler",
            "if TYPE_CHECKING:\n    from femtomp.sinks.file import Driver",
        ),
        ("femtomp.supervisor.pump", "from femtomp.worker.identity import read"),
        ("femtomp.sinks.file", "from femtomp.lanes.reader import Reader"),
        ("femtomp.integrations.celery", "from femtomp.worker.handler import x"),
        ("femtomp.integrations.celery", "from femtomp.record import Record"),
        ("femtomp.brand_new", ""),
    ],
)
def test_wrong_import_is_found(module: str, source: str) -> None:
    """The walker finds every way to import what a room may not have."""
    is_package = module == "femtomp.worker"
    assert len(violations(source, module, is_package=is_package)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("femtomp", "from femtomp.supervisor.process import Server"),
        ("femtomp.codec.wire", "from femtomp.record import Record\nimport struct"),
        ("femtomp.codec", "from . import wire\nfrom .frame import encode"),
        ("femtomp.lanes.writer", "from . import spool\nfrom ..codec import frame"),
        ("femtomp.worker.handler", "from femtomp import errors\nimport os, time"),
        ("femtomp.supervisor.pump", "from femtomp.sinks import file\nimport grpc"),
        ("femtomp.integrations.celery", "import femtomp\nfrom femtomp import log"),
        (
            "femtomp.integrations.celery",
            "if typing.TYPE_CHECKING:\n    from femtomp.record import Record",
        ),
        ("femtomp.cli.tail", "from femtomp.lanes.reader import Reader"),
    ],
)
def test_right_import_is_left_alone(module: str, source: str) -> None:
    """The walker has nothing to say about imports that go down, or out."""
    is_package = module == "femtomp.codec"
    assert violations(source, module, is_package=is_package) == []


def test_rooms_agree() -> None:
    """Every room that a module can be in has a rule, and the rules have no cycle."""
    assert set(ROOMS.values()) == set(ALLOWED)
    inner = {room: set(ALLOWED[room]) for room in ALLOWED if ALLOWED[room] != ANYTHING}
    del inner["integrations"]
    while inner:
        free = [room for room, needs in inner.items() if not needs & set(inner)]
        assert free, f"a cycle among {sorted(inner)}"
        for room in free:
            del inner[room]
