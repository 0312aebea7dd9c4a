"""Embedding noise for Equinox: a module, and ``attach`` for an existing model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from embnoise.backend import (
    PLACES,
    Noise,
    TokenArrays,
    check_bool,
    check_choice,
    check_layers,
    check_noise,
    embedding_shape,
    format_value,
    is_scheduled,
    match_layers,
    noise_by_layer,
    refuse_equal_streams,
    resolve_step,
)
from embnoise_jax._arguments import (
    checked_hidden,
    first_argument,
    with_first_argument,
    with_output,
)
from embnoise_jax._equinox_paths import nodes_at, nodes_of, path_of
from embnoise_jax._errors import raise_unless_replaced
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

        Under ``jax.vmap`` over rows, pass each row its own ``key`` or ``sample_ids``.

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
        step: As for ``add_noise``.
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
        if isinstance(node, _NoisyLayer):
            raise ValueError(f"model has noise attached to {path!r} already")
        if not callable(node):
            raise TypeError(
                f"layer must lead to a module that is called, got {format_value(node)} at {path!r}"
            )
    parts = nodes_of(model)
    noisy_parts = EmbeddingNoise | _NoisyLayer
    present = {path: node.noise for path, node in parts.items() if isinstance(node, noisy_parts)}
    refuse_equal_streams(noises, present, noise_key)
    arrays = tokens_by_layer(TokenArrays(mask, segment_ids, positions, sample_ids, where), [*nodes])
    word = jnp.uint32(step % 2**32) if isinstance(step, int) else step
    alpha = jnp.asarray(noise.alpha_at(step, NAMESPACE), jnp.float32)
    key = noise.seed if isinstance(noise.seed, Array) else None

    def noisy(path: str, node: Any) -> _NoisyLayer:
        seed = None if key is not None else noise.seed
        settings = replace(noises[path], alpha=0.0, seed=seed)
        batch = _Batch(word, alpha, key, arrays[path].map(jnp.asarray))
        inference = is_evaluating(parts, path, "inference")
        return _NoisyLayer(node, settings, batch, at, is_traced(noise.alpha), inference)

    # A layer comes before the layer that it is in, whose paths it would change.
    for path in sorted(nodes, key=lambda path: path.count("."), reverse=True):
        [node] = nodes_at(model, [path])
        model = eqx.tree_at(partial(nodes_at, paths=[path]), model, [noisy(path, node)])
    return model


class _Batch(NamedTuple):
    """What describes a batch and may be traced; ``jax.vmap`` maps it with the embeddings."""

    step: Any
    alpha: Any
    key: Any
    """A ``jax.random.key`` that is the seed, or None."""
    tokens: TokenArrays


class _NoisyLayer(eqx.Module):
    layer: Any
    settings: Noise = eqx.field(static=True)
    batch: _Batch
    at: str = eqx.field(static=True)
    learned: bool = eqx.field(static=True)
    """Whether alpha has a gradient; else an optimizer would train it with the weights of a copy."""
    inference: bool = False

    @property
    def noise(self) -> Noise:
        """The noise without its alpha."""
        key = self.batch.key
        return self.settings if key is None else replace(self.settings, seed=key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.inference:
            return self.layer(*args, **kwargs)
        if self.at == "output":
            return with_output(self.layer(*args, **kwargs), self._add_noise)
        call = type(self.layer).__call__
        x = checked_hidden(first_argument(call, args, kwargs))
        args, kwargs = with_first_argument(call, self._add_noise(x), args, kwargs)
        return self.layer(*args, **kwargs)

    def _add_noise(self, x: Array) -> Array:
        batch = self.batch
        if not self.learned:
            batch = batch._replace(alpha=jax.lax.stop_gradient(batch.alpha))
        return _with_derivative(_noisy(self.settings), by_x=True)(x, batch)

    def __getattr__(self, name: str) -> Any:
        # An output projection may share the weight.
        return getattr(self.layer, name)


_Rows: TypeAlias = Callable[[Array, "_Batch"], Array]


def _noisy(settings: Noise) -> _Rows:
    """``add_noise`` for rows of embeddings [B, L, d] or [L, d]."""

    def noisy(rows: Array, batch: _Batch) -> Array:
        step, alpha, key, tokens = batch
        noise = replace(settings, alpha=alpha, seed=settings.seed if key is None else key)
        return add_noise(rows, noise, step=step, **tokens.given())

    return noisy


def _with_derivative(function: _Rows, *, by_x: bool) -> _Rows:
    """The function across ``jax.vmap``, with derivatives, which ``custom_vmap`` does not have.

    Args:
        function: A function of rows of embeddings that depends on them and on alpha alone.
        by_x: Whether its derivative by the embeddings is 1; otherwise it is 0.
    """
    across = jax.custom_jvp(_across_vmap(function))

    def slope(rows: Array, batch: _Batch) -> Array:
        def of_alpha(alpha: Array) -> Array:
            return function(rows, batch._replace(alpha=alpha))

        change: Array = jax.jvp(of_alpha, (batch.alpha,), (jnp.ones_like(batch.alpha),))[1]
        return change

    @promoting()
    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
        value, of_x, of_alpha = across(*primals), tangents[0], tangents[1].alpha
        total = of_x if by_x and not isinstance(of_x, SymbolicZero) else jnp.zeros_like(value)
        if not isinstance(of_alpha, SymbolicZero):
            change = of_alpha * _with_derivative(slope, by_x=False)(*primals)
            total = total + change.astype(value.dtype)
        return value, total

    across.defjvp(derivative, symbolic_zeros=True)
    return across


_FITS = (
    "The axes of jax.vmap around a lookup are taken for those of the tokens and the rows; run what "
    "else is mapped, such as models, steps or seeds, by jax.lax.map. Token arrays describe one "
    "lookup: where one table is looked up twice, call add_noise after each lookup, with arrays and "
    "a stream= of its own"
)


def _across_vmap(function: _Rows) -> _Rows:
    """The function, taking the axes of ``jax.vmap`` for those of the tokens and the rows."""

    @jax.custom_batching.custom_vmap
    def across(x: Array, batch: _Batch) -> Array:
        tokens = batch.tokens
        if tokens.sample_ids is not None and tokens.sample_ids.ndim == 0:
            tokens = tokens._replace(sample_ids=tokens.sample_ids[None])
        rows = x[None] if x.ndim == 1 else x
        try:
            tokens.check(embedding_shape(rows))
        except ValueError as error:
            # They may fit under one more jax.vmap, which replaces this function.
            return raise_unless_replaced(x, f"{error}. {_FITS}")
        return function(rows, batch._replace(tokens=tokens)).reshape(x.shape)

    @across.def_vmap
    def _(size: int, batched: Any, x: Array, batch: _Batch) -> tuple[Array, bool]:
        if not batched[0]:
            x = jnp.broadcast_to(x, (size, *x.shape))
        return _across_vmap(function)(x, batch), True

    return across


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
    return isinstance(node, _NoisyLayer)
