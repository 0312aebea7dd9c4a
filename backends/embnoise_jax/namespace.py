"""``jax.numpy`` as the array namespace of the core's functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from embnoise.backend import ArrayNamespace
from embnoise_jax._compat import optimization_barrier

__all__ = ["NAMESPACE", "promoting"]


_DEFAULT = "standard", "allow"


@contextmanager
def promoting() -> Iterator[None]:
    """JAX's default promotion of dtypes and ranks, which the core's functions rely on."""
    if (jax.numpy_dtype_promotion.value, jax.numpy_rank_promotion.value) == _DEFAULT:
        yield
        return
    with jax.numpy_dtype_promotion(_DEFAULT[0]), jax.numpy_rank_promotion(_DEFAULT[1]):
        yield


class _Namespace:
    """``jax.numpy``, with barriers where XLA would rewrite, and indices known to be in bounds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        array = jnp.asarray(value, dtype=dtype)
        if not isinstance(value, np.ndarray):
            return array
        # XLA would fold a constant counter into Philox round by round, and takes that many
        # foldings for an endless loop.
        return optimization_barrier(array)

    def sqrt(self, x: Array) -> Array:
        # XLA would turn a / sqrt(x) into a * rsqrt(x), which rounds differently.
        return optimization_barrier(jnp.sqrt(x))

    def take(self, x: Array, index: Array) -> Array:
        # On a mesh with explicit axes, JAX does not shard the result as the index by itself.
        sharding = jax.typeof(index).sharding
        explicit = None if sharding.mesh.empty else sharding
        return x.at[index].get(mode="promise_in_bounds", out_sharding=explicit)

    def take_along_axis(self, x: Array, index: Array, axis: int) -> Array:
        return jnp.take_along_axis(x, index, axis, mode="promise_in_bounds")


NAMESPACE: ArrayNamespace = _Namespace()
