"""A layer of Equinox with noise, which takes the axes of ``jax.vmap`` for tokens and rows.

B batch, L tokens in a row, d channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from embnoise.backend import Noise, TokenArrays, embedding_shape
from embnoise_jax._arguments import (
    checked_hidden,
    first_argument,
    with_first_argument,
    with_output,
)
from embnoise_jax._errors import raise_unless_replaced
from embnoise_jax.functional import add_noise
from embnoise_jax.namespace import promoting

__all__ = ["Batch", "NoisyLayer"]


class Batch(NamedTuple):
    """What describes a batch and may be traced; ``jax.vmap`` maps it with the embeddings."""

    step: Any
    alpha: Any
    key: Any
    """A ``jax.random.key`` that is the seed, or None."""
    tokens: TokenArrays


class NoisyLayer(eqx.Module):
    """A layer that adds noise to its output or its input, made by ``attach``."""

    layer: Any
    settings: Noise = eqx.field(static=True)
    batch: Batch
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


_Rows: TypeAlias = Callable[[Array, "Batch"], Array]


def _noisy(settings: Noise) -> _Rows:
    """``add_noise`` for rows of embeddings [B, L, d] or [L, d]."""

    def noisy(rows: Array, batch: Batch) -> Array:
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

    def slope(rows: Array, batch: Batch) -> Array:
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
    def across(x: Array, batch: Batch) -> Array:
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
    def _(size: int, batched: Any, x: Array, batch: Batch) -> tuple[Array, bool]:
        if not batched[0]:
            x = jnp.broadcast_to(x, (size, *x.shape))
        return _across_vmap(function)(x, batch), True

    return across
