"""Embedding noise for Flax NNX: a module, and noise on the embedding of an existing model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import TracebackType
from typing import Any, Self

import jax.numpy as jnp
from flax import nnx
from jax import Array

from embnoise.backend import (
    Noise,
    check_bool,
    check_integer,
    embedding_shape,
    format_value,
)
from embnoise_jax.functional import add_noise

__all__ = ["EmbeddingNoise", "Handle", "NoiseCount", "attach"]

Describe = Callable[[Array], Mapping[str, Array]]


class NoiseCount(nnx.Variable[Array]):
    """The training calls so far, int32 [2]: the calls, and the samples of the current step.

    It is part of the model's state, so that a run that is restored goes on with the same noise;
    ``nnx.state(model, nnx.Param)`` leaves it out.
    """


class EmbeddingNoise(nnx.Module):
    """Adds noise to embeddings in training; the identity after ``model.eval()``.

    Without ``step`` every training call is the next one of its ``NoiseCount``.

    Args:
        noise: what noise to add.
        calls_per_step: how many training calls one step of the optimizer takes: more than 1 where
            gradients are accumulated, or where one model looks up twice.
        deterministic: no noise if true, as ``model.eval()`` has it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: ``calls_per_step`` is below 1, or the noise's schedule is unbound.

    Example:
        >>> from embnoise import neftune
        >>> from embnoise_jax.nnx import EmbeddingNoise
        >>> from flax import nnx
        >>> x = nnx.Embed(10, 16, rngs=nnx.Rngs(0))(jnp.array([[1, 2, 3]]))
        >>> layer = EmbeddingNoise(neftune(5.0))
        >>> bool((layer(x) == x).any()), layer.step
        (False, 1)
        >>> layer.eval()
        >>> layer(x) is x
        True
    """

    def __init__(
        self, noise: Noise, *, calls_per_step: int = 1, deterministic: bool = False
    ) -> None:
        if not isinstance(noise, Noise):
            raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
        noise.alpha_at(0)
        self.noise = noise
        self.calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        self.deterministic = check_bool("deterministic", deterministic)
        self.count = NoiseCount(jnp.zeros(2, jnp.int32))

    def set_view(self, deterministic: bool | None = None) -> None:
        """What ``nnx.view`` calls to make a view with or without noise."""
        if deterministic is not None:
            self.deterministic = deterministic

    @property
    def step(self) -> int:
        """The step that the next training call without ``step`` will take."""
        return int(self.count[0]) // self.calls_per_step

    @step.setter
    def step(self, value: int) -> None:
        value = check_integer("step", value, minimum=0)
        self.count[...] = jnp.array([value * self.calls_per_step, 0], jnp.int32)

    def __call__(
        self,
        x: Array,
        *,
        step: int | Array | None = None,
        mask: Array | None = None,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        sample_ids: Array | None = None,
        where: Array | None = None,
        deterministic: bool | None = None,
    ) -> Array:
        """``add_noise`` in training; its arguments have the same meaning here."""
        if deterministic is None:
            deterministic = self.deterministic
        tokens: dict[str, Any] = {
            "mask": mask,
            "segment_ids": segment_ids,
            "positions": positions,
            "sample_ids": sample_ids,
            "where": where,
        }
        if deterministic:
            return add_noise(x, self.noise, training=False, **tokens)
        if step is not None:
            return add_noise(x, self.noise, step=step, **tokens)
        batch = embedding_shape(x)[0]
        calls = Calls(self.count[0], self.count[1])
        step, first = calls.place(per_step=self.calls_per_step, xp=jnp)
        if sample_ids is None:
            tokens["sample_ids"] = first + jnp.arange(batch)
        noisy = add_noise(x, self.noise, step=step, **tokens)
        self.count[...] = jnp.stack(calls.after(batch, per_step=self.calls_per_step, xp=jnp))
        return noisy


def attach(
    model: nnx.Module,
    noise: Noise,
    *,
    layer: str | nnx.Module | None = None,
    describe: Describe | None = None,
    calls_per_step: int = 1,
) -> Handle:
    """Add noise to a model's token embedding, in training only.

    The embedding stays in its place, and its ``attend`` stays clean; it gets an ``EmbeddingNoise``
    that ``model.train()`` and ``model.eval()`` switch on and off. Attach before ``nnx.jit``,
    ``nnx.split`` and the like.

    Args:
        model: a model; it is edited.
        noise: what noise to add.
        layer: the embedding or its path, such as ``"decoder.embed"``. By default the model's only
            ``nnx.Embed``.
        describe: from what is looked up, [B, L], to arguments of ``add_noise``, by name: say
            ``lambda ids: {"mask": ids != 0}``. By default all tokens are real.
        calls_per_step: as for ``EmbeddingNoise``.

    Returns:
        A handle: ``remove()`` ends the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no embedding or several to choose from; noise is attached already; the noise's
            schedule is unbound.

    Example:
        >>> from embnoise import neftune
        >>> from embnoise_jax.nnx import attach
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Embed(10, 8, rngs=nnx.Rngs(0)), nnx.relu)
        >>> ids = jnp.array([[1, 2, 0]])
        >>> clean = model(ids)
        >>> with attach(model, neftune(5.0), describe=lambda ids: {"mask": ids != 0}) as handle:
        ...     noisy = model(ids)
        >>> bool((noisy == clean)[0, 2].all()), bool((noisy == clean).all())
        (True, False)
        >>> bool((model(ids) == clean).all())
        True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a flax.nnx.Module, got {format_value(model)}")
    if describe is not None and not callable(describe):
        raise TypeError(f"describe must be a callable, got {format_value(describe)}")
    embedding_noise = EmbeddingNoise(noise, calls_per_step=calls_per_step)
    embedding = _embedding_of(model, layer)
    if hasattr(embedding, "bare_class"):
        raise ValueError("model has noise attached already; remove() that first")
    # The object stays the same one, since other modules and optimizers may share it.
    kind: Any = type(embedding)
    object.__setattr__(embedding, "__class__", _noisy_class(kind))
    embedding.embedding_noise = embedding_noise
    embedding.describe = describe
    return Handle(embedding)


class Handle:
    """Noise that is attached to a model; made by ``attach``."""

    def __init__(self, embedding: Any) -> None:
        self._embedding = embedding
        self._noise: EmbeddingNoise = embedding.embedding_noise

    @property
    def noise(self) -> Noise:
        """What noise is added."""
        return self._noise.noise

    @property
    def step(self) -> int:
        """The step that the next training call will take; setting it starts a new one."""
        return self._noise.step

    @step.setter
    def step(self, value: int) -> None:
        self._noise.step = value

    def remove(self) -> None:
        """End the noise and leave the model as it was; a second time it does nothing."""
        embedding = self._embedding
        if getattr(embedding, "embedding_noise", None) is self._noise:
            del embedding.embedding_noise, embedding.describe
            object.__setattr__(embedding, "__class__", embedding.bare_class)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


@cache
def _noisy_class(kind: Any) -> Any:
    """The class of an embedding of class ``kind`` under noise."""

    def lookup(self: Any, inputs: Array, *args: Any, **kwargs: Any) -> Array:
        x = kind.__call__(self, inputs, *args, **kwargs)
        about = {} if self.describe is None else self.describe(inputs)
        noisy: Array = self.embedding_noise(x, **about)
        return noisy

    return type(kind)(f"Noisy{kind.__name__}", (kind,), {"__call__": lookup, "bare_class": kind})


def _embedding_of(model: nnx.Module, layer: str | nnx.Module | None) -> Any:
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    if isinstance(layer, nnx.Module):
        if not any(layer is module for module in modules.values()):
            raise ValueError(f"layer must be a module of the model, got {type(layer).__name__}")
        return layer
    embeddings = {path: module for path, module in modules.items() if isinstance(module, nnx.Embed)}
    listed = ", ".join(
        f"{path!r} ({each.num_embeddings}, {each.features})" for path, each in embeddings.items()
    )
    if layer is None:
        if len(embeddings) == 1:
            return next(iter(embeddings.values()))
        raise ValueError(
            "layer must say which embedding to noise, since the model has "
            f"{len(embeddings) or 'no'} embeddings to choose from: {listed or 'none'}"
        )
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a module or its path, got {format_value(layer)}")
    if layer not in modules:
        raise ValueError(
            f"layer must be the path of a module, got {layer!r}; embeddings there: "
            f"{listed or 'none'}"
        )
    return modules[layer]
