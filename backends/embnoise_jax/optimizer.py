"""The step of an Optax optimizer."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

__all__ = ["step_of"]

# optax.MultiSteps counts in gradient_step: only every n-th of its updates is a step.
_COUNTS = ("count", "gradient_step")


def step_of(state: Any) -> Array:
    """How many steps the optimizer of an Optax state has taken.

    Args:
        state: What ``optimizer.init`` and ``optimizer.update`` return, concrete or traced.

    Returns:
        An integer array []: the first ``count`` in the state, or the ``gradient_step`` of an
        optimizer that accumulates gradients (``optax.MultiSteps``).

    Raises:
        ValueError: The state has no count, as that of plain ``optax.sgd``.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from embnoise_jax import step_of
        >>> weights = jnp.zeros(3)
        >>> optimizer = optax.adam(1e-3)
        >>> _, state = optimizer.update(weights, optimizer.init(weights))
        >>> int(step_of(state))
        1
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if path and getattr(path[-1], "name", getattr(path[-1], "key", None)) in _COUNTS:
            count: Array = leaf
            return count
    raise ValueError(
        "state must be an Optax state that counts its steps, got one without a count. Count the "
        "steps yourself, or chain optax.scale_by_schedule into the optimizer"
    )
