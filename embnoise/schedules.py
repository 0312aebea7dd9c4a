"""Schedules: the noise's alpha as a function of the step.

A schedule is a frozen dataclass that is called with a step and returns alpha. Step 0 gives the
first value, step ``steps`` and every later one the last. With ``steps=None`` a schedule lasts for
the rest of the run, whose length ``bind`` fills in.

    >>> alpha = linear(0.0, 5.0, 100).then(cosine(5.0, 1.0)).bind(1100)
    >>> alpha(0), alpha(50), alpha(100), alpha(600), alpha(5000)
    (0.0, 2.5, 5.0, 3.0, 1.0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from embnoise import _check

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "polynomial",
    "schedule_from_dict",
    "sigmoid",
]


class Schedule:
    """What all schedules share. Make one with ``linear`` and its siblings."""

    @property
    def length(self) -> int | None:
        """Steps until the last value is reached; ``None`` while unbound."""
        raise NotImplementedError

    @property
    def bound(self) -> bool:
        """Whether the schedule can be evaluated."""
        return self.length is not None

    def __call__(self, step: Any, xp: Any = np) -> Any:
        """Alpha at ``step``.

        Args:
            step: an int of at least 0, or an integer array of the namespace ``xp``, traced or not.
            xp: the array namespace of ``step`` where that is an array.

        Returns:
            A float for an int, otherwise an array of ``step``'s shape.

        Raises:
            TypeError: ``step`` is neither an int nor an array.
            ValueError: the schedule is unbound, or an int ``step`` is negative.
        """
        if not self.bound:
            raise ValueError(
                f"alpha is the unbound schedule {self}: it lasts for the rest of the run "
                "(steps=None), whose length is not known. Call .bind(total_steps) on it, or on "
                "the Noise that holds it, or give it steps."
            )
        if hasattr(step, "shape") and not isinstance(step, np.generic):
            return self._value(step, xp)
        return float(self._value(np.float64(_check.integer("step", step, least=0)), np))

    def then(self, following: Schedule) -> Chain:
        """This schedule for its ``steps``, then ``following``, counted from its own step 0.

        Raises:
            TypeError: ``following`` is not a schedule.
            ValueError: more than one schedule of the chain has ``steps=None``.
        """
        if not isinstance(following, Schedule):
            raise TypeError(f"following must be a schedule, got {_check.shown(following)}")
        return Chain((*_parts(self), *_parts(following)))

    def bind(self, total_steps: int) -> Schedule:
        """The schedule of a run of ``total_steps`` steps; itself if its length is known.

        Raises:
            ValueError: ``total_steps`` leaves no step for the part that has ``steps=None``.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, which ``schedule_from_dict`` reads back."""
        raise NotImplementedError

    def _value(self, step: Any, xp: Any) -> Any:
        raise NotImplementedError


class _Piece(Schedule):
    """A schedule that is one curve. Its dataclasses have the field ``steps`` among others."""

    kind: ClassVar[str]
    steps: int | None

    def __post_init__(self) -> None:
        for name, value in self._values().items():
            if name != "steps":
                object.__setattr__(self, name, _check.amplitude(name, value))
            elif value is not None:
                object.__setattr__(self, name, _check.integer(name, value, least=1))

    @property
    def length(self) -> int | None:
        return self.steps

    def bind(self, total_steps: int) -> Schedule:
        total_steps = _check.integer("total_steps", total_steps, least=1)
        if self.steps is not None:
            return self
        return type(self)(**{**self._values(), "steps": total_steps})

    def to_dict(self) -> dict[str, Any]:
        return {"schedule": self.kind, **self._values()}

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Constant(_Piece):
    """One value; its length matters only where another schedule follows."""

    kind: ClassVar[str] = "constant"
    value: float
    steps: int | None = None

    @property
    def bound(self) -> bool:
        return True

    def _value(self, step: Any, xp: Any) -> Any:
        return 0.0 * step + self.value


@dataclass(frozen=True)
class Ramp(_Piece):
    """From ``start`` to ``end`` in ``steps`` steps; subclasses say along which curve."""

    start: float
    end: float
    steps: int | None = None

    def _value(self, step: Any, xp: Any) -> Any:
        assert self.steps is not None
        progress = step / self.steps
        # Past the last step the curve is not followed: rounding could miss the end point.
        value = self._curve(xp.where(progress < 1, progress, 0.0), xp)
        return xp.where(progress < 1, value, self.end)

    def _curve(self, progress: Any, xp: Any) -> Any:
        weight = self._weight(progress, xp)
        return self.start * (1 - weight) + self.end * weight

    def _weight(self, progress: Any, xp: Any) -> Any:
        """How far alpha is from ``start`` (0) to ``end`` (1), for a progress in [0, 1)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Ramp):
    """A straight line."""

    kind: ClassVar[str] = "linear"

    def _weight(self, progress: Any, xp: Any) -> Any:
        return progress


@dataclass(frozen=True)
class Cosine(Ramp):
    """Half a cosine wave."""

    kind: ClassVar[str] = "cosine"

    def _weight(self, progress: Any, xp: Any) -> Any:
        return 0.5 - 0.5 * xp.cos(math.pi * progress)


@dataclass(frozen=True)
class Exponential(Ramp):
    """A constant factor per step."""

    kind: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "end"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0 in an exponential schedule, got 0")

    def _curve(self, progress: Any, xp: Any) -> Any:
        return self.start * xp.exp(math.log(self.end / self.start) * progress)


@dataclass(frozen=True)
class Polynomial(Ramp):
    """A power of the progress."""

    kind: ClassVar[str] = "polynomial"
    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power == 0:
            raise ValueError("power must be above 0, got 0")

    def _weight(self, progress: Any, xp: Any) -> Any:
        return progress**self.power


@dataclass(frozen=True)
class Sigmoid(Ramp):
    """The middle of a logistic curve, stretched so that it meets both end points."""

    kind: ClassVar[str] = "sigmoid"
    steepness: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.01 <= self.steepness <= 100:
            raise ValueError(f"steepness must be from 0.01 to 100, got {self.steepness!r}")

    def _weight(self, progress: Any, xp: Any) -> Any:
        edge = math.tanh(self.steepness / 4)
        return 0.5 + 0.5 * xp.tanh(self.steepness * (progress - 0.5) / 2) / edge


@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules one after another; made by ``then``."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        open_ended = [part for part in self.parts if part.length is None]
        if len(open_ended) > 1:
            raise ValueError(
                "only one schedule of a chain may last for the rest of the run (steps=None), "
                f"got {len(open_ended)}: {open_ended}"
            )

    @property
    def length(self) -> int | None:
        lengths = [part.length for part in self.parts]
        return None if None in lengths else sum(length for length in lengths if length)

    @property
    def bound(self) -> bool:
        # The last part may stay open-ended if its value does not depend on its length.
        return all(part.length for part in self.parts[:-1]) and self.parts[-1].bound

    def bind(self, total_steps: int) -> Schedule:
        total_steps = _check.integer("total_steps", total_steps, least=1)
        if self.length is not None:
            return self
        rest = total_steps - sum(part.length or 0 for part in self.parts)
        if rest < 1:
            raise ValueError(
                f"total_steps must be at least {total_steps - rest + 1}, so that {self} has a "
                f"step left for its open-ended part, got {total_steps}"
            )
        return replace(self, parts=tuple(part.bind(rest) for part in self.parts))

    def to_dict(self) -> dict[str, Any]:
        return {"schedule": "chain", "parts": [part.to_dict() for part in self.parts]}

    def _value(self, step: Any, xp: Any) -> Any:
        value = self.parts[0]._value(step, xp)
        start = 0
        for before, part in zip(self.parts, self.parts[1:], strict=False):
            start += before.length or 0
            own_step = xp.where(step > start, step - start, 0)
            value = xp.where(step < start, value, part._value(own_step, xp))
        return value


def _parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, Chain) else (schedule,)


_KINDS: dict[str, type[_Piece]] = {
    piece.kind: piece for piece in (Constant, Linear, Cosine, Exponential, Polynomial, Sigmoid)
}


def schedule_from_dict(data: Mapping[str, Any]) -> Schedule:
    """The schedule that ``to_dict`` described.

    Raises:
        TypeError: a value is of the wrong type.
        ValueError: an unknown schedule, a key that is unknown or missing, or a value out of range.

    Example:
        >>> schedule_from_dict(linear(5, 1, 100).to_dict())
        Linear(start=5.0, end=1.0, steps=100)
    """
    values = dict(data)
    kind = values.pop("schedule", None)
    _check.choice("schedule", kind, [*_KINDS, "chain"])
    if kind == "chain":
        _check.keys("chain", values, ["parts"], required=["parts"])
        return Chain(tuple(schedule_from_dict(part) for part in values["parts"]))
    own = fields(_KINDS[kind])  # type: ignore[arg-type]
    required = [field.name for field in own if field.default is MISSING]
    _check.keys(str(kind), values, [field.name for field in own], required)
    return _KINDS[kind](**values)


def constant(value: float, steps: int | None = None) -> Constant:
    """``value`` at every step; ``steps`` matters only before ``.then(...)``."""
    return Constant(value, steps)


def linear(start: float, end: float, steps: int | None = None) -> Linear:
    """``start + (end - start) * t`` with ``t = min(step / steps, 1)``."""
    return Linear(start, end, steps)


def cosine(start: float, end: float, steps: int | None = None) -> Cosine:
    """``end + (start - end) * (1 + cos(pi * t)) / 2`` with ``t = min(step / steps, 1)``."""
    return Cosine(start, end, steps)


def exponential(start: float, end: float, steps: int | None = None) -> Exponential:
    """``start * (end / start) ** t`` with ``t = min(step / steps, 1)``; both ends above 0."""
    return Exponential(start, end, steps)


def polynomial(
    start: float, end: float, steps: int | None = None, power: float = 2.0
) -> Polynomial:
    """``start + (end - start) * t ** power`` with ``t = min(step / steps, 1)``; power above 0."""
    return Polynomial(start, end, steps, power)


def sigmoid(start: float, end: float, steps: int | None = None, steepness: float = 10.0) -> Sigmoid:
    """From ``start`` to ``end`` along a logistic curve, steepest half-way.

    ``start + (end - start) * (1/2 + tanh(k (t - 1/2) / 2) / (2 tanh(k / 4)))`` with
    ``t = min(step / steps, 1)`` and ``k`` the ``steepness``, from 0.01 (a line) to 100 (a jump).
    """
    return Sigmoid(start, end, steps, steepness)
