"""From options to a driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from femtomp.config import ConsoleSink, FileSink, JournaldSink, OTLPSink
from femtomp.errors import ConfigError
from femtomp.sinks import Driver
from femtomp.sinks.build import build
from tests.components import require
from tests.records import batch


def test_each_kind_of_options_has_a_driver(tmp_path) -> None:
    """Every sink of the configuration can be built."""
    require("otlp")
    sinks = [ConsoleSink(), FileSink(tmp_path / "f"), OTLPSink("http://127.0.0.1:9")]
    for sink in sinks:
        driver = build(sink, stderr_fd=2, stdout_fd=1, environ={})
        assert isinstance(driver, Driver)
        driver.close()
    path = str(tmp_path / "none")
    with pytest.raises(ConfigError, match="JournaldSink: cannot reach"):
        build(JournaldSink(path), stderr_fd=2, stdout_fd=1, environ={})


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_console_writes_to_the_stream_that_is_meant(tmp_path, stream) -> None:
    """The console gets the master's stream of the options' name."""
    files = {name: (tmp_path / name).open("wb") for name in ("stderr", "stdout")}
    driver = build(
        ConsoleSink(stream),
        stderr_fd=files["stderr"].fileno(),
        stdout_fd=files["stdout"].fileno(),
        environ={},
    )
    driver.write(batch(1))
    for name, file in files.items():
        file.close()
        assert (os.stat(tmp_path / name).st_size > 0) is (name == stream)


def test_unknown_options_are_a_config_error() -> None:
    """What is no sink is refused by its repr."""
    with pytest.raises(ConfigError, match="not a sink: 7"):
        build(7, stderr_fd=2, stdout_fd=1, environ={})


LOADED = """
import os, sys
from femtomp.config import FileSink
from femtomp.sinks.build import build
build(FileSink(os.devnull), stderr_fd=2, stdout_fd=1, environ={}).close()
heavy = {"google.protobuf", "grpc", "requests", "ssl", "opentelemetry", "socket"}
print(sorted(heavy & set(sys.modules)))
"""


def test_driver_that_is_not_used_is_not_loaded() -> None:
    """A supervisor that writes a file loads no network code."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True)
    assert done.stdout.strip() == b"[]", done.stderr
