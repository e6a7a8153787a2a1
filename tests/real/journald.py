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
mount --bind "$BASE/run" /run
mount --bind "$BASE/varlog" /var/log
exec "$JOURNALD"
"""


class Journald:
    """Start, stop and read one journald; a context manager."""

    def __init__(self) -> None:
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
        (configuration / "50-test.conf").write_text(CONFIGURATION)
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
            "JOURNALD": journald_path() or "",
            "NOTIFY_SOCKET": "/run/notify",
            "SYSTEMD_LOG_TARGET": "console",
        }
        with (self.base / "stderr").open("ab") as stderr:
            return subprocess.Popen(
                [*unshare_command(), "sh", "-c", INSIDE],
                env=environ,
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
        (directory,) = (self.base / "run/log/journal").iterdir()
        read = subprocess.run(
            ["journalctl", "-D", directory, "-q", "-o", "json", "--all", *match],
            capture_output=True,
        )
        return [json.loads(line) for line in read.stdout.splitlines()]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)
