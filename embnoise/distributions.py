"""Distributions of the noise, as quantile functions on a lattice of 65,536 points.

A lattice integer k in [0, 65535] stands for the probability (k + 1/2) / 65536, and the unit value
is the quantile there. Uniform and Rademacher have closed forms that are exact in float32; any
other symmetric distribution is a table of 65,536 float32 values (256 KiB).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise import _check

__all__ = ["GAUSSIAN", "LATTICE", "RADEMACHER", "UNIFORM", "Distribution", "distribution_of"]

LATTICE = 65_536


@dataclass(frozen=True)
class Distribution:
    """A symmetric distribution, given by its quantile function.

    Attributes:
        name: what ``repr`` and errors call it.
        quantile: from a probability in (0, 1) to a float, with ``quantile(1 - p) == -quantile(p)``.
            It is called for p above 1/2 only.

    Example:
        >>> triangular = Distribution("triangular", lambda p: 1 - (2 * (1 - p)) ** 0.5)
        >>> float(triangular.table[32768]), round(triangular.rms, 4)
        (7.629423635080457e-06, 0.4082)
    """

    name: str
    quantile: Callable[[float], float]

    def __reduce__(self) -> Any:
        # A named distribution stays the one that it is, copied or pickled.
        if _NAMED.get(self.name) is self:
            return distribution_of, (self.name,)
        return Distribution, (self.name, self.quantile)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """The unit values of all lattice integers, float32 of shape [65536], read-only.

        Raises:
            ValueError: a value is not finite, or not above 0 for a probability above 1/2.
        """
        upper = [self.quantile((k + 0.5) / LATTICE) for k in range(LATTICE // 2, LATTICE)]
        half = np.array(upper, dtype=np.float64).astype(np.float32)
        if not (np.isfinite(half).all() and (half >= 0).all() and half.any()):
            raise ValueError(
                f"quantile of distribution {self.name!r} must be finite and at least 0 for a "
                f"probability above 1/2 (and not 0 throughout), got {float(half.min())} to "
                f"{float(half.max())}"
            )
        table = np.concatenate([-half[::-1], half])
        table.flags.writeable = False
        return table

    @cached_property
    def rms(self) -> float:
        """The root mean square of the unit values."""
        return math.sqrt(math.fsum(float(value) ** 2 for value in self.table) / LATTICE)

    def unit(self, k: Any, xp: Any) -> Any:
        """The unit values, float32, of an array of lattice integers of namespace ``xp``."""
        if self is UNIFORM:
            return xp.astype(2 * xp.astype(k, xp.int32) - (LATTICE - 1), xp.float32) / LATTICE
        if self is RADEMACHER:
            return xp.astype(2 * xp.astype(k >= LATTICE // 2, xp.int32) - 1, xp.float32)
        return xp.take(xp.asarray(self.table), k)


@cache
def _normal_rms() -> float:
    squares = (NormalDist().inv_cdf((k + 0.5) / LATTICE) ** 2 for k in range(LATTICE))
    return math.sqrt(math.fsum(squares) / LATTICE)


def _standard_normal(probability: float) -> float:
    # Dividing by the RMS over the lattice gives the lattice variance 1.
    return NormalDist().inv_cdf(probability) / _normal_rms()


UNIFORM = Distribution("uniform", lambda probability: 2 * probability - 1)
RADEMACHER = Distribution("rademacher", lambda probability: math.copysign(1.0, probability - 0.5))
GAUSSIAN = Distribution("gaussian", _standard_normal)

_NAMED = {known.name: known for known in (UNIFORM, RADEMACHER, GAUSSIAN)}


def distribution_of(value: str | Distribution) -> Distribution:
    """The distribution of a name, or the one given.

    Raises:
        TypeError: neither a string nor a Distribution.
        ValueError: an unknown name.
    """
    if isinstance(value, Distribution):
        return value
    _check.choice("distribution", value, list(_NAMED))
    return _NAMED[value]
