"""State of a layer that compiled code updates, but that is no weight: nothing saves it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import keras
from keras import ops

from embnoise_keras._compat import add_state

__all__ = ["LastCall", "Pauses", "State"]


class State(keras.random.SeedGenerator):  # type: ignore[misc]
    """A variable, 0 at first, that Keras takes for the state of a random generator of a layer.

    Such a variable is among the layer's ``variables``, so compiled code gets and returns its value,
    and not among its ``weights``. As an attribute of the layer, a plain variable would be a weight.

    Args:
        name: The variable's name.
        shape: Its shape; a scalar by default.
        dtype: Its dtype.

    Attributes:
        state: The variable.
    """

    _kind = keras.Variable

    def __init__(self, name: str, *, shape: tuple[int, ...] = (), dtype: str) -> None:
        # Not that of SeedGenerator, which draws a seed.
        self.name = name
        self.state = self._kind(
            "zeros",
            shape=shape,
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            name=name,
            **_replicated(shape),
        )


def _replicated(shape: tuple[int, ...]) -> dict[str, Any]:
    """The layout of a variable that all devices have, where Keras distributes variables.

    The variable's path contains the embedding's name, so a rule for that would apply to it too.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return {}
    axes = [None] * len(shape)
    return {"layout": keras.distribution.TensorLayout(axes, distribution.device_mesh)}


class _OpenPauses(keras.Variable):  # type: ignore[misc]
    """A variable that nobody else sets: its value is ``number`` after any assignment."""

    number = 0

    def assign(self, value: Any) -> Any:
        return super().assign(self.number)


class Pauses(State):
    """How many contexts without noise are open, as state.

    A state tree has it as well, and one that was saved in such a context would turn the noise off
    for good where it is restored. So the number is kept in Python, and the variable follows it.
    """

    _kind = _OpenPauses

    @property
    def number(self) -> int:
        """How many are open."""
        return int(self.state.number)

    @number.setter
    def number(self, value: int) -> None:
        self.state.number = value
        self.state.assign(value)


class LastCall:
    """The step of a layer's last training call and how large its noise was, for ``NoiseLogger``.

    Attributes:
        recording: Whether calls are recorded, which costs a pass over the embeddings.
        step: The step of the last call.
        ratio: The RMS of its noise over the RMS of the embeddings that got it.
    """

    def __init__(self) -> None:
        self.recording = False
        self._states: tuple[State, State] | None = None

    def begin(self, layer: Any, owners: Iterable[Any]) -> None:
        """Record the calls of ``layer`` from now on, in state of the layers ``owners``."""
        if self._states is None:
            with keras.name_scope(layer.name, caller=layer):
                self._states = State("last_step", dtype="int"), State("last_ratio", dtype="float32")
            for owner, state in product(owners, self._states):
                add_state(owner, state)
        self.recording = True

    @property
    def step(self) -> int:
        """The step of the last call; 0 before one was recorded."""
        return 0 if self._states is None else int(self._states[0].state)

    @property
    def ratio(self) -> float:
        """The relative size of its noise; 0 before one was recorded."""
        return 0.0 if self._states is None else float(self._states[1].state)

    def record(self, x: Any, noisy: Any, step: Any) -> None:
        """Record a call with embeddings ``x``, if somebody wants to know."""
        if not self.recording or self._states is None:
            return
        last_step, last_ratio = (each.state for each in self._states)
        x = ops.cast(x, "float32")
        noise = ops.cast(noisy, "float32") - x
        noised = ops.any(noise != 0, axis=-1, keepdims=True)
        squares = ops.sum(ops.where(noised, ops.square(x), 0.0))
        mean = ops.sum(ops.square(noise)) / ops.maximum(squares, 1e-30)
        last_ratio.assign(ops.stop_gradient(ops.sqrt(mean)))
        last_step.assign(ops.cast(step, last_step.dtype))
