"""An adapter of a third party, for a framework of Python lists: what it takes to write one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embnoise import Noise, _check
from embnoise.perturb import lattice
from embnoise.reference import flat_arrays, plan
from embnoise.tokens import TokenArrays

__all__ = ["Lists", "add_noise"]


@dataclass(frozen=True, eq=False)
class Lists:
    """Nested lists of numbers, with what a framework knows of them."""

    values: list[Any]
    shape: tuple[int, ...]
    dtype: str


def add_noise(x: Lists, noise: Noise, *, step=0, training=True, **tokens: Lists | None) -> Lists:
    """``embnoise.add_noise`` over lists."""
    shape = _check.embeddings(x)
    given = TokenArrays(**tokens)
    given.check(shape)
    alpha = noise.alpha_at(step) if training else 0
    if alpha == 0 or 0 in shape:
        return x
    arrays = (None if array is None else np.array(array.values) for array in given)
    rows = np.array(x.values, float).reshape(-1, shape[2]).tolist()

    def mean_squares():
        means = [sum(value * value for value in row) / len(row) for row in rows]
        return np.array(means).reshape(shape[:2])

    how = plan(noise, alpha, shape, TokenArrays(*arrays), mean_squares=mean_squares, xp=np)
    magnitude, sample, position = flat_arrays(how, shape)
    word = step % 2**32
    drawn = lattice(sample, position, word, noise.key, shape[2], xp=np, word=np.uint64).tolist()
    units = noise.law.table.tolist()
    noisy = [
        [value + scale * units[k] for value, k in zip(row, numbers, strict=True)] if scale else row
        for row, scale, numbers in zip(rows, magnitude.tolist(), drawn, strict=True)
    ]
    rounded = np.array(noisy).astype("float64" if x.dtype == "float64" else "float32")
    return Lists(rounded.astype(x.dtype).reshape(x.shape).tolist(), x.shape, x.dtype)
