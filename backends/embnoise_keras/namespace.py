"""TensorFlow as the array namespace of the core's functions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["NAMESPACE"]


class _Namespace:
    """TensorFlow's operations under NumPy's names: an ``embnoise.backend.ArrayNamespace``."""

    int32, uint64, float32, float64 = tf.int32, tf.uint64, tf.float32, tf.float64
    cos = staticmethod(tf.cos)
    exp = staticmethod(tf.exp)
    reshape = staticmethod(tf.reshape)
    roll = staticmethod(tf.roll)
    tanh = staticmethod(tf.tanh)
    where = staticmethod(tf.where)

    def arange(self, stop: Any, /, dtype: tf.DType | None = None) -> tf.Tensor:
        return tf.range(stop, dtype=dtype)

    def argsort(self, x: tf.Tensor, /, *, axis: int, stable: bool) -> tf.Tensor:
        return tf.argsort(x, axis=axis, stable=stable)

    def asarray(self, value: Any, /, dtype: tf.DType | None = None) -> tf.Tensor:
        return tf.convert_to_tensor(value) if dtype is None else tf.cast(value, dtype)

    def astype(self, x: tf.Tensor, dtype: tf.DType, /) -> tf.Tensor:
        return tf.cast(x, dtype)

    def bitwise_right_shift(self, x: tf.Tensor, shift: Any, /) -> tf.Tensor:
        return tf.bitwise.right_shift(x, tf.cast(shift, x.dtype))

    def cumsum(self, x: tf.Tensor, /, *, axis: int) -> tf.Tensor:
        return tf.cumsum(x, axis=axis)

    # In float64, and then rounded: of what TensorFlow knows, it takes a / c for a * (1 / c), and
    # XLA takes a / sqrt(x) for a * rsqrt(x), which in float32 round otherwise.
    def divide(self, x: tf.Tensor, y: tf.Tensor, /) -> tf.Tensor:
        return tf.cast(tf.cast(x, tf.float64) / tf.cast(y, tf.float64), x.dtype)

    def sqrt(self, x: tf.Tensor, /) -> tf.Tensor:
        return tf.cast(tf.sqrt(tf.cast(x, tf.float64)), x.dtype)

    def sum(self, x: tf.Tensor, /, *, axis: int, keepdims: bool) -> tf.Tensor:
        return tf.reduce_sum(x, axis=axis, keepdims=keepdims)

    def take(self, x: tf.Tensor, index: tf.Tensor, /) -> tf.Tensor:
        return tf.gather(x, tf.cast(index, tf.int32))

    def take_along_axis(self, x: tf.Tensor, index: tf.Tensor, /, *, axis: int) -> tf.Tensor:
        return tf.gather(x, index, axis=axis, batch_dims=axis)


NAMESPACE = _Namespace()
