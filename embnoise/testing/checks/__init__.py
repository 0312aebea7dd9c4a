"""The checks. Importing this package registers all of them."""

from embnoise.testing.checks import (
    alpha,
    compiler,
    distribution,
    gradients,
    identity,
    independence,
    interface,
    magnitude,
    padding,
    seeds,
    state,
)
from embnoise.testing.registry import CHECKS, Spec

__all__ = [
    "ALL",
    "CHECKS",
    "alpha",
    "compiler",
    "distribution",
    "gradients",
    "identity",
    "independence",
    "interface",
    "magnitude",
    "padding",
    "seeds",
    "state",
]

ALL: tuple[Spec, ...] = tuple(CHECKS[code] for code in sorted(CHECKS))
