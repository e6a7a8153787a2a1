"""The file driver: whole lines, once, whatever the disk does."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from femtomp.codec.text import json_line
from femtomp.config import FileSink
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Driver, RetryAfter
from femtomp.sinks.file import open_driver
from tests.records import batch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "app.jsonl"


@pytest.fixture(name="open_sink")
def _open_sink(path):
    drivers = []

    def open_sink(**options):
        drivers.append(open_driver(FileSink(path, **options)))
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.close()


def bodies(path) -> list:
    """Read the bodies of all lines."""
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line)["body"] for line in text.splitlines()]


def test_batches_are_appended_in_order(path, open_sink) -> None:
    """Each record is one line of JSON, behind what the file held before."""
    path.write_text('{"body":"before"}\n')
    driver = open_sink()
    assert isinstance(driver, Driver)
    assert driver.write(batch(2)) == Delivered()
    assert driver.write(batch(1)) == Delivered()
    assert bodies(path) == ["before", "record 0", "record 1", "record 0"]


def test_text_format(path, open_sink) -> None:
    """The text format writes lines for people, never coloured."""
    open_sink(format="text").write(batch(1))
    assert "shop.cart: record 0" in path.read_text()
    assert "\x1b" not in path.read_text()


def test_batch_is_one_write(path, open_sink, monkeypatch) -> None:
    """A batch costs one os.write, so that others' appends fall between batches."""
    sizes = []
    real = os.write
    driver = open_sink()
    monkeypatch.setattr(os, "write", lambda fd, d: sizes.append(len(d)) or real(fd, d))
    driver.write(batch(50))
    assert sizes == [path.stat().st_size]


def test_new_file_is_readable_by_its_group(path) -> None:
    """A file that is created gets mode 0640 under the supervisor's umask of 077."""
    old = os.umask(0o077)
    try:
        open_driver(FileSink(path)).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_existing_file_keeps_its_mode(path) -> None:
    """The mode that an administrator gave stays."""
    path.touch()
    path.chmod(0o604)
    open_driver(FileSink(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_cut_last_line_is_ended_first(path, open_sink) -> None:
    """After a crash in the middle of a line the next record has a line of its own."""
    whole, _ = map(json_line, batch(2))
    path.write_bytes(whole + b"half a li")
    assert open_sink().write(batch(1)) == Delivered()
    assert path.read_bytes() == whole + b"half a li\n" + whole


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_cut_line_that_comes_again_is_taken_back(path, cut) -> None:
    """What a killed engine had half written, the next one writes whole, and once."""
    first, second, third = map(json_line, batch(3))
    for before in (b"", first):
        for half in (second[:cut], third[:cut]):
            path.write_bytes(before + half)
            driver = open_driver(FileSink(path))
            assert driver.write(batch(3)[1:]) == Delivered()
            driver.close()
            assert path.read_bytes() == before + second + third


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_cut_line_may_come_again_later(path, cut) -> None:
    """It need not be in the first batch, and there is no half line whatever comes."""
    first, second, third = map(json_line, batch(3))
    path.write_bytes(first + third[:cut])
    driver = open_driver(FileSink(path))
    driver.write(batch(3)[1:2])
    assert path.read_bytes() == first + second
    driver.write(batch(3)[2:])
    driver.close()
    assert path.read_bytes() == first + second + third


def test_cut_line_that_never_comes_again_is_put_back(path) -> None:
    """At the end it is there, as a line of its own."""
    first, second, third = map(json_line, batch(3))
    path.write_bytes(first + third[:-3])
    driver = open_driver(FileSink(path))
    driver.write(batch(3)[1:2])
    driver.close()
    assert path.read_bytes() == first + second + third[:-3] + b"\n"


def test_line_that_somebody_is_writing_is_left_alone(path) -> None:
    """Where the file grew since it was opened, a cut line is another process's."""
    first, second, third = map(json_line, batch(3))
    path.write_bytes(first + third[:-3])
    driver = open_driver(FileSink(path))
    with path.open("ab") as other:
        other.write(third[-3:-2])
    driver.write(batch(3)[1:2])
    driver.close()
    assert path.read_bytes() == first + third[:-2] + b"\n" + second


def test_nothing_is_taken_back_beside_another_engine(path, open_sink) -> None:
    """What looks cut may be in the middle of another engine's write, and stays."""
    first, second, third = map(json_line, batch(3))
    open_sink()  # the other one's
    path.write_bytes(first + second[:20])
    driver = open_sink()
    assert driver.write(batch(3)[1:]) == Delivered()
    assert path.read_bytes() == first + second[:20] + b"\n" + second + third


def test_another_engines_line_that_is_whole_by_now_costs_nothing(
    path, open_sink
) -> None:
    """Seen in the middle of its write, and ended since: no line is added or cut."""
    first, second, third = map(json_line, batch(3))
    path.write_bytes(first + second[:20])
    driver = open_sink()
    with path.open("ab") as other:
        other.write(second[20:])
    assert driver.write(batch(3)[2:]) == Delivered()
    assert path.read_bytes() == first + second + third


def test_a_locked_file_is_written_all_the_same(path, open_sink) -> None:
    """A user's own flock on the file neither blocks nor fails a write."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert open_sink().write(batch(2)) == Delivered()
    assert bodies(path) == ["record 0", "record 1"]


def test_short_writes_are_continued(path, open_sink, monkeypatch) -> None:
    """A write that takes a part only is followed by the rest."""
    real = os.write
    driver = open_sink()
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    assert driver.write(batch(3)) == Delivered()
    assert bodies(path) == ["record 0", "record 1", "record 2"]


FILL_AND_RETRY = """
import resource, signal, sys
from pathlib import Path
from femtomp.config import FileSink
from femtomp.sinks import Delivered
from femtomp.sinks.file import open_driver
from tests.records import batch
path, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
driver = open_driver(FileSink(path))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
records = batch(40)
outcome = driver.write(records)
print(outcome.accepted, path.stat().st_size, path.read_bytes()[-1:], flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, resource.RLIM_INFINITY))
assert driver.write(records[outcome.accepted:]) == Delivered()
"""


def test_full_disk_takes_whole_lines_only(path) -> None:
    """What fits is accepted, the cut line is taken back, and the rest follows once."""
    size = len(json_line(batch(1)[0]))
    limit = 5 * size + size // 2
    done = subprocess.run(
        [sys.executable, "-c", FILL_AND_RETRY, path, str(limit)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["5", str(5 * size), "b'\\n'"]
    assert bodies(path) == [record.body for record in batch(40)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_error_of_the_disk_is_retried(path, open_sink, monkeypatch, code) -> None:
    """An error of the file system is an outcome that names the file, not a raise."""
    driver = open_sink()

    def fail(fd, data):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        outcome = driver.write(batch(2))
    assert isinstance(outcome, RetryAfter)
    assert outcome.accepted == 0
    assert outcome.delay_s > 0
    assert outcome.reason == f"{path}: {os.strerror(code)}"
    assert driver.write(batch(2)) == Delivered()
    assert bodies(path) == ["record 0", "record 1"]


def test_cut_line_that_cannot_be_taken_back_is_ended(
    path, open_sink, monkeypatch
) -> None:
    """Where others have appended behind a cut line, it is ended, and none is lost."""
    driver = open_sink()
    real = os.write
    calls = []

    def cut_then_fail(fd, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.EIO, "gone")
        size = real(fd, data[:10])
        with path.open("ab") as other:
            other.write(b"other")
        return size

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", cut_then_fail)
        assert driver.write(batch(1)).accepted == 0
    driver.write(batch(1))
    line = json_line(batch(1)[0])
    assert path.read_bytes() == line[:10] + b"other\n" + line


def test_rotated_file_is_left_for_the_new_one(path, open_sink) -> None:
    """After a rename, or a deletion, records go to a new file of the name."""
    driver = open_sink()
    driver.write(batch(1))
    path.rename(path.with_suffix(".1"))
    driver.write(batch(2))
    assert bodies(path) == ["record 0", "record 1"]
    assert bodies(path.with_suffix(".1")) == ["record 0"]
    path.unlink()
    driver.write(batch(1))
    assert bodies(path) == ["record 0"]


def test_directory_that_vanishes_is_waited_for(tmp_path) -> None:
    """A directory that is gone later is a reason to retry, until it is back."""
    directory = tmp_path / "d"
    directory.mkdir()
    driver = open_driver(FileSink(directory / "f"))
    (directory / "f").unlink()
    directory.rmdir()
    assert isinstance(driver.write(batch(1)), RetryAfter)
    directory.mkdir()
    assert driver.write(batch(1)) == Delivered()
    driver.close()


def test_descriptors_do_not_pile_up(path, open_sink) -> None:
    """Opening a rotated file anew closes the old one."""
    driver = open_sink()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        path.unlink()
        driver.write(batch(1))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("name", "code"), [("", "EISDIR"), ("missing/app.jsonl", "ENOENT")]
)
def test_unusable_path_is_a_config_error(tmp_path, name, code) -> None:
    """What cannot be opened is said at construction, with path and error."""
    path = tmp_path / name
    with pytest.raises(ConfigError, match=f"cannot append to {path}: {code} "):
        open_driver(FileSink(path))


def test_device_is_written_as_it_is() -> None:
    """A path that is no regular file is neither truncated nor followed."""
    driver = open_driver(FileSink("/dev/null"))
    assert driver.write(batch(1)) == Delivered()
    driver.close()
