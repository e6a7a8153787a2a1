"""A driver that is built when it can be, in an engine that follows a dead one.

What cannot be opened at a server's start is an error of its configuration, and said
there. Later the same sink has worked before: a disk that is full or a directory that is
gone must not keep the other sinks waiting. Its records wait in the lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from femtomp.errors import FemtompError
from femtomp.sinks import Compares, Reopens, RetryAfter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.record import Record
    from femtomp.sinks import Driver, Outcome

_AGAIN_S: Final = 1.0


class LateDriver:
    """Stands for a destination until it can be opened.

    Parameters
    ----------
    build : callable
        Makes the driver.
    """

    def __init__(self, build: Callable[[], Driver]) -> None:
        self._build = build
        self._driver: Driver | None = None

    def write(self, batch: Sequence[Record]) -> Outcome | None:
        """Hand over a batch, to a driver that is built now if there is none."""
        if self._driver is None:
            try:
                self._driver = self._build()
            except FemtompError as exc:
                return RetryAfter(_AGAIN_S, str(exc))
        return self._driver.write(batch)

    @property
    def wants_more(self) -> bool:
        """Whether it must see other records, if it is open."""
        return isinstance(self._driver, Compares) and self._driver.wants_more

    def reopen(self) -> None:
        """Open it anew, if it is open."""
        if isinstance(self._driver, Reopens):
            self._driver.reopen()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._driver is not None:
            self._driver.close()


def build_late(build: Callable[[], Driver]) -> Driver:
    """Return the driver, or what waits for it."""
    try:
        return build()
    except FemtompError:
        return LateDriver(build)
