"""A real systemd-journald of the test's own, without systemd as PID 1.

`unshare -m` gives it a mount namespace in which a directory of ours is bound on /run
(and one on /var/log), so it makes sockets and journal there, and the host's are left
alone. From outside they are seen under the directory's own path::

    BASE/run/systemd/journal/socket               native protocol
    BASE/run/systemd/journal/io.systemd.journal   varlink: the barrier
    BASE/run/log/journal/MACHINE-ID/*.journal     files, read with journalctl -D

BASE is short because a socket's path holds 107 bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.components import journald_path, unshare_command

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 30.0

CONFIGURATION = """[Journal]
Storage=volatile
RateLimitIntervalSec=0
RateLimitBurst=0
ReadKMsg=no
Audit=no
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
RuntimeMaxUse=2G
RuntimeKeepFree=1M
MaxLevelStore=debug
"""

# unshare and sh both exec: the process that was started is journald.
INSIDE = """set -e
mount --make-rprivate /
mount --bind "$BASE/run" "$ROOT/run"
mount --bind "$BASE/varlog" "$ROOT/var/log"
if [ -n "$ROOT" ]; then
    mkdir -p "$ROOT$BASE"; mount --bind "$BASE" "$ROOT$BASE"
    mount -t proc proc "$ROOT/proc"
    mount --rbind /sys "$ROOT/sys"
    mount --rbind /dev "$ROOT/dev"
    exec chroot "$ROOT" /usr/lib/systemd/systemd-journald
fi
exec "$JOURNALD"
"""
# Gives it the socket as PID 1 does: as descriptor 3.
HAND_OVER = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Journald:
    """Start, stop and read one journald; a context manager.

    `held`: this process binds the socket and hands it over, as systemd does: datagrams
    wait in it while journald is away. `configuration`: lines instead of the usual ones.
    `FEMTOMP_TEST_JOURNALD_ROOT`, a debootstrapped directory, makes it that one's.
    """

    def __init__(
        self, *, held: bool = False, configuration: str = CONFIGURATION
    ) -> None:
        self._configuration = configuration
        self._root = os.environ.get("FEMTOMP_TEST_JOURNALD_ROOT", "")
        self._held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if held else None
        self.base = Path(tempfile.mkdtemp(prefix="jd", dir="/tmp"))
        self._journal = self.base / "run/systemd/journal"
        self.socket = str(self._journal / "socket")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Journald:
        """Start it and wait until it says that it is ready."""
        configuration = self.base / "run/systemd/journald.conf.d"
        for path in (
            self._journal,
            self.base / "run/log/journal",
            configuration,
            self.base / "varlog",
        ):
            path.mkdir(parents=True, exist_ok=True)
        (configuration / "50-test.conf").write_text(self._configuration)
        if self._held is not None and not Path(self.socket).exists():
            self._held.bind(self.socket)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        notify = self.base / "run/notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(START_TIMEOUT_S)
            self._process = self._spawn()
            while b"READY=1" not in ready.recv(4096):
                assert self._process.poll() is None, self.stderr()
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        environ = {
            **os.environ,
            "BASE": str(self.base),
            "ROOT": self._root,
            "JOURNALD": journald_path() or "",
            "NOTIFY_SOCKET": "/run/notify",
            "SYSTEMD_LOG_TARGET": "console",
        }
        command = [*unshare_command(), "sh", "-c", INSIDE]
        descriptors: tuple[int, ...] = ()
        if self._held is not None:
            descriptors = (self._held.fileno(),)
            command = [sys.executable, "-c", HAND_OVER, str(descriptors[0]), *command]
            # journald compares the path that the socket is bound to with this.
            environ["RUNTIME_DIRECTORY"] = str(self._journal)
        with (self.base / "stderr").open("ab") as stderr:
            return subprocess.Popen(
                command,
                env=environ,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """The process's pid, for signals."""
        assert self._process is not None
        return self._process.pid

    def stderr(self) -> str:
        """What it said about itself."""
        return (self.base / "stderr").read_text(errors="replace")

    def stop(self) -> None:
        """End it with SIGTERM; the journal stays readable."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # a test may have failed
            self._process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)

    def sync(self) -> None:
        """Return when all that was queued on its sockets has been written."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as varlink:
            varlink.settimeout(SYNC_TIMEOUT_S)
            varlink.connect(str(self._journal / "io.systemd.journal"))
            varlink.sendall(b'{"method":"io.systemd.Journal.Synchronize"}\0')
            reply = b""
            while not reply.endswith(b"\0"):
                part = varlink.recv(65536)
                assert part, reply
                reply += part
        assert "error" not in json.loads(reply[:-1])

    def entries(self, *match: str) -> list[dict]:
        """Read the entries for which all of `match` (FIELD=value) hold, in order."""
        found = self.journalctl("-o", "json", "--all", *match)
        return [json.loads(line) for line in found.splitlines()]

    def exported(self, *match: str) -> list[list[tuple[str, bytes]]]:
        """Read entries with their bytes, from the export format."""
        rest = self.journalctl("-o", "export", "--all", *match)
        entries: list[list[tuple[str, bytes]]] = [[]]
        while rest:
            line, _, rest = rest.partition(b"\n")
            if not line:
                entries.append([])
                continue
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(rest[:8], "little")
                value, rest = rest[8 : 8 + size], rest[9 + size :]
            entries[-1].append((name.decode(), value))
        return [entry for entry in entries if entry]

    def journalctl(self, *arguments: str) -> bytes:
        """Ask journalctl for what is in this journal alone."""
        (directory,) = (self.base / "run/log/journal").iterdir()
        read = subprocess.run(
            ["journalctl", "-D", directory, "-q", "--no-pager", *arguments],
            capture_output=True,
        )
        return read.stdout

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._held is not None:
            self._held.close()
        shutil.rmtree(self.base, ignore_errors=True)
