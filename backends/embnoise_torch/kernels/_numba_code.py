"""The code of the CPU kernel: Philox, and the addition in place or in a lookup, by Numba.

It computes what ``embnoise.backend.perturb`` defines, with the same bits. Elements have the types
in which Numba sees a tensor's memory: float32, float64, and for two 16-bit formats that NumPy or
Numba lack the integers that they are viewed as: uint16 for float16, int16 for bfloat16. The
compiled code is cached on disk; the first call for a dtype takes a few seconds, once.

Blocks of a token differ in their number only, and tokens in their position and sample only. So the
first two rounds of Philox fall apart into a part that is computed once for each block, and one that
is computed once for each token.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def,untyped-decorator,var-annotated"

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from embnoise.backend import MULTIPLIERS, ROUNDS, WEYL

_MULTIPLIER0, _MULTIPLIER1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_WEYL0, _WEYL1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_0, _16 = np.uint32(0), np.uint32(16)


# Numba inlines most of what follows. LLVM would inline it too late for the loops to be vectorized,
# which makes the kernel six times slower. Words are in the low halves of 64 bits, as a product
# leaves them; what is in the high halves has no meaning.
@njit(inline="always")
def _half_round(multiplier, word, other, key):
    """Two of the four words after a round of Philox."""
    product = multiplier * (word & _LOW)
    return (product >> _32) ^ other ^ np.uint64(key), product


@njit(inline="always")
def _start(blocks, step, key0, key1):
    """The first two rounds as far as they depend on the block and not on the token, [3, blocks]."""
    zero = np.uint64(0)
    for block in range(blocks.shape[1]):
        word2, word3 = _half_round(_MULTIPLIER0, np.uint64(block), np.uint64(step), key1)
        word0, word1 = _half_round(_MULTIPLIER1, word2, zero, np.uint32(key0 + _WEYL0))
        blocks[0, block], blocks[1, block], blocks[2, block] = word0, word1, word3


@njit(inline="always")
def _draw(words, blocks, position, sample, key0, key1):
    """The random words of one token, [4, blocks]."""
    word0, word1 = _half_round(_MULTIPLIER1, np.uint64(sample), np.uint64(position), key0)
    key0, key1 = np.uint32(key0 + _WEYL0), np.uint32(key1 + _WEYL1)
    word2, word3 = _half_round(_MULTIPLIER0, word0, np.uint64(0), key1)
    for block in range(words.shape[1]):
        first, second = blocks[0, block] ^ word1, blocks[1, block]
        third, fourth = blocks[2, block] ^ word2, word3
        low, high = key0, key1
        for _ in range(ROUNDS - 2):
            low, high = np.uint32(low + _WEYL0), np.uint32(high + _WEYL1)
            product0 = _MULTIPLIER0 * (first & _LOW)
            product1 = _MULTIPLIER1 * (third & _LOW)
            first = (product1 >> _32) ^ second ^ np.uint64(low)
            third = (product0 >> _32) ^ fourth ^ np.uint64(high)
            second, fourth = product1, product0
        words[0, block], words[1, block] = np.uint32(first), np.uint32(second)
        words[2, block], words[3, block] = np.uint32(third), np.uint32(fourth)


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
def _round_to_bfloat(value):
    """The bits of ``value``, with those of a bfloat16 in the high half.

    What is NaN here comes from a NaN in bfloat16, or from none: its low half is 0 and stays so.
    """
    bits = _bits(value)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32(bits + np.uint32(0x7FFF) + odd)


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


@intrinsic
def _load_pair(typing_context, elements, place):
    """Two adjacent 16-bit elements, the first one in the low half of a uint32."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load(_pair_at(builder, array.data, arguments[1]), align=2)

    return types.uint32(elements, types.uintp), generate


@intrinsic
def _store_pair(typing_context, elements, place, pair):
    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        builder.store(arguments[2], _pair_at(builder, array.data, arguments[1]), align=2)
        return context.get_dummy_value()

    return types.void(elements, types.uintp, types.uint32), generate


@intrinsic
def _prefetch(typing_context, elements, place):
    """Bring an element on its way into the cache."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        address = builder.bitcast(address, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        of = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), of)
        builder.call(prefetch, [address, number(0), number(3), number(1)])  # data, to read soon
        return context.get_dummy_value()

    return types.void(elements, types.uintp), generate


def _pair_at(builder, data, place):
    return builder.bitcast(builder.gep(data, [place]), ir.IntType(32).as_pointer())


@intrinsic
def _prefer_wide_vectors(typing_context):
    """Let LLVM use 512-bit vectors in the function that calls this, if the CPU has them.

    For Intel's, it prefers 256 bits, which take 1.4 times as long here. llvmlite does not know the
    attribute, so it is added past its check of names.
    """

    def generate(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


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
        return np.int16(_round_to_bfloat(_fused(magnitude, unit, wide)) >> np.uint32(16))

    formats = {
        types.float64: double,
        types.float32: single,
        types.uint16: half,
        types.int16: bfloat,
    }
    return formats[element]


@njit
def _noisy_halves(pair, magnitude, unit, next_unit):
    first = _fused(magnitude, unit, _from_half(np.uint16(pair)))
    second = _fused(magnitude, next_unit, _from_half(np.uint16(pair >> np.uint32(16))))
    return np.uint32(_to_half(first) | (np.uint32(_to_half(second)) << np.uint32(16)))


@njit
def _noisy_bfloats(pair, magnitude, unit, next_unit):
    high = np.uint32(0xFFFF0000)
    first = _fused(magnitude, unit, _float(pair << np.uint32(16)))
    second = _fused(magnitude, next_unit, _float(pair & high))
    return np.uint32((_round_to_bfloat(first) >> np.uint32(16)) | (_round_to_bfloat(second) & high))


def _unit(k, units):
    """The unit value of a lattice integer."""
    raise NotImplementedError


@overload(_unit)
def _unit_of(k, units):
    def uniform(k, units):
        return _fused(np.float32(np.int32(k)), np.float32(2.0**-15), np.float32(-65535 / 65536))

    def rademacher(k, units):
        return np.float32(np.int32(k >> np.uint32(15)) * np.int32(2) - np.int32(1))

    def tabulated(k, units):
        return units[k]

    if isinstance(units, types.NoneType):
        return uniform
    return rademacher if isinstance(units, types.Boolean) else tabulated


@njit(inline="always")
def _unit_at(words, row, block, shift, units):
    return _unit(np.uint32(np.uint32(words[row, block] >> shift) & np.uint32(0xFFFF)), units)


def _add(target, start, source, origin, count, words, row, shift, magnitude, units):
    """A plane of one token's channels: those from ``source[origin]`` on with their noise."""
    raise NotImplementedError


@overload(_add, inline="always")
def _add_of(target, start, source, origin, count, words, row, shift, magnitude, units):
    def one_by_one(target, start, source, origin, count, words, row, shift, magnitude, units):
        for block in range(count):
            unit = _unit_at(words, row, block, shift, units)
            element = source[origin + np.uintp(block)]
            target[start + np.uintp(block)] = _noisy(element, magnitude, unit)

    # 16-bit elements take half of the instructions in pairs that fill 32 bits.
    noisy_pair = _noisy_halves if target.dtype == types.uint16 else _noisy_bfloats

    def in_pairs(target, start, source, origin, count, words, row, shift, magnitude, units):
        for pairs in range(count // 2):
            first = _unit_at(words, row, 2 * pairs, shift, units)
            second = _unit_at(words, row, 2 * pairs + 1, shift, units)
            pair = _load_pair(source, origin + np.uintp(2 * pairs))
            pair = noisy_pair(pair, magnitude, first, second)
            _store_pair(target, start + np.uintp(2 * pairs), pair)
        for block in range(count // 2 * 2, count):
            unit = _unit_at(words, row, block, shift, units)
            element = source[origin + np.uintp(block)]
            target[start + np.uintp(block)] = _noisy(element, magnitude, unit)

    return in_pairs if target.dtype.bitwidth == 16 else one_by_one


@njit(nogil=True, cache=True)
def perturb(x, table, ids, magnitude, sample, position, step, key0, key1, units, taken, chunk):
    """Tokens with noise, shared out to the threads that call it together.

    It is compiled for each dtype, each kind of ``units``, and with and without ``ids`` at their
    first call.

    Args:
        x: [n, d], C-contiguous, float32, float64, uint16 (float16) or int16 (bfloat16). The
            result; without ``ids`` also what the noise is added to.
        table: ``x``; with ``ids``, the rows that are looked up, [V, d], like ``x``.
        ids: ``None``, or which row of the table each token is, int64 [n].
        magnitude: float32 [n]; a token of magnitude 0 keeps its bits.
        sample: uint32 [n].
        position: uint32 [n].
        step: an int in [0, 2**32).
        key0: an int in [0, 2**32).
        key1: an int in [0, 2**32).
        units: ``None`` for uniform noise, ``True`` for Rademacher noise; for any other, the unit
            values, float32 [65536], read-only.
        taken: int64 [1]: how many tokens some thread has taken on; 0 at first.
        chunk: how many tokens a thread takes on at a time.
    """
    _prefer_wide_vectors()
    tokens, dim = x.shape
    target = x.reshape(-1)
    if ids is None:  # noqa: SIM108, Numba drops the branch that cannot be
        source = target  # what LLVM must know, or it takes the elements one by one
    else:
        source = table.reshape(-1)
    key0, key1 = np.uint32(key0), np.uint32(key1)
    width = (dim + 7) // 8
    rows = (dim + 2 * width - 1) // (2 * width)
    blocks = np.empty((3, width), np.uint64)
    words = np.empty((4, width), np.uint32)
    _start(blocks, np.uint32(step), key0, key1)
    start = _take(taken, chunk)
    while start < tokens:
        for token in range(start, min(start + chunk, tokens)):
            at = origin = token * dim
            if ids is not None:
                origin = ids[token] * dim
                # The next row may be anywhere in memory; it comes while the words are drawn.
                ahead = ids[min(token + 1, tokens - 1)] * dim
                for place in range(ahead, ahead + dim, 64 // x.itemsize):
                    _prefetch(source, np.uintp(place))
            scale = magnitude[token]
            if scale != 0:
                _draw(words, blocks, position[token], sample[token], key0, key1)
                for row in range(rows):
                    # Two planes of channels; the last ones may be short, the second one empty.
                    low, high = 2 * row * width, (2 * row + 1) * width
                    lows, highs = min(width, dim - low), max(0, min(width, dim - high))
                    _add(
                        target, np.uintp(at + low), source, np.uintp(origin + low), lows,
                        words, row, _0, scale, units,
                    )  # fmt: skip
                    _add(
                        target, np.uintp(at + high), source, np.uintp(origin + high), highs,
                        words, row, _16, scale, units,
                    )  # fmt: skip
            elif ids is not None:
                target[at : at + dim] = source[origin : origin + dim]
        start = _take(taken, chunk)
