"""Numbers that lie so far apart that a layer which confuses any of them shows it."""

from __future__ import annotations

import math

__all__ = ["far_apart"]

_ROUND = (2**10, 2**12, 10**4, 2**16, 2**20, 10**6, 2**24, 2**24 + 1, 10**9, 2**30)
"""Multiples of the round numbers by which a layer may divide a seed or a step, and the first number
that a float32 confuses with another one."""


def far_apart(most: int) -> list[int]:
    """Offsets from 0 of which two lie a multiple of p apart, for every period p.

    This holds for every p up to ``most``, and for the powers of 2 and of 10 up to 2^30 and 10^9.
    """
    # A period up to most / 2 has a multiple above that, so only these distances are needed.
    small = range(math.isqrt(most // 2) + 1)
    large = range(most // 2 + small[-1], most + len(small), len(small))
    return sorted({*small, *large, *_ROUND})
