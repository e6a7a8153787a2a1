"""Where the demo's records go, and how they are read back from there.

In: the command's options. Out: destinations, each with its sink, and a line for each
that this machine does not have. What arrived is counted there: the file is parsed, the
journal is asked by `journalctl`, the receiver decodes what it was sent.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from femtomp.cli.demo_report import Delivery
from femtomp.config import FileSink, JournaldSink, SinkOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# journald writes what it accepted within milliseconds; a busy machine may take longer.
_JOURNAL_TIMEOUT_S: Final = 15.0
_PROBE_TIMEOUT_S: Final = 3.0
_POLL_S: Final = 0.1


class Destination(Protocol):
    """Something that takes records and gives them back."""

    @property
    def name(self) -> str:
        """In the table and in statistics."""

    @property
    def sink(self) -> SinkOptions:
        """What `start_server` is given."""

    def serve(self) -> None:
        """Begin to take records; called after the workers were forked."""

    def read(self, expected: int) -> list[Delivery]:
        """Return what is there, waiting a while until that many are."""

    def close(self) -> None:
        """Release what is held; what was written stays."""


class File:
    """A file of JSON lines, which is kept."""

    name = "file"

    def __init__(self, path: Path, run: str) -> None:
        self.path: Final = path
        self.sink: Final = FileSink(path, name=self.name)
        self._run: Final = run

    def serve(self) -> None:
        """Do nothing: a file is there."""

    def close(self) -> None:
        """Do nothing: the file is kept."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """Parse this run's records."""
        with self.path.open(encoding="utf-8") as file:
            for text in file:
                line: dict[str, Any] = json.loads(text)
                if line["attributes"].get("demo.run") == self._run:
                    yield line

    def read(self, expected: int) -> list[Delivery]:  # noqa: ARG002 - all is here at once
        """Return what the file holds."""
        return [
            Delivery(
                line["uid"],
                line["resource"]["process.pid"],
                line["attributes"]["demo.sequence"],
            )
            for line in self.lines()
        ]


class Journal:
    """journald, read back by `journalctl`.

    Parameters
    ----------
    socket : str
        Of its native protocol.
    directory : str or None
        For ``journalctl --directory``; the system's journal if not given.
    run : str
    """

    name = "journald"

    def __init__(self, socket: str, directory: str | None, run: str) -> None:
        self.sink: Final = JournaldSink(socket, name=self.name)
        self._directory: Final = directory
        self._run: Final = run

    def problem(self) -> str | None:
        """Say why it cannot be used; None after an entry was sent and read back."""
        if not Path(self.sink.path).is_socket():
            return f"there is no journald: {self.sink.path} is no socket"
        if shutil.which("journalctl") is None:
            return "journalctl is not installed: what arrives could not be counted"
        probe = f"MESSAGE=femtomp demo\nPRIORITY=7\nDEMO_PROBE={self._run}\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PROBE_TIMEOUT_S)
                sender.connect(self.sink.path)
                sender.send(probe.encode())
        except OSError as exc:
            return f"journald does not take records: {exc.strerror or exc}"
        if not self._wait(f"DEMO_PROBE={self._run}", 1, _PROBE_TIMEOUT_S):
            return (
                "journalctl cannot read back what is sent: is this user in the group "
                "systemd-journal?"
            )
        return None

    def serve(self) -> None:
        """Do nothing: journald runs."""

    def close(self) -> None:
        """Do nothing: the entries are the journal's."""

    def read(self, expected: int) -> list[Delivery]:
        """Return what the journal holds."""
        entries = self._wait(f"DEMO_RUN={self._run}", expected, _JOURNAL_TIMEOUT_S)
        return [
            Delivery(
                entry["LOG_RECORD_UID"],
                int(entry["WORKER_PID"]),
                int(entry["DEMO_SEQUENCE"]),
            )
            for entry in entries
        ]

    def _wait(self, match: str, expected: int, timeout: float) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout
        while True:
            entries = self._entries(match)
            if len(entries) >= expected or time.monotonic() >= deadline:
                return entries
            time.sleep(_POLL_S)

    def _entries(self, match: str) -> list[dict[str, Any]]:
        where = ["--directory", self._directory] if self._directory else []
        fields = "LOG_RECORD_UID,WORKER_PID,DEMO_SEQUENCE"
        command = [
            *["journalctl", *where, "--quiet", "--no-pager", "--output", "json"],
            *["--all", "--output-fields", fields, match],
        ]
        read = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        return [json.loads(line) for line in read.stdout.splitlines()]


def choose(args: argparse.Namespace, run: str) -> tuple[list[Destination], list[str]]:
    """Return the destinations there are, and a line for each that is missing.

    Parameters
    ----------
    args : argparse.Namespace
        The command's: `file`, `journald`, `journal_directory`.
    run : str
        Name of this run, by which its records are found again.
    """
    destinations: list[Destination] = [File(args.file, run)]
    missing: list[str] = []
    journal = Journal(args.journald, args.journal_directory, run)
    problem = journal.problem()
    if problem is None:
        destinations.append(journal)
    else:
        missing.append(f"no journald sink: {problem}")
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401 - what the sink needs

        from femtomp.cli.demo_receiver import Receiver
    except ImportError:
        missing.append('no OTLP sink: it needs pip install "femtomp[otel]"')
    else:
        destinations.append(Receiver(run))
    return destinations, missing
