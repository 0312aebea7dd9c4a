"""The noise itself: from coordinates to lattice integers, unit values and noisy embeddings.

n tokens, d channels. The functions over an array namespace ``xp`` serve every backend that has no
kernel of its own, and define what a kernel must compute.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise import _check
from embnoise.distributions import Distribution
from embnoise.philox import philox4x32

__all__ = ["lattice", "perturb", "perturbed"]

_BLOCK = 2**15


def lattice(
    sample: Any, position: Any, step: Any, key: tuple[int, int], dim: int, *, xp: Any, word: Any
) -> Any:
    """The lattice integers of n tokens.

    Args:
        sample: integers [n] in [0, 2**32).
        position: integers [n] in [0, 2**32).
        step: a number, or a 0-d integer array, in [0, 2**32).
        key: the Philox key, ``Noise.key``.
        dim: d.
        xp: the array namespace.
        word: its dtype that holds 32-bit words: see ``philox``.

    Returns:
        Integers [n, d] of dtype ``word`` in [0, 65535].
    """
    blocks = -(-dim // 8)
    block = xp.reshape(xp.arange(blocks, dtype=word), (1, blocks))
    position = xp.reshape(xp.astype(position, word), (-1, 1))
    sample = xp.reshape(xp.astype(sample, word), (-1, 1))
    words = philox4x32((block, position, sample, 0 * sample + step), key, xp=xp)
    planes = [half for w in words for half in (w & 0xFFFF, xp.bitwise_right_shift(w, 16))]
    return xp.concatenate(planes, axis=1)[:, :dim]


def perturbed(
    x: Any,
    magnitude: Any,
    sample: Any,
    position: Any,
    step: Any,
    key: tuple[int, int],
    distribution: Distribution,
    *,
    xp: Any,
    word: Any,
) -> Any:
    """``x + magnitude * unit`` as a new array, fused: rounded once to float32, then to x's dtype.

    With a product rounded by itself a sum that cancels would be off by many ulp.

    Args:
        x: embeddings [n, d]; float64 is rounded to float64 alone.
        magnitude: float32 [n]; a token of magnitude 0 keeps its bits.
        sample: as in ``lattice``.
        position: as in ``lattice``.
        step: as in ``lattice``.
        key: as in ``lattice``.
        distribution: of the unit values.
        xp: the array namespace.
        word: as in ``lattice``.
    """
    integers = lattice(sample, position, step, key, x.shape[1], xp=xp, word=word)
    scale = xp.reshape(magnitude, (-1, 1))
    # Exact: two float32 have 48 significant bits between them.
    noise = xp.astype(scale, xp.float64) * xp.astype(distribution.unit(integers, xp), xp.float64)
    noisy = xp.astype(x, xp.float64) + noise
    if _check.dtype_name(x) != "float64":
        noisy = xp.astype(_odd(noisy, xp.astype(x, xp.float64), noise, xp), xp.float32)
    return xp.where(scale != 0, xp.astype(noisy, x.dtype), x)


def _odd(total: Any, x: Any, noise: Any, xp: Any) -> Any:
    """The float64 ``total = x + noise``, rounded to odd instead of to nearest.

    Rounded on to float32 it gives what one rounding of the exact sum gives (Boldo and Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    back = total - noise
    lost = (noise - (total - back)) + (x - back)
    inexact_and_even = (lost != 0) & ((total.view(xp.int64) & 1) == 0)
    infinity = xp.full_like(total, math.inf)
    towards = xp.where(lost > 0, infinity, -infinity)
    return xp.where(inexact_and_even, xp.nextafter(total, towards), total)


def perturb(
    x: NDArray[Any],
    magnitude: NDArray[np.float32],
    sample: NDArray[np.uint32],
    position: NDArray[np.uint32],
    step: int,
    key: tuple[int, int],
    distribution: Distribution,
) -> None:
    """``perturbed`` for NumPy, in place and block by block: the kernel without a compiler.

    Its temporaries take about 2 MiB, whatever the size of ``x``.
    """
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        with np.errstate(all="ignore"):  # x may hold infinities, and they stay what they are
            x[part] = perturbed(
                x[part],
                magnitude[part],
                sample[part],
                position[part],
                step,
                key,
                distribution,
                xp=np,
                word=np.uint64,
            )
