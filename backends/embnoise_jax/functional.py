"""``add_noise`` for JAX arrays: the pure function."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from embnoise.backend import (
    Noise,
    Prepared,
    TokenArrays,
    distribution_of,
    embedding_shape,
    format_value,
    perturb_elementwise,
    philox_key,
    plan,
    prepare,
    stream_key,
)
from embnoise_jax.namespace import NAMESPACE, barrier

__all__ = ["add_noise"]


def add_noise(
    x: Array,
    noise: Noise,
    *,
    step: int | Array,
    training: bool = True,
    mask: Array | None = None,
    segment_ids: Array | None = None,
    positions: Array | None = None,
    sample_ids: Array | None = None,
    where: Array | None = None,
) -> Array:
    """Embeddings with noise added: a pure function of its arguments, with gradient 1.

    It may be called under ``jit``, ``vmap``, ``grad``, ``lax.scan`` and ``shard_map``, and needs no
    64-bit mode. All but ``training`` and the noise's settings may be traced: the step, the arrays,
    and the noise's alpha and seed. Under ``vmap`` every row is a batch of one, so pass
    ``sample_ids``, or all rows get the noise of sample 0.

    Args:
        x: embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16, float32 or float64.
        noise: what noise to add. Its alpha may be an Optax schedule, its seed a
            ``jax.random.key``.
        step: the training step, at least 0: an int, or an integer array of one element.
        training: no noise if false.
        mask: [B, L], nonzero for a real token; all are real by default.
        segment_ids: integers [B, L], 0 for padding, equal positive values for one document of a
            packed row.
        positions: integers [B, L]. By default the real tokens that precede a token in its row, or
            in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
        sample_ids: integers [B] or [B, L]; by default the row's number.
        where: [B, L], nonzero for the tokens to noise; all by default. It does not change L.

    Returns:
        A new array of x's shape, dtype and sharding; ``x`` itself where there is known to be
        nothing to add: not training, alpha 0, or no token.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, or, where it can be told, out of range.

    Example:
        >>> import jax
        >>> from embnoise import neftune
        >>> from embnoise_jax import add_noise
        >>> x = jax.numpy.zeros((2, 4, 8))
        >>> noisy = jax.jit(lambda x, step: add_noise(x, neftune(alpha=5.0), step=step))(x, 3)
        >>> bool(abs(noisy).max() <= 5 / (4 * 8) ** 0.5)
        True
        >>> add_noise(x, neftune(alpha=5.0), training=False) is x
        True
    """
    if not isinstance(x, Array):
        raise TypeError(f"x must be a jax.Array, got {format_value(x)}")
    tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    if hasattr(step, "__jax_array__"):  # a variable of NNX, such as the step of its optimizer
        step = step.__jax_array__()
    # An Optax schedule of a known step is known too, even inside jit.
    traced = isinstance(step, jax.core.Tracer)
    with nullcontext() if traced else jax.ensure_compile_time_eval():
        prepared = prepare(x, noise, step=step, training=training, tokens=tokens, xp=NAMESPACE)
    if prepared is None:
        return x
    step, alpha = prepared.step, prepared.alpha
    if isinstance(alpha, float):
        alpha = np.float32(alpha)
    word = np.uint32(step % 2**32) if isinstance(step, int) else step.astype(jnp.uint32)
    # What may change from call to call goes in as data, so that nothing is compiled anew.
    settings = replace(noise, alpha=0.0, seed=0, stream="")
    noisy: Array = _noisy(x, word, alpha, _key(noise), tokens, settings=settings)
    return noisy


def _key(noise: Noise) -> tuple[Any, Any]:
    if noise.seed is None or isinstance(noise.seed, int):
        low, high = philox_key(noise)
        return np.uint32(low), np.uint32(high)
    # The first two words of a key's data are the high and the low half of the seed it was made of.
    seed_high, seed_low, *_ = jax.random.key_data(noise.seed)
    low, high = stream_key(noise)
    return seed_low ^ np.uint32(low), seed_high ^ np.uint32(high)


@partial(jax.jit, static_argnames="settings")
def _noisy(
    x: Array,
    step: Array,
    alpha: Array,
    key: tuple[Array, Array],
    tokens: TokenArrays,
    *,
    settings: Noise,
) -> Array:
    shape = embedding_shape(x)

    def mean_squares() -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.mean(jnp.square(wide), axis=-1).reshape(shape[:2])

    prepared = Prepared(shape, step, alpha, tokens)
    planned = plan(settings, prepared, mean_squares=mean_squares, xp=NAMESPACE)
    parts = [_whole_rows(part, shape) for part in planned]
    if x.ndim == 2:
        parts = [jnp.broadcast_to(part, shape[:2])[0] for part in parts]
    magnitude, sample, position = parts
    words = (sample.astype(jnp.uint32), position.astype(jnp.uint32))
    noisy: Array = _with_gradient_1(x, magnitude, *words, step, key, settings)
    return noisy


def _whole_rows(part: Array, shape: tuple[int, int, int]) -> Array:
    """The same, made from whole rows on every device, however the embeddings are sharded.

    XLA would have it sharded along the sequence as they are, and what counts tokens communicate.
    No sharding of a flat array means that one.
    """
    if part.shape != shape[:2]:
        return part
    return barrier(part.reshape(-1)).reshape(part.shape)


@partial(jax.custom_jvp, nondiff_argnums=(6,))
def _with_gradient_1(
    x: Array,
    magnitude: Array,
    sample: Array,
    position: Array,
    step: Array,
    key: tuple[Array, Array],
    settings: Noise,
) -> Array:
    noisy: Any = perturb_elementwise(
        x,
        magnitude,
        sample,
        position,
        step,
        key,
        distribution_of(settings),
        xp=NAMESPACE,
        word_dtype=jnp.uint32,
    )
    return noisy


@_with_gradient_1.defjvp
def _(settings: Noise, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return _with_gradient_1(*primals, settings), tangents[0]
