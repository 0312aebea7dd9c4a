"""``attach``: one line that adds noise to the token embedding of an existing Keras model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import keras

from embnoise.backend import (
    PLACES,
    Noise,
    TokenFunctions,
    check_choice,
    format_value,
    refuse_equal_streams,
)
from embnoise_keras.calls import is_wrapped
from embnoise_keras.find import layers_of
from embnoise_keras.handle import AttachedNoise, Handle, name_of, noise_layers
from embnoise_keras.layer import lacks_training

__all__ = ["attach"]


def attach(
    model: Any,
    noise: Noise,
    *,
    layer: str | Any | Sequence[str | Any] | None = None,
    tokens: Callable[..., Mapping[str, Any]] | None = None,
    where: str | Callable[..., Any] = "all",
    calls_per_step: int = 1,
    at: Literal["output", "input"] = "output",
) -> Handle:
    """Add noise to a model's token embedding, or to hidden states, where ``training`` is true.

    A layer stays in its place. An embedding's reverse call, the output projection, stays clean, and
    ``model.save`` writes nothing of the noise. The padding comes from ``mask_zero=True``, or from
    the ``padding_mask`` among the model's inputs, nonzero for real tokens, as in the models of
    keras-hub.

    Args:
        model: A sequential, functional or subclassed model. Attach to the one that ``fit`` is
            called on, since its training function is compiled again.
        noise: What noise to add.
        layer: A layer, its name or its path, a pattern of names or paths, or a list of those. In a
            pattern, ``*``, ``?`` and ``[0-3]`` match as in a shell, but never a slash:
            ``"transformer_layer_*"``. By default the ``token_embedding`` of the model or of its
            ``backbone``, and the ``encoder_`` or ``decoder_token_embedding``; or the embeddings
            that look up the inputs of an encoder and a decoder; or the model's only
            ``keras.layers.Embedding``.
        tokens: A function that returns the token arguments of ``add_noise`` as a dict, such as
            ``lambda ids: {"mask": ids != 0}``; it replaces the masks above. It is called by the
            names of its parameters: ``ids``, what is looked up, [B, L], and the arguments of the
            model's call, or the keys of its input if that is a dict.
        where: A function that returns which real tokens to noise, boolean or integer [B, L], and is
            called like ``tokens``; ``"all"`` by default.
        calls_per_step: How many training calls one optimizer step takes: the optimizer's
            ``gradient_accumulation_steps``, for example. 1 by default.
        at: Where a layer gets noise: on its ``"output"``, or the first entry of it if that is a
            tuple; or on its ``"input"``, the first argument of its call.

    Returns:
        A handle: ``remove()`` ends the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: No embedding or several to choose from; noise is attached already, or the model
            has noise of the same seed and stream; a pattern that matches nothing; the noise's
            schedule is unbound.

    Warns:
        RuntimeWarning: The model's ``call`` has no argument ``training``; or at the end of a block,
            there was no training call in it.

    Example:
        >>> import keras
        >>> from embnoise import neftune
        >>> from embnoise_keras import attach
        >>> model = keras.Sequential([keras.layers.Embedding(10, 8), keras.layers.Dense(4)])
        >>> ids = keras.ops.array([[1, 2, 3]])
        >>> clean = model(ids, training=True)
        >>> with attach(model, neftune(5.0)):
        ...     noisy = model(ids, training=True)
        >>> bool(keras.ops.any(noisy == clean))
        False
        >>> bool(keras.ops.all(model(ids, training=True) == clean))
        True
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer, got {format_value(model)}")
    check_choice("at", at, PLACES)
    functions = TokenFunctions(tokens, where)
    layers = layers_of(model, layer)
    attached = AttachedNoise(
        noise, calls_per_step=calls_per_step, name=f"attached_{layers[0].name}"
    )
    for each in layers:
        if is_wrapped(each):
            raise ValueError(
                f"model has noise attached to {each.name!r} already, or another call of its "
                "own; remove() that first"
            )
    present = {name_of(each): each.noise for each in noise_layers(model)}
    refuse_equal_streams({layers[0].name: noise}, present)
    call = type(model).call
    # A model without a call of its own is trained by a train_step that calls what is in it.
    own = isinstance(model, keras.Model) and call is not keras.Model.call
    if own and "training" not in signature(call).parameters:
        attached.has_warned = True
        warnings.warn(lacks_training(model), RuntimeWarning, stacklevel=2)
    return Handle(model, layers, attached, functions, at)
