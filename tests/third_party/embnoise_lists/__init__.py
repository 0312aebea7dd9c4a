"""An adapter of a third party, for a framework of Python lists: what it takes to write one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embnoise.backend import (
    NUMPY,
    Noise,
    TokenArrays,
    distribution_of,
    flat_plan,
    lattice,
    philox_key,
    plan,
    prepare,
)

__all__ = ["Lists", "add_noise"]


@dataclass(frozen=True, eq=False)
class Lists:
    """Nested lists of numbers, with what a framework knows of them."""

    values: list[Any]
    shape: tuple[int, ...]
    dtype: str


def add_noise(x: Lists, noise: Noise, *, step, training=True, **tokens: Lists | None) -> Lists:
    """``embnoise.add_noise`` over lists."""
    prepared = prepare(x, noise, step=step, training=training, tokens=TokenArrays(**tokens))
    if prepared is None:
        return x
    batch, length, dim = prepared.shape
    rows = np.array(x.values, float).reshape(-1, dim).tolist()

    def mean_squares():
        means = [sum(value * value for value in row) / dim for row in rows]
        return np.array(means).reshape(batch, length)

    tokens = prepared.tokens.map(lambda array: np.array(array.values))
    prepared = prepared._replace(tokens=tokens)
    planned = plan(noise, prepared, mean_squares=mean_squares, xp=NUMPY)
    magnitude, sample, position = flat_plan(planned, prepared.shape)
    word, key = prepared.step % 2**32, philox_key(noise)
    drawn = lattice(sample, position, word, key, dim, xp=NUMPY, word_dtype=np.uint64).tolist()
    units = distribution_of(noise).table.tolist()
    noisy = [
        [value + scale * units[k] for value, k in zip(row, numbers, strict=True)] if scale else row
        for row, scale, numbers in zip(rows, magnitude.tolist(), drawn, strict=True)
    ]
    rounded = np.array(noisy).astype("float64" if x.dtype == "float64" else "float32")
    return Lists(rounded.astype(x.dtype).reshape(x.shape).tolist(), x.shape, x.dtype)
