"""``add_noise`` for TensorFlow's tensors, on TensorFlow's own operations."""

from __future__ import annotations

from functools import cache
from typing import Any

import tensorflow as tf

from embnoise import _check
from embnoise.distributions import Distribution
from embnoise.elementwise import perturbed
from embnoise.noise import Noise
from embnoise.reference import plan
from embnoise.schedules import Schedule
from embnoise.tokens import TokenArrays
from embnoise_keras.namespace import NAMESPACE

__all__ = ["add_noise"]

_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)


def add_noise(
    x: tf.Tensor,
    noise: Noise,
    *,
    step: Any = 0,
    training: bool = True,
    mask: Any = None,
    segment_ids: Any = None,
    positions: Any = None,
    sample_ids: Any = None,
    where: Any = None,
) -> tf.Tensor:
    """``embnoise_keras.add_noise`` where Keras runs on TensorFlow, eagerly or in a graph."""
    if not tf.is_tensor(x) or isinstance(x, tf.SparseTensor | tf.RaggedTensor):
        raise TypeError(f"x must be a dense tf.Tensor, got {_check.shown(x)}")
    if x.shape.rank is None or (x.shape.rank > 0 and x.shape[-1] is None):
        raise ValueError(f"x must be of a known rank and embedding size, got shape {x.shape}")
    shape = _check.embeddings(x)
    if x.dtype not in _DTYPES:
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype.name}")
    arrays = (mask, segment_ids, positions, sample_ids, where)
    tokens = TokenArrays(*(None if array is None else _array(array) for array in arrays))
    tokens.check(shape)
    step = _step(step)
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {_check.shown(noise)}")
    if not _check.flag("training", training) or 0 in x.shape:
        return x
    alpha = _alpha_at(noise, step)
    if isinstance(alpha, float) and alpha == 0:
        return x
    return _noisy(x, noise, alpha, step, shape, tokens)


def _array(value: Any) -> Any:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value  # which the check refuses by its name
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.int32) if value.dtype == tf.bool else value


def _step(step: Any) -> Any:
    if not tf.is_tensor(step):
        return _check.integer("step", step, least=0)
    if not step.dtype.is_integer or step.shape.num_elements() not in (1, None):
        raise ValueError(
            f"step must be an integer or an integer tensor of one element, got {step!r}"
        )
    return tf.reshape(step, [])


def _alpha_at(noise: Noise, step: Any) -> Any:
    if isinstance(noise.alpha, Schedule) and not isinstance(step, int):
        # In float64, as the core's own arithmetic is.
        return noise.alpha_at(tf.cast(step, tf.float64), NAMESPACE)
    return noise.alpha_at(step)


def _noisy(
    x: tf.Tensor, noise: Noise, alpha: Any, step: Any, shape: Any, tokens: TokenArrays
) -> tf.Tensor:
    # Sizes that the graph does not know yet are tensors of it.
    sizes = tf.shape(x)
    batch, length = (
        (sizes[axis] if size is None else size)
        for axis, size in zip((-3, -2), shape[:2], strict=True)
    )

    def mean_squares() -> tf.Tensor:
        squares = tf.square(tf.cast(x, tf.float64))
        return tf.reshape(tf.reduce_mean(squares, axis=-1), (batch, length))

    how = plan(
        noise,
        alpha,
        (batch, length, shape[2]),
        tokens,
        mean_squares=mean_squares,
        xp=NAMESPACE,
    )
    magnitude, sample, position = (tf.broadcast_to(part, (batch, length)) for part in how)
    words = [_word(each) for each in (sample, position, step, *noise.key)]
    kernel = _kernel(noise.law, x.dtype, shape[2])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def with_gradient_1(x: tf.Tensor) -> Any:
        rows = tf.reshape(x, (batch, length, shape[2]))
        return tf.reshape(kernel(rows, magnitude, *words), sizes), lambda upstream: upstream

    return tf.ensure_shape(with_gradient_1(x), x.shape)


def _word(value: Any) -> tf.Tensor:
    """Integers modulo 2**32, in the 64 bits that Philox can work with."""
    if isinstance(value, int):
        return tf.constant(value % 2**32, tf.uint64)
    return tf.cast(tf.cast(value, tf.int64) & 0xFFFFFFFF, tf.uint64)


@cache
def _kernel(law: Distribution, dtype: tf.DType, dim: int) -> Any:
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
        return perturbed(
            x, magnitude, sample, position, step, key, law, xp=NAMESPACE, word=tf.uint64
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
