"""The step of an Optax optimizer."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

__all__ = ["step_of"]

# MultiSteps accumulates gradients: only every n-th of its updates is a step.
_COUNTS = ("gradient_step", "count")


def step_of(state: Any) -> Array:
    """How many steps the optimizer of an Optax state has made.

    Args:
        state: what ``optimizer.init`` and ``optimizer.update`` return, concrete or traced.

    Returns:
        An integer array of shape []: ``gradient_step`` if the optimizer accumulates gradients
        (``optax.MultiSteps``), otherwise the first ``count`` in the state.

    Raises:
        ValueError: the state counts no steps, as that of plain ``optax.sgd`` does not.

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
    found: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = str(getattr(path[-1], "name", getattr(path[-1], "key", ""))) if path else ""
        found.setdefault(name, leaf)
    for name in _COUNTS:
        if name in found:
            return found[name]
    raise ValueError(
        "state must hold the count of an Optax optimizer's steps, got one without: keep a step "
        "of your own, or add optax.scale_by_schedule"
    )
