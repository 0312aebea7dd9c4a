"""What the ``EmbeddingNoise`` layers and the handles of ``attach`` share in every framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

from embnoise._counter import Counter
from embnoise._noise import Noise
from embnoise._validation import check_integer, check_keys

__all__ = ["Handle", "NoiseState"]


class NoiseState:
    """The state of noise that counts its own calls: a mixin.

    A subclass has an attribute ``noise`` and says where its counters are kept, by name: one for
    each embedding that gets noise.
    """

    noise: Noise

    def _counters(self) -> dict[str, Counter]:
        """The counters by the name of their embedding; all of them are at the same step."""
        raise NotImplementedError

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        """Replace the counters."""
        raise NotImplementedError

    def _is_paused(self) -> bool:
        """Whether noise is paused."""
        raise NotImplementedError

    def _set_paused(self, paused: bool) -> None:
        """Pause noise, or resume it."""
        raise NotImplementedError

    @property
    def step(self) -> int:
        """The step that the next training call takes. Setting another one starts that step."""
        return int(next(iter(self._counters().values())).step)

    @step.setter
    def step(self, value: int) -> None:
        value = check_integer("step", value, minimum=0)
        if value != self.step:
            counters = self._counters()
            self._set_counters({name: each.at_step(value) for name, each in counters.items()})

    @property
    def alpha(self) -> float:
        """The amplitude at the current step."""
        return float(self.noise.alpha_at(self.step))

    @property
    def lookups(self) -> int:
        """How many lookups got noise so far."""
        return sum(int(counter.lookups) for counter in self._counters().values())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context without noise: ``with handle.paused(): ...``. Calls in it are not counted."""
        before = self._is_paused()
        self._set_paused(True)
        try:
            yield
        finally:
            self._set_paused(before)


class Handle(NoiseState):
    """Noise that is attached to a model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step that the next training call takes. Setting another one starts that step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Where the noise stands, JSON-ready: a run that loads it continues with the same noise.

        Returns:
            For the name of each embedding its ``step``, and the ``calls`` and ``samples`` that
            this step has had, and how many ``lookups`` got noise.
        """
        return {name: counter.to_dict() for name, counter in self._counters().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            TypeError: A value is not an integer.
            ValueError: An unknown or missing key, a negative value, or unequal steps.
        """
        names = list(self._counters())
        check_keys("state", state, names, names)
        counters = {name: Counter.from_dict(f"state[{name!r}]", state[name]) for name in names}
        if len({counter.step for counter in counters.values()}) > 1:
            raise ValueError(f"state must have the same step throughout, got {dict(state)}")
        self._set_counters(counters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Handle belongs to one model and cannot be copied or pickled; save its state_dict()"
        )

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._counters()))
        return (
            f"Handle({names}, step={self.step}, alpha={self.alpha:g}, lookups={self.lookups}, "
            f"noise={self.noise})"
        )
