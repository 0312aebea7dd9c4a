"""Embedding noise for Equinox: a module, and ``attach`` for an existing model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from embnoise.backend import (
    PLACES,
    Noise,
    TokenArrays,
    check_bool,
    check_choice,
    check_layers,
    check_noise,
    format_value,
    is_scheduled,
    match_layers,
    noise_by_layer,
    refuse_equal_streams,
    resolve_step,
)
from embnoise_jax._compat import is_mapped
from embnoise_jax._equinox_layer import Batch, NoisyLayer
from embnoise_jax._equinox_paths import nodes_at, nodes_of, path_of
from embnoise_jax._find import list_embeddings, only_embedding, tokens_by_layer
from embnoise_jax._modes import is_evaluating
from embnoise_jax._tracing import is_traced
from embnoise_jax.functional import add_noise, noise_key
from embnoise_jax.namespace import NAMESPACE, promoting

__all__ = ["EmbeddingNoise", "attach"]

Layer: TypeAlias = str | Callable[[Any], Any]
"""The path of an embedding, or a function from the model to it."""

ByLayer: TypeAlias = Array | Mapping[str, Array] | None
"""An array for every lookup, or one for each embedding that ``layer`` names."""


class EmbeddingNoise(eqx.Module):
    """Adds noise to embeddings; the identity in ``eqx.nn.inference_mode``.

    Like ``eqx.nn.Dropout`` it has no state: a step, a key or sample ids come with each call and
    tell its noise from that of other calls.

    Args:
        noise: What noise to add. Each layer of a model needs a ``stream`` of its own, or all draw
            the same at the same step and key.
        inference: If true, there is no noise.

    Raises:
        TypeError: ``noise`` is not a ``Noise``.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.equinox import EmbeddingNoise
        >>> layer, x = EmbeddingNoise(neftune(5.0)), jnp.zeros((4, 8))
        >>> bool((layer(x, step=3) == x).any())
        False
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> noisy = jax.vmap(lambda x, key: layer(x, key=key))(jnp.zeros((2, 4, 8)), keys)
        >>> eqx.nn.inference_mode(layer)(x) is x
        True
    """

    noise: Noise = eqx.field(static=True)
    inference: bool = False

    def __check_init__(self) -> None:
        check_noise(self.noise)

    def __call__(
        self,
        x: Array,
        *,
        step: int | Array | None = None,
        key: Array | None = None,
        mask: Array | None = None,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        sample_ids: Array | None = None,
        where: Array | None = None,
        inference: bool | None = None,
    ) -> Array:
        """Add noise in training.

        Under ``jax.vmap`` over rows, pass each row its own ``key`` or ``sample_ids``: every row is
        a batch of one.

        Args:
            x: Embeddings [L, d] or [B, L, d].
            step: As for ``add_noise``. Default: 0, if there is a key.
            key: A ``jax.random.key`` that takes the place of the noise's seed.
            mask: As for ``add_noise``.
            segment_ids: As for ``add_noise``.
            positions: As for ``add_noise``.
            sample_ids: As for ``add_noise``.
            where: As for ``add_noise``.
            inference: Overrides the attribute of that name.

        Raises:
            TypeError: An argument of the wrong type.
            ValueError: Neither a step nor a key in training, or a schedule without a step.

        Warns:
            RuntimeWarning: ``jax.vmap`` maps ``x`` and nothing that tells its rows apart. Sample
                ids that it does not map are shared on purpose.
        """
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where).given()
        if check_bool("inference", self.inference if inference is None else inference):
            return add_noise(x, self.noise, step=0, training=False, **tokens)
        if step is None:
            if is_scheduled(self.noise):
                raise ValueError("step must be given in training with a schedule, got None")
            if key is None:
                raise ValueError("step or key must be given in training, got neither")
            step = 0
        if not isinstance(key, Array | None):
            raise TypeError(f"key must be a jax.random.key, got {format_value(key)}")
        noise = self.noise if key is None else replace(self.noise, seed=key)
        told = any(map(is_mapped, (step, key, positions)))
        if is_mapped(x) and sample_ids is None and not told:
            warnings.warn(
                "embnoise: all rows that vmap maps over have the noise of sample 0. Pass each row "
                "its own key=, or its number: sample_ids=row[None]. If they are to share noise, as "
                "the members of an ensemble, pass the same sample_ids= to all",
                RuntimeWarning,
                stacklevel=2,
            )
        return add_noise(x, noise, step=step, **tokens)


@promoting()
def attach(
    model: Any,
    noise: Noise,
    *,
    step: int | Array,
    layer: Layer | Sequence[Layer] | None = None,
    mask: ByLayer = None,
    segment_ids: ByLayer = None,
    positions: ByLayer = None,
    sample_ids: ByLayer = None,
    where: ByLayer = None,
    at: Literal["output", "input"] = "output",
) -> Any:
    """Copy a model so that its token embedding, or other layers, add noise; the model stays clean.

    The copy shares all arrays and costs nothing: make it in the loss function, where step and mask
    are known. The embedding is looked up token by token under ``jax.vmap``, and the model perhaps
    row by row: the noise takes the axes of one or two such ``jax.vmap`` for the tokens and the
    rows. An embedding that is looked up twice in a call, or a layer that is called twice, gets the
    same noise twice, of the same token arrays: where an encoder and a decoder share one table, call
    ``add_noise`` after each lookup. ``layer="layers.*", at="input"`` is noise on what goes into
    each of a model's layers.

    The copy of a model in ``eqx.nn.inference_mode`` is in that mode too, so one loss function
    serves training and evaluation. A model without a flag ``inference`` is taken to train.

    Args:
        model: Any PyTree with an ``eqx.nn.Embedding``.
        noise: What noise to add.
        step: As for ``add_noise``: in a compiled function, one of its arguments.
        layer: A module's path, such as ``"decoder.embed"``, a pattern of paths, a function from the
            model to the module, as in ``eqx.tree_at``, or a list of those. In a pattern, ``*``,
            ``?`` and ``[0-3]`` match as in a shell, but never a dot. Default: the model's only
            ``eqx.nn.Embedding``. All but the first get a stream of their own,
            ``"{noise.stream}/{path}"``.
        mask: As for ``add_noise``: [B, L], or [L] inside ``jax.vmap`` over rows. With a list of
            layers perhaps a dict of such arrays by path.
        segment_ids: As for ``add_noise``, in the shapes of ``mask``.
        positions: As for ``add_noise``, in the shapes of ``mask``.
        sample_ids: Integers [B] or [B, L], or [] inside ``jax.vmap`` over rows; or a dict. Default:
            the row number.
        where: As for ``add_noise``, in the shapes of ``mask``.
        at: Where a layer gets noise: on its ``"output"``, or the first entry of it if that is a
            tuple; or on its ``"input"``, the first argument of its call.

    Returns:
        The copy.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: The model has several embeddings or none, or has noise already, at this
            layer or of the same seed and stream at another; a pattern matches nothing; ``step`` is
            out of range; or a dict has a path that ``layer`` does not name.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.equinox import attach
        >>> embed, ids = eqx.nn.Embedding(10, 8, key=jax.random.key(0)), jnp.array([[1, 2, 1]])
        >>> model = eqx.nn.Sequential([eqx.nn.Lambda(eqx.filter_vmap(embed))])
        >>> clean = jax.vmap(model)(ids)
        >>> noisy = jax.vmap(attach(model, neftune(5.0), step=3))(ids)
        >>> bool((noisy == clean).any()), bool((jax.vmap(model)(ids) == clean).all())
        (False, True)
    """
    if model is None or jax.tree_util.all_leaves([model]):
        raise TypeError(f"model must be a PyTree of modules, got {format_value(model)}")
    check_noise(noise)
    check_choice("at", at, PLACES)
    step = resolve_step(step)
    nodes = _find(model, layer)
    noises = noise_by_layer(noise, nodes)
    for path, node in nodes.items():
        if isinstance(node, NoisyLayer):
            raise ValueError(f"model has noise attached to {path!r} already")
        if not callable(node):
            raise TypeError(
                f"layer must lead to a module that is called, got {format_value(node)} at {path!r}"
            )
    parts = nodes_of(model)
    noisy_parts = EmbeddingNoise | NoisyLayer
    present = {path: node.noise for path, node in parts.items() if isinstance(node, noisy_parts)}
    refuse_equal_streams(noises, present, noise_key)
    arrays = tokens_by_layer(TokenArrays(mask, segment_ids, positions, sample_ids, where), [*nodes])
    word = jnp.uint32(step % 2**32) if isinstance(step, int) else step
    alpha = jnp.asarray(noise.alpha_at(step, NAMESPACE), jnp.float32)
    key = noise.seed if isinstance(noise.seed, Array) else None

    def noisy(path: str, node: Any) -> NoisyLayer:
        seed = None if key is not None else noise.seed
        settings = replace(noises[path], alpha=0.0, seed=seed)
        batch = Batch(word, alpha, key, arrays[path].map(jnp.asarray))
        inference = is_evaluating(parts, path, "inference")
        return NoisyLayer(node, settings, batch, at, is_traced(noise.alpha), inference)

    # A layer comes before the layer that it is in, whose paths it would change.
    for path in sorted(nodes, key=lambda path: path.count("."), reverse=True):
        [node] = nodes_at(model, [path])
        model = eqx.tree_at(partial(nodes_at, paths=[path]), model, [noisy(path, node)])
    return model


def _find(model: Any, layer: Layer | Sequence[Layer] | None) -> dict[str, Any]:
    """The layers that ``layer`` names, by path."""
    nodes = nodes_of(model)
    # An embedding that has noise already is known by its own path, not by that inside the noise.
    inner = {id(each.layer) for each in nodes.values() if _is_noisy(each)}
    embeddings = {
        path: each.layer if _is_noisy(each) else each
        for path, each in nodes.items()
        if id(each) not in inner
    }
    candidates = {
        path: getattr(each.weight, "shape", ())
        for path, each in embeddings.items()
        if isinstance(each, eqx.nn.Embedding)
    }
    if layer is None:
        path = only_embedding("eqx.nn.Embedding", candidates)
        return {path: nodes[path]}
    found: dict[str, Any] = {}
    for each in check_layers(layer):
        if isinstance(each, str):
            for path in match_layers(each, [*nodes], embeddings=list_embeddings(candidates)):
                found[path] = nodes[path]
        elif callable(each):
            path = path_of(each, model)
            found[path] = nodes[path]
        else:
            raise TypeError(
                "layer must be the path of a module, or a function from the model to it, got "
                f"{format_value(each)}"
            )
    return found


def noisy_layers(model: Any) -> dict[str, tuple[Any, Any]]:
    """The layers with noise by path: each without the noise, and with it."""
    nodes = nodes_of(model)
    return {path: (node.layer, node) for path, node in nodes.items() if _is_noisy(node)}


def _is_noisy(node: Any) -> bool:
    return isinstance(node, NoisyLayer)
