"""From options to a driver; the only place that knows all of them.

Drivers are imported when one is built, so that a supervisor without a collector never
loads gRPC or ssl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from femtomp.config import (
    ConsoleSink,
    FileSink,
    HandlerSink,
    JournaldSink,
    OTLPSink,
)
from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import SinkOptions
    from femtomp.sinks import Driver


def build(
    options: SinkOptions, *, stderr_fd: int, stdout_fd: int, environ: Mapping[str, str]
) -> Driver:
    """Open the destination that the options name.

    Parameters
    ----------
    options : ConsoleSink, FileSink, JournaldSink, OTLPSink or HandlerSink
        What to build.
    stderr_fd, stdout_fd : int
        The master's streams, for the console; not closed by any driver.
    environ : mapping of str to str
        The supervisor's environment.

    Returns
    -------
    Driver
        To be used and closed by one thread.

    Raises
    ------
    ConfigError
        If the destination cannot be opened as described.
    MissingExtraError
        If a package that it needs is not installed.
    """
    if isinstance(options, ConsoleSink):
        from femtomp.sinks import console

        fd = stdout_fd if options.stream == "stdout" else stderr_fd
        return console.open_driver(options, fd=fd, environ=environ)
    if isinstance(options, FileSink):
        from femtomp.sinks import file

        return file.open_driver(options)
    if isinstance(options, JournaldSink):
        from femtomp.sinks import journald

        return journald.open_driver(options, stderr_fd=stderr_fd, environ=environ)
    if isinstance(options, OTLPSink):
        from femtomp.sinks.otlp import open_driver

        return open_driver(options, environ=environ)
    if isinstance(options, HandlerSink):
        from femtomp.sinks import handler

        return handler.open_driver(options)
    msg = f"not a sink: {options!r}"
    raise ConfigError(msg)
