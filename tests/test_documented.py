"""Each command that the documents print is run in CI, or said why not."""

from __future__ import annotations

from tests.documented import documented, is_known, run


def test_every_documented_command_is_known() -> None:
    """A new command needs an entry in `tests/documented.py`, which CI runs."""
    commands = documented()
    assert len(commands) > 15
    assert [command for command in sorted(commands) if not is_known(command)] == []


def test_a_command_that_fails_is_noticed() -> None:
    """A traceback and an unknown command are both said."""
    assert "Traceback" in run("python -c 'print(1 // 0)'", "")
    assert "exit status" in run("python -m benchmarks.nothing", "")
    assert run("python -c 'print(1)'", "") == ""
