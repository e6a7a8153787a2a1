"""The destinations of an example, all real, and what each of them holds in the end."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.real.journald import Journald

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("journald", "otlp", "file")
# What the tests look at, under its name in the journal.
FIELDS = {
    name: name.upper().replace(".", "_")
    for name in (
        "client.address",
        "exception.stacktrace",
        "exception.type",
        "http.request.method",
        "http.response.status_code",
        "http.server.request.duration",
        "ledger.id",
        "url.path",
        "user_agent.original",
    )
}


class Seen(NamedTuple):
    """A record as a destination has it; a journal's attributes are all str."""

    uid: str
    pid: int
    logger: str
    body: str
    attributes: dict[str, Any]


class Sinks:
    """A journald, an OTLP receiver and a file; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "shop.jsonl"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Late: it needs gRPC, which a machine may lack.
        from tests.real.otlp import Receiver

        self._journald = self._stack.enter_context(Journald())
        self._receiver = self._stack.enter_context(Receiver())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def words(self) -> str:
        """What FEMTOMP_SINKS has to say."""
        return (
            f"journald:{self._journald.socket},otlp:{self._receiver.http_endpoint},"
            f"file:{self._path}"
        )

    def read(self) -> dict[str, list[Seen]]:
        """Return all records, by destination."""
        self._journald.sync()
        entries = self._journald.entries("SYSLOG_IDENTIFIER=shop")
        lines = self._path.read_text().splitlines()
        return {
            "journald": [_entry(each) for each in entries],
            "otlp": [_exported(*each) for each in self._receiver.records()],
            "file": [_line(json.loads(line)) for line in lines],
        }


def _entry(entry: dict) -> Seen:
    return Seen(
        entry["LOG_RECORD_UID"],
        int(entry["WORKER_PID"]),
        entry["LOGGER"],
        entry["MESSAGE"],
        {name: entry[field] for name, field in FIELDS.items() if field in entry},
    )


def _exported(resource: dict, scope: str, record) -> Seen:
    from tests.real.otlp import any_value, attributes

    fields = attributes(record.attributes)
    return Seen(
        fields["log.record.uid"],
        resource["process.pid"],
        scope,
        any_value(record.body),
        fields,
    )


def _line(record: dict) -> Seen:
    return Seen(
        record["uid"],
        record["resource"]["process.pid"],
        record["logger"],
        record["body"],
        record["attributes"],
    )
