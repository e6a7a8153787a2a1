"""torchrun and DataLoader: every rank, and every worker of a loader, by its number.

In: the launcher's environment, and PyTorch's word for who a loader's worker is. Out:
processes named "rank-3" and "rank-3/loader-1" that log to one server a node, and, if
wanted, ranks but 0 that say less. PyTorch itself is not imported.

    femtomp run --sink console --sink file:train.jsonl -- torchrun train.py

    # train.py
    from femtomp.integrations import torch as femtorch
    femtorch.install(others="ERROR")

The workers of a DataLoader, however they are started and as often as there are epochs,
need no line of their own.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import Any, Final

import femtomp
from femtomp.integrations import pool

# No record has such a level.
_OFF: Final = 1 << 31
_LOADER: Final = "torch.utils.data"


def install(
    sinks: object = None,
    *,
    level: int | str | None = None,
    others: int | str | None = None,
    **options: Any,
) -> None:
    """Log to the node's server from this rank and the workers of its loaders.

    Idempotent.

    Parameters
    ----------
    sinks, **options
        As for `femtomp.start_server`, if no server was started around the launcher
        (``femtomp run -- torchrun ...``): each rank has one of its own then.
    level : int or str, optional
        Of the root logger; the server's if not given.
    others : int or str, optional
        What ranks but 0 log: this level and above; ``"OFF"`` for rank 0 only. Their
        loaders' workers, too.

    Raises
    ------
    ConfigError
        If `others` is no level.
    FemtompError
        As `femtomp.start_server`.
    """
    number = None if others is None else _number(others)
    if femtomp.worker_handler(missing="ignore").spool is None:
        femtomp.start_server(sinks, **options)
    spool = femtomp.worker_handler(missing="ignore").spool
    if spool is None:
        return  # FEMTOMP_DISABLED
    set_up = partial(_set_up, number)
    set_up(spool)
    pool.install(level, set_up=set_up)


def _number(level: int | str) -> int:
    if level in ("OFF", "off"):
        return _OFF
    try:
        return femtomp.WorkerHandler(level, missing="ignore").level
    except femtomp.ConfigError as exc:
        msg = f'others must be a level, or "OFF" for rank 0 only, not {level!r}'
        raise femtomp.ConfigError(msg) from exc


def _set_up(others: int | None, spool: str) -> None:
    femtomp.identify(_who)
    if others is not None and os.environ.get("RANK", "0") != "0":
        logging.getLogger().addHandler(femtomp.worker_handler(others, spool=spool))


def _who() -> dict[str, str | int]:
    """Say which rank and which loader's worker this process is."""
    rank = os.environ.get("RANK", "")
    names = [f"rank-{rank}"] if rank.isdecimal() else []
    said: dict[str, str | int] = {}
    asked = getattr(sys.modules.get(_LOADER), "get_worker_info", None)
    if asked is not None and (info := asked()) is not None:
        names.append(f"loader-{info.id}")
        said["torch.dataloader.worker.id"] = info.id
    if names:
        said["femtomp.worker.name"] = "/".join(names)
    return said
