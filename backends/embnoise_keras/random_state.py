"""Random state, which a graph's layers may move where they run to see what they compute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

import keras
import numpy as np

from embnoise_keras._compat import kept_global_generator

__all__ = ["keeping_random_state", "without_updates"]

Run: TypeAlias = Callable[[dict[int, Any]], list[Any]]


@contextmanager
def keeping_random_state() -> Iterator[None]:
    """A context that restores the global random state of Python, NumPy and the backend."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.enter_context(kept_global_generator())
        if keras.backend.backend() == "torch":
            import torch  # noqa: PLC0415, only on this backend

            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # noqa: PLC0415

            with suppress(RuntimeError):  # where operations are deterministic, there may be none
                state = tf.random.get_global_generator().state
                stack.callback(state.assign, tf.identity(state))
        yield


def without_updates(run: Run) -> Run:
    """A function that updates no variable of Keras, and no generator of TensorFlow's operations."""

    def stateless(values: dict[int, Any]) -> list[Any]:
        with keras.StatelessScope():
            return run(values)

    if keras.backend.backend() != "tensorflow":
        return stateless
    import tensorflow as tf  # noqa: PLC0415, only on this backend

    # Operations that are run eagerly draw their seeds from one another, or keep their state.
    in_graph: Run = tf.function(stateless, autograph=False)
    return in_graph
