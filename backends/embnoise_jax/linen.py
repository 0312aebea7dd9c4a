"""Embedding noise for Flax Linen: a module, and noise on a model from outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from embnoise.backend import Noise, check_integer, embedding_shape, format_value
from embnoise_jax.functional import add_noise

__all__ = ["EmbeddingNoise", "attach"]


class EmbeddingNoise(nn.Module):
    """Adds noise to embeddings unless ``deterministic``.

    Without ``step`` every call is the next one that the collection ``"noise"`` counts; that has to
    be mutable: ``model.apply(variables, ids, mutable=["noise"])``.

    Attributes:
        noise: what noise to add.
        calls_per_step: how many counted calls one step of the optimizer takes.
        deterministic: no noise if true; it may be given at call time instead.

    Example:
        >>> import jax
        >>> from embnoise import neftune
        >>> from embnoise_jax.linen import EmbeddingNoise
        >>> layer, x = EmbeddingNoise(neftune(5.0)), jnp.zeros((2, 4, 8))
        >>> noisy = layer.apply({}, x, step=7, deterministic=False)
        >>> variables = layer.init(jax.random.key(0), x, deterministic=False)
        >>> noisy, variables = layer.apply(variables, x, deterministic=False, mutable=["noise"])
        >>> variables["noise"]["count"].tolist()
        [1, 2]
    """

    noise: Noise
    calls_per_step: int = 1
    deterministic: bool | None = None

    @nn.compact
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
        """``add_noise`` in training; its arguments have the same meaning here.

        Raises:
            ValueError: neither ``step`` nor a mutable collection ``"noise"`` in training.
        """
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        per_step = check_integer("calls_per_step", self.calls_per_step, minimum=1)
        batch = embedding_shape(x)[0]
        counted = None
        if step is None and not deterministic:
            if not self.is_mutable_collection("noise"):
                raise ValueError(
                    "step must be given in training, or the collection 'noise' be mutable: "
                    "model.apply(variables, ..., mutable=['noise'])"
                )
            counted = self.variable("noise", "count", jnp.zeros, 2, jnp.int32)
            calls = Calls(counted.value[0], counted.value[1])
            step, first = calls.place(per_step=per_step, xp=jnp)
            if sample_ids is None:
                sample_ids = first + jnp.arange(batch)
        noisy = add_noise(
            x,
            self.noise,
            step=0 if step is None else step,
            training=not deterministic,
            mask=mask,
            segment_ids=segment_ids,
            positions=positions,
            sample_ids=sample_ids,
            where=where,
        )
        if counted is not None and not self.is_initializing():
            counted.value = jnp.stack(calls.after(batch, per_step=per_step, xp=jnp))
        return noisy


# The classes of models whose calls are being noised.
_ATTACHED: list[type[nn.Module]] = []


@contextmanager
def attach(
    model: nn.Module,
    noise: Noise,
    *,
    step: int | Array,
    layer: str | None = None,
    mask: Array | None = None,
    segment_ids: Array | None = None,
    positions: Array | None = None,
    sample_ids: Array | None = None,
    where: Array | None = None,
) -> Iterator[None]:
    """Noise on the token embedding of a model, in all its calls inside the ``with`` block.

    It intercepts the embedding's ``__call__``; its ``attend`` stays clean. What happens inside
    ``jax.jit`` is fixed when it is traced, so enter the block inside the function that is compiled.
    A second lookup of one embedding in the block, as in an encoder-decoder, gets noise of its own.
    One inside ``nn.scan`` or ``nn.vmap`` gets the same noise in every turn.

    Args:
        model: a model; it is not changed.
        noise: what noise to add.
        step: the training step; it may be traced, such as the one of a ``TrainState``.
        layer: the embedding's path, such as ``"decoder/embed"``. By default the model's only
            ``nn.Embed``.
        mask: as for ``add_noise``.
        segment_ids: as for ``add_noise``.
        positions: as for ``add_noise``.
        sample_ids: as for ``add_noise``.
        where: as for ``add_noise``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: several embeddings to choose from, when the second one is called; noise is
            attached to a model of this class already; an argument that ``add_noise`` refuses.

    Warns:
        RuntimeWarning: no embedding was called inside the block.

    Example:
        >>> import jax
        >>> from embnoise import neftune
        >>> from embnoise_jax.linen import attach
        >>> model, ids = nn.Sequential([nn.Embed(10, 8), nn.Dense(4)]), jnp.array([[1, 2]])
        >>> params = model.init(jax.random.key(0), ids)
        >>> clean = model.apply(params, ids)
        >>> with attach(model, neftune(5.0), step=3):
        ...     noisy = model.apply(params, ids)
        >>> bool((noisy == clean).any()), bool((model.apply(params, ids) == clean).all())
        (False, True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a flax.linen.Module, got {format_value(model)}")
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
    if not isinstance(layer, str | None):
        raise TypeError(f"layer must be the path of a module, got {format_value(layer)}")
    if type(model) in _ATTACHED:
        raise ValueError(f"model has noise attached already: attach() to {type(model)} is entered")
    lookups, inside, looking_up = 0, 0, False
    paths: list[str] = []

    def intercept(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
        nonlocal lookups, inside, looking_up
        module = context.module
        # A lookup within a lookup is that of a class which an embedding extends.
        if context.method_name != "__call__" or looking_up or module.is_initializing():
            return forward(*args, **kwargs)
        path = "/".join(module.path)
        wanted = isinstance(module, nn.Embed) if layer is None else path == layer
        if not wanted:
            # Inside nn.remat and the like modules do not know their root.
            inside += type(module) is type(model)
            try:
                return forward(*args, **kwargs)
            finally:
                inside -= type(module) is type(model)
        looking_up = True
        try:
            out = forward(*args, **kwargs)
        finally:
            looking_up = False
        if not inside and type(_root(module)) is not type(model):
            return out
        if path not in paths:
            paths.append(path)
        if len(paths) > 1:
            raise ValueError(
                "layer must say which embedding to noise, since the model looks up in several: "
                f"{paths}"
            )
        lookups += 1
        # Two lookups of one table must not get the same noise at the same place.
        stream = noise.stream if lookups == 1 else f"{noise.stream}/{lookups}"
        return add_noise(
            out,
            replace(noise, stream=stream),
            step=step,
            mask=mask,
            segment_ids=segment_ids,
            positions=positions,
            sample_ids=sample_ids,
            where=where,
        )

    _ATTACHED.append(type(model))
    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        _ATTACHED.remove(type(model))
    if not lookups:
        warnings.warn(
            f"embnoise: {layer or 'no nn.Embed'} was {'not ' if layer else ''}called inside "
            "attach(), so there was no noise. Was the function compiled before? Enter attach() "
            "inside it.",
            RuntimeWarning,
            stacklevel=3,
        )


def _root(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module
