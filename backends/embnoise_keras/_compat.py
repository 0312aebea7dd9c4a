"""The private parts of Keras that this adapter uses, each behind a function, with the reason.

``tests/keras/test_compat.py`` says which function here to adapt when Keras changes one of them.
"""

from __future__ import annotations

from typing import Any

import keras

__all__ = [
    "add_hidden_layer",
    "all_layers",
    "forget_train_function",
    "has_value",
    "remove_hidden_layer",
    "sync_state",
]


def all_layers(model: Any) -> list[Any]:
    """The model and the layers in it at any depth; ``Model.layers`` is the top level alone."""
    return list(model._flatten_layers())


def add_hidden_layer(owner: Any, layer: Any) -> None:
    """Make the variables of ``layer`` part of the state of ``owner``.

    Compiled code then gets and returns their values. An attribute would do that too, but Keras
    allows none on a layer that is built, and saves it with the model.
    """
    owner._layers.append(layer)


def remove_hidden_layer(owner: Any, layer: Any) -> None:
    """Undo ``add_hidden_layer``."""
    owner._layers.remove(layer)


def forget_train_function(model: Any) -> None:
    """Make ``fit`` trace its training step again.

    ``make_train_function(force=True)`` would have to be called after ``compile``.
    """
    if isinstance(model, keras.Model):
        model.train_function = None


def sync_state(model: Any) -> None:
    """Bring the variables up to date: with JAX, ``fit`` keeps their values between batches."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def has_value(variable: Any) -> bool:
    """Whether a variable has a value: with JAX, ``fit`` takes it away until ``sync_state``.

    Until then Keras reads such a variable as its initial value, without an error.
    """
    return variable._value is not None
