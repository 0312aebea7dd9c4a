"""What a correct layer's noise may do by chance, with the chance of every bound stated.

Every bound holds for any number of values, not only for many: Hoeffding's and Azuma's inequalities,
the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (1990), and the chi-square tails
of Laurent and Massart (2000). Units are noise divided by the magnitude that it should have.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

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
]

BUDGET = 1e-9
"""The chance that a correct layer fails anything in one run of the whole kit."""

RANDOM_CHECKS = 35
"""At most this many checks of a run can fail by chance: Bonferroni's divisor. A test counts
them."""

RATE = BUDGET / RANDOM_CHECKS
"""The chance that a correct layer fails one check: once in 3.5e10 runs."""

Units = NDArray[np.float64]


def once_in(rate: float = RATE) -> str:
    """How a chance is said, rounded down: "once in 3e10 runs"."""
    exponent = math.floor(math.log10(1 / rate))
    return f"once in {int(1 / rate / 10**exponent)}e{exponent} runs"


def band(count: int, rate: float = RATE) -> float:
    """sqrt(ln(2 / rate) / (2 n)): the DKW band's half-width, and Hoeffding's in [0, 1]."""
    return math.sqrt(math.log(2 / rate) / (2 * count))


def extreme_window(distribution: str, count: int, rate: float = RATE) -> tuple[float, float]:
    """A lower bound for the largest of ``count`` unit values, and an upper one for all sizes.

    The largest of a uniform draw on [-1, 1] is below t with the chance ((1 + t) / 2)^n.
    """
    if distribution == "uniform":
        return max(2 * rate ** (1 / count) - 1, 0.0), 1.0
    if distribution == "rademacher":
        return 1.0, 1.0
    normal = NormalDist()
    # 1 - p is exact in floating point where p is close to 0, so take the other tail.
    lower = -normal.inv_cdf(-math.expm1(math.log(rate) / count))
    return max(lower, 0.0), -normal.inv_cdf(rate / (2 * count))


def rms_window(distribution: str, count: int, rate: float = RATE) -> tuple[float, float]:
    """Where the RMS of ``count`` unit values lies."""
    if distribution == "uniform":
        half = band(count, rate)
        return math.sqrt(max(1 / 3 - half, 0)), math.sqrt(1 / 3 + half)
    if distribution == "rademacher":
        return 1.0, 1.0
    excess = math.log(2 / rate)
    spread = 2 * math.sqrt(excess / count)
    return math.sqrt(max(1 - spread, 0)), math.sqrt(1 + spread + 2 * excess / count)


def amplitude(distribution: str | None, units: Units) -> float:
    """One number for how large the units are: their largest size, or their RMS if unbounded."""
    if distribution in ("uniform", "rademacher"):
        return float(abs(units).max(initial=0.0))
    return float(np.sqrt(np.square(units).mean())) if units.size else 0.0


def amplitude_window(
    distribution: str | None, count: int, rate: float = RATE
) -> tuple[float, float]:
    """Where ``amplitude`` lies for ``count`` units of the right magnitude.

    Without a distribution it is known up to a factor only, and a factor of 2 is let pass.
    """
    if distribution == "uniform":
        return rate ** (1 / count), 1.0  # |u| is uniform on [0, 1]
    if distribution is None:
        return 0.5, 2.0
    return rms_window(distribution, count, rate)


def cdf_distance(distribution: str, units: Units) -> tuple[float, float]:
    """The largest distance between the units' CDF and the promised one, and where it is.

    Ties count as they are: both ends of every jump are looked at.
    """
    values, counts = np.unique(units, return_counts=True)
    after = np.cumsum(counts) / units.size
    before = after - counts / units.size
    if distribution == "rademacher":
        right = np.where(values >= 1, 1.0, np.where(values >= -1, 0.5, 0.0))
        left = np.where(values > 1, 1.0, np.where(values > -1, 0.5, 0.0))
    elif distribution == "uniform":
        right = left = np.clip((values + 1) / 2, 0, 1)
    else:
        right = left = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])
    distances = np.maximum(abs(after - right), abs(before - left))
    worst = int(distances.argmax())
    return float(distances[worst]), float(values[worst])


def distinct_least(count: int, bits: int) -> int:
    """Half of the mean number of distinct values of a draw on a grid of ``2**bits``."""
    grid = 2.0**bits
    return int(grid * -math.expm1(-count / grid) / 2)
