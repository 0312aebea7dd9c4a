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
_0, _16, _I32 = np.uint32(0), np.uint32(16), ir.IntType(32)
_LANES = 8
"""How many blocks are drawn at once: a vector of 512 bits, or two or four shorter ones."""


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
def _draw(words, blocks, position, sample, key0, key1, target, at, source, ahead):
    """The random words of one token, [4, blocks].

    Meanwhile memory comes into the cache, a few lines at a time, or the loads of this loop would
    wait: where the token's embedding will be written, from ``target[at]`` on, and what is looked
    up next, from ``source[ahead]`` on, unless ``ahead`` is negative.
    """
    word0, word1 = _half_round(_MULTIPLIER1, np.uint64(sample), np.uint64(position), key0)
    key0, key1 = np.uint32(key0 + _WEYL0), np.uint32(key1 + _WEYL1)
    word2, word3 = _half_round(_MULTIPLIER0, word0, np.uint64(0), key1)
    for block in range(0, words.shape[1], _LANES):
        for place in range(8 * block, 8 * (block + _LANES), 64 // target.itemsize):
            _prefetch_to_write(target, np.uintp(at + place))
            if ahead >= 0:
                _prefetch_to_read(source, np.uintp(ahead + place))
        _draw_lanes(words, blocks, np.uintp(block), word1, word2, word3, key0, key1)


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
    """Add to the first of some integers atomically; returns what it was before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, arguments[1], "monotonic")

    return types.int64(counter, types.int64), generate


@intrinsic
def _load_pair(typing_context, elements, place):
    """Two adjacent 16-bit elements, the first one in the low half of a uint32."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature, arguments, _I32), align=2)

    return types.uint32(elements, types.uintp), generate


@intrinsic
def _store_pair(typing_context, elements, place, pair):
    def generate(context, builder, signature, arguments):
        pair = _address(context, builder, signature, arguments, _I32)
        builder.store(arguments[2], pair, align=2)
        return context.get_dummy_value()

    return types.void(elements, types.uintp, types.uint32), generate


def _prefetching(to_write):
    """A function that brings an element on its way into the cache."""

    @intrinsic
    def prefetch(typing_context, elements, place):
        def generate(context, builder, signature, arguments):
            address = _address(context, builder, signature, arguments, ir.IntType(8))
            of = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
            fetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), of)
            builder.call(fetch, [address, _I32(to_write), _I32(3), _I32(1)])  # soon, data
            return context.get_dummy_value()

        return types.void(elements, types.uintp), generate

    return prefetch


_prefetch_to_read, _prefetch_to_write = _prefetching(to_write=0), _prefetching(to_write=1)


@intrinsic
def _draw_lanes(typing_context, words, blocks, block, word1, word2, word3, key0, key1):
    """Rounds 3 to 10 of Philox for as many blocks as there are lanes in a vector."""
    wide, narrow = (ir.VectorType(ir.IntType(bits), _LANES) for bits in (64, 32))

    def generate(context, builder, signature, arguments):
        def place(argument, row, vector):
            kind = signature.args[argument]
            array = context.make_array(kind)(context, builder, arguments[argument])
            columns = builder.extract_value(array.shape, 1)
            element = builder.add(builder.mul(columns, columns.type(row)), arguments[2])
            return builder.bitcast(builder.gep(array.data, [element]), vector.as_pointer())

        def start(row):
            return builder.load(place(1, row, wide), align=8)

        def constant(number):
            return ir.Constant(wide, [number] * _LANES)

        def in_all_lanes(word):
            vector = ir.Constant(wide, ir.Undefined)
            for lane in range(_LANES):
                vector = builder.insert_element(vector, word, _I32(lane))
            return vector

        def half_round(multiplier, word, other, key):
            low = builder.and_(word, constant(2**32 - 1))
            product = builder.mul(constant(multiplier), low)
            high = builder.lshr(product, constant(32))
            return builder.xor(builder.xor(high, other), in_all_lanes(key)), product

        word1, word2, word3, *keys = arguments[3:]
        first, second = builder.xor(start(0), in_all_lanes(word1)), start(1)
        third, fourth = builder.xor(start(2), in_all_lanes(word2)), in_all_lanes(word3)
        for _ in range(ROUNDS - 2):
            keys = [builder.add(key, key.type(weyl)) for key, weyl in zip(keys, WEYL, strict=True)]
            key0, key1 = (builder.zext(key, wide.element) for key in keys)
            (first, second), (third, fourth) = (
                half_round(MULTIPLIERS[1], third, second, key0),
                half_round(MULTIPLIERS[0], first, fourth, key1),
            )
        for row, word in enumerate((first, second, third, fourth)):
            builder.store(builder.trunc(word, narrow), place(0, row, narrow), align=4)
        return context.get_dummy_value()

    given = words, blocks, types.uintp, *[types.uint64] * 3, *[types.uint32] * 2
    return types.void(*given), generate


def _address(context, builder, signature, arguments, kind):
    """Of an element of an array: the first two arguments."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())


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
        taken: int64 [2], 0 at first: how many tokens some thread has taken on, and if an id was
            not in the table, after which the result is incomplete.
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
    drawn = (width + _LANES - 1) // _LANES * _LANES
    blocks, words = np.empty((3, drawn), np.uint64), np.empty((4, drawn), np.uint32)
    _start(blocks, np.uint32(step), key0, key1)
    start = _take(taken, chunk)
    while start < tokens:
        for token in range(start, min(start + chunk, tokens)):
            at = origin = token * dim
            ahead = -1
            if ids is not None:
                if not 0 <= ids[token] < len(table):
                    taken[1] = 1
                    return
                origin = ids[token] * dim
                ahead = ids[min(token + 1, tokens - 1)] * dim
            scale = magnitude[token]
            if scale != 0:
                _draw(
                    words, blocks, position[token], sample[token], key0, key1,
                    target, at, source, ahead,
                )  # fmt: skip
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
