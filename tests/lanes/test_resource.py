"""The resource of a worker: who it is, in OpenTelemetry's words."""

from __future__ import annotations

import uuid

from femtomp.lanes.resource import worker_resource
from femtomp.record import Identity

WHO = Identity(7, 3, 4026531836, 99, "boot", "worker-1", "worker", "web-1", "/app.py")
BASE = {"service.name": "shop", "team": "tea"}


def test_resource_says_who_and_what() -> None:
    """It has what the server was told, the identity, and what the system tells."""
    resource = worker_resource(WHO, BASE, "epoch", {"process.owner": "www"})
    told = dict(resource)
    told.pop("telemetry.sdk.version", None)  # known where femtomp is installed
    assert told == {
        "service.name": "shop",
        "team": "tea",
        "service.instance.id": resource["service.instance.id"],
        "process.pid": 7,
        "process.parent_pid": 3,
        "process.command": "/app.py",
        "process.owner": "www",
        "host.name": "web-1",
        "femtomp.worker.name": "worker-1",
        "femtomp.worker.role": "worker",
        "telemetry.sdk.name": "femtomp",
        "telemetry.sdk.language": "python",
    }


def test_brief_is_the_part_for_every_line() -> None:
    """The brief part has the service, the user's own, and who the worker is."""
    assert set(worker_resource(WHO, BASE, "epoch").brief) == {
        "service.name",
        "team",
        "service.instance.id",
        "process.pid",
        "host.name",
        "femtomp.worker.name",
    }


def test_instance_id_follows_the_lane() -> None:
    """The instance is a UUID: the same for one lane everywhere, another for another."""
    one, again, other = (
        worker_resource(WHO, BASE, seed)["service.instance.id"] for seed in "aab"
    )
    assert one == again != other
    assert str(uuid.UUID(one)) == one


def test_what_is_unknown_is_absent() -> None:
    """No parent and no command give no attribute rather than an empty one."""
    who = WHO._replace(parent_pid=0, command="")
    resource = worker_resource(who, {}, "epoch")
    assert "process.parent_pid" not in resource
    assert "process.command" not in resource


def test_base_is_not_changed() -> None:
    """What the server was told stays as it was, for all workers."""
    base = dict(BASE)
    worker_resource(WHO, base, "epoch", {"x": 1})
    assert base == BASE
