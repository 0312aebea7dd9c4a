"""The step of an Optax optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from embnoise.backend import format_value

__all__ = ["step_of"]

# In the order of preference: of optax.MultiSteps's updates only every n-th is a step, and the count
# of what it is chained with may be that of the updates.
_COUNTS = {"gradient_step": 0, "count": 0, "step_count": 1}
"""And where they begin: ``step_count`` is that of ``optax.contrib.schedule_free``."""

# optax.reduce_on_plateau counts from 0 again and again.
_RESTARTED = "plateau_count"

# optax.conditionally_mask and conditionally_transform count all steps, and what is inside fewer.
_CONDITIONAL = {"step", "inner_state"}

# optax.apply_every counts to k, which is not in its state, and what it is chained with counts all.
_ACCUMULATED = "grad_acc"

# Of optax.partition, once multi_transform: the states of its parts by their labels.
_PARTITIONED = "inner_states"


def step_of(state: Any) -> Array:
    """How many steps an optimizer has taken.

    Args:
        state: An Optax state, which ``optimizer.init`` and ``optimizer.update`` return; or what
            holds one as ``opt_state``: an ``nnx.Optimizer``, a ``TrainState`` of Flax. Concrete or
            traced.

    Returns:
        An integer array []: the ``gradient_step`` of an optimizer that accumulates gradients
        (``optax.MultiSteps``), or the first ``count`` in the state, or the ``step`` of a
        conditional transformation. If it has none of these, as that of plain ``optax.sgd``, the
        ``step`` of what holds it.

    Raises:
        TypeError: ``state`` is an Optax optimizer, which has no state.
        ValueError: There is no such count, or ``optax.apply_every`` accumulates the gradients, or
            an ``optax.partition`` accumulates those of some parameters only.

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
    if callable(getattr(state, "init", None)):
        raise TypeError(
            "state must be an Optax state, as optimizer.init(...) returns it, got the optimizer "
            f"itself, {format_value(state)}"
        )
    counts = _scalars(getattr(state, "opt_state", state))
    for name, first in _COUNTS.items():
        if name in counts:
            return jnp.asarray(counts[name]) - first
    if (step := getattr(state, "step", None)) is not None:
        return jnp.asarray(step)
    raise ValueError(
        "state must be an Optax state that counts its steps, got one without a count. Count the "
        "steps yourself, or chain optax.scale_by_schedule into the optimizer"
    )


def _scalars(state: Any) -> dict[str, Array]:
    """The first integer [] of each name in an Optax state."""
    fields: dict[Any, dict[str, Any]] = defaultdict(dict)
    parts: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        keys = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        if keys and keys[-1] == "value":  # in the variables of NNX
            keys.pop()
        is_count = _is_count(leaf)
        for depth in range(len(keys) - 2):
            if keys[depth] == _PARTITIONED and is_count:
                parts[tuple(path[:depth])][str(keys[depth + 1])].add(str(keys[-1]))
        # One that holds arrays of the parameters' shapes is a tree.
        for depth, key in enumerate(keys):
            fields[tuple(path[:depth])].setdefault(str(key), leaf)
    for counts in parts.values():
        _refuse_partly_accumulated(counts)
    found: dict[str, Array] = {}
    for names in fields.values():
        if _ACCUMULATED in names:
            raise ValueError(
                "state must be an Optax state that counts its steps, got one of optax.apply_every, "
                "which counts micro-batches. Accumulate with optax.MultiSteps"
            )
        if _RESTARTED in names:
            continue
        if names.keys() >= _CONDITIONAL:
            names["count"] = names["step"]
        for name, leaf in names.items():
            if _is_count(leaf):
                found.setdefault(name, leaf)
    return found


def _is_count(leaf: Any) -> bool:
    return jnp.shape(leaf) == () and jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer)


def _refuse_partly_accumulated(counts: Mapping[str, set[str]]) -> None:
    """Raise if some parts of a partition count steps of several updates, and others each update.

    Args:
        counts: The names of the counts in each part.

    Raises:
        ValueError: They do.
    """
    accumulated = sorted(part for part, names in counts.items() if "gradient_step" in names)
    others = sorted(counts.keys() - {*accumulated})
    if accumulated and any(counts[part] & _COUNTS.keys() for part in others):
        raise ValueError(
            "state must be an Optax state whose parts count the same steps, got one of "
            f"optax.partition that accumulates gradients for {accumulated}, but not for {others}. "
            "Count the steps yourself"
        )
