"""Who this process is, read afresh whenever it may have changed.

In: the operating system, and what pools and their integrations tell by `add`. Out:
`Identity`. About 60 us, once per lane; psutil would cost 18 to 45 ms to import and is
left to the supervisor.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError
from femtomp.lanes.liveness import boot_id, pid_namespace, start_ticks
from femtomp.lanes.thrown import thrown_in
from femtomp.record import Identity
from femtomp.worker.plain import described, key, plain, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Told = Mapping[str, Any]

NAME: Final = "femtomp.worker.name"
_ERROR: Final = "femtomp.identity_error"
# torchrun, and what took its names over: a rank is never guessed from a process's name.
_RANKS: Final = {
    "RANK": "process.rank",
    "LOCAL_RANK": "process.local_rank",
    "WORLD_SIZE": "process.world_size",
}
# More are no number of processes, and may be too many for int() or for 64 bits.
_MAX_RANK_DIGITS: Final = 18
# Who is asked, in this order; what a later one says wins.
_tellers: Final[list[Callable[[], Told]]] = []


def add(who: Told | Callable[[], Told]) -> None:
    """Ask this one too, in each process that opens a lane; see `femtomp.identify`."""
    if callable(who):
        if who not in _tellers:
            _tellers.append(who)
        return
    try:
        told, pid = dict(who), os.getpid()
    except (TypeError, ValueError) as exc:
        msg = f"identify: give a mapping or a callable that returns one, not {who!r}"
        raise ConfigError(msg) from exc
    for name, value in told.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            msg = f"identify: {name!r}: {value!r} must be str: str, number or bool"
            raise ConfigError(msg)
    _tellers.append(lambda: told if os.getpid() == pid else {})


def read_identity(role: str) -> Identity:
    """Return the identity of the calling process.

    Parameters
    ----------
    role : str
        "master" or "worker".
    """
    argv = getattr(sys, "argv", None) or [sys.executable or ""]
    told = {**_ranks(), **_told()}
    name = told.pop(NAME, None)
    return Identity(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        pid_namespace=pid_namespace(),
        start_ticks=start_ticks(),
        boot_id=boot_id(),
        name=process_name() if name is None else str(name),
        role=role,
        host=os.uname().nodename,
        command=argv[0],
        instance_id=_instance_id(),
        attributes=tuple(told.items()),
    )


def _told() -> dict[str, Any]:
    told: dict[str, Any] = {}
    wrong: list[str] = []
    for teller in _tellers:
        try:
            said = dict(teller())
        except Exception as exc:
            if thrown_in(exc):
                raise
            # A log call waits for it: the record is worth more than the name.
            wrong.append(described(exc))
            continue
        for name, value in said.items():
            kept = plain(value)
            if isinstance(kept, (str, int, float)):
                told[key(name)] = kept
            else:
                wrong.append(f"{key(name)}: a {type_name(value)}")
    if wrong:
        told[_ERROR] = "; ".join(wrong)
    return told


def _ranks() -> dict[str, int]:
    """Return the ranks that a launcher has put into the environment."""
    found = {name: os.environ.get(variable, "") for variable, name in _RANKS.items()}
    # All of them, or the name means something else here.
    if not all(
        text.isdecimal() and len(text) <= _MAX_RANK_DIGITS for text in found.values()
    ):
        return {}
    return {name: int(text) for name, text in found.items()}


def process_name() -> str:
    """Return `multiprocessing`'s name of this process, or that of Celery's billiard.

    Neither is imported for it.
    """
    for module in ("multiprocessing.process", "billiard.process"):
        current = getattr(sys.modules.get(module), "current_process", None)
        name = str(current().name) if current is not None else "MainProcess"
        if name != "MainProcess":
            return name
    return "MainProcess"


def _instance_id() -> str:
    """Return the `service.instance.id` that this process's spans have, if they do.

    Read from the provider that is set, if OpenTelemetry is loaded: to ask for it could
    make one.
    """
    trace = sys.modules.get("opentelemetry.trace")
    try:
        resource: Any = trace._TRACER_PROVIDER.resource  # type: ignore[union-attr]  # noqa: SLF001
        found = resource.attributes.get("service.instance.id")
    except Exception as exc:
        if thrown_in(exc):
            raise
        return ""
    return found if type(found) is str else ""
