"""Paired comparisons: intervals, p-values and equivalence, from one number per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Estimate", "equivalence", "estimate", "holm"]

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences, its interval and its p-value."""

    mean: float
    low: float
    high: float
    p: float
    count: int


def estimate(differences: Sequence[float]) -> Estimate:
    """The mean with a 95% BCa bootstrap interval, and the p-value of a sign-flip test.

    The test enumerates all flips up to 14 differences, and draws 10,000 of them beyond that.
    """
    values = np.asarray(differences)
    if np.ptp(values) == 0:  # the bootstrap has no spread to work with
        return Estimate(float(values[0]), float(values[0]), float(values[0]), 1.0, len(values))
    interval = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=0
    ).confidence_interval
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=0
    )
    return Estimate(
        float(values.mean()), float(interval.low), float(interval.high), test.pvalue, len(values)
    )


def equivalence(differences: Sequence[float], margin: float) -> float:
    """The p-value of two one-sided t-tests: small if the mean is within ``margin`` of 0."""
    values = np.asarray(differences)
    below = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(below, above))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]
