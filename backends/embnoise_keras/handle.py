"""The handle of ``attach``: it wraps the calls of a model and its embedding until removed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any

import keras

from embnoise import backend
from embnoise.backend import Counter, TokenArrays, TokenFunctions
from embnoise_keras._compat import (
    add_hidden_layer,
    forget_train_function,
    remove_hidden_layer,
    sync_state,
)
from embnoise_keras.layer import COUNT, EmbeddingNoise
from embnoise_keras.variables import unsaved_variable

__all__ = ["AttachedNoise", "Handle"]

# What the models of keras-hub call the masks of the tokens that they look up.
_MASKS = ("padding_mask", "encoder_padding_mask", "decoder_padding_mask", "attention_mask")


class Handle(backend.Handle):
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
        functions: TokenFunctions,
    ) -> None:
        self.noise = attached.noise
        self._model = model
        self._embedding = embedding
        self._attached = attached
        self._functions = functions
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
                inputs = dict(args[0]) | inputs
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
            options = {} if training is None else {"training": training}
            return self._attached(
                x,
                forward=forward,
                arrays=lambda: self._token_arrays(ids, forward.inputs),
                **options,
            )

        return noisy

    def _token_arrays(self, ids: Any, inputs: Mapping[str, Any]) -> TokenArrays:
        """The arrays that describe the tokens ``ids`` in a call of the model with these inputs."""
        arrays = self._functions({**inputs, "ids": ids})
        if self._functions.describes:
            return arrays
        if getattr(self._embedding, "mask_zero", False):
            mask = keras.layers.Embedding.compute_mask(self._embedding, ids)
        else:
            mask = _mask_of(ids, inputs)
        return arrays._replace(mask=mask)


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
        inputs: The arguments of the call by name, and the entries of its input dict.
        counter: The counter at the first lookup that got noise; ``None`` before that.
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
        """The layer's state, which is not saved."""
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
