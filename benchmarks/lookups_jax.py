"""Lookups in JAX, jitted: alone, with our noise, and with the framework's own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from embnoise import neftune
from embnoise_jax import add_noise
from timing import Runs

ALPHA = 5.0
VERSIONS = f"JAX {jax.__version__}"


def runs(shape: tuple[int, int, int], dtype: str, vocabulary: int) -> Runs:
    """The lookups of ids [B, L]; shape is [B, L, d]."""
    batch, length, dim = shape
    table = jax.random.normal(jax.random.key(0), (vocabulary, dim), dtype)
    ids = jax.random.randint(jax.random.key(1), (batch, length), 0, vocabulary)
    now = jnp.uint32(3)
    noise, magnitude = neftune(alpha=ALPHA), ALPHA / math.sqrt(length * dim)

    def embnoise(table: Array, ids: Array, step: Any) -> Array:
        return add_noise(table[ids], noise, step=step)

    def uniform(table: Array, ids: Array, step: Any) -> Array:
        key = jax.random.fold_in(jax.random.key(2), step)
        return table[ids] + jax.random.uniform(key, shape, dtype, -magnitude, magnitude)

    def normal(table: Array, ids: Array, step: Any) -> Array:
        key = jax.random.fold_in(jax.random.key(2), step)
        return table[ids] + 1e-5 * jax.random.normal(key, shape, dtype)

    lookups: dict[str, Callable[..., Array]] = {
        "lookup": lambda table, ids, step: table[ids],
        "embnoise": embnoise,
        "uniform, by hand": uniform,
        "Gaussian, by hand": normal,
    }

    def run(lookup: Callable[..., Array]) -> None:
        lookup(table, ids, now).block_until_ready()

    compiled = {
        name: jax.jit(lookup).lower(table, ids, now).compile() for name, lookup in lookups.items()
    }
    return {name: partial(run, lookup) for name, lookup in compiled.items()}
