"""A worker of another user that does random things to all that it can reach.

It changes no process but through files: names in the spool, and descriptors that it
inherited. What it does is drawn from a seed.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
_KINDS = ("own", "side", "0.seg", "1.seg", "7.seg", "cur", "pull")
_DEEP = 40


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def reachable(spool: Path) -> list[int]:
    """Give the descriptors of this process that lead into a spool."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(f"{spool}/"):
            found.append(int(name))
    return found


def open_now(path: Path, mode: str) -> IO[bytes]:
    """Open a file without waiting for a lease on it to end."""
    return open(path, mode, opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK))


class Hostile:
    """Random attacks on one spool.

    Parameters
    ----------
    spool : Path
    seed : int
    spared : tuple of str
        Beginnings of the names that are left alone: other workers' lanes of this user,
        who are at its mercy, and what these share.
    epochs : tuple of str
        Names of other lanes, to plant something beside them.
    count : callable
        Called behind each attack.
    """

    def __init__(self, spool, seed, spared=(), epochs=(), count=lambda: None):
        self._spool = spool
        self._lanes = spool / "lanes"
        self._draw = random.Random(seed)
        self._spared = spared
        self._epochs = [*epochs, "f" * 24, "0" * 24, "a" * 24, "b" * 24]
        self._leased: list[int] = []
        self._count = count

    def run(self) -> None:
        """Attack until killed."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        attacks = (
            self.directory, self.pipe, self.link, self.socket, self.sparse, self.noise,
            self.copy, self.twin, self.rename, self.hard_link, self.unlink, self.mode,
            self.lease, self.lock, self.truncate, self.damage, self.words, self.append,
            self.mode_of_all, self.outside, self.inherited,
        )  # fmt: skip
        while True:
            try:
                self._draw.choice(attacks)()
            except (OSError, ValueError):
                continue
            finally:
                self._count()

    def existing(self) -> Path:
        """Give something that is there, a pipe excepted: opening one may wait."""
        os.chmod(self._lanes, 0o700)
        names = [n for n in os.listdir(self._lanes) if not n.startswith(self._spared)]
        path = self._lanes / self._draw.choice(names or ["none"])
        if path.is_fifo():
            path.unlink()
        return path

    def content(self, path: Path) -> bytearray:
        with open_now(path, "rb") as file:
            return bytearray(file.read(1 << 20))

    def owns(self) -> list[str]:
        os.chmod(self._lanes, 0o700)
        return [
            name
            for name in os.listdir(self._lanes)
            if name.endswith(".own") and (self._lanes / name).is_file()
        ]

    def new(self) -> Path:
        """Give a name for something planted; what had it is moved away."""
        draw = self._draw
        epoch = draw.choice([*self._epochs, f"{draw.getrandbits(96):024x}"])
        name = draw.choice(
            [f"{epoch}.{kind}" for kind in _KINDS]
            + [f".{epoch}.own.tmp", "space", "unkept", "\udcff\n\x1b[2J", "x" * 255]
        )
        path = self._lanes / name
        if name.startswith(self._spared):
            raise ValueError(name)
        if os.path.lexists(path):
            path.rename(self._lanes / f".moved{draw.getrandbits(32)}")
        return path

    def directory(self) -> None:
        path = self.new()
        path.mkdir()
        for _ in range(self._draw.choice((0, 1, _DEEP))):
            path /= "d"
            path.mkdir()

    def pipe(self) -> None:
        os.mkfifo(self.new())

    def link(self) -> None:
        target = self._draw.choice(("/etc/passwd", "/dev/zero", "nowhere", "."))
        self.new().symlink_to(target)

    def socket(self) -> None:
        with socket.socket(socket.AF_UNIX) as each:
            each.bind(str(self.new()))

    def sparse(self) -> None:
        with self.new().open("wb") as file:
            file.truncate(1 << self._draw.randrange(10, 42))

    def noise(self) -> None:
        self.new().write_bytes(self._draw.randbytes(self._draw.randrange(9000)))

    def copy(self) -> None:
        content = self.content(self.existing())
        self.new().write_bytes(content)

    def twin(self) -> None:
        """Copy an `.own` and make it say that it is another lane's."""
        names = self.owns()
        content = self.content(self._lanes / self._draw.choice(names))
        epoch = f"{self._draw.getrandbits(96):024x}"
        content[12:24] = bytes.fromhex(epoch)
        for _ in range(self._draw.randrange(3)):
            at = self._draw.randrange(64, 512, 8)
            content[at : at + 8] = self._draw.randbytes(8)
        (self._lanes / f"{epoch}.own").write_bytes(content)
        segment = self._draw.choice(names)[:24] + ".0.seg"
        path = self._lanes / segment
        if path.exists():
            (self._lanes / f"{epoch}.0.seg").write_bytes(self.content(path))

    def rename(self) -> None:
        self.existing().rename(self.new())

    def hard_link(self) -> None:
        os.link(self.existing(), self.new())

    def unlink(self) -> None:
        self.existing().unlink()

    def mode(self) -> None:
        self.existing().chmod(self._draw.randrange(0o10000))

    def mode_of_all(self) -> None:
        os.chmod(self._lanes, self._draw.choice((0o777, 0o711, 0o1777, 0o4700)))

    def lease(self) -> None:
        if len(self._leased) > 64:
            os.close(self._leased.pop(0))
        path = self._draw.choice((self.existing, self.new))()
        self._leased.append(
            os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o600)
        )
        fcntl.fcntl(self._leased[-1], fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def lock(self) -> None:
        if len(self._leased) > 64:
            os.close(self._leased.pop(0))
        self._leased.append(os.open(self.existing(), os.O_RDWR | os.O_NONBLOCK))
        fcntl.lockf(self._leased[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)

    def truncate(self) -> None:
        with open_now(self.existing(), "r+b") as file:
            file.truncate(self._draw.choice((0, 1, 64, 128, 4096, 1 << 30)))

    def damage(self) -> None:
        with open_now(self.existing(), "r+b") as file:
            file.seek(self._draw.randrange(6000))
            file.write(self._draw.randbytes(self._draw.randrange(1, 64)))

    def words(self) -> None:
        """Have an `.own` say anything: how much was begun, dropped, committed, closed."""
        names = [name for name in self.owns() if not name.startswith(self._spared)]
        with open_now(
            self._lanes / self._draw.choice(names or ["none"]), "r+b"
        ) as file:
            file.seek(self._draw.randrange(64, 512, 8))
            file.write(self._draw.choice((b"\xff" * 8, self._draw.randbytes(8))))

    def append(self) -> None:
        with open_now(self.existing(), "ab") as file:
            file.write(self._draw.randbytes(self._draw.randrange(1, 300)))

    def outside(self) -> None:
        """Try what it has no right to, beside `lanes/`."""
        inside = [self._spool / name for name in ("control", "manifest.json", "said")]
        inside += [self._spool / "lanes-root" / name for name in ("space", "x")]
        path = self._draw.choice([*inside, self._lanes, self._spool / "lanes-root"])
        attempt = self._draw.choice((
            lambda: os.truncate(path, 0), path.unlink, path.rmdir, path.mkdir,
            lambda: path.rename(self._spool / "elsewhere"), lambda: path.chmod(0o777),
            lambda: path.write_bytes(b"x"), lambda: os.listdir(path),
        ))  # fmt: skip
        if path != self._lanes or self._draw.random() < 0.5:
            attempt()

    def inherited(self) -> None:
        """Do as much to what this process inherited."""
        descriptor = self._draw.choice(reachable(self._spool) or [-1])
        attempt = self._draw.choice((
            lambda: os.ftruncate(descriptor, 0),
            lambda: os.pwrite(descriptor, self._draw.randbytes(99), 60),
            lambda: os.lseek(descriptor, 0, os.SEEK_SET),
            lambda: fcntl.fcntl(descriptor, fcntl.F_SETFL, 0),
            lambda: os.listdir(descriptor),
        ))  # fmt: skip
        attempt()
