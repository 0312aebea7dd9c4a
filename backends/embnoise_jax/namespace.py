"""``jax.numpy`` as the array namespace of the core's functions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["NAMESPACE", "barrier"]


def barrier(array: Array) -> Array:
    """The same array, which XLA does not see through."""
    hidden: Array = lax.optimization_barrier(array)  # type: ignore[no-untyped-call]
    return hidden


class _Namespace:
    """``jax.numpy``, whose lookups need not care for an index out of bounds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        array = jnp.asarray(value, dtype=dtype)
        if not isinstance(value, np.ndarray):
            return array
        # Behind the barrier, because XLA folds a constant counter into Philox round by round, and
        # takes so many of them for an endless loop.
        return barrier(array)

    def sqrt(self, x: Array) -> Array:
        # Behind the barrier, because XLA takes a / sqrt(x) for a * rsqrt(x), rounded otherwise.
        return barrier(jnp.sqrt(x))

    def take(self, x: Array, index: Array) -> Array:
        return x.at[index].get(mode="promise_in_bounds")

    def take_along_axis(self, x: Array, index: Array, axis: int) -> Array:
        return jnp.take_along_axis(x, index, axis, mode="promise_in_bounds")


NAMESPACE = _Namespace()
