"""Options of a `FileSink`: what cannot be used is said by name, in the master."""

from __future__ import annotations

import os

import pytest

from femtomp.config import FileSink
from femtomp.errors import ConfigError

ROTATED = {"rotate_bytes": 4096}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rotate_bytes": 0}, "rotate_bytes must be a whole number of bytes, 1024 or"),
        ({"rotate_bytes": "10MB"}, "or None, not '10MB'"),
        ({"rotate_bytes": True}, "rotate_bytes must be"),
        ({"rotate_bytes": 1e6}, "rotate_bytes must be a whole number"),
        (
            {"rotate_interval_s": 0},
            "rotate_interval_s must be a number of seconds, 0.1",
        ),
        ({"rotate_interval_s": "daily"}, "not 'daily'"),
        ({"rotate_interval_s": float("nan")}, "rotate_interval_s must be"),
        ({"rotate_interval_s": float("inf")}, "rotate_interval_s must be"),
        (
            ROTATED | {"keep_files": 0},
            "keep_files must be a whole number of files, 1 or",
        ),
        (ROTATED | {"keep_days": -1}, "keep_days must be a number of days, 0 or more"),
        (ROTATED | {"compress": "zip"}, "compress must be one of None, 'gzip', not"),
        (ROTATED | {"compress": True}, "compress must be one of"),
        (ROTATED | {"utc": "no"}, "utc must be True or False"),
        ({"fsync": True}, "fsync must be one of 'never', 'batch', not True"),
        ({"mode": 640}, "mode must be a number from 0o600 to 0o777 .*, not 0o1200"),
        (
            {"mode": 0o440},
            "that lets the owner read and write, such as 0o640, not 0o440",
        ),
        ({"mode": "0640"}, "mode must be a number"),
        ({"keep_files": 3}, "keep_files is for rotated files: give rotate_bytes= or"),
        ({"keep_days": 3}, "keep_days is for rotated files"),
        ({"compress": "gzip"}, "compress is for rotated files"),
    ],
    ids=str,
)
def test_bad_value_is_named(options, said) -> None:
    """The error names the option, what was given and what is allowed."""
    with pytest.raises(ConfigError, match=f"^FileSink: .*{said}"):
        FileSink("app.jsonl", **options)


def test_all_options_together() -> None:
    """What is allowed is kept as it was given."""
    sink = FileSink(
        "a", rotate_bytes=1024, rotate_interval_s=0.5, utc=False, compress="gzip",
        keep_files=1, keep_days=0.5, fsync="batch", mode=0o600,
    )  # fmt: skip
    assert (sink.rotate_bytes, sink.keep_days, sink.mode) == (1024, 0.5, 0o600)


@pytest.mark.parametrize(
    "target", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"]
)
def test_stream_of_the_process_itself_is_refused(tmp_path, target) -> None:
    """It would be the supervisor's, also behind links as Docker images have them."""
    with pytest.raises(ConfigError, match=r"use ConsoleSink\('stdout'"):
        FileSink(target)
    (tmp_path / "second").symlink_to(target)
    (tmp_path / "first").symlink_to("second")
    with pytest.raises(ConfigError, match=r"use ConsoleSink\('stdout'"):
        FileSink(tmp_path / "first")


def test_other_links_are_allowed(tmp_path) -> None:
    """A link to a file, to nothing or to itself is left to the opening."""
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nothing", tmp_path / "link")
    assert FileSink(tmp_path / "loop").path == tmp_path / "loop"
    assert FileSink(tmp_path / "link").path == tmp_path / "link"
