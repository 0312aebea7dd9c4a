"""The noise element by element, for compilers that fuse: XLA, under JAX and TensorFlow.

Every element computes the random words of its own block again, and keeps one sixteenth of them.
Fused into one loop that is faster than to write the words down, and needs no memory beside the
output; it also lets the embeddings be sharded along any axis with nothing to communicate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embnoise import _check
from embnoise.distributions import Distribution
from embnoise.philox import philox4x32

__all__ = ["perturbed"]


def perturbed(
    x: Any,
    magnitude: Any,
    sample: Any,
    position: Any,
    step: Any,
    key: tuple[Any, Any],
    distribution: Distribution,
    *,
    xp: Any,
    word: Any,
) -> Any:
    """``x + magnitude * unit`` as a new array, rounded to float32, then to x's dtype.

    Whether product and sum are fused into one rounding is left to the compiler; the specification
    allows both.

    Args:
        x: embeddings [..., d]; float64 is rounded to float64 alone.
        magnitude: float32 that broadcasts to [...]; a token of magnitude 0 keeps its bits.
        sample: integers in [0, 2**32) of dtype ``word`` that broadcast to [...].
        position: the same.
        step: a 0-d array in [0, 2**32) of dtype ``word``.
        key: the Philox key: two Python ints, or 0-d arrays of dtype ``word``.
        distribution: of the unit values.
        xp: the array namespace.
        word: its dtype that holds 32-bit words: see ``philox``.
    """
    wide = xp.float64 if _check.dtype_name(x) == "float64" else xp.float32
    integers = _lattice(sample[..., None], position[..., None], step, key, x.shape[-1], xp, word)
    scale = magnitude[..., None]
    unit = xp.astype(distribution.unit(integers, xp), wide)
    noisy = xp.astype(x, wide) + xp.astype(scale, wide) * unit
    return xp.where(scale != 0, xp.astype(noisy, x.dtype), x)


def _lattice(
    sample: Any, position: Any, step: Any, key: tuple[Any, Any], dim: int, xp: Any, word: Any
) -> Any:
    """Lattice integers of dtype ``word``, [..., d], from coordinates [..., 1]."""
    blocks = -(-dim // 8)
    plane, block = np.divmod(np.arange(dim), blocks)
    number, half = (xp.asarray(part, dtype=word) for part in np.divmod(plane, 2))
    counter = (xp.asarray(block, dtype=word), position, sample, step)
    w0, w1, w2, w3 = philox4x32(counter, key, xp=xp)
    drawn = xp.where(number < 2, xp.where(number < 1, w0, w1), xp.where(number < 3, w2, w3))
    return xp.bitwise_right_shift(drawn, 16 * half) & 0xFFFF
