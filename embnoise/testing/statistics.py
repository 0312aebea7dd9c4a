"""What the noise of a correct layer may do by chance, with the probability of every bound stated.

Every bound holds for any number of values: Hoeffding's and Azuma's inequalities, the
Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (1990), and the chi-square tails of
Laurent and Massart (2000). Units are noise divided by its claimed magnitude.

The distribution may be any symmetric one. A layer may draw from its table of 65,536 values, as
embnoise does, or from the continuous distribution: the bounds allow for both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import GAUSSIAN, LATTICE_SIZE, UNIFORM, Distribution
from embnoise.testing.inputs import Array
from embnoise.testing.tables import (
    CLOSED_FORM,
    LATTICE,
    entropy,
    is_two_point,
    upper_quantile,
    zero_share,
)

__all__ = [
    "RATE",
    "amplitude",
    "amplitude_window",
    "band",
    "cdf_distance",
    "distinct_least",
    "extreme_window",
    "once_in",
    "rms_window",
    "run_length",
    "seen_entropy",
    "sums_least",
]

BUDGET = 1e-9
"""The probability that a correct layer fails anything in one run of the whole kit."""

RANDOM_CHECKS = 61
"""At most this many checks of a run can fail by chance: Bonferroni's divisor. A test counts
them."""

RATE = BUDGET / RANDOM_CHECKS
"""The probability that a correct layer fails one check: once in 6e10 runs."""


def once_in(rate: float = RATE) -> str:
    """A probability in words, rounded down: "once in 6e10 runs"."""
    exponent = math.floor(math.log10(1 / rate))
    return f"once in {int(1 / rate / 10**exponent)}e{exponent} runs"


def band(count: int, rate: float = RATE) -> float:
    """sqrt(ln(2 / rate) / (2 n)): half the width of the DKW band, and of Hoeffding's in [0, 1]."""
    return math.sqrt(math.log(2 / rate) / (2 * count))


def extreme_window(
    distribution: Distribution, count: int, rate: float = RATE, coarsest: float = 0.0
) -> tuple[float, float]:
    """A lower bound for the largest of ``count`` units, and an upper bound for all sizes.

    The largest of n draws is below t with the probability F(t)^n.

    Args:
        distribution: The distribution.
        count: n.
        rate: The probability of each bound.
        coarsest: The probability of the last value of the coarsest correct draw.
    """
    tail = max(-math.expm1(math.log(rate) / count), coarsest)
    lower = max(_upper(distribution, tail), 0.0)
    if is_two_point(distribution):
        return lower, distribution.rms
    if distribution.bounded:
        return lower, distribution.bound
    return lower, upper_quantile(distribution, rate / (2 * count))


def _upper(distribution: Distribution, tail: float) -> float:
    """The upper quantile, or less: the table and the true distribution both exceed it as often."""
    if distribution in CLOSED_FORM:
        return upper_quantile(distribution, min(tail, 0.5))
    return upper_quantile(distribution, min(tail + LATTICE, 0.5))


def rms_window(
    distribution: Distribution, count: int, rate: float = RATE
) -> tuple[float, float] | None:
    """The range of the RMS of ``count`` units; ``None`` if no bound is known."""
    if is_two_point(distribution):
        return distribution.rms, distribution.rms
    if distribution.bounded:
        square = distribution.rms**2
        slack = 0.0 if distribution is UNIFORM else LATTICE
        half = distribution.bound**2 * (band(count, rate) + slack)
        return math.sqrt(max(square - half, 0)), math.sqrt(square + half)
    if distribution is GAUSSIAN:
        excess = math.log(2 / rate)
        spread = 2 * math.sqrt(excess / count)
        return math.sqrt(max(1 - spread, 0)), math.sqrt(1 + spread + 2 * excess / count)
    return None


def sums_least(distribution: Distribution, sums: int, count: int, rate: float = RATE) -> float:
    """A lower bound for the mean square of some sums of units, over that of independent units.

    Of n values Y >= 0 with the mean 1, the mean is below 1 - t with a probability of at most
    exp(-n t^2 / (2 E[Y^2])), as Bernstein's inequality has it. Here E[Y^2] = 3 + (kurtosis - 3) /
    count. There is no bound for an unbounded distribution but the Gaussian.

    Args:
        distribution: The distribution.
        sums: How many sums there are.
        count: How many units are in each.
        rate: The probability that the bound does not hold.
    """
    if not distribution.bounded and distribution is not GAUSSIAN:
        return -math.inf
    square = 3 + (distribution.kurtosis - 3) / count
    return 1 - math.sqrt(2 * square * math.log(1 / rate) / sums)


def amplitude(distribution: Distribution | None, units: Array) -> float:
    """One number for how large the units are: about 1 if they are right.

    The largest size over the bound, or the RMS of Gaussian units. For other unbounded
    distributions, the median of the sizes over the true one; the median of those that are not 0 if
    the distribution has zeros.
    """
    if not units.size:
        return 0.0
    if distribution is None or distribution is GAUSSIAN:
        return float(np.sqrt(np.square(units).mean()))
    if is_two_point(distribution):
        return float(abs(units).max()) / distribution.rms
    if distribution.bounded:
        return float(abs(units).max()) / distribution.bound
    level = (1 + zero_share(distribution)) / 2
    size = float(np.quantile(abs(units), level, method="inverted_cdf"))
    return size / _size_quantile(distribution, level)


def amplitude_window(
    distribution: Distribution | None, count: int, rate: float = RATE
) -> tuple[float, float]:
    """The range of ``amplitude`` for ``count`` units of the right magnitude.

    Without a distribution the amplitude is known up to a factor only; a factor of 2 passes.
    """
    if distribution is None:
        return 0.5, 2.0
    if distribution is GAUSSIAN:
        window = rms_window(distribution, count, rate)
        assert window is not None
        return window
    if is_two_point(distribution):
        return 1.0, 1.0
    if distribution.bounded:
        tail = -math.expm1(math.log(rate) / count)  # a size has two tails
        return max(_upper(distribution, tail / 2), 0.0) / distribution.bound, 1.0
    level, half = (1 + zero_share(distribution)) / 2, band(count, rate) + LATTICE
    known = _size_quantile(distribution, level)
    low, high = (_size_quantile(distribution, level + side) for side in (-half, half))
    return low / known, high / known


def _size_quantile(distribution: Distribution, level: float) -> float:
    """The quantile of the sizes |u|."""
    if level <= 0:
        return 0.0
    return upper_quantile(distribution, (1 - level) / 2) if level < 1 else math.inf


def cdf_distance(
    distribution: Distribution, units: Array, tolerance: float = 0.0
) -> tuple[float, float]:
    """The largest distance between the units' CDF and the distribution's, and where it is.

    Both ends of every jump count, so ties need no special treatment.

    Args:
        distribution: The distribution.
        units: The units.
        tolerance: How far rounding may move a unit, relative to the larger of 1 and its size, so
            that values on a jump of the distribution's CDF stay on it.
    """
    values, counts = np.unique(units, return_counts=True)
    after = np.cumsum(counts) / units.size
    before = after - counts / units.size
    if distribution is UNIFORM:
        right = left = np.clip((values + 1) / 2, 0, 1)
    elif distribution is GAUSSIAN:
        right = left = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])
    else:
        reach = tolerance * np.maximum(1, abs(values))
        table = distribution.table.astype(np.float64)
        right = np.searchsorted(table, values + reach, side="right") / LATTICE_SIZE
        left = np.searchsorted(table, values - reach, side="left") / LATTICE_SIZE
    distances = np.maximum(after - right, left - before)
    worst = int(distances.argmax())
    return float(distances[worst]), float(values[worst])


def distinct_least(distribution: Distribution, count: int, bits: int) -> int:
    """Half of the expected number of distinct values of a draw with ``bits`` bits.

    The values are rounded to as many significant bits.
    """
    step = LATTICE_SIZE >> bits
    mantissas, exponents = np.frexp(distribution.table[step // 2 :: step].astype(np.float64))
    rounded = np.ldexp(np.round(np.ldexp(mantissas, bits)), exponents)
    shares = np.unique(rounded, return_counts=True)[1] / rounded.size
    return int(-np.expm1(-count * shares).sum() / 2)


def run_length(distribution: Distribution | None, values: NDArray[np.int64]) -> int:
    """How many units in a row have 160 bits, so that no two runs agree by chance; at least 12.

    Args:
        distribution: The claimed distribution.
        values: The units, rounded. If they have fewer bits than claimed, these count.
    """
    claimed = 1.0 if distribution is None else entropy(distribution, 2.0**-15)
    return max(12, math.ceil(160 / min(seen_entropy(values), claimed)))


def seen_entropy(values: NDArray[np.int64]) -> float:
    """Renyi's entropy of order 2 of the values, in bits; at least 0.03."""
    least = int(values.min(initial=0))
    if int(values.max(initial=0)) - least < 2**20:  # counting is faster than sorting
        counts = np.bincount(values.ravel() - least).astype(np.float64)
    else:
        counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    pairs = max(float((counts * (counts - 1)).sum()), 1.0)
    return math.log2(max(values.size * (values.size - 1) / pairs, 1.02))
