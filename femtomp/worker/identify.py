"""`identify`: a process says who it is.

In: attributes, or a callable that is asked for them. Out: what `worker.identity` asks
when a lane is opened, and new lanes for channels that have one already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from femtomp.worker.channel import renew
from femtomp.worker.identity import add

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def identify(who: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
    """Say who a process is: attributes that all its records' resources have.

    Best before the first record: a process that has logged already goes on in another
    lane, with another `service.instance.id`. Integrations of pools use it; so may you,
    where a worker has a number or a shard. Told again, later words win.

    Parameters
    ----------
    who : mapping of str to str, number or bool, or callable
        A mapping is about this process alone. A callable without parameters, which
        returns one, is asked in each process, forked children too, when it logs for
        the first time. "femtomp.worker.name" is the name that all formats show.

    Raises
    ------
    ConfigError
        If it is neither.

    Examples
    --------
    >>> import femtomp
    >>> femtomp.identify({"femtomp.worker.name": "importer", "shard": 3})
    """
    add(who)
    renew()
