"""The numbers by which compiled kernels know a distribution."""

from __future__ import annotations

from embnoise.backend import RADEMACHER as _RADEMACHER
from embnoise.backend import UNIFORM as _UNIFORM
from embnoise.backend import Distribution

__all__ = ["RADEMACHER", "TABLE", "UNIFORM", "code_of"]

UNIFORM, RADEMACHER, TABLE = 0, 1, 2


def code_of(distribution: Distribution) -> int:
    """``UNIFORM`` or ``RADEMACHER``, which have a formula, or ``TABLE`` for any other."""
    if distribution is _UNIFORM:
        return UNIFORM
    return RADEMACHER if distribution is _RADEMACHER else TABLE
