"""``Schedule``, the base class of all schedules, and the chain that ``then`` makes of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from embnoise._arrays import NUMPY, Array, ArrayNamespace
from embnoise._registry import Registry
from embnoise._validation import check_choice, check_integer, check_keys, format_value, is_array

__all__ = ["SCHEDULES", "Chain", "Schedule", "schedule_from_dict"]

SCHEDULES: Registry[type[Schedule]] = Registry("schedule")


class Schedule:
    """Alpha as a function of the step.

    Make one with ``linear``, ``cosine`` and the like. To write your own, subclass it as a frozen
    dataclass that defines ``name`` and ``value``; a field ``steps`` is its length. Once registered
    with ``register``, it can be saved and loaded.

    Attributes:
        name: What a saved configuration calls the schedule.
        steps: Steps until the last value is reached; ``None`` means the rest of the run.

    Example:
        >>> from dataclasses import dataclass
        >>> import embnoise
        >>> @embnoise.register
        ... @dataclass(frozen=True)
        ... class Halving(embnoise.Schedule):
        ...     name = "halving"
        ...     start: float
        ...     every: int
        ...     def value(self, step, xp):
        ...         return self.start * 0.5 ** (step // self.every)
        >>> Halving(8.0, 100)(250)
        2.0
        >>> noise = embnoise.neftune(alpha=Halving(8.0, 100))
        >>> embnoise.Noise.from_dict(noise.to_dict()) == noise
        True
    """

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.length is not None and "steps" in self._values():
            object.__setattr__(self, "steps", check_integer("steps", self.length, minimum=1))

    def value(self, step: Array, xp: ArrayNamespace) -> Array:
        """Alpha at ``step``: what a subclass defines.

        Args:
            step: A float, or a floating-point array of the namespace ``xp``, traced or not; at
                least 0, and at most ``steps`` if the schedule has a length.
            xp: The array namespace of ``step``.

        Returns:
            Alpha, of ``step``'s kind.
        """
        raise NotImplementedError(f"{type(self).__name__} must define value(self, step, xp)")

    @property
    def length(self) -> int | None:
        """Steps until the last value is reached; ``None`` while that is not known."""
        return getattr(self, "steps", None)

    @property
    def bound(self) -> bool:
        """Whether the schedule can be evaluated: its ``steps`` are known, or it has none."""
        return self.length is not None or "steps" not in self._values()

    def __call__(self, step: int | Array, xp: ArrayNamespace = NUMPY) -> Any:
        """Alpha at ``step``.

        Args:
            step: An int of at least 0, or an integer array of the namespace ``xp``, traced or not.
            xp: The array namespace of ``step`` if that is an array.

        Returns:
            A float for an int, otherwise a floating-point array of ``step``'s shape.

        Raises:
            TypeError: ``step`` is neither an int nor an array.
            ValueError: The schedule is unbound, or an int ``step`` is negative.
        """
        if not self.bound:
            raise ValueError(
                f"alpha is the unbound schedule {self}: it lasts for the rest of the run "
                "(steps=None), whose length is not known. Call .bind(total_steps) on it or on "
                "its Noise, or give it steps."
            )
        if is_array(step) and not isinstance(step, np.generic):
            # True division makes it floating-point in every framework.
            return self._clipped(step / 1, xp)
        number: Any = np.float64(check_integer("step", step, minimum=0))
        value: Any = self._clipped(number, NUMPY)
        return float(value)

    def _clipped(self, step: Array, xp: ArrayNamespace) -> Array:
        """The value at a step, or at the last one for every later one."""
        if self.length is not None:
            last = float(self.length)  # JAX takes no integers of more than 32 bits
            step = xp.where(step < last, step, step * 0 + last)
        return self.value(step, xp)

    def then(self, following: Schedule) -> Chain:
        """This schedule for its ``steps``, then ``following``, counted from its own step 0.

        Raises:
            TypeError: ``following`` is not a schedule.
            ValueError: More than one schedule of the chain has ``steps=None``.
        """
        if not isinstance(following, Schedule):
            raise TypeError(f"following must be a schedule, got {format_value(following)}")
        return Chain((*_parts(self), *_parts(following)))

    def bind(self, total_steps: int) -> Schedule:
        """The schedule for a run of ``total_steps`` steps; itself if its length is known.

        Raises:
            TypeError: ``total_steps`` is not an integer.
            ValueError: ``total_steps`` leaves no step for the part that has ``steps=None``.
        """
        total_steps = check_integer("total_steps", total_steps, minimum=1)
        if self.length is not None or "steps" not in self._values():
            return self
        return type(self)(**{**self._values(), "steps": total_steps})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, which ``Noise.from_dict`` reads back.

        Raises:
            TypeError: The schedule's class is not registered.
        """
        if not SCHEDULES.holds(self.name, type(self)):
            raise TypeError(
                f"alpha must be a number or a registered schedule to be saved, got {self!r}; "
                f"decorate {type(self).__name__} with @embnoise.register"
            )
        return {"schedule": self.name, **self._values()}

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses


@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules one after another; made by ``then``."""

    name: ClassVar[str] = "chain"
    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must be at least one schedule, got none")
        open_ended = [part for part in self.parts if part.length is None]
        if len(open_ended) > 1:
            raise ValueError(
                "only one schedule of a chain may last for the rest of the run (steps=None), "
                f"got {len(open_ended)}: {open_ended}"
            )
        for part in self.parts[:-1]:
            if part.length is None and "steps" not in part._values():
                raise ValueError(
                    f"only the last schedule of a chain may have no steps, got {part} before "
                    f"{self.parts[-1]}"
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
        total_steps = check_integer("total_steps", total_steps, minimum=1)
        if self.bound:
            return self
        rest = total_steps - sum(part.length or 0 for part in self.parts)
        if rest < 1:
            raise ValueError(
                f"total_steps must be at least {total_steps - rest + 1}, so that {self} has a "
                f"step left for its open-ended part, got {total_steps}"
            )
        return replace(self, parts=tuple(part.bind(rest) for part in self.parts))

    def to_dict(self) -> dict[str, Any]:
        return {"schedule": self.name, "parts": [part.to_dict() for part in self.parts]}

    def value(self, step: Array, xp: ArrayNamespace) -> Array:
        value = self.parts[0]._clipped(step, xp)
        start = 0.0
        for before, part in zip(self.parts, self.parts[1:], strict=False):
            start += before.length or 0
            own_step = xp.where(step > start, step - start, step * 0)
            value = xp.where(step < start, value, part._clipped(own_step, xp))
        return value


def _parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, Chain) else (schedule,)


def schedule_from_dict(data: Mapping[str, Any], name: str = "alpha") -> Schedule:
    """The schedule that ``to_dict`` described.

    Args:
        data: The description.
        name: What errors call it.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: An unknown schedule, an unknown or missing key, or a value out of range.

    Example:
        >>> from embnoise import linear
        >>> schedule_from_dict(linear(5, 1, 100).to_dict())
        Linear(start=5.0, end=1.0, steps=100)
    """
    if not isinstance(data, Mapping):
        raise TypeError(
            f"{name} must be a mapping with the key 'schedule', got {format_value(data)}"
        )
    values = dict(data)
    kind_name = values.pop("schedule", None)
    check_choice("schedule", kind_name, [*SCHEDULES.names(), Chain.name])
    if kind_name == Chain.name:
        check_keys("chain", values, ["parts"], required=["parts"])
        parts = values["parts"]
        if not isinstance(parts, list | tuple):
            raise TypeError(f"parts must be a list of schedules, got {format_value(parts)}")
        return Chain(tuple(schedule_from_dict(part, f"parts[{i}]") for i, part in enumerate(parts)))
    kind = SCHEDULES[str(kind_name)]
    own = fields(kind)  # type: ignore[arg-type]  # registered schedules are dataclasses
    required = [
        field.name for field in own if field.default is MISSING and field.default_factory is MISSING
    ]
    check_keys(str(kind_name), values, [field.name for field in own], required)
    return kind(**values)
