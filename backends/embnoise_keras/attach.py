"""``attach``: one line that adds noise to the token embedding of an existing Keras model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import keras

from embnoise.backend import Noise, TokenFunctions, format_value, refuse_equal_streams
from embnoise_keras.calls import is_wrapped
from embnoise_keras.find import embeddings_of
from embnoise_keras.handle import AttachedNoise, Handle, noise_layers

__all__ = ["attach"]


def attach(
    model: Any,
    noise: Noise,
    *,
    layer: str | Any | Sequence[str | Any] | None = None,
    tokens: Callable[..., Mapping[str, Any]] | None = None,
    where: str | Callable[..., Any] = "all",
    calls_per_step: int = 1,
) -> Handle:
    """Add noise to a model's token embedding where ``training`` is true.

    The embedding stays in its place. Its reverse call, the output projection, stays clean, and
    ``model.save`` writes nothing of the noise. The padding comes from ``mask_zero=True``, or from
    the ``padding_mask`` among the model's inputs, as in the models of keras-hub.

    Args:
        model: A sequential, functional or subclassed model. Attach to the one that ``fit`` is
            called on, since its training function is compiled again.
        noise: What noise to add.
        layer: The embedding, its name or its path, or a list of those: an encoder-decoder with a
            table for each side has two. By default the ``token_embedding`` of the model or of its
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

    Returns:
        A handle: ``remove()`` ends the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: No embedding or several to choose from; noise is attached already, or to
            another embedding from the same stream; the noise's schedule is unbound.

    Warns:
        RuntimeWarning: The model's ``call`` has no argument ``training``.

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
    functions = TokenFunctions(tokens, where)
    embeddings = embeddings_of(model, layer)
    attached = AttachedNoise(
        noise, calls_per_step=calls_per_step, name=f"attached_{embeddings[0].name}"
    )
    for embedding in embeddings:
        if is_wrapped(embedding):
            raise ValueError(
                f"model has noise attached to {embedding.name!r} already, or another call of its "
                "own; remove() that first"
            )
    others = [each for each in noise_layers(model) if isinstance(each, AttachedNoise)]
    refuse_equal_streams(
        {embeddings[0].name: noise}, {each.embeddings[0].name: each.noise for each in others}
    )
    if isinstance(model, keras.Model) and "training" not in signature(type(model).call).parameters:
        warnings.warn(
            f"embnoise: {type(model).__name__}.call has no argument `training`, so Keras does not "
            "tell its layers that it trains: there will be no noise, and no dropout, in fit",
            RuntimeWarning,
            stacklevel=2,
        )
    return Handle(model, embeddings, attached, functions)
