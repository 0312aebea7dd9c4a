"""Sample ids over the ranks of a data-parallel run: no two may draw the same noise."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from embnoise._noise import Noise

__all__ = ["dealt_ids", "rows_of_a_sample"]

Integers = TypeVar("Integers")


def rows_of_a_sample(noise: Noise) -> int:
    """How many consecutive rows must stay on one rank: 2 if the noise is antithetic, else 1.

    Rows 2i and 2i + 1 of a rank get the same draw with opposite signs. The rows of other ranks,
    which see other data, must not come between them.
    """
    return 2 if noise.antithetic else 1


def dealt_ids(numbers: Integers, rank: Any, ranks: int, *, block: int) -> Integers:
    """The sample ids of a rank's samples, of which each rank in turn takes a block.

    Args:
        numbers: The numbers of the samples on this rank: an integer or integers.
        rank: This rank.
        ranks: How many ranks there are.
        block: How many consecutive samples a rank takes in turn.

    Returns:
        Integers that no other number, on whatever rank, has.

    Example:
        >>> [dealt_ids(number, 1, 2, block=1) for number in range(4)]
        [1, 3, 5, 7]
        >>> [dealt_ids(number, 1, 2, block=2) for number in range(4)]
        [2, 3, 6, 7]
    """
    if ranks == 1:
        return numbers
    n: Any = numbers
    return cast("Integers", (n // block * ranks + rank) * block + n % block)
