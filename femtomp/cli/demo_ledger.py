"""The ledger: what each process of the demo knows of its own log calls.

In: after each call, how long it took. Out: counts and latencies for the master, also of
a process that was killed. One anonymous shared mapping, made before the forks; each
process writes its own slot only, so no lock is needed::

    slot    u64 pid | u64 returned | u32 latency_ns[capacity]

The latency is stored first and the count raised last, both after the call returned: a
SIGKILL can leave the count one too low, but never too high.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD_BYTES: Final = 8
_WORDS: Final = 2
_PID: Final = 0
_RETURNED: Final = 1
_LATENCY_BYTES: Final = 4
_LATENCY_MAX_NS: Final = (1 << 32) - 1


class Slot:
    """One process's part of the ledger.

    Parameters
    ----------
    name : str
        Of the process, for the table.
    memory : memoryview
        Of bytes, shared; as long as `slot_bytes` says.
    """

    def __init__(self, name: str, memory: memoryview) -> None:
        self.name: Final = name
        head = _WORDS * _WORD_BYTES
        self._words = memory[:head].cast("Q")
        self._latencies = memory[head:].cast("I")

    def claim(self) -> None:
        """Say that the calling process is the one that this slot is about."""
        self._words[_PID] = os.getpid()

    def count(self, latency_ns: int) -> None:
        """Count a call that has returned."""
        number = self._words[_RETURNED]
        self._latencies[number] = min(latency_ns, _LATENCY_MAX_NS)
        self._words[_RETURNED] = number + 1

    @property
    def pid(self) -> int:
        """Of the process; 0 until it has begun."""
        return self._words[_PID]

    @property
    def returned(self) -> int:
        """Log calls that have returned."""
        return self._words[_RETURNED]

    @property
    def capacity(self) -> int:
        """How many calls can be counted."""
        return len(self._latencies)

    def latencies_ns(self) -> list[int]:
        """Return how long each call took, in order."""
        return self._latencies[: self.returned].tolist()


def slot_bytes(capacity: int) -> int:
    """Return the size of a slot, a multiple of its words'.

    Examples
    --------
    >>> slot_bytes(3)
    32
    """
    size = _WORDS * _WORD_BYTES + _LATENCY_BYTES * capacity
    return -(-size // _WORD_BYTES) * _WORD_BYTES


def ledger(names: Sequence[str], capacity: int) -> dict[str, Slot]:
    """Make the slots of all processes, in memory that forked children share.

    Parameters
    ----------
    names : sequence of str
    capacity : int
        Calls that each can count.

    Examples
    --------
    >>> slot = ledger(["worker-1"], 10)["worker-1"]
    >>> slot.count(1500)
    >>> slot.returned, slot.latencies_ns()
    (1, [1500])
    """
    size = slot_bytes(capacity)
    memory = memoryview(mmap.mmap(-1, size * len(names)))
    return {
        name: Slot(name, memory[size * n : size * (n + 1)])
        for n, name in enumerate(names)
    }
