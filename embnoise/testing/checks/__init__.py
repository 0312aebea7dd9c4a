"""The checks. Importing this package registers them all."""

from embnoise.testing.checks import (
    calls,
    compiler,
    distribution,
    gradients,
    identity,
    independence,
    magnitude,
    padding,
    seeds,
    state,
)
from embnoise.testing.registry import CHECKS, Spec

__all__ = [
    "ALL",
    "calls",
    "compiler",
    "distribution",
    "gradients",
    "identity",
    "independence",
    "magnitude",
    "padding",
    "seeds",
    "state",
]

ALL: tuple[Spec, ...] = tuple(CHECKS[code] for code in sorted(CHECKS))
