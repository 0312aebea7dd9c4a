"""Correlation of an array of signs with copies of it: shifted by any lag, reversed, transposed.

For noise that is symmetric and independent, each sum below is one of products that are independent,
except on the cycles of "goes to", so Hoeffding's inequality bounds it for any number of values. A
copy that is only shifted has no cycles. A reversed or transposed one has, and its products are
divided into two sets without, whose bounds add up to a factor of 2 in the variance. The copies may
be of another array, which does not depend on the signs: then there are no cycles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

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


_FLIPS = (False, False), (False, True), (True, False), (True, True)
"""Whether a copy is reversed along tokens, along channels."""


def most_correlated(signs: Array, others: Array, rate: float) -> Match:
    """The copy that stands out most.

    Args:
        signs: [B, L, d] with values of -1, 0 and 1.
        others: What is copied: the signs, or another array of this shape and with these values.
        rate: The probability that chance exceeds what it allows.
    """
    # float32 tells the sums apart, which are integers: those of 2^20 values are off by 0.25.
    own = others is signs
    signs = signs.astype(np.float32)
    others = signs if own else others.astype(np.float32)
    rows, tokens, channels = signs.shape
    wide = _fast(tokens + channels)
    plain = (_fast(2 * rows), _fast(2 * tokens), _fast(2 * channels))
    turned = (_fast(2 * rows), wide, wide)
    count = 4 * math.prod(plain) + 4 * math.prod(turned)
    bound = math.sqrt(2 * math.log(2 * count / rate))
    found = []
    for transposed, shape in ((False, plain), (True, turned)):
        copy = others.transpose(0, 2, 1) if transposed else others
        spectrum = np.fft.rfftn(signs, shape, (0, 1, 2))
        same = copy is signs
        of_copy = spectrum if same else np.fft.rfftn(copy, shape, (0, 1, 2))
        for flips in _FLIPS:
            if own and transposed and flips == (True, False):
                continue  # the sums of (False, True), in another order
            product = spectrum * _conjugate(of_copy, *flips)
            sums = np.round(np.fft.irfftn(product, shape, (0, 1, 2)))
            axes = _axes(shape, signs.shape, copy.shape, flips)
            of_rows, of_tokens, of_channels = (axis.root for axis in axes)
            across = (of_tokens[:, None] * of_channels).astype(np.float32)
            allowed = (bound * of_rows).astype(np.float32)[:, None, None] * across
            if transposed or any(flips):  # a value that is its own copy adds 1
                allowed *= math.sqrt(2)
                allowed[0] += rows * _fixed(tokens, channels, flips, transposed)
            else:
                allowed[0, 0, 0] = np.inf
            excess = abs(sums)
            excess /= allowed
            at = np.unravel_index(int(excess.argmax()), excess.shape)
            row, token, channel = (int(axis.lag[i]) for axis, i in zip(axes, at, strict=True))
            overlaps = (int(axis.overlap[i]) for axis, i in zip(axes, at, strict=True))
            overlap = max(math.prod(overlaps), 1)
            correlation, chance = float(sums[at]) / overlap, float(allowed[at]) / overlap
            found.append(
                (excess[at], Match(correlation, chance, (row, token, channel), flips, transposed))
            )
    return max(found, key=lambda each: each[0])[1]


def _fixed(tokens: int, channels: int, flips: tuple[bool, bool], transposed: bool) -> int:
    """How many values of a row are their own copies, at most."""
    if transposed:
        return min(tokens, channels)
    sizes = zip((tokens, channels), flips, strict=True)
    return math.prod(size for size, flip in sizes if not flip)


def _conjugate(
    spectrum: NDArray[np.complex128], along_tokens: bool, along_channels: bool
) -> NDArray[np.complex128]:
    """The conjugate spectrum of what is reversed around its first token, its first channel or both.

    Half of a spectrum is kept, since the other half is conjugate: a frequency along the channels is
    negated by negating the other two.
    """
    if not along_channels:
        return (_negated(spectrum, 1) if along_tokens else spectrum).conj()
    spectrum = _negated(spectrum, 0)
    return spectrum if along_tokens else _negated(spectrum, 1)


def _negated(spectrum: NDArray[np.complex128], axis: int) -> NDArray[np.complex128]:
    """The spectrum at the negated frequencies of an axis."""
    return spectrum.take(-np.arange(spectrum.shape[axis]), axis)


class _Axis(NamedTuple):
    """What the indices of the sums along an axis stand for."""

    lag: NDArray[np.int64]
    overlap: NDArray[np.int64]
    """How many i there are with 0 <= i < size of the copy and 0 <= i + lag < size."""
    root: Array
    """The square root of the overlap, infinite for 0."""

    def rolled(self, by: int) -> _Axis:
        """The axis with its indices moved."""
        return _Axis(np.roll(self.lag, by), np.roll(self.overlap, by), np.roll(self.root, by))


def _axes(
    shape: tuple[int, int, int],
    sizes: tuple[int, ...],
    of_copy: tuple[int, ...],
    flips: tuple[bool, bool],
) -> list[_Axis]:
    """The three axes, for a copy that is reversed around its first value and not its middle."""
    return [
        _axis(length, one, other).rolled(other - 1 if flip else 0)
        for length, one, other, flip in zip(shape, sizes, of_copy, (False, *flips), strict=True)
    ]


@cache
def _axis(length: int, one: int, other: int) -> _Axis:
    """The axis of a transform of some length, for two sizes."""
    index = np.arange(length)
    lag = np.where(index < one, index, index - length)
    overlap = np.maximum(np.minimum(other, one - lag) - np.maximum(0, -lag), 0)
    return _Axis(lag, overlap, np.where(overlap > 0, np.sqrt(overlap), np.inf))


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
