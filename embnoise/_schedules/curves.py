"""The built-in schedules: constant, and ramps from one value to another along a curve.

In all formulas t = min(step / steps, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from embnoise._arrays import Array, ArrayNamespace
from embnoise._schedules.base import SCHEDULES, Schedule
from embnoise._validation import check_amplitude

__all__ = ["constant", "cosine", "exponential", "linear", "polynomial", "sigmoid"]


class _Curve(Schedule):
    """A built-in schedule: every field but ``steps`` is a number of at least 0."""

    positive: ClassVar[frozenset[str]] = frozenset()
    """The fields that may not be 0."""

    def __post_init__(self) -> None:
        for name, value in self._values().items():
            if name != "steps":
                checked = check_amplitude(name, value, positive=name in self.positive)
                object.__setattr__(self, name, checked)
        super().__post_init__()


@dataclass(frozen=True)
class Constant(_Curve):
    """One value; its length matters only where another schedule follows."""

    name: ClassVar[str] = "constant"
    alpha: float
    steps: int | None = None

    @property
    def bound(self) -> bool:
        return True

    def value(self, step: Array, xp: ArrayNamespace) -> Array:
        return 0.0 * step + self.alpha


@dataclass(frozen=True)
class _Ramp(_Curve):
    """From ``start`` to ``end`` in ``steps`` steps; subclasses say along which curve."""

    start: float
    end: float
    steps: int | None = None

    def value(self, step: Array, xp: ArrayNamespace) -> Array:
        assert self.steps is not None
        t = step / float(self.steps)
        # The ends do not follow the curve, which rounding could let miss them.
        curve = self._curve(xp.where(t < 1, t, t * 0), xp)
        curve = xp.where(t > 0, curve, t * 0 + self.start)
        return xp.where(t < 1, curve, t * 0 + self.end)

    def _curve(self, t: Array, xp: ArrayNamespace) -> Array:
        weight = self._weight(t, xp)
        return self.start * (1 - weight) + self.end * weight

    def _weight(self, t: Array, xp: ArrayNamespace) -> Array:
        """How far alpha is from ``start`` (0) to ``end`` (1), for t in [0, 1)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(_Ramp):
    """A straight line."""

    name: ClassVar[str] = "linear"

    def _weight(self, t: Array, xp: ArrayNamespace) -> Array:
        return t


@dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine wave."""

    name: ClassVar[str] = "cosine"

    def _weight(self, t: Array, xp: ArrayNamespace) -> Array:
        return 0.5 - 0.5 * xp.cos(math.pi * t)


@dataclass(frozen=True)
class Exponential(_Ramp):
    """A constant factor per step."""

    name: ClassVar[str] = "exponential"
    positive: ClassVar[frozenset[str]] = frozenset({"start", "end"})

    def _curve(self, t: Array, xp: ArrayNamespace) -> Array:
        return self.start * xp.exp(math.log(self.end / self.start) * t)


@dataclass(frozen=True)
class Polynomial(_Ramp):
    """A power of the progress."""

    name: ClassVar[str] = "polynomial"
    positive: ClassVar[frozenset[str]] = frozenset({"power"})
    power: float = 2.0

    def _weight(self, t: Array, xp: ArrayNamespace) -> Array:
        return t**self.power


@dataclass(frozen=True)
class Sigmoid(_Ramp):
    """The middle of a logistic curve, stretched so that it meets both end points."""

    name: ClassVar[str] = "sigmoid"
    steepness: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.01 <= self.steepness <= 100:
            raise ValueError(f"steepness must be from 0.01 to 100, got {self.steepness!r}")

    def _weight(self, t: Array, xp: ArrayNamespace) -> Array:
        edge = math.tanh(self.steepness / 4)
        weight = 0.5 + 0.5 * xp.tanh(self.steepness * (t - 0.5) / 2) / edge
        # Rounding could put it outside of [0, 1], and alpha below 0.
        weight = xp.where(weight > 0, weight, t * 0)
        return xp.where(weight < 1, weight, t * 0 + 1)


for _kind in (Constant, Linear, Cosine, Exponential, Polynomial, Sigmoid):
    SCHEDULES.add(_kind.name, _kind, defined_by=_kind)


def constant(alpha: float, steps: int | None = None) -> Constant:
    """``alpha`` at every step.

    Args:
        alpha: The value, at least 0.
        steps: How long it lasts; this matters only before ``.then(...)``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import constant, linear
        >>> alpha = constant(5.0, 10).then(linear(5.0, 0.0, 100))
        >>> alpha(9), alpha(60)
        (5.0, 2.5)
    """
    return Constant(alpha, steps)


def linear(start: float, end: float, steps: int | None = None) -> Linear:
    """``start + (end - start) * t`` with ``t = min(step / steps, 1)``.

    Args:
        start: Alpha at step 0, at least 0.
        end: Alpha at step ``steps`` and after it, at least 0.
        steps: The length, at least 1; by default the rest of the run, filled in by ``bind``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import linear
        >>> [linear(0.0, 5.0, 4)(step) for step in range(6)]
        [0.0, 1.25, 2.5, 3.75, 5.0, 5.0]
    """
    return Linear(start, end, steps)


def cosine(start: float, end: float, steps: int | None = None) -> Cosine:
    """``end + (start - end) * (1 + cos(pi * t)) / 2`` with ``t = min(step / steps, 1)``.

    Args:
        start: Alpha at step 0, at least 0.
        end: Alpha at step ``steps`` and after it, at least 0.
        steps: The length, at least 1; by default the rest of the run, filled in by ``bind``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import cosine
        >>> [round(cosine(4.0, 0.0, 4)(step), 3) for step in range(5)]
        [4.0, 3.414, 2.0, 0.586, 0.0]
    """
    return Cosine(start, end, steps)


def exponential(start: float, end: float, steps: int | None = None) -> Exponential:
    """``start * (end / start) ** t`` with ``t = min(step / steps, 1)``.

    Args:
        start: Alpha at step 0, above 0.
        end: Alpha at step ``steps`` and after it, above 0.
        steps: The length, at least 1; by default the rest of the run, filled in by ``bind``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import exponential
        >>> [round(exponential(8.0, 0.5, 4)(step), 3) for step in range(5)]
        [8.0, 4.0, 2.0, 1.0, 0.5]
    """
    return Exponential(start, end, steps)


def polynomial(
    start: float, end: float, steps: int | None = None, power: float = 2.0
) -> Polynomial:
    """``start + (end - start) * t ** power`` with ``t = min(step / steps, 1)``.

    Args:
        start: Alpha at step 0, at least 0.
        end: Alpha at step ``steps`` and after it, at least 0.
        steps: The length, at least 1; by default the rest of the run, filled in by ``bind``.
        power: The exponent, above 0.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import polynomial
        >>> [polynomial(0.0, 4.0, 4)(step) for step in range(5)]
        [0.0, 0.25, 1.0, 2.25, 4.0]
    """
    return Polynomial(start, end, steps, power)


def sigmoid(start: float, end: float, steps: int | None = None, steepness: float = 10.0) -> Sigmoid:
    """From ``start`` to ``end`` along a logistic curve, steepest half-way.

    ``start + (end - start) * (1/2 + tanh(k (t - 1/2) / 2) / (2 tanh(k / 4)))`` with
    ``t = min(step / steps, 1)`` and ``k`` the ``steepness``.

    Args:
        start: Alpha at step 0, at least 0.
        end: Alpha at step ``steps`` and after it, at least 0.
        steps: The length, at least 1; by default the rest of the run, filled in by ``bind``.
        steepness: From 0.01 (nearly a line) to 100 (nearly a jump).

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> from embnoise import sigmoid
        >>> [round(sigmoid(0.0, 4.0, 4)(step), 3) for step in range(5)]
        [0.0, 0.28, 2.0, 3.72, 4.0]
    """
    return Sigmoid(start, end, steps, steepness)
