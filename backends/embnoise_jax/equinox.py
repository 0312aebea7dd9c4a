"""Embedding noise for Equinox: a module, and noise on the embedding of an existing model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from embnoise.backend import Noise, TokenArrays, embedding_shape, format_value, resolve_step
from embnoise_jax.functional import add_noise

__all__ = ["EmbeddingNoise", "attach"]


class EmbeddingNoise(eqx.Module):
    """Adds noise to embeddings; the identity in ``eqx.nn.inference_mode``.

    Like ``eqx.nn.Dropout`` it has no state: what makes the noise of a call its own, a step, a key
    or sample ids, comes with the call.

    Args:
        noise: what noise to add.
        inference: no noise if true.

    Example:
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
        if not isinstance(self.noise, Noise):
            raise TypeError(f"noise must be a Noise, got {format_value(self.noise)}")

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
        """``add_noise`` in training, with arguments of the same meaning.

        Under ``jax.vmap`` over rows, pass each row its own ``key`` or ``sample_ids``.

        Args:
            x: embeddings [L, d] or [B, L, d].
            step: the training step; 0 by default where there is a key.
            key: a ``jax.random.key`` that takes the place of the noise's seed.
            mask: as for ``add_noise``.
            segment_ids: as for ``add_noise``.
            positions: as for ``add_noise``.
            sample_ids: as for ``add_noise``.
            where: as for ``add_noise``.
            inference: takes the place of the attribute.

        Raises:
            ValueError: neither a step nor a key in training, or a schedule without a step.
        """
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        if self.inference if inference is None else inference:
            return add_noise(x, self.noise, training=False, **tokens._asdict())
        if step is None and (key is None or callable(self.noise.alpha)):
            raise ValueError(
                "step must be given in training"
                + (" with a schedule, got None" if callable(self.noise.alpha) else ", or a key")
            )
        noise = self.noise if key is None else replace(self.noise, seed=key)
        return add_noise(x, noise, step=0 if step is None else step, **tokens._asdict())


def attach(
    model: Any,
    noise: Noise,
    *,
    step: int | Array,
    layer: Callable[[Any], Any] | None = None,
    mask: Array | None = None,
    segment_ids: Array | None = None,
    positions: Array | None = None,
    sample_ids: Array | None = None,
    where: Array | None = None,
) -> Any:
    """A copy of a model whose token embedding adds noise; the model itself stays clean.

    It costs nothing, so do it in the loss function, where step and mask are at hand. The embedding
    is looked up token by token under ``jax.vmap``, and the model perhaps row by row: the noise sees
    through one or two of these, and takes their axes for the tokens and the rows. One embedding
    that is looked up twice in a call gets the same noise twice.

    Args:
        model: any PyTree with an ``eqx.nn.Embedding``.
        noise: what noise to add.
        step: the training step; it may be traced.
        layer: from the model to the embedding, as in ``eqx.tree_at``: say
            ``lambda model: model.embed``. By default the model's only ``eqx.nn.Embedding``.
        mask: as for ``add_noise``: [B, L], or [L] inside ``jax.vmap`` over rows.
        segment_ids: the same.
        positions: the same.
        sample_ids: integers [B] or [B, L], or [] inside ``jax.vmap`` over rows.
        where: as ``mask``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no embedding or several to choose from, or noise is attached already.

    Example:
        >>> from embnoise import neftune
        >>> from embnoise_jax.equinox import attach
        >>> embed, ids = eqx.nn.Embedding(10, 8, key=jax.random.key(0)), jnp.array([[1, 2, 1]])
        >>> model = eqx.nn.Sequential([eqx.nn.Lambda(eqx.filter_vmap(embed))])
        >>> clean = jax.vmap(model)(ids)
        >>> noisy = jax.vmap(attach(model, neftune(5.0), step=3))(ids)
        >>> bool((noisy == clean).any()), bool((jax.vmap(model)(ids) == clean).all())
        (False, True)
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
    if layer is None:
        layer = _only_embedding(model)
    elif not callable(layer):
        raise TypeError(
            "layer must be a function from the model to its embedding, got " + format_value(layer)
        )
    if isinstance(layer(model), _NoisyEmbedding):
        raise ValueError("model has noise attached already")
    if isinstance(step, int):
        step = jnp.uint32(resolve_step(step))
    arrays = (mask, segment_ids, positions, sample_ids, where)
    tokens = TokenArrays(*(None if array is None else jnp.asarray(array) for array in arrays))
    context = _Context(jnp.asarray(step), tokens)
    return eqx.tree_at(
        layer, model, replace_fn=lambda embedding: _NoisyEmbedding(embedding, noise, context)
    )


class _Context(NamedTuple):
    """What is known of the batch."""

    step: Any
    tokens: TokenArrays


class _NoisyEmbedding(eqx.Module):
    embedding: Any
    noise: Noise = eqx.field(static=True)
    context: _Context
    inference: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        x: Array = self.embedding(*args, **kwargs)
        return x if self.inference else _with_gradient_1(self.noise)(x, self.context)

    def __getattr__(self, name: str) -> Any:
        # The weight, say, that an output projection shares.
        return getattr(self.embedding, name)


def _with_gradient_1(noise: Noise) -> Callable[[Array, _Context], Array]:
    """``custom_vmap`` has no derivative of its own in reverse mode, so it gets one from outside."""
    noisy = jax.custom_jvp(_seen_through_vmap(noise))

    @noisy.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        return noisy(*primals), tangents[0]

    return noisy


def _seen_through_vmap(noise: Noise) -> Callable[[Array, _Context], Array]:
    """``add_noise`` that takes an axis of ``jax.vmap`` for one of the embeddings."""

    @jax.custom_batching.custom_vmap
    def noisy(x: Array, context: _Context) -> Array:
        step, tokens = context
        if tokens.sample_ids is not None and tokens.sample_ids.ndim == 0:
            tokens = tokens._replace(sample_ids=tokens.sample_ids[None])
        rows = x[None] if x.ndim == 1 else x
        try:
            tokens.check(embedding_shape(rows))
        except ValueError as error:
            # They do not fit yet; if no jax.vmap is seen through any more, they never will.
            failed: Array = eqx.error_if(x, step >= 0, str(error))
            return failed
        return add_noise(rows, noise, step=step, **tokens._asdict()).reshape(x.shape)

    @noisy.def_vmap
    def _(size: int, batched: Any, x: Array, context: _Context) -> tuple[Array, bool]:
        if not batched[0]:
            x = jnp.broadcast_to(x, (size, *x.shape))
        return _seen_through_vmap(noise)(x, context), True

    return noisy


def _only_embedding(model: Any) -> Callable[[Any], Any]:
    def found(tree: Any) -> list[tuple[Any, Any]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_embedding)
        return [(path, leaf) for path, leaf in leaves if _is_embedding(leaf)]

    embeddings = found(model)
    if len(embeddings) != 1:
        listed = ", ".join(
            f"model{jax.tree_util.keystr(path)} {each.weight.shape}" for path, each in embeddings
        )
        raise ValueError(
            "layer must say which embedding to noise, since the model has "
            f"{len(embeddings) or 'no'} embeddings to choose from: {listed or 'none'}"
        )
    return lambda tree: found(tree)[0][1]


def _is_embedding(node: Any) -> bool:
    return isinstance(node, eqx.nn.Embedding | _NoisyEmbedding)
