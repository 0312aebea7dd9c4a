"""Philox4x32-10, the counter-based generator behind the noise, on any array namespace.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A counter of
four 32-bit words and a key of two give four random words, with no state between calls.

Words live in one of two containers, recognized by their width. In 64-bit integers (NumPy's and
TensorFlow's uint64, PyTorch's int64) the upper half is masked out before a product, and holds
anything between rounds; a signed container wraps around to the same low 64 bits. In 32-bit unsigned
integers (JAX) the product alone takes 64 bits, which compilers turn into one widening
multiplication, and no mask is needed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from embnoise._arrays import Array, ArrayNamespace
from embnoise._validation import dtype_name

__all__ = ["MULTIPLIERS", "ROUNDS", "WEYL", "Key", "philox4x32", "philox4x32_pair"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""What a round multiplies words 0 and 2 by."""
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to the two words of the key after a round."""
ROUNDS = 10
"""How many rounds there are."""

Key: TypeAlias = "tuple[int, int] | tuple[Array, Array]"
"""Two 32-bit words: Python ints, or 0-d arrays of the counters' dtype."""

_WORD = 0xFFFFFFFF


def philox4x32(
    counter: tuple[Any, Any, Any, Any], key: Key, *, xp: ArrayNamespace
) -> tuple[Array, Array, Array, Array]:
    """Four random words for every counter.

    Args:
        counter: Four integer arrays that broadcast against each other, each element in
            [0, 2**32), all of one dtype: 32-bit unsigned, or any 64-bit integer.
        key: Two ints in [0, 2**32), or 0-d arrays of the counters' dtype.
        xp: The array namespace of the counters.

    Returns:
        Four arrays of the counters' dtype and broadcast shape, each element in [0, 2**32).

    Example:
        >>> import numpy as np
        >>> zero = np.zeros(1, np.uint64)
        >>> [hex(int(word[0])) for word in philox4x32((zero, zero, zero, zero), (0, 0), xp=np)]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    words = _rounds(counter, key, ROUNDS, xp)
    if not _are_wide(words):
        return words
    word0, word1, word2, word3 = (word & _WORD for word in words)
    return word0, word1, word2, word3


def philox4x32_pair(
    counter: tuple[Any, Any, Any, Any], key: Key, second: Array, *, xp: ArrayNamespace
) -> Array:
    """Two of the four random words of every counter, with one product less.

    Args:
        counter: As for ``philox4x32``.
        key: As for ``philox4x32``.
        second: Whether the two are words 2 and 3, not 0 and 1: a boolean array that broadcasts
            against the counter.
        xp: The array namespace of the counters.

    Returns:
        uint64 of the broadcast shape: the first of the two words in the upper half, the other in
        the lower.
    """
    word0, word1, word2, word3 = _rounds(counter, key, ROUNDS - 1, xp)
    wide = _are_wide(counter)
    key0, key1 = (_round_key(key[i], WEYL[i], ROUNDS - 1, wide) for i in range(2))
    # The last round, of which either pair takes one product.
    factor = xp.astype(xp.where(second, word0, word2), xp.uint64) & _WORD
    multiplier = xp.where(second, *(np.uint32(each) for each in MULTIPLIERS))
    rest = xp.astype(xp.where(second, word3 ^ key1, word1 ^ key0), xp.uint64)
    return factor * xp.astype(multiplier, xp.uint64) ^ rest * 2**32


def _rounds(
    counter: tuple[Any, Any, Any, Any], key: Key, count: int, xp: ArrayNamespace
) -> tuple[Array, Array, Array, Array]:
    """The words after some rounds, in 64-bit integers with anything in the upper half."""
    word0, word1, word2, word3 = counter
    wide = _are_wide(counter)
    key0, key1 = key
    for number in range(count):
        high0, low0 = _high_low(MULTIPLIERS[0], word0, wide, xp)
        high1, low1 = _high_low(MULTIPLIERS[1], word2, wide, xp)
        word0, word1 = high1 ^ word1 ^ _round_key(key0, WEYL[0], number, wide), low1
        word2, word3 = high0 ^ word3 ^ _round_key(key1, WEYL[1], number, wide), low0
    return word0, word1, word2, word3


def _high_low(multiplier: int, word: Array, wide: bool, xp: ArrayNamespace) -> tuple[Array, Array]:
    """The high and low 32 bits of ``multiplier * word``."""
    if wide:
        product = (word & _WORD) * multiplier
        return xp.bitwise_right_shift(product, 32), product
    product = xp.astype(word, xp.uint64) * multiplier
    high = xp.bitwise_right_shift(product, 32)
    return xp.astype(high, word.dtype), xp.astype(product, word.dtype)


def _are_wide(words: tuple[Array, ...]) -> bool:
    """Whether the container of words, one dtype for all, has 64 bits."""
    return dtype_name(words[0]).endswith("64")


def _round_key(key: int | Array, weyl: int, number: int, wide: bool) -> Any:
    """Half of the key of one round, as a number or array that goes with the words."""
    step = number * weyl & _WORD
    # JAX takes Python's ints for 31 bits and a sign.
    if isinstance(key, int):
        return key + step & _WORD if wide else np.uint32(key + step & _WORD)
    return key + step if wide else key + np.uint32(step)
