"""What an encoder made of a worker's resource, kept while the worker logs.

A worker's records share one `Resource` object, so its encoded form is looked up by
id(). In: a resource. Out: what the given function makes of it. The table holds a
reference to each resource, so an id in it cannot come to mean another object; it is
emptied when full, since a pool has few live workers and a miss costs microseconds.
Safe between threads as far as dict operations are: the worst race encodes twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.record import Resource

T = TypeVar("T")

# Workers of one host with a record in flight; a resource and its bytes are about 2 kB.
MAX_RESOURCES: Final = 1024


class ByResource(Generic[T]):
    """A function of a resource, remembered by the identity of its argument.

    Parameters
    ----------
    make : callable
        Called once for each resource object; must not raise.

    Examples
    --------
    >>> from femtomp.record import Resource
    >>> names = ByResource(lambda resource: resource["service.name"].upper())
    >>> names.get(Resource({"service.name": "shop"}))
    'SHOP'
    """

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[Resource], T]) -> None:
        self._make = make
        self._kept: dict[int, tuple[Resource, T]] = {}

    def get(self, resource: Resource) -> T:
        """Return what `make` returned for this very object."""
        kept = self._kept.get(id(resource))
        return self._miss(resource) if kept is None else kept[1]

    def _miss(self, resource: Resource) -> T:
        if len(self._kept) >= MAX_RESOURCES:
            self._kept.clear()
        made = self._make(resource)
        self._kept[id(resource)] = (resource, made)
        return made
