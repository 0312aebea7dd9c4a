"""Variables of a layer that compiled code updates, but that are no weights: nothing saves them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["LastCall", "unsaved_variable"]


def unsaved_variable(
    name: str, *, shape: tuple[int, ...] = (), dtype: str, initial: int = 0
) -> Any:
    """A variable for a layer to list among its ``variables``, not among its ``weights``.

    Keras makes any variable that is an attribute of a layer a weight, so it must not be one.

    Args:
        name: The variable's name.
        shape: Its shape; a scalar by default.
        dtype: Its dtype.
        initial: The value of its elements.
    """
    return keras.Variable(
        lambda shape, dtype: ops.full(shape, initial, dtype=dtype),
        shape=shape,
        dtype=dtype,
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )


class LastCall:
    """The step of a layer's last training call and how large its noise was, for ``NoiseLogger``.

    Attributes:
        recording: Whether calls are recorded, which costs a pass over the embeddings.
        step: A variable: the step of the last call.
        ratio: A variable: the RMS of its noise over the RMS of the embeddings that got it.
    """

    def __init__(self) -> None:
        self.recording = False
        self.step = unsaved_variable("last_step", dtype="int")
        self.ratio = unsaved_variable("last_ratio", dtype="float32")

    def record(self, x: Any, noisy: Any, step: Any) -> None:
        """Record a call with embeddings ``x``, if somebody wants to know."""
        if not self.recording:
            return
        x = ops.cast(x, "float32")
        noise = ops.cast(noisy, "float32") - x
        noised = ops.any(noise != 0, axis=-1, keepdims=True)
        squares = ops.sum(ops.where(noised, ops.square(x), 0.0))
        mean = ops.sum(ops.square(noise)) / ops.maximum(squares, 1e-30)
        self.ratio.assign(ops.stop_gradient(ops.sqrt(mean)))
        self.step.assign(ops.cast(step, self.step.dtype))
