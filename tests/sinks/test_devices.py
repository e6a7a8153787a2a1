"""Devices: a `FileSink` writes to terminals and /dev/null, and opens no other one."""

from __future__ import annotations

import os
import pty
import stat

import pytest

from femtomp.config import FileSink
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, RetryAfter, devices
from femtomp.sinks.file import open_driver
from tests.records import batch


@pytest.mark.parametrize(
    "name", ["full", "zero", "random", "kmsg", "mem", "ptmx", "fuse", "loop0"]
)
def test_other_devices_are_refused_unopened(monkeypatch, name) -> None:
    """The error names the device and what is allowed; nothing of it was opened."""
    path = f"/dev/{name}"
    if not os.path.exists(path):
        pytest.skip(f"there is no {path}")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: opened.append(p) or real(p, *a, **k)
    )
    with pytest.raises(
        ConfigError, match=f"cannot append to {path}: it is a"
    ) as caught:
        open_driver(FileSink(path))
    if stat.S_ISCHR(os.stat(path).st_mode):
        assert "terminals and /dev/null" in str(caught.value)
    assert path not in opened


@pytest.mark.parametrize("drivers", ["/proc/tty/drivers", "/nowhere"])
def test_terminals_and_null_are_written_to(monkeypatch, drivers) -> None:
    """Lines go to a terminal by its path, and to /dev/null, as before."""
    monkeypatch.setattr(devices, "_DRIVERS", drivers)
    master, slave = pty.openpty()
    for path in (os.ttyname(slave), "/dev/null"):
        driver = open_driver(FileSink(path))
        assert driver.write(batch(1)) == Delivered()
        driver.close()
    assert b"record 0" in os.read(master, 65536)
    for descriptor in (master, slave):
        os.close(descriptor)


@pytest.mark.parametrize("drivers", ["/proc/tty/drivers", "/nowhere"])
def test_terminals_are_told_by_their_numbers(monkeypatch, drivers) -> None:
    """A pseudo-terminal is one; its master, what makes it, and memory are none."""
    monkeypatch.setattr(devices, "_DRIVERS", drivers)
    assert devices.is_terminal(136, 7)
    assert devices.is_terminal(5, 0)
    assert not devices.is_terminal(5, 2)
    assert not devices.is_terminal(128, 0)
    assert not devices.is_terminal(1, 7)
    assert not devices.is_terminal(10, 130)  # the watchdog


@pytest.mark.parametrize("first", ["file", "fifo"])
def test_a_device_in_the_place_of_a_file_is_not_opened(tmp_path, first) -> None:
    """What takes the path's place while the sink runs is looked at before, too."""
    path = tmp_path / "app.jsonl"
    read = -1
    if first == "fifo":
        os.mkfifo(path)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    driver = open_driver(FileSink(path))
    assert driver.write(batch(1)) == Delivered()
    path.unlink()
    path.symlink_to("/dev/full")
    outcome = driver.write(batch(1))
    assert isinstance(outcome, RetryAfter)
    assert "character device (1:7)" in outcome.reason
    driver.close()
    if read >= 0:
        os.close(read)
