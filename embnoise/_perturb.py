"""From token coordinates to lattice integers, unit values and noisy embeddings.

n tokens, d channels. There are three formulations over an array namespace, which define what a
kernel computes. All give the same lattice integers:

- ``perturb`` computes each random word once and rounds the sum once, as a fused multiply-add does.
- ``perturb_elementwise`` is for compilers that fuse, such as XLA. Every element computes the words
  of its own block again and keeps one sixteenth of them: fused into one loop, that is faster than
  writing the words to memory, and needs no memory beside the output. It also lets the embeddings
  be sharded along any axis without communication.
- ``perturb_blocks`` is for XLA on a GPU or TPU that holds all channels of a token. It concatenates
  channels that share a block, of which the words are then computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import NUMPY, Array, ArrayNamespace, FusedArrayNamespace
from embnoise._distributions import Distribution
from embnoise._philox import Key, philox4x32, philox4x32_pair
from embnoise._validation import dtype_name

__all__ = ["lattice", "perturb", "perturb_blocks", "perturb_elementwise", "perturb_inplace"]

_BLOCK = 2**15


def lattice(
    sample: Array,
    position: Array,
    step: int | Array,
    key: Key,
    dim: int,
    *,
    xp: FusedArrayNamespace,
    word_dtype: Any,
) -> Array:
    """The lattice integers of n tokens, [n, d].

    Args:
        sample: Integers [n] in [0, 2**32).
        position: Integers [n] in [0, 2**32).
        step: A number, or a 0-d integer array, in [0, 2**32).
        key: The Philox key.
        dim: d.
        xp: The array namespace.
        word_dtype: A dtype of ``xp`` that holds 32-bit words: any 64-bit integer, or 32-bit
            unsigned.

    Returns:
        Integers [n, d] of dtype ``word_dtype`` in [0, 65535].
    """
    blocks = -(-dim // 8)
    block = xp.reshape(xp.arange(blocks, dtype=word_dtype), (1, blocks))
    position = xp.reshape(xp.astype(position, word_dtype), (-1, 1))
    sample = xp.reshape(xp.astype(sample, word_dtype), (-1, 1))
    words = philox4x32((block, position, sample, 0 * sample + step), key, xp=xp)
    planes = [half for w in words for half in (w & 0xFFFF, xp.bitwise_right_shift(w, 16))]
    return xp.concatenate(planes, axis=1)[:, :dim]


def perturb(
    x: Array,
    magnitude: Array,
    sample: Array,
    position: Array,
    step: int | Array,
    key: Key,
    distribution: Distribution,
    *,
    xp: FusedArrayNamespace,
    word_dtype: Any,
    channels: tuple[int, int] | None = None,
) -> Array:
    """``x + magnitude * unit``, rounded once to float32 and then to x's dtype.

    Rounding the product by itself would put a sum that cancels off by many ulp.

    Args:
        x: Embeddings [n, d]. For float64 the sum is taken and kept in float64.
        magnitude: float32 [n]; a token of magnitude 0 keeps its bits.
        sample: As for ``lattice``.
        position: As for ``lattice``.
        step: As for ``lattice``.
        key: As for ``lattice``.
        distribution: The distribution of the unit values.
        xp: The array namespace.
        word_dtype: As for ``lattice``.
        channels: If x holds some of the embeddings' channels: which one its first is, and how many
            the embeddings have. Default: x holds all of them.

    Returns:
        A new array of x's shape and dtype.
    """
    first, dim = (0, x.shape[1]) if channels is None else channels
    integers = lattice(sample, position, step, key, dim, xp=xp, word_dtype=word_dtype)
    if channels is not None:
        integers = integers[:, first : first + x.shape[1]]
    scale = xp.reshape(magnitude, (-1, 1))
    noisy = _rounded_once(x, scale, distribution.unit(integers, xp), xp)
    return xp.where(scale != 0, xp.astype(noisy, x.dtype), x)


def _rounded_once(x: Array, scale: Array, unit: Array, xp: FusedArrayNamespace) -> Array:
    """``x + scale * unit`` with one rounding, to float64 for a float64 ``x``, else to float32."""
    if xp.float64 is None:
        return _fused_in_float32(xp.astype(x, xp.float32), scale, unit, xp)
    # Exact: two float32 have 48 significant bits between them.
    noise = xp.astype(scale, xp.float64) * xp.astype(unit, xp.float64)
    wide = xp.astype(x, xp.float64)
    noisy = wide + noise
    if dtype_name(x) == "float64":
        return noisy
    return xp.astype(_to_odd(noisy, _lost(noisy, wide, noise), xp), xp.float32)


def _lost(total: Array, left: Array, right: Array) -> Array:
    """What was rounded off in ``total = left + right``, exactly (Knuth's TwoSum)."""
    back = total - right
    return (right - (total - back)) + (left - back)


def _to_odd(total: Any, lost: Array, xp: FusedArrayNamespace) -> Array:
    """A sum that was rounded to nearest, rounded to odd instead.

    Rounding it on to a narrower format gives what one rounding of the exact sum gives (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
    odd", 2008).

    Args:
        total: The sum, float32 or float64.
        lost: What was rounded off.
        xp: The array namespace.
    """
    bits = total.view(xp.int32 if dtype_name(total) == "float32" else xp.int64)
    away_from_0 = xp.astype(xp.where((lost > 0) == (total > 0), 1, -1), bits.dtype)
    neighbor = (bits + away_from_0).view(total.dtype)
    inexact = (lost > 0) | (lost < 0)  # NaN, where the sum is infinite, is neither
    return xp.where(inexact & ((bits & 1) == 0), neighbor, total)


def _fused_in_float32(x: Array, scale: Array, unit: Array, xp: FusedArrayNamespace) -> Array:
    """``x + scale * unit`` with one rounding, for devices without float64.

    The product is split into two float32 (Dekker), and the three numbers are added with one
    rounding as Boldo and Melquiond do. It is exact unless the product is below 2**-100.
    """
    product = scale * unit
    high = scale * 4097.0 - (scale * 4097.0 - scale)
    low = scale - high
    unit_high = unit * 4097.0 - (unit * 4097.0 - unit)
    unit_low = unit - unit_high
    rest = ((high * unit_high - product) + high * unit_low + low * unit_high) + low * unit_low
    small = x + rest
    total = product + small
    lost = _lost(small, x, rest), _lost(total, product, small)
    tail = lost[0] + lost[1]
    fused = total + _to_odd(tail, _lost(tail, *lost), xp)
    return xp.where(xp.isfinite(total), fused, total)


def perturb_elementwise(
    x: Array,
    magnitude: Array,
    sample: Array,
    position: Array,
    step: Array,
    key: Key,
    distribution: Distribution,
    *,
    xp: ArrayNamespace,
    word_dtype: Any,
    channels: tuple[int | Array, int] | None = None,
) -> Array:
    """``x + magnitude * unit``, element by element, rounded to float32 and then to x's dtype.

    Whether product and sum are fused into one rounding is left to the compiler; the specification
    allows both.

    Args:
        x: Embeddings [..., d]. For float64 the sum is taken and kept in float64.
        magnitude: float32 that broadcasts to [...]; a token of magnitude 0 keeps its bits.
        sample: Integers in [0, 2**32) of dtype ``word_dtype`` that broadcast to [...].
        position: The same.
        step: A 0-d array in [0, 2**32) of dtype ``word_dtype``.
        key: The Philox key: two ints, or 0-d arrays of dtype ``word_dtype``.
        distribution: The distribution of the unit values.
        xp: The array namespace.
        word_dtype: As for ``lattice``.
        channels: If x holds some of the embeddings' channels: which one its first is, and how many
            the embeddings have, a number or a 0-d array of dtype ``word_dtype`` and a number.
            Default: x holds all of them.

    Returns:
        A new array of x's shape and dtype.
    """
    here = np.arange(x.shape[-1])
    if channels is None:
        plane, block = (
            xp.asarray(part, dtype=word_dtype) for part in np.divmod(here, -(-x.shape[-1] // 8))
        )
    else:
        first, dim = channels
        count = xp.asarray(-(-dim // 8), dtype=word_dtype)
        channel = xp.asarray(here, dtype=word_dtype) + first
        plane, block = channel // count, channel % count
    counter = (block, position[..., None], sample[..., None], step)
    pair = philox4x32_pair(counter, key, plane >= 4, xp=xp)
    shift = (plane + 2 & 3) * 16  # the first word of a pair is in the upper half
    integers = xp.astype(xp.bitwise_right_shift(pair, xp.astype(shift, xp.uint64)), word_dtype)
    return _with_noise(x, magnitude, integers & 0xFFFF, distribution, xp)


def perturb_blocks(
    x: Array,
    magnitude: Array,
    sample: Array,
    position: Array,
    step: Array,
    key: Key,
    distribution: Distribution,
    *,
    xp: FusedArrayNamespace,
    word_dtype: Any,
    write: Callable[[Any], Any] | None,
) -> Array:
    """What ``perturb_elementwise`` computes, with each random word computed once.

    Args:
        x: Embeddings [B, L, d] or [L, d], d a multiple of 8.
        magnitude: As for ``perturb_elementwise``.
        sample: As for ``perturb_elementwise``.
        position: As for ``perturb_elementwise``.
        step: As for ``perturb_elementwise``.
        key: As for ``perturb_elementwise``.
        distribution: As for ``perturb_elementwise``.
        xp: The array namespace.
        word_dtype: As for ``perturb_elementwise``.
        write: A function that returns a tuple of arrays as it is, and has the compiler write them
            to memory. None for a compiler that makes one loop of the concatenation of four arrays
            and of all that they are computed from, as XLA does for GPUs.

    Returns:
        A new array of x's shape and dtype.
    """
    blocks = x.shape[-1] // 8
    if write is None:
        # XLA fuses what seems to cost more to write than to compute again. So every part seems to
        # have words of its own, of which it takes a quarter; in machine code, all are the same.
        shape = (*x.shape[:-1], 4, 2 * blocks)
        channel = xp.arange(2 * blocks, dtype=word_dtype)
        block, position, sample, step = (
            xp.broadcast_to(part, shape)
            for part in (channel % blocks, position[..., None, None], sample[..., None, None], step)
        )
        words = philox4x32((block, position, sample, step), key, xp=xp)
        quarters = [word[..., number, :] for number, word in enumerate(words)]
        upper = channel >= blocks
        integers = [xp.where(upper, xp.bitwise_right_shift(w, 16), w & 0xFFFF) for w in quarters]
    else:
        block = xp.arange(blocks, dtype=word_dtype)
        words = write(philox4x32((block, position[..., None], sample[..., None], step), key, xp=xp))
        integers = [half for w in words for half in (w & 0xFFFF, xp.bitwise_right_shift(w, 16))]
    size = x.shape[-1] // len(integers)
    parts = [
        _with_noise(x[..., i * size : (i + 1) * size], magnitude, part, distribution, xp)
        for i, part in enumerate(integers)
    ]
    return xp.concatenate(parts, axis=-1)


def _with_noise(
    x: Array, magnitude: Array, integers: Array, distribution: Distribution, xp: ArrayNamespace
) -> Array:
    """``x + magnitude * unit`` of lattice integers, with rounding left to the compiler."""
    wide = xp.float64 if dtype_name(x) == "float64" else xp.float32
    scale = magnitude[..., None]
    unit = xp.astype(distribution.unit(integers, xp), wide)
    noisy = xp.astype(x, wide) + xp.astype(scale, wide) * unit
    return xp.where(scale != 0, xp.astype(noisy, x.dtype), x)


def perturb_inplace(
    x: NDArray[Any],
    magnitude: NDArray[np.float32],
    sample: NDArray[np.uint32],
    position: NDArray[np.uint32],
    step: int,
    key: tuple[int, int],
    distribution: Distribution,
) -> None:
    """``perturb`` for NumPy, in place and block by block: the kernel without a compiler.

    Its temporaries take about 2 MiB, whatever the size of ``x``. The arguments are those of
    ``perturb``.
    """
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        with np.errstate(all="ignore"):  # x may hold infinities, which stay what they are
            x[part] = perturb(
                x[part],
                magnitude[part],
                sample[part],
                position[part],
                step,
                key,
                distribution,
                xp=NUMPY,
                word_dtype=np.uint64,
            )
