"""Facts about a distribution, read off its table of 65,536 equally likely unit values."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import GAUSSIAN, LATTICE_SIZE, UNIFORM, Distribution, mirrors

__all__ = [
    "CLOSED_FORM",
    "LATTICE",
    "agreement",
    "entropy",
    "has_few_values",
    "is_two_point",
    "splits_at_median",
    "upper_quantile",
    "value_count",
    "zero_share",
]

CLOSED_FORM = (UNIFORM, GAUSSIAN)
"""The distributions whose distribution function has a closed form here."""

LATTICE = 2.0**-15
"""How much the table's probabilities may differ from the true ones: twice one entry's share."""

_FEW = 256


def _shares(table: NDArray[np.floating]) -> NDArray[np.float64]:
    """The probability of each distinct value."""
    counts: NDArray[np.int64] = np.unique(table, return_counts=True)[1]
    return counts / table.size


def value_count(distribution: Distribution) -> int:
    """How many distinct values there are."""
    return int(np.unique(distribution.table).size)


def has_few_values(distribution: Distribution) -> bool:
    """Whether the distribution is discrete, with a few values."""
    return value_count(distribution) < _FEW


def is_two_point(distribution: Distribution) -> bool:
    """Whether the size of every value is the same."""
    return abs(distribution.kurtosis - 1) < 1e-9


def zero_share(distribution: Distribution) -> float:
    """The probability of 0."""
    return float((distribution.table == 0).mean())


def agreement(distribution: Distribution) -> float:
    """The probability that two draws are equal."""
    return float(np.square(_shares(distribution.table)).sum())


def entropy(distribution: Distribution, step: float) -> float:
    """The bits (Renyi entropy of order 2) of a draw that is rounded to multiples of ``step``."""
    return -math.log2(np.square(_shares(np.round(distribution.table / step))).sum())


def splits_at_median(distribution: Distribution) -> bool:
    """Whether half of the sizes are below their median and half above, so none is tied with it."""
    sizes, median = abs(distribution.table), distribution.median
    halves = ((sizes < median).mean(), (sizes > median).mean())
    return max(abs(float(half) - 0.5) for half in halves) <= 2.0**-10


def upper_quantile(distribution: Distribution, tail: float) -> float:
    """The value that a draw exceeds with the probability ``tail``, at most 1/2.

    Infinite if the quantile function cannot tell: 1 - tail rounds for a small tail, and some
    quantile functions are not symmetric below 1/2.
    """
    if distribution is GAUSSIAN:  # without the factor that normalizes the table
        return -NormalDist().inv_cdf(tail)
    if tail >= 2.0**-40:
        return float(distribution.quantile(1 - tail))
    if not mirrors(distribution.quantile, (2.0**-10, 2.0**-20, 2.0**-30)):
        return math.inf
    value = -float(distribution.quantile(tail))
    return value if value >= distribution.table[LATTICE_SIZE - 1] else math.inf
