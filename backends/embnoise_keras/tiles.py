"""TensorFlow's kernel: the noise of embeddings, tile by tile.

n tokens, d channels. XLA compiles a program for every shape that it meets. So the tokens are taken
in tiles of three sizes, for which XLA compiles once each, whatever the lengths are. A tile stays in
the processor's cache.

A tile takes two programs. The first computes every random word once. XLA would fuse it with the
second, and then compute the words again for each of the eight channels of a block.

On a GPU, and in a function that its caller lets XLA compile, there are no tiles.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embnoise.backend import Distribution, perturb_elementwise, philox4x32
from embnoise_keras.namespace import NAMESPACE

__all__ = ["kernel"]

SIZES = 2**14, 2**16, 2**18
"""The elements of a tile. The largest is taken that the embeddings fill, or else the smallest."""

_TOKENS, _NUMBER = tf.TensorSpec([None], tf.uint64), tf.TensorSpec([], tf.uint64)
_COUNTER = [_TOKENS, _TOKENS, _NUMBER, _NUMBER, _NUMBER]  # sample, position, step and key


@cache
def kernel(distribution: Distribution, dtype: tf.DType, dim: int) -> Any:
    """The function that adds the noise of a distribution to embeddings, eagerly or in a graph.

    It takes the embeddings, of ``dtype`` [n, ``dim``]; their magnitudes, float32 [n]; samples and
    positions, uint64 [n]; the step and the two words of the key, uint64. It returns a new tensor
    like the embeddings.
    """
    magnitude, blocks = tf.TensorSpec([None], tf.float32), -(-dim // 8)
    embeddings, planes = (tf.TensorSpec([None, *each], dtype) for each in ([dim], [2, 4, blocks]))
    words = tf.TensorSpec([None, 2, blocks], tf.uint64)
    tile = _function(partial(_tile, distribution), planes, magnitude, words, xla=True)
    whole = _function(partial(_whole, distribution), embeddings, magnitude, *_COUNTER, xla=True)
    in_graph = _function(partial(_noisy, tile, whole), embeddings, magnitude, *_COUNTER)

    def add(x: tf.Tensor, *rest: tf.Tensor) -> tf.Tensor:
        # TensorFlow would optimize a graph anew whenever its caches are cleared, as by set_seed.
        if not tf.executing_eagerly() or "CPU" not in x.device:
            return in_graph(x, *rest)
        return (_one_tile if len(x) <= _sizes(dim)[0] else _tiled)(tile, x, *rest)

    return add


def _sizes(dim: int) -> list[int]:
    """The tokens of a tile."""
    return [max(1, elements // dim) for elements in SIZES]


def _function(function: partial[Any], *signature: tf.TensorSpec, xla: bool = False) -> Any:
    # TensorFlow warns of a function that it traces often, and tells functions apart by their code;
    # each `partial` counts as a function of its own.
    compiled = xla and tf.test.is_built_with_xla()
    return tf.function(function, signature, autograph=False, jit_compile=compiled)


def _noisy(tile: Any, whole: Any, *arguments: tf.Tensor) -> tf.Tensor:
    # In a program of XLA, the index is that of no device.
    on_cpu = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    tiled = partial(_tiled, tile, *arguments)
    return tf.switch_case(on_cpu, [tiled], default=partial(whole, *arguments))


def _tiled(tile: Any, x: tf.Tensor, magnitude: tf.Tensor, *counter: tf.Tensor) -> tf.Tensor:
    count, dim = tf.shape(x)[0], x.shape[1]
    sizes = _sizes(dim)
    rows = tf.reduce_max(tf.where(sizes <= count, sizes, sizes[0]))
    total = tf.maximum(count, rows)
    sample, position, *step_and_key = counter
    # As they are, if there are more tokens than in a tile.
    parts = [_extended(part, total - count) for part in (x, magnitude, sample, position)]

    def add_tile(start: tf.Tensor, noisy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first = tf.minimum(start, total - rows)  # the last tile may begin within the one before
        own, scale, *tokens = (part[first : first + rows] for part in parts)
        words = _words(*_pairs_and_blocks(dim), *tokens, *step_and_key)
        added = _channels(tile(_planes(own), scale, words), dim)
        # Unlike `tensor_scatter_nd_update`, this does not copy all of `noisy`.
        return start + rows, tf.raw_ops.InplaceUpdate(x=noisy, i=first + tf.range(rows), v=added)

    noisy = tf.raw_ops.Empty(shape=(total, dim), dtype=x.dtype)
    _, noisy = tf.while_loop(lambda start, _: start < count, add_tile, (0, noisy))
    return noisy[:count]


def _one_tile(tile: Any, x: tf.Tensor, magnitude: tf.Tensor, *counter: tf.Tensor) -> tf.Tensor:
    """``_tiled`` for tokens that fill at most the smallest tile, with few operations."""
    count, dim = x.shape
    sample, position, *step_and_key = counter
    x, magnitude, *tokens = (
        _extended(part, _sizes(dim)[0] - count) for part in (x, magnitude, sample, position)
    )
    words = _words(*_pairs_and_blocks(dim), *tokens, *step_and_key)
    return _channels(tile(_planes(x), magnitude, words), dim)[:count]


def _planes(x: tf.Tensor) -> tf.Tensor:
    """Embeddings [n, d] as planes [n, 2, 4, blocks], padded if d is no multiple of 8.

    Done outside of the program: XLA would fuse the reshape into its loop, and the loop over
    elements [n, d] finds its words by divisions, one by one.
    """
    missing = -x.shape[1] % 8
    if missing:
        x = tf.pad(x, [[0, 0], [0, missing]])
    return tf.reshape(x, (-1, 2, 4, x.shape[1] // 8))


def _channels(planes: tf.Tensor, dim: int) -> tf.Tensor:
    """The embeddings [n, d] whose planes these are."""
    padded = 8 * planes.shape[3]
    x = tf.reshape(planes, (-1, padded))
    return x if padded == dim else x[:, :dim]


def _pairs_and_blocks(dim: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """``pair`` and ``block`` of all random words of a token: see ``_two_words``."""
    return np.arange(2, dtype=np.uint64)[:, None], np.arange(-(-dim // 8), dtype=np.uint64)[None]


def _extended(part: tf.Tensor, missing: tf.Tensor) -> tf.Tensor:
    return tf.pad(part, [[0, missing]] + [[0, 0]] * (part.shape.rank - 1))


def _two_words(
    pair: tf.Tensor,
    block: tf.Tensor,
    sample: tf.Tensor,
    position: tf.Tensor,
    step: tf.Tensor,
    *key: tf.Tensor,
) -> tf.Tensor:
    """Two of the four random words of a block in one integer, for n tokens: uint64 [n, ...].

    ``pair`` tells which two, 0 or 1; it and ``block`` broadcast to [...].
    """
    position, sample = (each[:, None, None] for each in (position, sample))
    word0, word1, word2, word3 = philox4x32((block, position, sample, step), key, xp=NAMESPACE)
    return tf.where(pair == 0, word1 * 2**32 | word0, word3 * 2**32 | word2)


_GRID = tf.TensorSpec([None, None], tf.uint64)
_words = _function(partial(_two_words), _GRID, _GRID, *_COUNTER, xla=True)
"""The compiled ``_two_words``: one for all distributions, dtypes and embedding sizes."""


def _tile(
    distribution: Distribution, planes: tf.Tensor, magnitude: tf.Tensor, words: tf.Tensor
) -> tf.Tensor:
    """The noisy embeddings, plane by plane [n, 2, 4, blocks], from words [n, 2, blocks].

    ``x + magnitude * unit``, rounded to float32 and then to x's dtype.
    """
    shift = 16 * np.arange(4, dtype=np.uint64)[:, None]
    integers = tf.bitwise.right_shift(words[:, :, None], shift) & 0xFFFF
    scale = magnitude[:, None, None, None]
    wide = tf.float64 if planes.dtype == tf.float64 else tf.float32
    unit = tf.cast(distribution.unit(integers, NAMESPACE), wide)
    noisy = tf.cast(planes, wide) + tf.cast(scale, wide) * unit
    return tf.where(scale != 0, tf.cast(noisy, planes.dtype), planes)


def _whole(
    distribution: Distribution,
    x: tf.Tensor,
    magnitude: tf.Tensor,
    sample: tf.Tensor,
    position: tf.Tensor,
    step: tf.Tensor,
    *key: tf.Tensor,
) -> tf.Tensor:
    """The noisy embeddings, channel by channel."""
    sample, position, step, key0, key1 = (
        tf.cast(word, tf.uint32) for word in (sample, position, step, *key)
    )
    return perturb_elementwise(
        x,
        magnitude,
        sample,
        position,
        step,
        (key0, key1),
        distribution,
        xp=NAMESPACE,
        word_dtype=tf.uint32,
    )
