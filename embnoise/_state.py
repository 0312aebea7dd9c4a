"""What the ``EmbeddingNoise`` layers and the handles of ``attach`` share in every framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, NoReturn, Self

from embnoise._counter import Counter
from embnoise._noise import Noise
from embnoise._validation import check_integer, check_keys

__all__ = ["Handle", "NoiseState"]

_PAUSING = Lock()
"""Threads may open and close contexts without noise at the same time."""


def _end(undo: Callable[[], None], error: BaseException | None) -> None:
    """End a block by ``undo``. If that fails as well, the block's own error is the one to see."""
    try:
        undo()
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"embnoise: the end of the block failed as well: {failure!r}")


class NoiseState:
    """The state of noise that counts its own calls: a mixin.

    A subclass has an attribute ``noise`` and says where its counters are kept, by name: one for
    each embedding that gets noise.
    """

    noise: Noise

    def _counters(self) -> dict[str, Counter]:
        """The counters by the name of their embedding.

        They may be at different steps where calls advance them, and embeddings are not called
        equally often.
        """
        raise NotImplementedError

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        """Replace the counters."""
        raise NotImplementedError

    def _pauses(self) -> int:
        """How many contexts without noise are open."""
        raise NotImplementedError

    def _set_pauses(self, pauses: int) -> None:
        """Replace that number."""
        raise NotImplementedError

    def _pause(self, by: int) -> None:
        """Open a context without noise (1), or close one (-1)."""
        with _PAUSING:
            self._set_pauses(self._pauses() + by)

    @property
    def step(self) -> int:
        """The step of the next training call. Assign to it to start another step.

        With several embeddings, it is the largest of their steps; assigning moves them all.
        """
        # Not that of the first one, which may be a table that others share and nobody calls.
        return max(int(counter.step) for counter in self._counters().values())

    @step.setter
    def step(self, value: int) -> None:
        self._start_step(value)

    def _start_step(self, value: int) -> None:
        value = check_integer("step", value, minimum=0)
        counters = self._counters()
        started = {
            name: counter.at_step(value)
            for name, counter in counters.items()
            if int(counter.step) != value
        }
        if started:
            self._set_counters({**counters, **started})

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
        """A context without noise: ``with handle.paused(): ...``. Calls in it are not counted.

        There is no noise in any thread until the last of the open contexts has been left.
        """
        self._pause(1)
        resume = partial(self._pause, -1)
        try:
            yield
        except BaseException as error:
            _end(resume, error)
            raise
        resume()


class Handle(NoiseState):
    """Noise that is attached to a model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. With several embeddings, the largest of their
            steps. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    _removed = False

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing.

        A subclass extends this.
        """
        self._removed = True

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
            ValueError: An unknown or missing key, or a negative value.
        """
        names = list(self._counters())
        check_keys("state", state, names, names)
        self._set_counters(
            {name: Counter.from_dict(f"state[{name!r}]", state[name]) for name in names}
        )

    def __enter__(self) -> Self:
        if self._removed:
            raise RuntimeError(
                "the noise of this handle was removed, by remove() or at the end of a with block, "
                "and does not come back; call attach() again"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _end(self.remove, error)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Handle belongs to one model and cannot be copied or pickled; save its state_dict(), "
            "and keep the handle outside of a model that is copied"
        )

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._counters()))
        removed = ", removed=True" if self._removed else ""
        return (
            f"Handle({names}{removed}, step={self.step}, alpha={self.alpha:g}, "
            f"lookups={self.lookups}, noise={self.noise})"
        )
