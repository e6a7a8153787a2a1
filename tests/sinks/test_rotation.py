"""The file driver rotates: no line is lost, torn, doubled or out of order."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import stat
import threading
import time

import pytest

from femtomp.codec.text import json_line
from femtomp.config import FileSink
from femtomp.errors import ConfigError
from femtomp.sinks import Delivered, Reopens, RetryAfter, housekeeping, rotated
from femtomp.sinks.file import open_driver
from femtomp.testing import check_sink, wait_until
from tests.records import batch

LINE = len(json_line(batch(1)[0]))


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


def files(path) -> list:
    """Give the rotated files, oldest first, then the one that is written to."""
    there = [path.with_name(f"{path.name}.{stamp}{ending}")
             for stamp, endings in sorted(rotated.find(str(path)).items())
             for ending in endings]  # fmt: skip
    return [*there, path] if path.exists() else there


def bodies(*paths) -> list:
    """Give the bodies of all lines of several files, each of which must be whole."""
    found = []
    for path in paths:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        assert data.endswith(b"\n") or not data
        found += [json.loads(line)["body"] for line in data.splitlines()]
    return found


def test_no_file_is_larger_than_asked(path, open_sink) -> None:
    """A batch is spread over files at the ends of lines, in order."""
    driver = open_sink(rotate_bytes=3 * LINE + 50)
    assert driver.write(batch(10)) == Delivered()
    assert driver.write(batch(2)) == Delivered()
    expected = [f"record {n}" for n in [*range(10), 0, 1]]
    assert bodies(*files(path)) == expected
    assert [len(bodies(file)) for file in files(path)] == [3, 3, 3, 3]


def test_record_of_several_lines_stays_together(path, open_sink) -> None:
    """A text record with a long body is in one file, however long it is."""
    record = batch(1)[0]._replace(body="first\n" + "more\n" * 400)
    driver = open_sink(rotate_bytes=1024, format="text")
    driver.write([record] * 3)
    texts = [file.read_text() for file in files(path)]
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_names_sort_though_the_clock_was_set_back(path, open_sink, monkeypatch) -> None:
    """A rotated file's name is behind all others, and none is ever given twice."""
    driver = open_sink(rotate_bytes=1024)
    for now in (2e9, 2e9, 1e9, 2e9 + 1):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        driver.write(batch(1))
        driver.write(batch(2)[1:] * 8)
    monkeypatch.undo()
    seen = bodies(*files(path))
    assert seen == (["record 0"] + ["record 1"] * 8) * 4
    names = [file.name for file in files(path)]
    assert names[0] == "app.jsonl.20330518T033320.000000Z"
    assert names == [*sorted(names[:-1]), "app.jsonl"]


def test_file_of_an_earlier_interval_is_rotated(path, open_sink, monkeypatch) -> None:
    """The first record of a day begins a file, also where the file is another run's."""
    path.write_bytes(json_line(batch(1)[0]))
    day = 86400
    os.utime(path, (day - 1, day - 1))
    monkeypatch.setattr(time, "time", lambda: float(day))
    driver = open_sink(rotate_interval_s=day)
    driver.write(batch(2))
    monkeypatch.setattr(time, "time", lambda: 2.0 * day - 1)
    driver.write(batch(1))
    monkeypatch.setattr(time, "time", lambda: 2.0 * day)
    driver.write(batch(1))
    assert [len(bodies(file)) for file in files(path)] == [1, 3, 1]


def test_empty_file_is_never_rotated(path, open_sink, monkeypatch) -> None:
    """A file without a line has no past."""
    path.touch()
    os.utime(path, (0, 0))
    open_sink(rotate_interval_s=1, rotate_bytes=1024).write(batch(1))
    assert files(path) == [path]


@pytest.mark.parametrize(
    ("zone", "utc", "at", "due"),
    [
        ("Europe/Berlin", True, "2026-01-01T22:59:59", False),
        ("Europe/Berlin", True, "2026-01-01T23:00:00", False),
        ("Europe/Berlin", False, "2026-01-01T22:59:59", False),
        ("Europe/Berlin", False, "2026-01-01T23:00:00", True),
        ("Asia/Kolkata", False, "2026-01-01T18:30:00", True),
    ],
)
def test_local_midnight(monkeypatch, tmp_path, zone, utc, at, due) -> None:
    """With `utc=False` a day begins at the local midnight."""
    from datetime import UTC, datetime

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        options = FileSink(tmp_path / "f", rotate_interval_s=86400, utc=utc)
        schedule = rotated.Schedule(options)
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
        now = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
        monkeypatch.setattr(time, "time", lambda: noon)
        schedule.wrote()
        monkeypatch.setattr(time, "time", lambda: now)
        assert schedule.is_past(1) is due
    finally:
        monkeypatch.undo()
        time.tzset()


def test_weeks_begin_on_monday(tmp_path, monkeypatch) -> None:
    """An interval of seven days ends at midnight before Monday."""
    schedule = rotated.Schedule(FileSink(tmp_path / "f", rotate_interval_s=604800))
    sunday = 1798415999.0  # 2026-12-27T23:59:59Z
    monkeypatch.setattr(time, "time", lambda: sunday)
    schedule.wrote()
    assert not schedule.is_past(1)
    monkeypatch.setattr(time, "time", lambda: sunday + 1)
    assert schedule.is_past(1)


def test_file_begun_by_another_at_midnight_is_of_today(tmp_path, monkeypatch) -> None:
    """A file's time may be that of the tick before: it is not rotated for that."""
    schedule = rotated.Schedule(FileSink(tmp_path / "f", rotate_interval_s=3600))
    (tmp_path / "f").touch()
    os.utime(tmp_path / "f", (7199.996, 7199.996))
    schedule.opened(os.stat(tmp_path / "f"))
    monkeypatch.setattr(time, "time", lambda: 7200.001)
    assert not schedule.is_past(1)


# -- others ------------------------------------------------------------------------------


def test_two_drivers_rotate_the_same_file(path, open_sink) -> None:
    """Two that write and rotate at once lose, tear and double no line."""
    drivers = [open_sink(rotate_bytes=4096, compress="gzip") for _ in range(2)]
    count = 300

    def work(driver, number):
        for n in range(count):
            records = [r._replace(body=[number, n, r.body]) for r in batch(3)]
            while (outcome := driver.write(records)) != Delivered():
                assert isinstance(outcome, RetryAfter)
                records = records[outcome.accepted :]

    threads = [
        threading.Thread(target=work, args=(d, n)) for n, d in enumerate(drivers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled(path)
    seen = bodies(*files(path))
    for number in range(2):
        mine = [body[1:] for body in seen if body[0] == number]
        assert mine == [[n, f"record {k}"] for n in range(count) for k in range(3)]
    assert len(files(path)) > 20


def test_file_that_another_process_keeps_is_waited_for(
    path, open_sink, monkeypatch
) -> None:
    """Whoever has the file's lock has the file; the records wait, and it is said."""
    monkeypatch.setattr("femtomp.sinks.file._MOST_TURNS", 3)
    driver = open_sink()
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        outcome = driver.write(batch(1))
        assert isinstance(outcome, RetryAfter)
        assert outcome.reason == f"{path}: another process holds its lock"
    assert driver.write(batch(1)) == Delivered()
    assert bodies(path) == ["record 0"]


def test_file_moved_between_look_and_lock_is_not_written_to(path, open_sink) -> None:
    """A file that got another name while its lock was waited for is left alone."""
    driver = open_sink()
    driver.write(batch(1))
    aside = path.with_suffix(".aside")
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=driver.write, args=(batch(2),))
        thread.start()
        path.rename(aside)
    thread.join()
    assert bodies(aside) == ["record 0"]
    assert bodies(path) == ["record 0", "record 1"]


def test_copytruncate_works(path, open_sink) -> None:
    """A file that is cut to nothing is written from its beginning."""
    driver = open_sink(rotate_bytes=4096)
    driver.write(batch(5))
    os.truncate(path, 0)
    driver.write(batch(1))
    assert bodies(path) == ["record 0"]


def test_cut_line_of_another_is_ended(path, open_sink) -> None:
    """A line that somebody cuts while the file is open is never continued by ours."""
    driver = open_sink()
    driver.write(batch(1))
    with path.open("ab") as other:
        other.write(b"half")
    driver.write(batch(1))
    line = json_line(batch(1)[0])
    assert path.read_bytes() == line + b"half\n" + line


def test_link_stays_and_its_target_is_rotated(path, tmp_path, open_sink) -> None:
    """Where the path is a link, rotated files lie beside what it leads to."""
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "real.jsonl"
    path.symlink_to(target)
    open_sink(rotate_bytes=3 * LINE).write(batch(5))
    assert path.is_symlink()
    assert len(files(target)) == 2
    assert bodies(*files(target)) == [f"record {n}" for n in range(5)]


def test_reopen_makes_the_file_at_once(path, open_sink) -> None:
    """Reopening lets go of a file that was moved, before any record comes."""
    driver = open_sink()
    assert isinstance(driver, Reopens)
    driver.write(batch(1))
    path.rename(path.with_suffix(".1"))
    driver.reopen()
    assert path.stat().st_size == 0
    driver.write(batch(2))
    assert bodies(path) == ["record 0", "record 1"]


def test_mode_is_that_of_every_file_made(path, open_sink) -> None:
    """`mode` holds for the first file, its successors and compressed ones."""
    old = os.umask(0o077)
    try:
        driver = open_sink(mode=0o664, rotate_bytes=3 * LINE, compress="gzip")
        driver.write(batch(10))
    finally:
        os.umask(old)
    settled(path)
    assert len(files(path)) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(path)} == {0o664}


# -- the disk ----------------------------------------------------------------------------


def test_directory_that_cannot_be_changed_stops_no_record(
    path, open_sink, monkeypatch, caplog
) -> None:
    """Where the file cannot be renamed it grows, which is said, and is tried again."""
    driver = open_sink(rotate_bytes=3 * LINE)

    def refuse(old, new):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert driver.write(batch(5)) == Delivered()
    assert files(path) == [path]
    assert f"{path} cannot be rotated: Permission denied" in caplog.text
    assert driver.write(batch(1)) == Delivered()
    assert files(path) == [path]
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert driver.write(batch(1)) == Delivered()
    assert [len(bodies(file)) for file in files(path)] == [6, 1]


def test_no_room_for_the_new_file_makes_the_records_wait(
    path, open_sink, monkeypatch
) -> None:
    """A disk that fills in the middle of a rotation loses and doubles nothing."""
    driver = open_sink(rotate_bytes=3 * LINE + 50)
    real = os.open

    def full(name, flags, *args, **more):
        if flags & os.O_CREAT and str(name) == str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(name, flags, *args, **more)

    records = batch(5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        outcome = driver.write(records)
        assert outcome.accepted == 3
        assert outcome.reason == f"{path}: No space left on device"
        assert driver.write(records[3:]).accepted == 0
    assert driver.write(records[3:]) == Delivered()
    assert bodies(*files(path)) == [f"record {n}" for n in range(5)]
    assert [len(bodies(file)) for file in files(path)] == [3, 2]


def test_part_that_fits_the_disk_is_counted_over_files(
    path, open_sink, monkeypatch
) -> None:
    """Lines that went into earlier files count as accepted when a later one fails."""
    driver = open_sink(rotate_bytes=3 * LINE + 50)
    real, sizes = os.write, []

    def full(descriptor, data):
        sizes.append(len(data))
        if len(sizes) == 1:
            return real(descriptor, data)
        if len(sizes) == 2:
            return real(descriptor, data[: LINE + 10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    records = batch(5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert driver.write(records).accepted == 4
    assert driver.write(records[4:]) == Delivered()
    assert bodies(*files(path)) == [f"record {n}" for n in range(5)]


def test_fsync_is_before_delivered(path, open_sink, monkeypatch) -> None:
    """With fsync="batch" a batch costs one fdatasync; without, none."""
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(1) or real(fd))
    open_sink().write(batch(3))
    assert synced == []
    open_sink(fsync="batch").write(batch(3))
    assert synced == [1]


def test_batch_that_is_not_on_the_disk_comes_again_once(
    path, open_sink, monkeypatch
) -> None:
    """Where fdatasync fails the batch is taken back, and not accepted."""
    driver = open_sink(fsync="batch")
    driver.write(batch(1))

    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        assert driver.write(batch(2)).accepted == 0
    assert bodies(path) == ["record 0"]
    assert driver.write(batch(2)) == Delivered()
    assert bodies(path) == ["record 0", "record 0", "record 1"]


def test_driver_that_rotates_does_its_duties(path) -> None:
    """Rotating, the driver holds to what every driver does."""
    check_sink(lambda: open_driver(FileSink(path, rotate_bytes=1024, fsync="batch")))


# -- what is no file ---------------------------------------------------------------------


@pytest.fixture(name="pipe")
def _pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_pipe_without_a_reader_keeps_the_records_waiting(pipe) -> None:
    """Nothing is written into a pipe that nobody reads, and nothing waits for it."""
    driver = open_driver(FileSink(pipe))
    outcome = driver.write(batch(1))
    assert outcome.accepted == 0
    assert outcome.reason == f"{pipe}: nobody reads it"
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert driver.write(batch(2)) == Delivered()
    assert len(os.read(reader, 65536).splitlines()) == 2
    os.close(reader)
    assert driver.write(batch(2)).accepted == 0
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert driver.write(batch(3)) == Delivered()
    assert len(os.read(reader, 65536).splitlines()) == 3
    os.close(reader)
    driver.close()


def test_full_pipe_takes_whole_lines(pipe) -> None:
    """A slow reader gets every line once, and the sink never waits for it."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    driver = open_driver(FileSink(pipe))
    records = [r._replace(uid=f"e-{n}") for n, r in enumerate(batch(400))]
    data, left = b"", records
    while left:
        outcome = driver.write(left)
        left = [] if outcome == Delivered() else left[outcome.accepted :]
        data += os.read(reader, 1 << 20)
    driver.close()
    assert [json.loads(line)["uid"] for line in data.splitlines()] == [
        r.uid for r in records
    ]
    os.close(reader)


def test_pipe_that_was_made_anew_is_followed(pipe) -> None:
    """A pipe of the same name is another pipe."""
    driver = open_driver(FileSink(pipe))
    pipe.unlink()
    assert isinstance(driver.write(batch(1)), RetryAfter)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert driver.write(batch(1)) == Delivered()
    assert os.read(reader, 65536)
    os.close(reader)
    driver.close()


@pytest.mark.parametrize("more", [{"rotate_bytes": 4096}, {"fsync": "batch"}])
def test_pipe_cannot_be_rotated_or_synced(pipe, more) -> None:
    """Options that mean nothing for a pipe are refused at construction."""
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        open_driver(FileSink(pipe, **more))


def test_pipe_in_the_place_of_the_file_is_not_written_to(path, open_sink) -> None:
    """What became no file while it was open is a reason to wait."""
    driver = open_sink()
    path.unlink()
    os.mkfifo(path)
    outcome = driver.write(batch(1))
    assert outcome.reason == f"{path}: it is no regular file"
    path.unlink()
    assert driver.write(batch(1)) == Delivered()


# -- housekeeping ------------------------------------------------------------------------


def settled(path, count=None) -> None:
    """Wait until every rotated file is compressed, and so many are left."""

    def is_settled():
        found = rotated.find(str(path)).values()
        return all(endings == {".gz"} for endings in found) and (
            count is None or len(found) == count
        )

    wait_until(is_settled)


def test_rotated_files_are_compressed_by_themselves(path, open_sink) -> None:
    """Each becomes a gzip file with its time and its lines, in the background."""
    driver = open_sink(rotate_bytes=3 * LINE + 50, compress="gzip")
    driver.write(batch(10))
    settled(path, 3)
    assert bodies(*files(path)) == [f"record {n}" for n in range(10)]


def test_so_many_files_are_kept(path, open_sink) -> None:
    """The oldest rotated files go, the one written to does not count."""
    driver = open_sink(rotate_bytes=3 * LINE + 50, keep_files=2)
    driver.write(batch(13))
    wait_until(lambda: len(files(path)) == 3)
    assert bodies(*files(path)) == [f"record {n}" for n in range(6, 13)]


def test_a_burst_keeps_so_many_files_while_one_is_compressed(path, monkeypatch) -> None:
    """Two more than are kept lie there at most, and none more when the sink is closed:
    a file that is deleted in the midst of its compression comes back in no form.
    """
    begun, may_go_on = threading.Event(), threading.Event()
    write_all = housekeeping._write_all

    def slowly(descriptor: int, data: bytes) -> None:
        begun.set()
        assert may_go_on.wait(30)
        write_all(descriptor, data)

    monkeypatch.setattr(housekeeping, "_write_all", slowly)
    options = {"rotate_bytes": 3 * LINE + 50, "keep_files": 3, "compress": "gzip"}
    driver = open_driver(FileSink(path, **options))
    driver.write(batch(6))
    assert begun.wait(30)
    for _ in range(30):
        assert driver.write(batch(3)) == Delivered()
        assert len(files(path)) - 1 <= 3 + 2
    may_go_on.set()
    driver.close()
    assert len(files(path)) - 1 == 3
    assert bodies(path) == ["record 0", "record 1", "record 2"]


def test_old_files_go(path, open_sink) -> None:
    """A rotated file goes so many days after its last line; others' files stay."""
    old = [path.with_name(f"app.jsonl.20200101T00000{n}.000000Z") for n in range(3)]
    others = [path.with_name(name) for name in ("app.jsonl.1", "app.jsonl.2020", "x")]
    for file in (*old, *others):
        file.touch()
        age = 3 * 86400 if file != old[2] else 86400
        os.utime(file, (time.time() - age, time.time() - age))
    open_sink(rotate_interval_s=86400, keep_days=2)
    wait_until(lambda: files(path) == [old[2], path])
    assert all(file.exists() for file in others)


OPTIONS = {"rotate_bytes": 4096, "compress": "gzip"}


def tidy(path) -> bool:
    """Tell whether all that is to be done was done."""
    wait_s = housekeeping.tidy(FileSink(path, **OPTIONS), lambda: False)
    return wait_s == housekeeping.LOOK_S


@pytest.fixture(name="plain")
def _plain(path):
    plain = path.with_name("app.jsonl.20261121T000000.000000Z")
    plain.write_bytes(b"".join(map(json_line, batch(50))))
    return plain


def test_file_between_two_names_is_finished(path, plain) -> None:
    """A crash after the compressed file got its name: the plain one goes."""
    packed = plain.with_name(plain.name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert tidy(path)
    assert files(path) == [packed]


def test_other_file_of_the_name_is_left_alone(path, plain, caplog) -> None:
    """A compressed file that holds something else is neither replaced nor trusted."""
    packed = plain.with_name(plain.name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()[:-1]))
    before = packed.read_bytes()
    assert tidy(path)
    assert packed.read_bytes() == before
    assert plain.exists()
    assert "both are left alone" in caplog.text


def test_half_compressed_file_is_done_again(path, plain) -> None:
    """What a crash left of a compressed file is replaced, or goes with its original."""
    part = plain.with_name(plain.name + ".gz.part")
    part.write_bytes(b"half")
    lonely = path.with_name("app.jsonl.20261120T000000.000000Z.gz.part")
    lonely.write_bytes(b"half")
    expected = bodies(plain)
    assert tidy(path)
    assert [file.name for file in files(path)] == [plain.name + ".gz"]
    assert bodies(*files(path)) == expected


def test_file_in_other_hands_is_compressed_later(path, plain) -> None:
    """One that another supervisor has in hand is tried again."""
    with plain.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not tidy(path)
        assert files(path) == [plain]
    assert tidy(path)
    assert files(path)[0].suffix == ".gz"


def test_full_disk_leaves_the_plain_file(path, plain, monkeypatch, caplog) -> None:
    """Compressing that fails leaves nothing behind and takes nothing away."""
    real = os.write

    def full(descriptor, data):
        real(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not tidy(path)
    assert f"{plain} is left as it is: No space left on device" in caplog.text
    assert files(path) == [plain]
    assert tidy(path)


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_step_that_fails_takes_nothing_away(path, plain, monkeypatch, step) -> None:
    """Until the compressed file has its name, the plain one has its own."""

    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    expected = bodies(plain)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        assert not tidy(path)
    assert plain.exists()
    assert tidy(path)
    assert bodies(*files(path)) == expected


def test_stopping_ends_in_the_middle_of_a_file(path, plain) -> None:
    """A sink that is closed does not wait for its files to be compressed."""
    assert housekeeping.tidy(FileSink(path, **OPTIONS), lambda: True)
    assert files(path) == [plain]
    asked = iter([False, True, True])
    assert housekeeping.tidy(FileSink(path, **OPTIONS), lambda: next(asked))
    assert files(path) == [plain]


def test_link_among_rotated_files_is_not_followed(path, plain, tmp_path) -> None:
    """A link with such a name leads to no file that is compressed or deleted."""
    secret = tmp_path / "secret"
    plain.rename(secret)
    plain.symlink_to(secret)
    later = path.with_name("app.jsonl.20261122T000000.000000Z")
    later.write_bytes(secret.read_bytes())
    assert not tidy(path)
    assert secret.exists()
    assert plain.is_symlink()
    assert [file.suffix for file in files(path)] == [plain.suffix, ".gz"]
