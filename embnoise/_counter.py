"""The counter of a layer's training calls: which step it is at, and which samples come next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from embnoise._arrays import NUMPY, ArrayNamespace
from embnoise._validation import check_integer, check_keys

__all__ = ["Counter"]


class Counter(NamedTuple):
    """Where the noise of a layer stands, as four integers that a framework keeps as its state.

    A step of the optimizer may take several calls, each with a micro-batch of its own. Their
    samples are numbered consecutively, so that together they get the noise of one large batch.

    Example:
        >>> counter = Counter()
        >>> for batch in (8, 8, 8):
        ...     print(counter.step, counter.samples)
        ...     counter = counter.after(batch, calls_per_step=2)
        0 0
        0 8
        1 0
    """

    step: Any = 0
    """The step of the next call."""
    calls: Any = 0
    """How many calls this step has had."""
    samples: Any = 0
    """How many samples this step has had: the id of the next call's first sample."""
    lookups: Any = 0
    """How many calls got noise so far."""

    def after(
        self, batch: Any, *, calls_per_step: int | None, xp: ArrayNamespace = NUMPY
    ) -> Counter:
        """The counter after one more call.

        Args:
            batch: How many samples the call has.
            calls_per_step: How many calls one step takes; ``None`` if calls do not advance it.
            xp: The array namespace of the counter, unless that is of plain ints.
        """
        calls, samples, lookups = self.calls + 1, self.samples + batch, self.lookups + 1
        if calls_per_step is None:
            return Counter(self.step, calls, samples, lookups)
        done = calls >= calls_per_step
        if isinstance(done, bool):
            started = Counter(self.step + 1, lookups=lookups)
            return started if done else Counter(self.step, calls, samples, lookups)
        return Counter(
            xp.where(done, self.step + 1, self.step),
            xp.where(done, 0 * calls, calls),
            xp.where(done, 0 * samples, samples),
            lookups,
        )

    def at_step(self, step: Any) -> Counter:
        """The counter at the start of a step."""
        return Counter(step, 0 * self.calls, 0 * self.samples, self.lookups)

    def to_dict(self) -> dict[str, int]:
        """The four integers by name, JSON-ready."""
        return {name: int(value) for name, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, owner: str, state: Mapping[str, Any]) -> Counter:
        """The counter that ``to_dict`` described.

        Args:
            owner: Whose counter it is, for errors.
            state: What ``to_dict`` returned.

        Raises:
            TypeError: A value is not an integer.
            ValueError: An unknown or missing key, or a negative value.
        """
        check_keys(owner, state, cls._fields, cls._fields)
        return cls(
            *(check_integer(f"{owner}[{name!r}]", state[name], minimum=0) for name in cls._fields)
        )
