"""Sample ids: no two data-parallel ranks may draw the same noise for different data.

With W ranks that take blocks of b consecutive samples in turn, sample q of a step on rank r is
sample ((q // b) * W + r) * b + q % b of the global batch. That number is its id. No other sample of
the step has it, on whatever rank and however many samples a rank has.

With antithetic noise, rows 2i and 2i + 1 of a rank are a pair: blocks of an odd size are doubled.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed

from embnoise.backend import dealt_ids
from embnoise_torch.ranks.dealing import Dealing, block_size
from embnoise_torch.ranks.place import Place, world
from embnoise_torch.ranks.sequences import Sequences

__all__ = ["SampleIds"]

Integers = TypeVar("Integers", NDArray[np.int64], Tensor)


class SampleIds:
    """The sample ids of this process.

    Args:
        place: Where this rank stands. By default every rank of the default process group, once
            there is one, has different samples.
        dealing: How samples are dealt to ranks: the block size b, or the data loader that deals
            them. By default single samples, b = 1.
        rows: How many consecutive rows must stay on one rank, from ``rows_of_a_sample``.

    Raises:
        TypeError: ``dealing`` is neither an integer nor a data loader.
        ValueError: ``dealing`` is below 1 or a data loader that does not say how it deals.
    """

    def __init__(
        self, place: Place | None, dealing: Dealing | None = None, *, rows: int = 1
    ) -> None:
        self.place = place
        self._rows = rows
        self._assumed = dealing is None
        self._block = 1 if dealing is None else block_size(dealing, self._rank_of()[1])

    @property
    def sequences(self) -> Sequences | None:
        """The ranks that hold the other parts of this one's sequences; ``None`` if none do."""
        return None if self.place is None else self.place.sequences

    @property
    def alone(self) -> bool:
        """Whether this rank is the only one, so that sample ids are the numbers of its samples."""
        return self._rank_of()[1] == 1

    def next_block(self, samples: int) -> int:
        """The number of the first sample of a lookup: each begins with a block of its own.

        Args:
            samples: How many samples of the step this rank has had before.
        """
        return -(-samples // self._block) * self._block

    def of_rows(self, first: int, rows: Integers) -> Integers:
        """The ids of rows, of which several may be one sample, unique over all ranks in the step.

        Args:
            first: The number of the first sample, from ``next_block``.
            rows: Which sample each row is, integers [B]: 0 for the first one.
        """
        block = math.lcm(self._block, self._rows)
        return dealt_ids(first + rows, *self._rank_of(), block=block)

    def _rank_of(self) -> tuple[int, int]:
        """This rank, and how many there are."""
        if self.place is not None:
            return self.place.rank, len(self.place.members)
        ranks = world()
        return (distributed.get_rank() if ranks > 1 else 0), ranks

    def __repr__(self) -> str:
        rank, ranks = self._rank_of()
        assumed = " (assumed)" if self._assumed else ""
        return f"rank={rank} of {ranks}, dealing={self._block}{assumed}"
