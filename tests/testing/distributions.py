"""Distributions of users, for the kit: bounded, unbounded, discrete, and mixed."""

import math

from embnoise import Distribution


def _symmetric(upper):
    """A quantile function from the one above 1/2."""
    return lambda p: upper(1 - p) if p >= 0.5 else -upper(p)


TRIANGULAR = Distribution(
    "kit_triangular", _symmetric(lambda tail: 1 - (2 * tail) ** 0.5), bound=1.0
)
LAPLACE = Distribution("laplace", _symmetric(lambda tail: -math.log(2 * tail)))
THREE_POINT = Distribution("three", _symmetric(lambda tail: float(tail < 0.25)), bound=1.0)
CLIPPED = Distribution("clipped", lambda p: max(-1.0, min(1.0, 3 * (2 * p - 1))), bound=1.0)
MOSTLY_ZERO = Distribution(
    "mostly_zero", _symmetric(lambda tail: -math.log(tail / 0.2) if tail < 0.2 else 0.0)
)
HALF_DEFINED = Distribution("half_defined", lambda p: -math.log(2 * (1 - p)))
"""Laplace above 1/2, which is all that a table needs, and something else below."""
