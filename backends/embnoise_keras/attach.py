"""``attach``: noise on the token embedding of an existing Keras model, in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from types import TracebackType
from typing import Any, NamedTuple, Self

import keras

from embnoise.backend import Noise, format_value
from embnoise_keras.find import embedding_of
from embnoise_keras.functional import add_noise
from embnoise_keras.layer import EmbeddingNoise

__all__ = ["Handle", "attach"]

Describe = Callable[[Any], Mapping[str, Any]]

# What the models of keras-hub call the masks of the tokens that they look up.
_MASKS = ("padding_mask", "encoder_padding_mask", "decoder_padding_mask", "attention_mask")


def attach(
    model: Any,
    noise: Noise,
    *,
    layer: str | Any | None = None,
    describe: Describe | None = None,
    calls_per_step: int = 1,
) -> Handle:
    """Add noise to a model's token embedding, where ``training`` is true.

    The layer stays in its place; its reverse call, the output projection, stays clean, and so does
    what ``model.save`` writes. Padding is known from ``mask_zero=True``, or from the
    ``padding_mask`` among the model's inputs, as the models of keras-hub have it.

    Args:
        model: a sequential, functional or subclassed model; attach to the one that ``fit`` is
            called on, since its compiled functions are made anew.
        noise: what noise to add.
        layer: the embedding, or its name or path. By default the ``token_embedding`` of the model
            or of its ``backbone``, or the model's only ``keras.layers.Embedding``.
        describe: from what is looked up, [B, L], to arguments of ``add_noise``, by name: say
            ``lambda ids: {"mask": ids != 0}``. It takes the place of the masks above.
        calls_per_step: how many training calls one step of the optimizer takes: its
            ``gradient_accumulation_steps``, say.

    Returns:
        A handle: ``remove()`` ends the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no embedding or several to choose from; noise is attached already; the noise's
            schedule is unbound.

    Warns:
        RuntimeWarning: the model's ``call`` has no argument ``training``.

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
    if describe is not None and not callable(describe):
        raise TypeError(f"describe must be a callable, got {format_value(describe)}")
    attached = _AttachedNoise(noise, calls_per_step=calls_per_step, name="attached_noise")
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
    return Handle(model, embedding, attached, describe)


class Handle:
    """Noise that is attached to a model; made by ``attach``."""

    def __init__(
        self, model: Any, embedding: Any, attached: _AttachedNoise, describe: Describe | None
    ) -> None:
        self._model = model
        self._embedding = embedding
        self._attached = attached
        self._describe = describe
        self._forward: _Forward | None = None
        # As a layer inside the embedding, its state is handed through compiled code; it has no
        # weights, and it is no attribute, so that nothing of it is saved.
        embedding._layers.append(attached)
        embedding.call = self._around_lookup(embedding.call)
        if embedding is not model:
            model.call = self._around_model(model.call)
        self._forget_compiled()

    @property
    def noise(self) -> Noise:
        """What noise is added."""
        return self._attached.noise

    @property
    def step(self) -> int:
        """The step that the next training call will take; setting it starts a new one."""
        self._bring_up_to_date()
        return self._attached.step

    @step.setter
    def step(self, value: int) -> None:
        self._bring_up_to_date()
        self._attached.step = value

    def _bring_up_to_date(self) -> None:
        # With JAX, `fit` keeps the values of variables to itself between batches.
        if hasattr(self._model, "jax_state_sync"):
            self._model.jax_state_sync()

    def remove(self) -> None:
        """End the noise and leave the model as it was; a second time it does nothing."""
        if any(layer is self._attached for layer in self._embedding._layers):
            del self._embedding.call
            if self._embedding is not self._model:
                del self._model.call
            self._embedding._layers.remove(self._attached)
            self._forget_compiled()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _forget_compiled(self) -> None:
        if isinstance(self._model, keras.Model):
            self._model.train_function = None

    def _around_model(self, call: Any) -> Any:
        def listened(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            named = inputs if isinstance(inputs, Mapping) else kwargs
            before, self._forward = self._forward, _Forward(named, kwargs.get("training"))
            self._attached.begin_forward()
            try:
                return call(inputs, *args, **kwargs)
            finally:
                self._forward = before

        return listened

    def _around_lookup(self, call: Any) -> Any:
        attached = self._attached

        def noisy(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            x = call(inputs, *args, **kwargs)
            if kwargs.get("reverse"):
                return x
            named, training = self._forward or _Forward({}, None)
            if self._forward is None:
                attached.begin_forward()
            tokens = self._about(inputs, named)
            # With JAX, `fit` tells the model's call whether it trains, but not the layers in it.
            return attached(
                x, tokens=tokens, **({} if training is None else {"training": training})
            )

        return noisy

    def _about(self, ids: Any, named: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the tokens that are looked up, in a call with these inputs."""
        if self._describe is not None:
            return dict(self._describe(ids))
        if getattr(self._embedding, "mask_zero", False):
            return {"mask": keras.layers.Embedding.compute_mask(self._embedding, ids)}
        return {"mask": _mask_of(ids, named)}


def _mask_of(ids: Any, named: Mapping[str, Any]) -> Any:
    """The mask of the token ids among the inputs of a model."""
    masks = {name: named[name] for name in _MASKS if named.get(name) is not None}
    if len(masks) <= 1:
        return next(iter(masks.values()), None)
    own = [name.replace("token_ids", "padding_mask") for name in named if named[name] is ids]
    if len(own) == 1 and own[0] in masks:
        return masks[own[0]]
    raise ValueError(
        f"describe must say which tokens are real: the model has the masks {list(masks)}, and it "
        "cannot be told which of them belongs to a lookup. Pass the inputs as tensors of the "
        "model's own dtype, or describe=lambda ids: {'mask': ids != 0}"
    )


class _Forward(NamedTuple):
    """One call of the model."""

    named: Mapping[str, Any]
    """Its inputs."""
    training: bool | None


class _AttachedNoise(EmbeddingNoise):
    """The noise of a handle: a second lookup in one forward gets noise of its own."""

    def _counter(self) -> Any:
        self.begin_forward()
        return self.unsaved([0, 0], "int")

    def begin_forward(self) -> None:
        self.lookups = 0

    # Not with an argument `mask`: Keras would take that for the mask of the output as well.
    def call(  # type: ignore[override]
        self, x: Any, *, tokens: dict[str, Any], training: bool | None = None
    ) -> Any:
        if not training:
            return x
        if self.lookups == 0:
            batch = keras.ops.shape(x)[0] if len(x.shape) == 3 else 1
            self._place = self.next_place(batch)
        step, samples = self._place
        self.lookups += 1
        # Two lookups of one table must not get the same noise at the same place.
        stream = self.noise.stream + ("" if self.lookups == 1 else f"/{self.lookups}")
        tokens = {"sample_ids": samples, **tokens}
        noisy = add_noise(x, replace(self.noise, stream=stream), step=step, **tokens)
        self.report(x, noisy, step)
        return noisy
