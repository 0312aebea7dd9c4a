"""What every ``add_noise`` does before its kernel: validate, then plan the noise of each token.

B batch, L tokens in a row, d channels. All that needs thought (lengths, packing, schedules, scale
rules) ends in three numbers per token: magnitude, sample and position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import NUMPY, Array, ArrayNamespace, Scalar
from embnoise._noise import Noise, check_noise
from embnoise._tokens import Sequences, TokenArrays, Tokens, coordinates
from embnoise._validation import check_bool, embedding_shape, resolve_step

__all__ = [
    "Plan",
    "Prepared",
    "flat_plan",
    "magnitudes_by_length",
    "plan",
    "prepare",
    "prepare_checked",
]


class Prepared(NamedTuple):
    """The validated arguments of an ``add_noise`` that has noise to add."""

    shape: tuple[Any, Any, int]
    """B, L and d. B and L may be ``None`` where a graph does not know them yet."""
    step: Any
    """An int, or a 0-d array whose value is known only when the program runs."""
    alpha: Any
    """Alpha at the step: a float, or a 0-d array."""
    tokens: TokenArrays


def prepare(
    x: Array,
    noise: Noise,
    *,
    step: object,
    training: bool,
    tokens: TokenArrays,
    xp: ArrayNamespace = NUMPY,
) -> Prepared | None:
    """Validate the arguments of ``add_noise``.

    That ``x`` is an array of the adapter's framework is for the adapter to check.

    Args:
        x: Embeddings [B, L, d] or [L, d] of any framework.
        noise: What noise to add.
        step: An int of at least 0, or an integer array of one element, traced or not.
        training: Whether there is noise at all.
        tokens: The arrays that describe the batch.
        xp: The array namespace of ``step``, for schedules.

    Returns:
        The arguments, ready for ``plan``; ``None`` if there is known to be nothing to add: not
        training, alpha 0, or no token.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or out of range, or an unbound schedule.
    """
    shape = embedding_shape(x)
    tokens.check(shape)
    check_noise(noise)
    step = resolve_step(step)
    if not check_bool("training", training):
        return None
    return prepare_checked(shape, noise, step, tokens, xp)


def prepare_checked(
    shape: tuple[Any, Any, int],
    noise: Noise,
    step: Any,
    tokens: TokenArrays,
    xp: ArrayNamespace = NUMPY,
) -> Prepared | None:
    """``prepare`` for arguments that have been checked; ``None`` for alpha 0, or no token.

    Args:
        shape: B, L and d.
        noise: What noise to add.
        step: An int, or a 0-d array.
        tokens: The arrays that describe the batch.
        xp: The array namespace of ``step``.

    Raises:
        ValueError: Alpha is out of range at the step, or a segment id or a value of a mask is
            negative.
    """
    if 0 in shape:
        return None
    alpha = noise._alpha_at(step, xp)
    if isinstance(alpha, float) and alpha == 0:
        return None
    tokens.check_values(shape[0])
    return Prepared(shape, step, alpha, tokens)


class Plan(NamedTuple):
    """All that a kernel needs beside the embeddings, in arrays that broadcast to [B, L]."""

    magnitude: Any
    """float32."""
    sample: Any
    """Integers, to be taken modulo 2**32."""
    position: Any
    """Integers, to be taken modulo 2**32."""


def plan(
    noise: Noise,
    prepared: Prepared,
    *,
    mean_squares: Callable[[], Array],
    xp: ArrayNamespace,
) -> Plan:
    """The magnitude, sample and position of every token.

    Args:
        noise: What noise to add.
        prepared: What ``prepare`` returned, with arrays of the namespace ``xp``.
        mean_squares: Returns the mean square over the channels of every token's embedding,
            floating-point [B, L]. Called only if the scale uses the embeddings' RMS.
        xp: The array namespace.
    """
    batch, length, dim = prepared.shape
    tokens = coordinates(batch, length, prepared.tokens, xp=xp)
    magnitude = _magnitudes(
        noise, prepared.alpha, tokens, length, dim, mean_squares=mean_squares, xp=xp
    )
    sample = tokens.sample
    if noise.antithetic:
        magnitude = xp.where((sample & 1) == 0, magnitude, -magnitude)
        sample = sample - (sample & 1)
    return Plan(magnitude, sample, tokens.position)


def magnitudes_by_length(
    noise: Noise, alpha: float, lengths: NDArray[np.integer[Any]], width: int, dim: int
) -> NDArray[np.float32]:
    """The magnitude of a token by the length of its sequence, for a scale without the RMS.

    What a kernel needs that counts the tokens of a sequence itself.

    Args:
        noise: What noise to add.
        alpha: Alpha at the step.
        lengths: Numbers of real tokens, of any shape.
        width: L, the number of tokens in a row.
        dim: d.

    Returns:
        float32 of the shape of ``lengths``, or of one element if the length makes no difference.
    """
    real = np.maximum(lengths, 1).astype(np.float32)  # no token is noised in a sequence of none
    none = np.zeros((), np.int64)
    tokens = Tokens(Sequences(real, _no_total), none, none, None)
    magnitude = _magnitudes(noise, alpha, tokens, width, dim, mean_squares=_no_total, xp=NUMPY)
    return np.asarray(magnitude)


def _no_total(*_: Array) -> Array:
    raise AssertionError("the magnitude depends on the embeddings, not on the length alone")


def _magnitudes(
    noise: Noise,
    alpha: Scalar,
    tokens: Tokens,
    width: Scalar,
    dim: int,
    *,
    mean_squares: Callable[[], Array],
    xp: ArrayNamespace,
) -> Array:
    """The magnitude of every token, float32 that broadcasts to [B, L]; 0 for one without noise.

    Everything is computed in float32, in the order written here, so that it has the same bits
    everywhere.
    """
    scalar = partial(xp.asarray, dtype=xp.float32)
    length = tokens.sequences.length
    if isinstance(noise.length, int):
        length = scalar(float(noise.length))
    elif noise.length == "padded":
        length = scalar(width)
    rms = None
    if noise._scale.uses_rms:
        total = tokens.sequences.total(mean_squares())
        means = xp.divide(total, xp.astype(tokens.sequences.length, total.dtype))
        rms = xp.astype(xp.sqrt(means), xp.float32)
    magnitude = noise._scale(scalar(alpha), length, scalar(float(dim)), rms, xp)
    magnitude = xp.asarray(magnitude, dtype=xp.float32)
    if noise._rms_factor != 1:
        magnitude = magnitude * scalar(noise._rms_factor)
    return magnitude if tokens.noised is None else xp.where(tokens.noised, magnitude, scalar(0.0))


def flat_plan(
    planned: Plan, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]:
    """A NumPy plan in full: magnitude (float32), sample and position (uint32), each [B * L]."""
    magnitude, sample, position = (
        np.empty(shape[:2], dtype) for dtype in (np.float32, np.uint32, np.uint32)
    )
    # Assignment broadcasts, and takes integers modulo 2**32.
    magnitude[...], sample[...], position[...] = planned
    return magnitude.reshape(-1), sample.reshape(-1), position.reshape(-1)
