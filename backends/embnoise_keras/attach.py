"""``attach``: one line that adds noise to the token embedding of an existing Keras model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any

import keras

from embnoise.backend import (
    Counter,
    Noise,
    TokenArrays,
    call_with_named,
    check_callable,
    check_keys,
    format_value,
)
from embnoise.backend import Handle as HandleBase
from embnoise_keras._compat import (
    add_hidden_layer,
    forget_train_function,
    remove_hidden_layer,
    sync_state,
)
from embnoise_keras.find import embedding_of
from embnoise_keras.layer import COUNT, EmbeddingNoise
from embnoise_keras.variables import unsaved_variable

__all__ = ["Handle", "attach"]

# What the models of keras-hub call the masks of the tokens that they look up.
_MASKS = ("padding_mask", "encoder_padding_mask", "decoder_padding_mask", "attention_mask")


def attach(
    model: Any,
    noise: Noise,
    *,
    layer: str | Any | None = None,
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
        layer: The embedding, its name or its path. By default the ``token_embedding`` of the model
            or of its ``backbone``, or the model's only ``keras.layers.Embedding``.
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
        ValueError: No embedding or several to choose from; noise is attached already; the noise's
            schedule is unbound.

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
    if tokens is not None:
        check_callable("tokens", tokens)
    if where != "all" and not callable(where):
        raise TypeError(f'where must be "all" or a callable, got {format_value(where)}')
    attached = AttachedNoise(noise, calls_per_step=calls_per_step, name="attached_noise")
    embedding = embedding_of(model, layer)
    if "call" in vars(embedding):
        raise ValueError(
            f"model has noise attached to {embedding.name!r} already, or another call of its own; "
            "remove() that first"
        )
    if isinstance(model, keras.Model) and "training" not in signature(model.call).parameters:
        warnings.warn(
            f"embnoise: {type(model).__name__}.call has no argument `training`, so Keras does not "
            "tell its layers that it trains: there will be no noise, and no dropout, in fit",
            RuntimeWarning,
            stacklevel=2,
        )
    return Handle(model, embedding, attached, tokens, where)


class Handle(HandleBase):
    """Noise that is attached to a Keras model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step that the next training call takes. Setting another one starts that step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    def __init__(
        self,
        model: Any,
        embedding: Any,
        attached: AttachedNoise,
        tokens: Callable[..., Mapping[str, Any]] | None,
        where: str | Callable[..., Any],
    ) -> None:
        self.noise = attached.noise
        self._model = model
        self._embedding = embedding
        self._attached = attached
        self._tokens = tokens
        self._where = where
        self._current = _Current()
        with ExitStack() as undo:
            add_hidden_layer(embedding, attached)
            undo.callback(remove_hidden_layer, embedding, attached)
            embedding.call = self._around_lookup(embedding.call)
            undo.callback(delattr, embedding, "call")
            if embedding is not model:
                model.call = self._around_model(model.call)
                undo.callback(delattr, model, "call")
            forget_train_function(model)
            undo.callback(forget_train_function, model)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing."""
        self._undo.close()

    def _counters(self) -> dict[str, Counter]:
        sync_state(self._model)
        # By name: the path is not known before the embedding is built.
        (counter,) = self._attached._counters().values()
        return {self._embedding.name: counter}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        sync_state(self._model)
        self._attached._set_counters(counters)

    def _is_paused(self) -> bool:
        sync_state(self._model)
        return self._attached._is_paused()

    def _set_paused(self, paused: bool) -> None:
        sync_state(self._model)
        self._attached._set_paused(paused)

    def _around_model(self, call: Any) -> Any:
        names = list(signature(call).parameters)

        @wraps(call)
        def remembered(*args: Any, **kwargs: Any) -> Any:
            inputs = dict(zip(names, args, strict=False)) | kwargs
            if args and isinstance(args[0], Mapping):
                inputs |= args[0]
            outer, self._current.forward = self._current.forward, _Forward(inputs)
            try:
                return call(*args, **kwargs)
            finally:
                self._current.forward = outer

        return remembered

    def _around_lookup(self, call: Any) -> Any:
        @wraps(call)
        def noisy(ids: Any, *args: Any, **kwargs: Any) -> Any:
            x = call(ids, *args, **kwargs)
            if kwargs.get("reverse"):
                return x
            forward = self._current.forward or _Forward({})
            # With JAX, `fit` tells the model's call whether it trains, but not the layers in it.
            training = forward.inputs.get("training")
            told = {} if training is None else {"training": training}
            return self._attached(
                x,
                forward=forward,
                arrays=lambda: self._token_arrays(ids, forward.inputs),
                **told,
            )

        return noisy

    def _token_arrays(self, ids: Any, inputs: Mapping[str, Any]) -> TokenArrays:
        """What is known of the tokens ``ids`` in a call of the model with these inputs."""
        available = {**inputs, "ids": ids}
        if self._tokens is not None:
            given = call_with_named("tokens", self._tokens, available)
            if not isinstance(given, Mapping):
                raise TypeError(f"tokens must return a dict, got {format_value(given)}")
            check_keys("the dict that tokens returns", given, TokenArrays._fields)
            arrays = TokenArrays(**given)
        elif getattr(self._embedding, "mask_zero", False):
            mask = keras.layers.Embedding.compute_mask(self._embedding, ids)
            arrays = TokenArrays(mask=mask)
        else:
            arrays = TokenArrays(mask=_mask_of(ids, inputs))
        if callable(self._where):
            if arrays.where is not None:
                raise ValueError("where is given twice: by attach(where=...), and by tokens")
            where = call_with_named("where", self._where, available)
            arrays = arrays._replace(where=where)
        return arrays


def _mask_of(ids: Any, inputs: Mapping[str, Any]) -> Any:
    """The mask of the token ids among the inputs of a model."""
    masks = {name: inputs[name] for name in _MASKS if inputs.get(name) is not None}
    if len(masks) <= 1:
        return next(iter(masks.values()), None)
    own = [name.replace("token_ids", "padding_mask") for name in inputs if inputs[name] is ids]
    if len(own) == 1 and own[0] in masks:
        return masks[own[0]]
    raise ValueError(
        f"found {len(masks)} masks among the model's inputs, {list(masks)}, and cannot tell which "
        "one belongs to a lookup; pass tokens=lambda ids: {'mask': ids != 0}, or pass the inputs "
        "as tensors of the model's own dtype"
    )


class _Forward:
    """One call of the model, in which its embedding may look up several times.

    Attributes:
        inputs: The arguments of the call by name, and the entries of its input.
        counter: The counter at the first lookup; ``None`` before that.
        lookups: How many lookups got noise.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs
        self.counter: Counter | None = None
        self.lookups = 0


class _Current(threading.local):
    """The innermost call of the model that runs now; every replica has a thread of its own."""

    forward: _Forward | None = None


class AttachedNoise(EmbeddingNoise):
    """The noise of a handle, which has no weights: nothing of it is saved."""

    def _make_count(self) -> Any:
        return unsaved_variable(**COUNT)

    @property
    def variables(self) -> list[Any]:
        return [self.count, *super().variables]

    # Not with an argument `mask`: Keras would take that for the mask of the output as well.
    def call(  # type: ignore[override]
        self,
        x: Any,
        *,
        forward: _Forward,
        arrays: Callable[[], TokenArrays],
        training: bool | None = None,
    ) -> Any:
        """Noise for one lookup; all lookups of a forward count as one call."""
        if not training:
            return x
        now = self._counter()
        start = now if forward.counter is None else forward.counter
        # Two lookups of one table must not get the same noise at the same place.
        nth = forward.lookups + 1
        stream = self.noise.stream + ("" if nth == 1 else f"/{nth}")
        noise = replace(self.noise, stream=stream)
        noisy = self._noisy(x, noise, start.step, self._numbered(x, arrays(), start))
        if nth == 1:
            self._advance(x, now)
        else:
            self._assign(now._replace(lookups=now.lookups + 1))
        forward.counter, forward.lookups = start, nth
        return noisy
