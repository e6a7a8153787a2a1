"""Lanes with members over them, as the engine has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from femtomp.codec import identity as identity_codec
from femtomp.codec import wire
from femtomp.lanes.scan import scan
from femtomp.lanes.writer import LaneWriter, open_writer
from femtomp.supervisor.members import Member, open_member
from femtomp.worker.identity import read_identity

if TYPE_CHECKING:
    from pathlib import Path


class Pool:
    """Workers' lanes, as a spool has them, and the engine's table of them."""

    has_other_workers = False

    def __init__(self, path: Path, sinks: tuple[str, ...] = ("sink",)) -> None:
        self.path = path
        self.sinks = sinks
        self.directory = self.cursors = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.directories = (self.directory,)
        self.writers: list[LaneWriter] = []
        self.members: dict[str, Member] = {}

    def worker(self, kind: str = "write") -> LaneWriter:
        who = identity_codec.to_bytes(read_identity("worker"))
        self.writers.append(open_writer(kind, self.directory, who))
        return self.writers[-1]

    def log(self, writer: LaneWriter, body: object, level=20, time=1, **more) -> None:
        """Append a record."""
        payload = wire.encode((
            1, time, level, "L", "shop", body, None, "/app.py", 1, "f", 1, "t", None,
            more or None,
        ))  # fmt: skip
        assert writer.append(payload)

    def look(self) -> None:
        """Bring the table up to date, as the poller does."""

        def found(epoch: str):
            member = open_member(self, self.directory, epoch, self.sinks, {})
            self.members[epoch] = member
            return member.lane

        lanes = {epoch: member.lane for epoch, member in self.members.items()}
        scan(self.directory, lanes, found)
        for member in self.members.values():
            member.lane.refresh()

    def restart(self) -> None:
        """Forget all that an engine holds in memory."""
        self.members.clear()
        self.look()

    def close(self) -> None:
        self.members.clear()
        for writer in self.writers:
            writer.close()
        os.close(self.directory)


@pytest.fixture
def pool(tmp_path):
    made = Pool(tmp_path)
    yield made
    made.close()
