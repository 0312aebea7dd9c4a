"""The checks. Importing this package registers all of them."""

from embnoise.testing.checks import (
    alpha,
    arguments,
    compiler,
    counters,
    distribution,
    gradients,
    identity,
    independence,
    interface,
    large,
    magnitude,
    masks,
    padding,
    ragged,
    ranks,
    relative,
    reuse,
    seeds,
    sizes,
    state,
    transformations,
)
from embnoise.testing.registry import CHECKS, Spec

__all__ = [
    "ALL",
    "CHECKS",
    "alpha",
    "arguments",
    "compiler",
    "counters",
    "distribution",
    "gradients",
    "identity",
    "independence",
    "interface",
    "large",
    "magnitude",
    "masks",
    "padding",
    "ragged",
    "ranks",
    "relative",
    "reuse",
    "seeds",
    "sizes",
    "state",
    "transformations",
]

ALL: tuple[Spec, ...] = tuple(CHECKS[code] for code in sorted(CHECKS))
