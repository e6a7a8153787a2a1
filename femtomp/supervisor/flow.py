"""What passes one sink while its engine lives, and the files do not say.

In: the batches of one pump, which alone writes here. Out: figures for whoever reads
them, from another thread: each is one number, or a list of numbers that only grow.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.record import Record

# Upper bounds, inclusive, of the sizes that are told apart; a batch has 2048 or, where
# the chunks of several lanes meet, some more.
SIZE_BOUNDS: Final = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096)


class Flow:
    """One sink's figures since its engine started.

    Attributes
    ----------
    retries : int
        How often the destination had to be waited for before it was asked again.
    in_hand : int
        Records of the batch that is being written.
    oldest : int
        The time of the first of them, nanoseconds since the epoch; 0 without one.
    records : int
        Of all batches.
    sizes : list of int
        How many batches were of what size, by `SIZE_BOUNDS` and one for all above.
    """

    def __init__(self) -> None:
        self.retries = 0
        self.in_hand = 0
        self.oldest = 0
        self.records = 0
        self.sizes = [0] * (len(SIZE_BOUNDS) + 1)

    def begin(self, records: Sequence[Record]) -> None:
        """Note the batch that is about to be written."""
        count = len(records)
        if count:
            self.in_hand = count
            self.oldest = records[0].timestamp
            self.records += count
            self.sizes[bisect_left(SIZE_BOUNDS, count)] += 1

    def end(self) -> None:
        """Note that it is done with."""
        self.in_hand = self.oldest = 0
