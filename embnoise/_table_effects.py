"""What noise does to the rows of an embedding table: how much of it 16 bits lose, and where to.

V rows, d channels; S of the rows are a sample, since both figures cost a pass over the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embnoise._noise import Noise
from embnoise._reference import add_noise

__all__ = ["ROUNDINGS", "flipped_shares", "lost_share", "root_mean_square", "unit_draws"]

Floats = NDArray[np.float32]

_ROWS = 4096
"""How many rows of a table are worked on at a time."""


def _to_bfloat16(x: Floats) -> Floats:
    """The nearest bfloat16 values, ties to even; NumPy has no such type."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _to_float16(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


ROUNDINGS: Mapping[str, Callable[[Floats], Floats]] = {
    "bfloat16": _to_bfloat16,
    "float16": _to_float16,
}
"""Rounding of float32 values to a 16-bit type, by the type's name."""


def unit_draws(noise: Noise, count: int, dim: int) -> Floats:
    """The noise of ``count`` tokens for a magnitude of 1, [count, d]: that of step 0, sample 0."""
    unit = replace(noise, alpha=1.0, scale="absolute")
    draws: Floats = add_noise(np.zeros((1, count, dim), np.float32), unit, step=0)[0]
    return draws


def lost_share(x: Floats, added: Floats, dtype: str) -> float:
    """The share of elements that noise leaves as they are in a 16-bit type.

    The sum is computed in float32 and rounded once, as ``add_noise`` does.

    Args:
        x: Embeddings [S, d].
        added: Their noise, [S, d].
        dtype: A name in ``ROUNDINGS``.
    """
    to_dtype = ROUNDINGS[dtype]
    x = to_dtype(x)
    return float(np.mean(to_dtype(x + added) == x))


def root_mean_square(table: NDArray[np.floating]) -> float:
    """The RMS of a table's elements, summed in float64."""
    total = 0.0
    for start in range(0, len(table), _ROWS):
        total += float(_squares(np.asarray(table[start : start + _ROWS], np.float32)).sum())
    return float(np.sqrt(total / table.size))


def flipped_shares(
    table: NDArray[np.floating],
    multiplier: float,
    rows: NDArray[np.int64],
    draws: Floats,
    magnitudes: Sequence[float],
) -> list[float]:
    """The share of tokens whose nearest row of the table is another one once they have noise.

    Distances are Euclidean. A row that is equal to the token's own does not count as another one.

    Args:
        table: [V, d].
        multiplier: What the embedding multiplies its rows by.
        rows: The tokens of the sample, [S].
        draws: Their noise for a magnitude of 1, [S, d].
        magnitudes: The magnitudes of the noise.

    Returns:
        One share for each magnitude.
    """

    def scaled(which: slice | NDArray[np.int64]) -> Floats:
        return np.asarray(table[which], np.float32) * np.float32(multiplier)

    x, sample = scaled(rows), np.arange(len(rows))
    # |x + m u - w|^2 without what is the same for all rows w: |w|^2 - 2 x.w - 2 m u.w
    nearest = np.full((len(magnitudes), len(rows)), np.inf, np.float32)
    which = np.zeros(nearest.shape, np.int64)
    for start in range(0, len(table), _ROWS):
        part = scaled(slice(start, start + _ROWS))
        clean = _squares(part).astype(np.float32) - 2 * (x @ part.T)
        own = (rows >= start) & (rows < start + _ROWS)
        clean[sample[own], rows[own] - start] = np.inf
        along = 2 * (draws @ part.T)
        for number, magnitude in enumerate(magnitudes):
            distances = clean - np.float32(magnitude) * along
            best = distances.argmin(axis=1)
            values = distances[sample, best]
            closer = values < nearest[number]
            nearest[number, closer] = values[closer]
            which[number, closer] = best[closer] + start
    # The nearest other row was found in float32; whether it beats the own one, float64 decides.
    shares = []
    for magnitude, others in zip(magnitudes, which, strict=True):
        noise = magnitude * draws.astype(np.float64)
        away = noise + (x.astype(np.float64) - scaled(others))  # no rounding for an equal row
        shares.append(float(np.mean(_squares(away) < _squares(noise))))
    return shares


def _squares(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The sum of squares of every row."""
    return np.asarray(np.einsum("ij,ij->i", x, x), np.float64)
