"""``add_noise`` for TensorFlow's tensors, on TensorFlow's own operations."""

from __future__ import annotations

from functools import cache
from typing import Any

import tensorflow as tf

from embnoise.backend import (
    Distribution,
    Noise,
    Prepared,
    TokenArrays,
    distribution_of,
    format_value,
    perturb_elementwise,
    philox_key,
    plan,
    prepare,
)
from embnoise_keras.namespace import NAMESPACE

__all__ = ["add_noise"]


def add_noise(
    x: tf.Tensor,
    noise: Noise,
    *,
    step: Any,
    training: bool = True,
    mask: Any = None,
    segment_ids: Any = None,
    positions: Any = None,
    sample_ids: Any = None,
    where: Any = None,
) -> tf.Tensor:
    """``embnoise_keras.add_noise`` where Keras runs on TensorFlow, eagerly or in a graph."""
    if not tf.is_tensor(x) or isinstance(x, tf.SparseTensor | tf.RaggedTensor):
        raise TypeError(f"x must be a dense tf.Tensor, got {format_value(x)}")
    if x.shape.rank is None or (x.shape.rank > 0 and x.shape[-1] is None):
        raise ValueError(f"x must be of a known rank and embedding size, got shape {x.shape}")
    tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where).map(_array)
    if tf.is_tensor(step) and step.dtype.is_integer and step.shape.num_elements() in (1, None):
        step = tf.cast(tf.reshape(step, []), tf.int64)
    prepared = _prepare(x, noise, step=step, training=training, tokens=tokens, xp=NAMESPACE)
    return x if prepared is None else _noisy(x, noise, prepared)


# `prepare` calls int(step) to find out whether a step is known. AutoGraph would make that an
# operation of the graph.
_prepare: Any = tf.autograph.experimental.do_not_convert(prepare)


def _array(value: Any) -> Any:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value  # which the validation refuses by its name
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.int32) if value.dtype == tf.bool else value


def _noisy(x: tf.Tensor, noise: Noise, prepared: Prepared) -> tf.Tensor:
    # Sizes that the graph does not know yet are tensors of it.
    sizes = tf.shape(x)
    batch, length, dim = prepared.shape
    batch, length = (
        sizes[axis] if size is None else size for axis, size in ((-3, batch), (-2, length))
    )

    def mean_squares() -> tf.Tensor:
        squares = tf.square(tf.cast(x, tf.float64))
        return tf.reshape(tf.reduce_mean(squares, axis=-1), (batch, length))

    planned = plan(
        noise,
        prepared._replace(shape=(batch, length, dim)),
        mean_squares=mean_squares,
        xp=NAMESPACE,
    )
    magnitude, sample, position = (tf.broadcast_to(part, (batch, length)) for part in planned)
    words = [_word(each) for each in (sample, position, prepared.step, *philox_key(noise))]
    kernel = _kernel(distribution_of(noise), x.dtype, dim)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def with_gradient_1(x: tf.Tensor) -> Any:
        rows = tf.reshape(x, (batch, length, dim))
        return tf.reshape(kernel(rows, magnitude, *words), sizes), lambda upstream: upstream

    return tf.ensure_shape(with_gradient_1(x), x.shape)


def _word(value: Any) -> tf.Tensor:
    """Integers modulo 2**32, in the 64 bits that Philox can work with."""
    if isinstance(value, int):
        return tf.constant(value % 2**32, tf.uint64)
    return tf.cast(tf.cast(value, tf.int64) & 0xFFFFFFFF, tf.uint64)


@cache
def _kernel(distribution: Distribution, dtype: tf.DType, dim: int) -> Any:
    """The noise of a distribution, compiled by XLA, which fuses it, also inside a plain graph."""

    def noisy(
        x: tf.Tensor,
        magnitude: tf.Tensor,
        sample: tf.Tensor,
        position: tf.Tensor,
        step: tf.Tensor,
        key0: tf.Tensor,
        key1: tf.Tensor,
    ) -> tf.Tensor:
        key = (key0, key1)
        return perturb_elementwise(
            x,
            magnitude,
            sample,
            position,
            step,
            key,
            distribution,
            xp=NAMESPACE,
            word_dtype=tf.uint64,
        )

    tokens, number = [None, None], tf.TensorSpec([], tf.uint64)
    signature = (
        tf.TensorSpec([*tokens, dim], dtype),
        tf.TensorSpec(tokens, tf.float32),
        tf.TensorSpec(tokens, tf.uint64),
        tf.TensorSpec(tokens, tf.uint64),
        number,
        number,
        number,
    )
    # Traced once; XLA then compiles it for each shape that it meets.
    return tf.function(noisy, signature, autograph=False, jit_compile=tf.test.is_built_with_xla())
