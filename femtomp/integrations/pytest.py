"""pytest and pytest-xdist: what each worker's tests log, live, in one place.

In: pytest's hooks. Out: a femtomp server in the controller, and in every worker a
handler whose records say which worker and which test they are of. Sinks get them while
tests run, whatever becomes of the worker.

    pytest -n 4 --femtomp-sink file:tests.jsonl --log-level DEBUG

or ``femtomp_sinks`` in pytest's configuration. Without sinks nothing happens at all.
Levels are pytest's: nothing of them, of `caplog` or of captured logs is changed.
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import pytest

import femtomp

if TYPE_CHECKING:
    from collections.abc import Generator

OPTION: Final = "femtomp_sinks"
# What OpenTelemetry calls it.
TEST: Final = "test.case.name"
WORKER: Final = "pytest.worker.id"
# What pytest-xdist's `worker_id` is where tests are not distributed.
_CONTROLLER: Final = "master"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line's option, and that of the configuration."""
    parser.getgroup("logging").addoption(
        "--femtomp-sink",
        action="append",
        dest=OPTION,
        metavar="SINK",
        help="where femtomp writes what tests log: console, file:PATH, ...; repeatable",
    )
    parser.addini(OPTION, "where femtomp writes what tests log", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Start the server, or attach to the controller's; nothing if there are no sinks.

    Raises
    ------
    pytest.UsageError
        If the server cannot be started.
    """
    sinks = config.getoption(OPTION) or config.getini(OPTION)
    if sinks and not config.getoption("collectonly", default=False):
        config.pluginmanager.register(Live(config, list(sinks)), "femtomp-live")


class Live:
    """The plugin of one process, controller or worker.

    Parameters
    ----------
    config : pytest.Config
    sinks : list of str
        For the controller.
    """

    def __init__(self, config: pytest.Config, sinks: list[str]) -> None:
        worker = getattr(config, "workerinput", {}).get("workerid")
        self._server = None if worker else _start(config, sinks)
        self._handler = _Handler()
        _identify(worker or _CONTROLLER)
        self._attach()

    def _attach(self) -> None:
        # Again, where a test has configured logging anew. Equal ones are taken once.
        logging.getLogger().addHandler(self._handler)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item
    ) -> Generator[None, object, object]:
        """Run a test; what is logged meanwhile is its."""
        self._attach()
        self._handler.test = item.nodeid
        try:
            return (yield)
        finally:
            self._handler.test = None

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Deliver what is left, in the controller."""
        logging.getLogger().removeHandler(self._handler)
        if self._server is not None:
            self._server.stop()


class _Handler(femtomp.WorkerHandler):
    """Puts the running test on the records of all threads and forked children.

    In the context of the call and not in the LogRecord, which is `caplog`'s as well.
    """

    test: str | None = None

    def handle(self, record: logging.LogRecord) -> Any:
        if self.test is None:
            return super().handle(record)
        with femtomp.log_context(**{TEST: self.test}):
            return super().handle(record)

    def __eq__(self, other: object) -> bool:
        # One that the code under test adds would only say everything twice.
        return isinstance(other, femtomp.WorkerHandler) and (
            other.address == self.address
        )

    __hash__ = femtomp.WorkerHandler.__hash__


def _start(config: pytest.Config, sinks: list[str]) -> femtomp.Server:
    capture = config.pluginmanager.getplugin("capturemanager")
    # Else the console sink's descriptor would be that of pytest's own capturing.
    with nullcontext() if capture is None else capture.global_and_fixture_disabled():
        try:
            return femtomp.start_server(sinks, name="pytest")
        except femtomp.FemtompError as exc:
            msg = f"--femtomp-sink: {exc}"
            raise pytest.UsageError(msg) from exc


def _identify(worker: str) -> None:
    pid = os.getpid()

    def who() -> dict[str, str]:
        own = {"femtomp.worker.name": worker} if os.getpid() == pid else {}
        return {**own, WORKER: worker}

    femtomp.identify(who)
