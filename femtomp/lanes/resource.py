"""A worker's OpenTelemetry resource: its identity and what the server was told."""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING, Any, Final

from femtomp.record import Identity, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping


@functools.cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("femtomp")
    except PackageNotFoundError:  # run from its source
        return ""


_NAMESPACE: Final = uuid.UUID("4f2c3b1e-6d0a-5d0c-9b0e-66656d746f6d")


def worker_resource(
    identity: Identity,
    base: Mapping[str, Any],
    seed: str,
    seen: Mapping[str, Any] | None = None,
) -> Resource:
    """Build a worker's resource.

    Parameters
    ----------
    identity : Identity
        The worker.
    base : mapping
        What the server was told: `service.name` and the user's own attributes.
    seed : str
        What `service.instance.id` is derived from, where the worker's tracer provider
        has none: the same for one lane everywhere.
    seen : mapping, optional
        What the operating system tells of the process.
    """
    brief: dict[str, Any] = {
        **base,
        **dict(identity.attributes),
        # That of the worker's spans, so that a backend has one instance and not two.
        "service.instance.id": identity.instance_id
        or str(uuid.uuid5(_NAMESPACE, seed)),
        "process.pid": identity.pid,
        "host.name": identity.host,
        "femtomp.worker.name": identity.name,
    }
    full: dict[str, Any] = {
        **brief,
        "femtomp.worker.role": identity.role,
        "telemetry.sdk.name": "femtomp",
        "telemetry.sdk.language": "python",
    }
    if version := _version():
        full["telemetry.sdk.version"] = version
    if identity.parent_pid:
        full["process.parent_pid"] = identity.parent_pid
    if identity.command:
        full["process.command"] = identity.command
    return Resource({**full, **(seen or {})}, brief)
