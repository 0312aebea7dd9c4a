"""``add_noise`` for TensorFlow's tensors, on TensorFlow's own operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from embnoise.backend import (
    NUMPY,
    Noise,
    Prepared,
    TokenArrays,
    distribution_of,
    flat_plan,
    format_value,
    philox_key,
    plan,
    prepare,
)
from embnoise_keras.functional import refuse_ragged
from embnoise_keras.namespace import NAMESPACE
from embnoise_keras.tiles import kernel

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
    refuse_ragged(x)
    if not tf.is_tensor(x) or isinstance(x, tf.SparseTensor):
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
    if isinstance(value, tf.SparseTensor | tf.RaggedTensor):
        raise TypeError(
            f"what describes the tokens must be dense, got {format_value(value)}; call its "
            "to_tensor()"
        )
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.int32) if value.dtype == tf.bool else value


def _noisy(x: tf.Tensor, noise: Noise, prepared: Prepared) -> tf.Tensor:
    known = tf.executing_eagerly() and isinstance(prepared.step, int)
    of_tokens = _host_plan if known and "CPU" in x.device else _graph_plan
    magnitude, sample, position = of_tokens(x, noise, prepared)
    words = [_word(each) for each in (sample, position, prepared.step, *philox_key(noise))]
    dim = prepared.shape[2]
    add = kernel(distribution_of(noise), x.dtype, dim)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def with_gradient_1(x: tf.Tensor) -> Any:
        # The gradient below is all there is: none is prepared for the kernel.
        rows = tf.stop_gradient(tf.reshape(x, (-1, dim)))
        return tf.reshape(add(rows, magnitude, *words), tf.shape(x)), lambda upstream: upstream

    return tf.ensure_shape(with_gradient_1(x), x.shape)


def _host_plan(x: tf.Tensor, noise: Noise, prepared: Prepared) -> Any:
    """``_graph_plan`` by NumPy, where all values are known: with fewer operations of TensorFlow."""
    with np.errstate(all="ignore"):  # x may hold infinities
        planned = plan(
            noise,
            prepared._replace(tokens=prepared.tokens.map(lambda array: array.numpy())),
            mean_squares=lambda: _mean_squares(x, prepared.shape[:2]).numpy(),
            xp=NUMPY,
        )
    return [tf.constant(part) for part in flat_plan(planned, prepared.shape)]


def _graph_plan(x: tf.Tensor, noise: Noise, prepared: Prepared) -> Any:
    """The magnitude (float32), sample and position of every token, each [B * L]."""
    # Sizes that the graph does not know yet are tensors of it.
    sizes = tf.shape(x)
    batch, length, dim = prepared.shape
    rows = tuple(
        sizes[axis] if size is None else size for axis, size in ((-3, batch), (-2, length))
    )
    planned = plan(
        noise,
        prepared._replace(shape=(*rows, dim)),
        mean_squares=lambda: _mean_squares(x, rows),
        xp=NAMESPACE,
    )
    return [tf.reshape(tf.broadcast_to(part, rows), [-1]) for part in planned]


def _mean_squares(x: tf.Tensor, rows: tuple[Any, Any]) -> tf.Tensor:
    """The mean square of every token's embedding, float64 [B, L]."""
    squares = tf.square(tf.cast(x, tf.float64))
    return tf.reshape(tf.reduce_mean(squares, axis=-1), rows)


def _word(value: Any) -> tf.Tensor:
    """Integers modulo 2**32."""
    if isinstance(value, int):
        return tf.constant(value % 2**32, tf.uint64)
    return tf.cast(tf.cast(value, tf.int64) & 0xFFFFFFFF, tf.uint64)
