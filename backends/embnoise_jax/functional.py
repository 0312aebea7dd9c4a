"""``add_noise`` for JAX arrays, a pure function.

B batch, L tokens in a row, d channels.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from embnoise.backend import (
    Noise,
    Prepared,
    TokenArrays,
    distribution_of,
    embedding_shape,
    format_value,
    philox_key,
    plan,
    prepare,
    stream_key,
    uses_rms,
)
from embnoise_jax._compat import optimization_barrier, seed_words
from embnoise_jax._devices import perturbed, shares_blocks
from embnoise_jax._shards import Channels, check_shard, resolve_channels, whole_rows
from embnoise_jax._tracing import is_traced
from embnoise_jax.namespace import NAMESPACE, promoting

__all__ = ["add_noise", "noise_key"]


@promoting()
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
    channels: Channels | None = None,
) -> Array:
    """Add noise to embeddings: a pure function of its arguments, with gradient 1.

    It works under ``jit``, ``vmap``, ``grad``, ``lax.scan`` and ``shard_map``, and needs no 64-bit
    mode. The step, the arrays, and the noise's alpha and seed may be traced; ``training`` and the
    noise's other settings may not. A traced alpha has its gradient, the noise divided by alpha.
    Under ``vmap`` every row is a batch of one: pass ``sample_ids``, or all rows get the noise of
    sample 0.

    Args:
        x: Embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16, float32 or float64.
        noise: What noise to add. Its alpha may be an Optax schedule, its seed a
            ``jax.random.key``.
        step: The training step: an int of at least 0, counted modulo 2**32, or an integer array of
            one element. Each step draws new noise; the same step, with the same sample ids,
            repeats it. In a compiled function an int is fixed: pass the step as an argument of it.
        training: If false, ``x`` is returned as it is.
        mask: Boolean or integer [B, L], nonzero for a real token. Default: all tokens are real.
        segment_ids: Integers [B, L], 0 for padding, equal positive values for one document of a
            packed row. Negative values are documents too, or an error where they are known: use
            0 for padding.
        positions: Integers [B, L]. Default: the number of real tokens that precede a token in its
            row, or in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
            Counted modulo 2**32.
        sample_ids: Integers [B] or [B, L]. Default: the row number. Counted modulo 2**32.
        where: Boolean or integer [B, L], nonzero for the tokens to noise. Default: all real
            tokens. It does not change L.
        channels: In ``shard_map``, if x holds some of the embeddings' channels:
            ``(offset, total)``, the number of channels before those of x, which may be traced, and
            that of all. Default: x holds all of them.

    Returns:
        A new array of x's shape, dtype and sharding; ``x`` itself if there is known to be nothing
        to add: not training, alpha 0, or no token.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or, if its value is known, out of range; an
            unbound schedule; or in ``shard_map``, parts of x that would get the same noise.

    Example:
        >>> import jax
        >>> from embnoise import neftune
        >>> from embnoise_jax import add_noise
        >>> x = jax.numpy.zeros((2, 4, 8))
        >>> noisy = jax.jit(lambda x, step: add_noise(x, neftune(alpha=5.0), step=step))(x, 3)
        >>> bool(abs(noisy).max() <= 5 / (4 * 8) ** 0.5)
        True
        >>> add_noise(x, neftune(alpha=5.0), step=3, training=False) is x
        True
    """
    if not isinstance(x, Array):
        hint = "; pass jnp.asarray(x)" if isinstance(x, np.ndarray | list | tuple) else ""
        if isinstance(x, np.ndarray):
            hint += ", or call embnoise.add_noise, which takes NumPy's arrays"
        raise TypeError(f"x must be a jax.Array, got {format_value(x)}{hint}")
    tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    if not isinstance(step, Array) and hasattr(step, "__jax_array__"):
        step = jnp.asarray(step)  # a variable of NNX, such as the step of its optimizer
    # An Optax schedule at a known step has a known value, even inside jit.
    known = not is_traced(step)
    with jax.ensure_compile_time_eval() if known else nullcontext():
        prepared = prepare(x, noise, step=step, training=training, tokens=tokens, xp=NAMESPACE)
    if channels is not None:
        channels = resolve_channels(channels, x.shape[-1], noise)
    if prepared is None:
        return x
    check_shard(x, noise, step, tokens, channels and channels[0])
    step, alpha = prepared.step, prepared.alpha
    if isinstance(alpha, float):
        alpha = np.float32(alpha)
    word = np.uint32(step % 2**32) if isinstance(step, int) else step.astype(jnp.uint32)
    # What may change from call to call goes in as data, so that nothing is compiled anew.
    settings = replace(noise, alpha=0.0, seed=0, stream="")
    offset, total = channels or (None, x.shape[-1])
    shared = channels is None and shares_blocks(x, distribution_of(noise))
    noisy: Array = _add_planned(
        x, word, alpha, _key(noise), tokens, offset, dim=total, shared=shared, settings=settings
    )
    return noisy


def _key(noise: Noise) -> tuple[Any, Any]:
    """The Philox key of a noise: uint32 [], [], traced if the seed is."""
    if noise.seed is None or isinstance(noise.seed, int):
        low, high = philox_key(noise)
        return np.uint32(low), np.uint32(high)
    seed_low, seed_high = seed_words(noise.seed)
    low, high = stream_key(noise)
    return seed_low ^ np.uint32(low), seed_high ^ np.uint32(high)


def noise_key(noise: Noise) -> tuple[object, ...]:
    """What tells a noise from others: its Philox key, or the seed itself if that is traced."""
    if is_traced(noise.seed):
        return id(noise.seed), noise.stream
    with jax.ensure_compile_time_eval():
        return tuple(int(word) for word in _key(noise))


@partial(jax.jit, static_argnames=("dim", "shared", "settings"))
def _add_planned(
    x: Array,
    step: Array,
    alpha: Array,
    key: tuple[Array, Array],
    tokens: TokenArrays,
    offset: Array | None,
    *,
    dim: int,
    shared: bool,
    settings: Noise,
) -> Array:
    shape = (*embedding_shape(x)[:2], dim)
    tokens = tokens.map(lambda array: whole_rows(array, x.ndim))

    def mean_squares() -> Array:
        squares = _mean_squares(jax.lax.stop_gradient(x))
        return whole_rows(squares, x.ndim).reshape(shape[:2]).astype(jnp.float64)

    prepared = Prepared(shape, step, alpha, tokens)
    # The sum over a document is a difference of sums over its row, for which float32 is too short.
    with jax.enable_x64(True) if uses_rms(settings) else nullcontext():
        magnitude, *coordinates = plan(settings, prepared, mean_squares=mean_squares, xp=NAMESPACE)
        parts = [magnitude, *(part.astype(jnp.uint32) for part in coordinates)]
    parts = [_unsharded(part, shape) for part in parts]
    if x.ndim == 2:
        parts = [jnp.broadcast_to(part, shape[:2])[0] for part in parts]
    magnitude, sample, position = parts
    form = (dim, shared, settings)
    return _add_with_gradient_1(x, magnitude, sample, position, step, key, offset, form)


def _mean_squares(x: Array) -> Array:
    """The mean square of every token's embedding, [...], at least in float32.

    Of 16-bit embeddings, XLA would write a float32 copy for the CPU before it sums that up. It does
    not where several sums are taken at once, so there is one for every eighth channel.
    """
    if x.dtype.itemsize > 2:
        return jnp.mean(jnp.square(x), axis=-1)
    count = math.gcd(x.shape[-1], 8)
    columns = x.reshape(*x.shape[:-1], -1, count)
    squares = [jnp.square(columns[..., i].astype(jnp.float32)) for i in range(count)]
    zeros = [np.float32(0)] * count
    sums = jax.lax.reduce(squares, zeros, partial(jax.tree.map, jax.lax.add), (x.ndim - 1,))
    return jnp.stack(sums).sum(axis=0) / x.shape[-1]


def _unsharded(part: Array, shape: tuple[int, int, int]) -> Array:
    """Keep XLA from sharding a [B, L] part of the plan along the sequence, as the embeddings are.

    Counting the tokens of a row would then take communication. A flat array cannot inherit that
    sharding, so every device computes whole rows.
    """
    if part.shape != shape[:2]:
        return part
    return optimization_barrier(part.reshape(-1)).reshape(part.shape)


@partial(jax.custom_jvp, nondiff_argnums=(7,))
def _add_with_gradient_1(
    x: Array,
    magnitude: Array,
    sample: Array,
    position: Array,
    step: Array,
    key: tuple[Array, Array],
    offset: Array | None,
    form: tuple[int, bool, Noise],
) -> Array:
    dim, shared, settings = form
    # Philox multiplies in 64 bits; nothing of that width enters or leaves.
    with jax.enable_x64(True):
        return perturbed(
            x,
            magnitude,
            sample,
            position,
            step,
            key,
            distribution=distribution_of(settings),
            shared=shared,
            channels=None if offset is None else (offset, dim),
        )


@promoting()  # it may be traced later than the function
def _derivative(form: tuple[int, bool, Noise], primals: Any, tangents: Any) -> tuple[Array, Any]:
    x, magnitude, *coordinates = primals
    of_x, of_magnitude, *_ = tangents
    noisy = _add_with_gradient_1(*primals, form)
    if isinstance(of_magnitude, SymbolicZero):
        return noisy, of_x
    # Alpha has a gradient. Nothing here may depend on the tangents in another way than linearly.
    zeros, ones = jnp.zeros_like(x, jnp.float32), jnp.ones_like(magnitude)
    unit = _add_with_gradient_1(zeros, ones, *coordinates, form)
    of_noise = (of_magnitude[..., None] * unit).astype(x.dtype)
    return noisy, of_noise if isinstance(of_x, SymbolicZero) else of_x + of_noise


_add_with_gradient_1.defjvp(_derivative, symbolic_zeros=True)
