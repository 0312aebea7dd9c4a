"""Correlation of an array of signs with its own copies: shifted by any lag, reversed, transposed.

For noise that is symmetric and independent, each sum below is one of products that are independent,
except on the cycles of "goes to", so Hoeffding's inequality bounds it for any number of values. A
copy that is only shifted has no cycles. A reversed or transposed one has, and its products are
divided into two sets without, whose bounds add up to a factor of 2 in the variance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.inputs import Array

__all__ = ["Match", "most_correlated"]


@dataclass(frozen=True)
class Match:
    """The copy that is correlated most, relative to what chance allows."""

    correlation: float
    allowed: float
    lag: tuple[int, int, int]
    """In rows, tokens and channels of the copy."""
    reversed: tuple[bool, bool]
    """Along tokens, along channels."""
    transposed: bool

    @property
    def by_chance(self) -> bool:
        """Whether chance allows it."""
        return abs(self.correlation) <= self.allowed

    def words(self) -> str:
        """How the copy is made: "negated, reversed along the channels, 2 rows apart"."""
        said = ["negated"] if self.correlation < 0 else []
        axes = [name for name, on in zip(("tokens", "channels"), self.reversed, strict=True) if on]
        if axes:
            said.append(f"reversed along the {' and the '.join(axes)}")
        if self.transposed:
            said.append("with tokens and channels exchanged")
        names = ("row", "token", "channel")
        shifts = [
            f"{abs(lag)} {name}{'s' * (abs(lag) > 1)}"
            for name, lag, turned in zip(
                names,
                self.lag,
                (False, *(self.transposed or on for on in self.reversed)),
                strict=True,
            )
            if lag and not turned
        ]
        if shifts:
            said.append(f"{' and '.join(shifts)} apart")
        return ", ".join(said) or "as it is"


def most_correlated(signs: Array, rate: float) -> Match:
    """The copy of the signs that stands out most.

    Args:
        signs: [B, L, d] with values of -1, 0 and 1.
        rate: The probability that chance exceeds what it allows.
    """
    rows, tokens, channels = signs.shape
    wide = _fast(tokens + channels)
    plain = (_fast(2 * rows), _fast(2 * tokens), _fast(2 * channels))
    turned = (_fast(2 * rows), wide, wide)
    spectra = {shape: np.fft.rfftn(signs, shape, (0, 1, 2)) for shape in (plain, turned)}
    count = 4 * math.prod(plain) + 4 * math.prod(turned)
    found = []
    for along_tokens, along_channels, transposed in itertools.product((False, True), repeat=3):
        flips = (along_tokens, along_channels)
        copy = signs.transpose(0, 2, 1) if transposed else signs
        for axis, flip in enumerate(flips, start=1):
            copy = np.flip(copy, axis) if flip else copy
        shape = turned if transposed else plain
        sums, overlaps = _all_lags(spectra[shape], copy, signs.shape, shape)
        moved = transposed or any(flips)
        allowed = np.sqrt(2 * (1 + moved) * overlaps * math.log(2 * count / rate))
        if moved:  # a value that is its own copy adds 1
            fixed = (
                min(tokens, channels)
                if transposed
                else math.prod(
                    size for size, flip in zip(signs.shape[1:], flips, strict=True) if not flip
                )
            )
            allowed[0] += rows * fixed
        else:
            allowed[0, 0, 0] = np.inf
        excess = np.divide(abs(sums), allowed, out=np.zeros_like(sums), where=allowed > 0)
        at = np.unravel_index(int(excess.argmax()), excess.shape)
        overlap = max(float(overlaps[at]), 1.0)
        found.append(
            (
                float(excess[at]),
                Match(
                    float(sums[at]) / overlap,
                    float(allowed[at]) / overlap,
                    _lag(at, sums.shape, signs.shape),
                    flips,
                    transposed,
                ),
            )
        )
    return max(found, key=lambda each: each[0])[1]


def _lag(
    at: tuple[np.intp, ...], shape: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[int, int, int]:
    rows, tokens, channels = (
        _lags(length, size)[i] for i, length, size in zip(at, shape, sizes, strict=True)
    )
    return rows, tokens, channels


def _all_lags(
    spectrum: NDArray[np.complex128],
    copy: Array,
    sizes: tuple[int, ...],
    shape: tuple[int, int, int],
) -> tuple[Array, Array]:
    """For each lag, the sum of products and how many there are."""
    product = spectrum * np.fft.rfftn(copy, shape, (0, 1, 2)).conj()
    sums = np.round(np.fft.irfftn(product, shape, (0, 1, 2)))
    overlaps = np.ones((1, 1, 1))
    for axis, (one, other) in enumerate(zip(sizes, copy.shape, strict=True)):
        counts = np.array(_overlaps(shape[axis], one, other))
        overlaps = overlaps * counts.reshape([-1 if i == axis else 1 for i in range(3)])
    return sums, overlaps


def _fast(size: int) -> int:
    """The next size without prime factors above 5, for which the transform is fast."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _lags(length: int, size: int) -> list[int]:
    """The lag at each index of a transform of some length, of an axis of some size."""
    return [index if index < size else index - length for index in range(length)]


@cache
def _overlaps(length: int, one: int, other: int) -> tuple[int, ...]:
    """For each lag, how many i have 0 <= i < other and 0 <= i + lag < one."""
    return tuple(max(min(other, one - lag) - max(0, -lag), 0) for lag in _lags(length, one))
