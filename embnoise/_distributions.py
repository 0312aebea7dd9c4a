"""Distributions of the noise, as quantile functions on a lattice of 65,536 points.

A lattice integer k in [0, 65535] stands for the probability (k + 1/2) / 65536, and the unit value
is the quantile there. Uniform and Rademacher noise have closed forms that are exact in float32;
any other symmetric distribution is a table of 65,536 float32 values (256 KiB).

This file holds the class and all built-in distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import Array, ArrayNamespace
from embnoise._registry import Registry
from embnoise._validation import check_callable, format_value

__all__ = [
    "DISTRIBUTIONS",
    "GAUSSIAN",
    "LATTICE_SIZE",
    "RADEMACHER",
    "UNIFORM",
    "Distribution",
    "mirrors",
    "resolve_distribution",
]

LATTICE_SIZE = 65_536
"""How many points the lattice has."""

DISTRIBUTIONS: Registry[Distribution] = Registry("distribution")


def mirrors(quantile: Callable[[float], float], tails: Sequence[float]) -> bool | None:
    """Whether a quantile function is symmetric at some tails; ``None`` if undefined there."""
    try:
        return all(
            math.isclose(-quantile(tail), quantile(1 - tail), rel_tol=1e-3) for tail in tails
        )
    except (ArithmeticError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Distribution:
    """A symmetric distribution, given by its quantile function.

    Args:
        name: What configurations, errors and ``repr`` call it.
        quantile: From a probability in (0, 1) to a float, with ``quantile(1 - p) ==
            -quantile(p)``. Only probabilities above 1/2 are tabulated: below, a function whose
            median is 0 may be undefined.
        bound: The largest absolute unit value; infinite if the distribution has no bound.

    Example:
        >>> import embnoise
        >>> triangular = embnoise.Distribution(
        ...     "triangular", lambda p: 1 - (2 * (1 - p)) ** 0.5, bound=1.0
        ... )
        >>> round(triangular.rms, 4), round(triangular.median, 4)
        (0.4082, 0.2929)
        >>> noise = embnoise.Noise(5.0, distribution=triangular)
    """

    name: str
    quantile: Callable[[float], float]
    bound: float = math.inf

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name must be a non-empty string, got {format_value(self.name)}")
        check_callable("quantile", self.quantile)
        if not isinstance(self.bound, int | float) or not self.bound > 0:
            raise ValueError(f"bound must be a number above 0, got {format_value(self.bound)}")

    def __reduce__(self) -> Any:
        # A registered distribution is pickled by name: its quantile may be a lambda.
        if DISTRIBUTIONS.holds(self.name, self):
            return resolve_distribution, (self.name,)
        return Distribution, (self.name, self.quantile, self.bound)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """The unit values of all lattice integers, float32 of shape [65536], read-only.

        Raises:
            TypeError: A value is not a number, or ``quantile`` does not take a probability.
            ValueError: Likewise; or a value is not finite, below 0 for a probability above 1/2, or
                above ``bound``; or the function is not symmetric.
        """
        places = [(k + 0.5) / LATTICE_SIZE for k in range(LATTICE_SIZE // 2, LATTICE_SIZE)]
        try:
            upper = np.array([self.quantile(place) for place in places], dtype=np.float64)
        except Exception as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"quantile of distribution {self.name!r} must be a function of a probability that "
                f"returns a float: {type(error).__name__}: {error}"
            ) from error
        half = upper.astype(np.float32)
        if not (np.isfinite(half).all() and (half >= 0).all() and half.any()):
            raise ValueError(
                f"quantile of distribution {self.name!r} must be finite and at least 0 for a "
                f"probability above 1/2 (and not 0 throughout), got {float(half.min())} to "
                f"{float(half.max())}"
            )
        if half.max() > self.bound:
            raise ValueError(
                f"bound of distribution {self.name!r} must be at least its largest unit value, "
                f"{float(half.max())}, got {self.bound}"
            )
        # With a median of 0, it may be written for the upper half alone.
        if half[0] > 1e-3 * half.max() and mirrors(self.quantile, (0.05, 0.25, 0.45)) is False:
            low, high = (float(self.quantile(place)) for place in (0.25, 0.75))
            raise ValueError(
                f"quantile of distribution {self.name!r} must be symmetric, with quantile(1 - p) "
                f"== -quantile(p), got quantile(0.25) = {low:.4g} and quantile(0.75) = {high:.4g}"
            )
        table = np.concatenate([-half[::-1], half])
        table.flags.writeable = False
        return table

    @cached_property
    def rms(self) -> float:
        """The root mean square of the unit values."""
        return math.sqrt(self._moment(2))

    @cached_property
    def kurtosis(self) -> float:
        """The fourth moment over the square of the second: 1.8 if uniform, 3 if Gaussian."""
        return self._moment(4) / self._moment(2) ** 2

    @cached_property
    def median(self) -> float:
        """The median of the absolute unit values."""
        return float(np.median(self.table[LATTICE_SIZE // 2 :]))

    @property
    def bounded(self) -> bool:
        """Whether the unit values have a bound."""
        return math.isfinite(self.bound)

    def _moment(self, order: int) -> float:
        return math.fsum(float(value) ** order for value in self.table) / LATTICE_SIZE

    def unit(self, k: Array, xp: ArrayNamespace) -> Array:
        """The unit values, float32, of an array of lattice integers of namespace ``xp``."""
        if self is UNIFORM:
            return (
                xp.astype(2 * xp.astype(k, xp.int32) - (LATTICE_SIZE - 1), xp.float32)
                / LATTICE_SIZE
            )
        if self is RADEMACHER:
            return xp.astype(2 * xp.astype(k >= LATTICE_SIZE // 2, xp.int32) - 1, xp.float32)
        return xp.take(xp.asarray(self.table), k)


@cache
def _normal_rms() -> float:
    squares = (NormalDist().inv_cdf((k + 0.5) / LATTICE_SIZE) ** 2 for k in range(LATTICE_SIZE))
    return math.sqrt(math.fsum(squares) / LATTICE_SIZE)


def _uniform(probability: float) -> float:
    return 2 * probability - 1


def _rademacher(probability: float) -> float:
    return math.copysign(1.0, probability - 0.5)


def _gaussian(probability: float) -> float:
    # Dividing by the RMS over the lattice makes the lattice variance 1.
    return NormalDist().inv_cdf(probability) / _normal_rms()


UNIFORM = Distribution("uniform", _uniform, bound=1.0)
"""Uniform on (-1, 1)."""
RADEMACHER = Distribution("rademacher", _rademacher, bound=1.0)
"""-1 or 1."""
GAUSSIAN = Distribution("gaussian", _gaussian)
"""Normal, with a variance of 1 on the lattice."""

for _built_in in (UNIFORM, RADEMACHER, GAUSSIAN):
    DISTRIBUTIONS.add(_built_in.name, _built_in, defined_by=_built_in.quantile)


def resolve_distribution(value: object) -> Distribution:
    """The distribution of a registered name, of a quantile function, or the one given.

    Raises:
        TypeError: ``value`` is none of these.
        ValueError: The name is not registered.
    """
    if isinstance(value, Distribution):
        return value
    if callable(value):
        return Distribution(getattr(value, "__name__", type(value).__name__), value)
    if not isinstance(value, str):
        raise TypeError(
            f"distribution must be one of {DISTRIBUTIONS.names()}, a Distribution or a quantile "
            f"function, got {format_value(value)}"
        )
    return DISTRIBUTIONS[value]
