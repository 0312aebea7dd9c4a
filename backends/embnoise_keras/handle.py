"""The handle of ``attach``: it wraps the calls of a model and its embedding until removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
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
from embnoise_keras.model_call import CallRecorder, ModelCall
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
        self._recorder: CallRecorder | None = None
        with ExitStack() as undo:
            add_hidden_layer(embedding, attached)
            undo.callback(remove_hidden_layer, embedding, attached)
            embedding.call = self._around_lookup(embedding.call)
            undo.callback(delattr, embedding, "call")
            if embedding is not model:
                self._recorder = CallRecorder.acquire(model)
                undo.callback(self._recorder.release)
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

    def _around_lookup(self, call: Any) -> Any:
        def noisy(ids: Any, *args: Any, **kwargs: Any) -> Any:
            x = call(ids, *args, **kwargs)
            if kwargs.get("reverse"):
                return x
            model_call = self._running_call()
            # With JAX, `fit` tells the model's call whether it trains, but not the layers in it.
            training = model_call.inputs.get("training")
            options = {} if training is None else {"training": training}
            return self._attached(
                x,
                model_call=model_call,
                arrays=lambda: self._token_arrays(ids, model_call.inputs),
                **options,
            )

        return noisy

    def _running_call(self) -> ModelCall:
        """The call of the model that is running; a new one for a lookup outside of any."""
        running = None if self._recorder is None else self._recorder.running
        return ModelCall({}) if running is None else running

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
        model_call: ModelCall,
        arrays: Callable[[], TokenArrays],
        training: bool | None = None,
    ) -> Any:
        """Noise for one lookup; all lookups in a call of the model count as one."""
        if not training:
            return x
        now = self._counter()
        start, lookups = model_call.begun.get(self, (now, 0))
        # Two lookups of one table must not get the same noise at the same place.
        stream = self.noise.stream + (f"/{lookups + 1}" if lookups else "")
        noise = replace(self.noise, stream=stream)
        noisy = self._noisy(x, noise, start.step, self._numbered(x, arrays(), start))
        if lookups == 0:
            self._advance(x, now)
        else:
            self._assign(now._replace(lookups=now.lookups + 1))
        model_call.begun[self] = (start, lookups + 1)
        return noisy
