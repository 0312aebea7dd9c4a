"""The handle of ``attach``: it wraps the calls of a model and of its layers until removed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import keras
from keras import ops

from embnoise import backend
from embnoise.backend import Counter, Noise, TokenArrays, TokenFunctions
from embnoise_keras._compat import (
    add_state,
    all_layers,
    forget_train_function,
    has_value,
    refuse_recomputed,
    remove_state,
    states,
    sync_state,
)
from embnoise_keras.comparisons import Comparisons
from embnoise_keras.layer import EmbeddingNoise
from embnoise_keras.lookups import Lookups, around_lookups, knows_padding
from embnoise_keras.model_call import CallRecorder, ModelCall, enclosing_layers, running_calls

__all__ = ["AttachedNoise", "Handle", "name_of", "noise_layers"]


class Handle(backend.Handle):
    """Noise that is attached to a Keras model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. With several embeddings, the largest of their
            steps. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    def __init__(
        self,
        model: Any,
        layers: list[Any],
        attached: AttachedNoise,
        functions: TokenFunctions,
        at: str,
    ) -> None:
        self.noise = attached.noise
        self._model = model
        self._name = "+".join(each.name for each in layers)
        self._attached = attached
        self._around = enclosing_layers(model, layers)
        for each in (*layers, *self._around):
            refuse_recomputed(each)
        sync_state(model)
        # Later, in a compiled step, nothing could be computed.
        known = bool(functions.describes) or all(map(knows_padding, layers))
        asked = [*layers, *self._around]
        comparisons = {
            id(each): Comparisons(None if known else each, asked) for each in self._around
        }
        with ExitStack() as undo:
            undo.callback(attached.leave)
            attached.join(layers)
            for layer in layers:
                lookups = Lookups(layer, functions, comparisons, self.noise)
                undo.enter_context(around_lookups(layer, partial(self._noised, lookups), at))
            for layer in self._around:
                undo.callback(CallRecorder.acquire(layer).release)
            self._updates = _updates_of(model)
            forget_train_function(model)
            undo.callback(forget_train_function, model)
            undo.callback(sync_state, model)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing."""
        super().remove()
        self._undo.close()

    def __exit__(self, *error: Any) -> None:
        unused = not (self._removed or self._attached.has_trained or self._attached.has_warned)
        super().__exit__(*error)
        if not unused or error[0] is not None:
            return
        # Without an update by its optimizer, a model was perhaps meant to predict, or to be saved.
        if self._updates is None or _updates_of(self._model) != self._updates:
            warnings.warn(
                f"embnoise: {self._name!r} was not called in training inside the block of "
                "attach(), so there was no noise. Attach to the model that fit() is called on. A "
                "function that was compiled before, such as the training step of a model around "
                "this one, does not see the noise: compile() that model inside the block",
                RuntimeWarning,
                stacklevel=2,
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        The numbers that Keras appends to names are left out of account, since they depend on what
        else the process has made: "embedding" is "embedding_1".

        Raises:
            TypeError: A value is not an integer.
            ValueError: An unknown or missing key, or a negative value.
        """
        if isinstance(state, Mapping) and len(state) == 1:
            ((name, counter),) = state.items()
            if _unnumbered(str(name)) == _unnumbered(self._name):
                state = {self._name: counter}
        super().load_state_dict(state)

    def _counters(self) -> dict[str, Counter]:
        sync_state(self._model)
        # By name: the path is not known before the embedding is built.
        (counter,) = self._attached._counters().values()
        return {self._name: counter}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        sync_state(self._model)
        self._attached._set_counters(counters)

    def _pauses(self) -> int:
        sync_state(self._model)
        return self._attached._pauses()

    def _set_pauses(self, pauses: int) -> None:
        sync_state(self._model)
        self._attached._set_pauses(pauses)

    def _noised(self, lookups: Lookups, given: Any, x: Any, number: int) -> Any:
        """Embeddings or hidden states with noise, in call number ``number`` of the running one."""
        own = {id(layer) for layer in self._around}
        calls = [call for call in running_calls() if id(call.layer) in own]
        told = [call.inputs.arguments.get("training") for call in calls]
        return self._attached(
            x,
            model_call=calls[-1] if calls else ModelCall(),
            add=partial(lookups.noised, given, calls, number),
            told=next((training for training in told if training is not None), None),
        )


class AttachedNoise(EmbeddingNoise):
    """The noise of a handle: its state is that of the layers, and nothing of it is saved.

    Attributes:
        layers: The layers with noise, between ``join`` and ``leave``.
        has_trained: Whether there was a call in training, traced or run.
    """

    def __init__(self, noise: Noise, **options: Any) -> None:
        super().__init__(noise, **options)
        self._state.attached = self
        self.layers: tuple[Any, ...] = ()
        self.has_trained = False

    def join(self, layers: Iterable[Any]) -> None:
        """Make the state part of that of the layers."""
        self.layers = tuple(layers)
        for owner, state in product(self.layers, states(self)):
            add_state(owner, state)

    def leave(self) -> None:
        """Undo ``join``."""
        for owner, state in product(self.layers, states(self)):
            if state in states(owner):
                remove_state(owner, state)
        self.layers = ()
        # A tf.function that was traced meanwhile keeps the noise in it. Not by `_set_pauses`: with
        # JAX, an error in the first step of `fit` leaves no variable of the model a value.
        self._state.pauses = 1

    def _record(self) -> None:
        self.last_call.begin(self, [self, *self.layers])

    # Not with an argument `mask`: Keras would take that for the mask of the output as well.
    def call(  # type: ignore[override]
        self,
        x: Any,
        *,
        model_call: ModelCall,
        add: Callable[..., Any],
        told: bool | None,
        training: bool | None = None,
    ) -> Any:
        """Noise for one lookup; all lookups in a call of the model count as one.

        Args:
            x: What was looked up.
            model_call: The call of the model.
            add: Adds noise to ``x``, given a function of embeddings and token arrays that does.
            told: What the calls around the lookup say of ``training``. With JAX, ``fit`` tells
                the model's call whether it trains, but not the layers in it.
            training: What Keras says of it.

        Raises:
            ValueError: The lookup is traced once for many turns of a loop.
        """
        training = told if training is None else training
        if not training:
            self._warn_if_untold(training)
            return x
        self.has_trained = True
        if model_call.is_repeated():
            raise ValueError(
                f"{name_of(self)!r} is called in a loop or another traced function inside the "
                "model's call, such as a keras.layers.RNN or ops.map, whose turns would all have "
                "the same noise: call it on all tokens before the loop"
            )
        now = self._counter()
        start, lookups = model_call.begun.get(self, (now, 0))
        # Two lookups, or two layers, must not get the same noise at the same place.
        stream = self.noise.stream + (f"/{lookups + 1}" if lookups else "")
        noise = replace(self.noise, stream=stream)

        def noisy(x: Any, arrays: TokenArrays) -> Any:
            noised = self._noisy(x, noise, start.step, self._numbered(x, arrays, start))
            if lookups == 0:
                self._advance(x, now)
            else:
                self._state.advance(now._replace(lookups=now.lookups + 1))
            model_call.begun[self] = (start, lookups + 1)
            return noised

        return add(x, noisy)


def _updates_of(model: Any) -> int | None:
    """How many updates the optimizer of a model has made; ``None`` where nothing tells."""
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    if not all(map(has_value, optimizer.variables)):
        return None
    return int(ops.convert_to_numpy(optimizer.iterations))


def _unnumbered(name: str) -> str:
    """The name of a handle's state without the numbers that Keras appends to those of layers."""
    return re.sub(r"_\d+(?=\+|$)", "", name)


def noise_layers(model: Any) -> list[EmbeddingNoise]:
    """The layers of a model that add noise, and the noise that is attached to others."""
    found: list[EmbeddingNoise] = []
    for layer in all_layers(model):
        own = [layer] if isinstance(layer, EmbeddingNoise) else []
        found += own + [each.attached for each in states(layer) if hasattr(each, "attached")]
    return list(dict.fromkeys(found))


def name_of(layer: EmbeddingNoise) -> str:
    """The name of a layer that adds noise, or of the first that attached noise is added to."""
    named: Any = layer.layers[0] if isinstance(layer, AttachedNoise) else layer
    return str(named.name)
