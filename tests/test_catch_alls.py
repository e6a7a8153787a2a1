"""What swallows any exception is listed here, each with its reason.

A handler that ends in `raise` cleans up or translates, and is no catch-all.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "femtomp"
BROAD = frozenset({"BaseException", "Exception"})

# (module, function) -> why nothing narrower will do
ALLOWED: dict[tuple[str, str], str] = {
    # The log call: it never raises, whatever the records' own code does.
    ("femtomp.worker.handler", "WorkerHandler.handle"): "times that are none; its own",
    ("femtomp.worker.handler", "WorkerHandler.keep"): "no caller sees femtomp's fault",
    ("femtomp.worker.handler", "WorkerHandler.keep_anew"): "the same",
    ("femtomp.worker.handler", "WorkerHandler._emit"): "the same",
    ("femtomp.worker.handler", "WorkerHandler._filtered"): "a filter's own code",
    ("femtomp.worker.channel", "Channel._open_lane"): "the same: stderr has the record",
    ("femtomp.worker.fallback", "prepare"): "amid the import of what it needs",
    ("femtomp.worker.fallback", "_time"): "a time of any type, compared and divided",
    ("femtomp.worker.capture", "Attributes.__getitem__"): "a property of a record's",
    ("femtomp.worker.init", "worker_init"): "a pool would start workers for ever",
    ("femtomp.worker.capture", "from_log_record"): "getMessage, and then with care",
    ("femtomp.worker.capture", "_with_care"): "a LogRecord of unheard-of shape",
    ("femtomp.worker.capture", "_trace_if_any"): "the application's tracer",
    ("femtomp.worker.capture", "message"): "__str__ and __format__ of arguments",
    ("femtomp.worker.capture", "_message_again"): "the same, when they fail again",
    ("femtomp.worker.exceptions", "take"): "an exception's own attributes",
    ("femtomp.worker.exceptions", "_exact_text"): "__str__ of exceptions and notes",
    ("femtomp.worker.exceptions", "_lines"): "a loader's own code",
    ("femtomp.worker.exceptions", "_Walk._notes"): "__notes__ may be a property",
    ("femtomp.worker.plain", "text"): "__str__ of a message or name",
    ("femtomp.worker.capture", "_int"): "__int__ of a level",
    ("femtomp.worker.plain", "_plain"): "__repr__ and iteration of any object",
    ("femtomp.worker.plain", "described"): "__str__ of an exception",
    ("femtomp.worker.plain", "_key_text"): "__str__ of a key",
    ("femtomp.worker.identity", "_told"): "a callable of the user's, in a log call",
    ("femtomp.worker.fork", "_after_in_child"): "nobody could be told in a fork hook",
    # A filter of the user's: the record is kept.
    ("femtomp.supervisor.admission", "Admission._takes"): "any code of the user's",
    # A record that cannot be redacted goes on without its words.
    ("femtomp.codec.redaction", "Redactor.record"): "better nothing than a secret",
    ("femtomp.worker.logger", "Logger._log"): "arguments' __str__, and then with care",
    ("femtomp.worker.by_record", "_mapping"): "an `extra` that is no mapping",
    ("femtomp.worker.by_record", "_value"): "a lambda, which may raise anything",
    ("femtomp.worker.identity", "_instance_id"): "whatever tracer provider is set",
    ("femtomp.otel.logs", "_of_scope"): "a mapping's own code",
    ("femtomp.worker.carry", "_current_trace"): "__str__ of baggage's values",
    ("femtomp.otel.logs", "Logger.emit"): "any code of a record's own values",
    # The sink call: its fault must not end the others.
    ("femtomp.supervisor.pump", "Pump.run"): "building a driver: told to start_server",
    ("femtomp.supervisor.pump", "Pump._write"): "a driver's fault, found and counted",
    ("femtomp.supervisor.pump", "Pump._reopen_if_asked"): "a driver's own code",
    ("femtomp.supervisor.pump", "Pump._close"): "a driver's own code",
    ("femtomp.sinks.answers", "problem_of"): "__str__ of an exception",
    ("femtomp.supervisor.guardian", "become"): "the last frame, written to stderr",
    (
        "femtomp.supervisor.guardian",
        "_become_guardian",
    ): "the last frame, written to stderr",
    # Code of the user that is part of a sink.
    ("femtomp.sinks.formatter", "_Encoder.__call__"): "a formatter: told in the line",
    (
        "femtomp.sinks.handler",
        "_Handler._failure_of",
    ): "a handler: refused, or tried on",
}


def catch_alls(source: str) -> list[tuple[str, int]]:
    """Give the enclosing function and the line of every catch-all."""
    found: list[tuple[str, int]] = []

    def walk(node: ast.AST, scope: tuple[str, ...]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope = (*scope, node.name)
        if (isinstance(node, ast.ExceptHandler) and _swallows_all(node)) or (
            isinstance(node, ast.Call) and _suppresses_all(node)
        ):
            found.append((".".join(scope), node.lineno))
        for child in ast.iter_child_nodes(node):
            walk(child, scope)

    walk(ast.parse(source), ())
    return found


def _swallows_all(handler: ast.ExceptHandler) -> bool:
    if isinstance(handler.body[-1], ast.Raise):
        return False
    return handler.type is None or _is_broad(handler.type)


def _suppresses_all(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    return name == "suppress" and any(_is_broad(arg) for arg in call.args)


def _is_broad(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(name).rpartition(".")[2] in BROAD for name in names)


def in_package() -> dict[tuple[str, str], int]:
    """Give every catch-all of the package with its line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for function, line in catch_alls(path.read_text()):
            found[module, function] = line
    return found


def test_every_catch_all_is_listed() -> None:
    """No function swallows any exception whatever unless the table says why."""
    unlisted = {k: line for k, line in in_package().items() if k not in ALLOWED}
    assert not unlisted, "\n".join(
        f"{module}:{line} in {function or 'the module'}: catch what can happen, or "
        "list it in ALLOWED with its reason"
        for (module, function), line in unlisted.items()
    )


def test_every_listed_catch_all_exists() -> None:
    """The table has no entry for code that is gone, and none without a reason."""
    gone = ALLOWED.keys() - in_package().keys()
    assert not gone
    assert all(reason.strip() for reason in ALLOWED.values())


@pytest.mark.parametrize(
    ("source", "functions"),
    [
        ("def f():\n try: g()\n except Exception: pass", ["f"]),
        ("def f():\n try: g()\n except BaseException as e: h(e)", ["f"]),
        ("def f():\n try: g()\n except: pass", ["f"]),
        ("def f():\n try: g()\n except (OSError, Exception): pass", ["f"]),
        ("def f():\n try: g()\n except builtins.Exception: pass", ["f"]),
        ("def f():\n with contextlib.suppress(Exception): g()", ["f"]),
        ("class C:\n async def f(self):\n  try: g()\n  except: pass", ["C.f"]),
        ("def f():\n try: g()\n except* Exception: pass", ["f"]),
        ("try: g()\nexcept Exception: pass", [""]),
        ("def f():\n try: g()\n except OSError: pass", []),
        ("def f():\n try: g()\n except (OSError, ValueError): pass", []),
        ("def f():\n try: g()\n except Exception:\n  h()\n  raise", []),
        ("def f():\n try: g()\n except Exception as e: raise X from e", []),
        ("def f():\n with suppress(OSError): g()", []),
    ],
)
def test_walker_tells_catch_alls_from_others(source: str, functions: list[str]) -> None:
    """A catch-all is found however it is written, and nothing else is."""
    assert [function for function, _ in catch_alls(source)] == functions
