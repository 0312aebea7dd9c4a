"""The code of the CPU kernel: Philox and the addition in place, compiled by Numba.

It computes what ``embnoise.backend.perturb`` defines, with the same bits. Elements have the types
in which Numba sees a tensor's memory: float32, float64, and for two 16-bit formats that NumPy or
Numba lack the integers that they are viewed as: uint16 for float16, int16 for bfloat16. The
compiled code is cached on disk; the first call for a dtype takes a few seconds, once.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def,untyped-decorator,var-annotated"

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from embnoise.backend import MULTIPLIERS, ROUNDS, WEYL
from embnoise_torch.kernels._codes import RADEMACHER, UNIFORM

_MULTIPLIER0, _MULTIPLIER1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_WEYL0, _WEYL1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])


# Numba inlines everything below. LLVM would inline too late for the loops to be vectorized, which
# makes the kernel six times slower.
@njit(inline="always")
def _philox(block, position, sample, step, key0, key1):
    word0, word1, word2, word3 = block, position, sample, step
    for _ in range(ROUNDS):
        product0 = _MULTIPLIER0 * np.uint64(word0)
        product1 = _MULTIPLIER1 * np.uint64(word2)
        word0 = np.uint32(np.uint32(product1 >> np.uint64(32)) ^ word1 ^ key0)
        word2 = np.uint32(np.uint32(product0 >> np.uint64(32)) ^ word3 ^ key1)
        word1, word3 = np.uint32(product1), np.uint32(product0)
        key0, key1 = np.uint32(key0 + _WEYL0), np.uint32(key1 + _WEYL1)
    return word0, word1, word2, word3


@njit(inline="always")
def _float(bits):
    return np.uint32(bits).view(np.float32)


@njit(inline="always")
def _bits(value):
    return np.float32(value).view(np.uint32)


@njit(inline="always")
def _from_half(half):
    # The exponent and mantissa land 112 binades too low, subnormals included.
    magnitude = np.uint32(half & np.uint16(0x7FFF))
    bits = _bits(_float(magnitude << np.uint32(13)) * np.float32(2.0**112))
    if magnitude >= np.uint32(0x7C00):  # infinities and NaN
        bits = np.uint32(bits | np.uint32(0x7F800000))
    return _float(bits | (np.uint32(half & np.uint16(0x8000)) << np.uint32(16)))


@njit(inline="always")
def _to_half(value):
    bits = _bits(value)
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if magnitude > np.uint32(0x7F800000):
        half = np.uint32(0x7E00)
    elif magnitude >= np.uint32(0x477FF000):  # 65520 and above round to infinity
        half = np.uint32(0x7C00)
    elif magnitude < np.uint32(0x38800000):  # below 2**-14: let an addition round to subnormals
        half = np.uint32(_bits(_float(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000))
    else:
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        rounded = np.uint32(magnitude + np.uint32(0xFFF) + odd)
        half = np.uint32((rounded - np.uint32(0x38000000)) >> np.uint32(13))
    return np.uint16(half | sign)


@njit(inline="always")
def _to_bfloat(value):
    bits = _bits(value)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.int16(rounded) if value == value else np.int16(0x7FC0)  # noqa: PLR0124


@intrinsic
def _fused(typing_context, magnitude, unit, element):
    """``magnitude * unit + element`` in float32 with one rounding."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _take(typing_context, counter, amount):
    """Add to an int64 [1] atomically; returns what it was before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, arguments[1], "monotonic")

    return types.int64(counter, types.int64), generate


def _noisy(element, magnitude, unit):
    """``element + magnitude * unit``, in the format of ``element``."""
    raise NotImplementedError


@overload(_noisy)
def _noisy_of(element, magnitude, unit):
    def double(element, magnitude, unit):
        return element + np.float64(magnitude) * np.float64(unit)

    def single(element, magnitude, unit):
        return _fused(magnitude, unit, element)

    def half(element, magnitude, unit):
        return _to_half(_fused(magnitude, unit, _from_half(element)))

    def bfloat(element, magnitude, unit):
        wide = _float(np.uint32(np.uint16(element)) << np.uint32(16))
        return _to_bfloat(_fused(magnitude, unit, wide))

    formats = {
        types.float64: double,
        types.float32: single,
        types.uint16: half,
        types.int16: bfloat,
    }
    return formats[element]


@njit(inline="always")
def _draw(words, position, sample, step, key0, key1):
    """The random words of one token, [4, blocks]."""
    for block in range(words.shape[1]):
        word0, word1, word2, word3 = _philox(np.uint32(block), position, sample, step, key0, key1)
        words[0, block], words[1, block] = word0, word1
        words[2, block], words[3, block] = word2, word3


@njit(inline="always")
def _add(row, scale, words, distribution, table):
    """The noise of one token onto its embedding, [d]."""
    blocks = words.shape[1]
    scaled = np.float32(scale * np.float32(2.0**-15))
    exact = scaled * np.float32(2.0**15) == scale
    for plane in range(8):
        first = plane * blocks
        shift = np.uint32(16 * (plane & 1))
        count = min(blocks, row.size - first)
        if distribution == UNIFORM and exact:
            # The unit value times 2**15 takes one operation less. The power of two moves into
            # the scale, exactly unless that becomes subnormal.
            for block in range(count):
                k = np.uint32((words[plane >> 1, block] >> shift) & np.uint32(0xFFFF))
                unit = np.float32(np.int32(k)) - np.float32(32767.5)
                row[first + block] = _noisy(row[first + block], scaled, unit)
        elif distribution == RADEMACHER:
            for block in range(count):
                k = np.uint32((words[plane >> 1, block] >> shift) & np.uint32(0xFFFF))
                unit = np.float32(1.0) if k >= np.uint32(32768) else np.float32(-1.0)
                row[first + block] = _noisy(row[first + block], scale, unit)
        else:
            for block in range(count):
                k = np.uint32((words[plane >> 1, block] >> shift) & np.uint32(0xFFFF))
                row[first + block] = _noisy(row[first + block], scale, table[k])


@njit(nogil=True, cache=True)
def perturb(x, magnitude, sample, position, step, key0, key1, distribution, table, taken, chunk):
    """Noise in place on the tokens of ``x``, shared out to the threads that call it together.

    Args:
        x: [n, d], C-contiguous, float32, float64, uint16 (float16) or int16 (bfloat16).
        magnitude: float32 [n]; a token of magnitude 0 keeps its bits.
        sample: uint32 [n].
        position: uint32 [n].
        step: an int in [0, 2**32).
        key0: an int in [0, 2**32).
        key1: an int in [0, 2**32).
        distribution: UNIFORM, RADEMACHER or TABLE.
        table: the unit values, float32 [65536], read-only.
        taken: int64 [1]: how many tokens some thread has taken on; 0 at first.
        chunk: how many tokens a thread takes on at a time.
    """
    tokens, dim = x.shape
    now, low, high = np.uint32(step), np.uint32(key0), np.uint32(key1)
    words = np.empty((4, (dim + 7) // 8), np.uint32)
    start = _take(taken, chunk)
    while start < tokens:
        for token in range(start, min(start + chunk, tokens)):
            if magnitude[token] != 0:
                _draw(words, position[token], sample[token], now, low, high)
                _add(x[token], magnitude[token], words, distribution, table)
        start = _take(taken, chunk)
