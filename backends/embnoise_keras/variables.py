"""State of a layer that compiled code updates, but that is no weight: nothing saves it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import keras
from keras import ops

from embnoise.backend import Counter
from embnoise_keras._compat import add_state, has_value

__all__ = ["Count", "LastCall", "State"]


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
            # Each replica has its own, and they take the same steps. One for all could not be
            # assigned to in a loop of TensorFlow, nor count the rows of each where these differ.
            aggregation="none",
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


class _CountVariable(keras.Variable):  # type: ignore[misc]
    """A counter, and then how many contexts without noise are open.

    A state tree has the variable, and one that was saved in such a context would turn the noise off
    for good where it is restored. So that number is kept in Python as well: whoever assigns to the
    variable sets the counter alone.
    """

    pauses = 0

    def assign(self, value: Any) -> Any:
        value = ops.cast(value, self.dtype)[: len(Counter._fields)]
        return super().assign(ops.append(value, ops.cast([self.pauses], self.dtype)))

    def move(self, value: Any) -> Any:
        """Assign all of ``value``: in compiled code, ``pauses`` is that of when it was traced."""
        return super().assign(value)

    def _restore_from_tensors(self, restored: Any) -> Any:
        # By `tf.train.Checkpoint`, which does not call `assign`.
        done = super()._restore_from_tensors(restored)
        self.assign(self.value)
        return done


class Count(State):
    """The counter of a layer, and how many contexts without noise are open, as state."""

    _kind = _CountVariable

    def __init__(self) -> None:
        super().__init__("count", shape=(len(Counter._fields) + 1,), dtype="int")

    @property
    def counter(self) -> Counter:
        """The counter as tensors that later assignments leave alone."""
        *counter, _ = ops.unstack(ops.copy(self.state.value), len(Counter._fields) + 1)
        return Counter(*counter)

    @property
    def active(self) -> Any:
        """Whether no context without noise is open, as a tensor."""
        return self.state.value[-1] == 0

    def advance(self, counter: Counter) -> None:
        """Store the counter after a call, which does not count while paused."""
        value = self.state.value
        after = ops.cast(ops.stack([*counter, value[-1]]), self.state.dtype)
        self.state.move(ops.where(self.active, after, value))

    @property
    def pauses(self) -> int:
        """How many contexts without noise are open."""
        return int(self.state.pauses)

    @pauses.setter
    def pauses(self, number: int) -> None:
        self.state.pauses = number
        if has_value(self.state):
            self.state.assign(self.state.value)


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
