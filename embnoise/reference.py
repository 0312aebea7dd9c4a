"""``add_noise`` for NumPy: the executable specification, and the plan that every backend shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embnoise import _check
from embnoise.noise import Noise
from embnoise.perturb import perturb
from embnoise.scales import magnitudes
from embnoise.tokens import TokenArrays, coordinates

__all__ = ["Plan", "add_noise", "flat_arrays", "plan"]


class Plan(NamedTuple):
    """All that a kernel needs beside the embeddings, in arrays that broadcast to [B, L]."""

    magnitude: Any
    """float32."""
    sample: Any
    """integers, to be taken modulo 2**32."""
    position: Any
    """integers, to be taken modulo 2**32."""


def plan(
    noise: Noise,
    alpha: Any,
    shape: tuple[Any, Any, int],
    tokens: TokenArrays,
    *,
    mean_squares: Callable[[], Any],
    xp: Any,
) -> Plan:
    """Three numbers per token from a noise and what is known of the batch.

    Args:
        noise: the noise.
        alpha: its amplitude now: a float, or a 0-d array of namespace ``xp``.
        shape: B, L and d; B and L may be 0-d arrays of namespace ``xp``.
        tokens: the arrays that describe the batch, checked.
        mean_squares: gives the mean square over the channels of every token's embedding,
            floating-point [B, L]; called for the scale "relative" alone.
        xp: the array namespace.
    """
    batch, length, dim = shape
    where = coordinates(batch, length, tokens, xp=xp)
    magnitude = magnitudes(noise, alpha, where, length, dim, mean_squares=mean_squares, xp=xp)
    sample = where.sample
    if noise.antithetic:
        magnitude = xp.where((sample & 1) == 0, magnitude, -magnitude)
        sample = sample - (sample & 1)
    return Plan(magnitude, sample, where.position)


def add_noise(
    x: NDArray[Any],
    noise: Noise,
    *,
    step: int = 0,
    training: bool = True,
    mask: NDArray[Any] | None = None,
    segment_ids: NDArray[Any] | None = None,
    positions: NDArray[Any] | None = None,
    sample_ids: NDArray[Any] | None = None,
    where: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Embeddings with noise added: a pure function of its arguments.

    Args:
        x: embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16 (of ml_dtypes),
            float32 or float64.
        noise: what noise to add.
        step: the training step, an int of at least 0; it counts modulo 2**32.
        training: no noise if false.
        mask: [B, L], nonzero for a real token; all are real by default.
        segment_ids: integers [B, L], 0 for padding, equal positive values for one document of a
            packed row.
        positions: integers [B, L]. By default the real tokens that precede a token in its row, or
            in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
        sample_ids: integers [B] or [B, L]; by default the row's number.
        where: [B, L], nonzero for the tokens to noise; all by default. It does not change L.

    Returns:
        A new array of x's shape and dtype; ``x`` itself where there is nothing to add: not
        training, alpha 0, or no token.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape or out of range.

    Example:
        >>> import numpy as np
        >>> from embnoise import add_noise, neftune
        >>> x = np.zeros((1, 4, 8), np.float32)
        >>> noisy = add_noise(x, neftune(alpha=5.0), mask=np.array([[1, 1, 1, 0]]))
        >>> float(abs(noisy).max()) <= 5 / (3 * 8) ** 0.5, noisy[0, 3].any()
        (True, np.False_)
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a NumPy array, got {_check.shown(x)}")
    shape = _check.embeddings(x)
    word = _check.step_word(step)
    tokens = TokenArrays(
        *(
            None if array is None else np.asarray(array)
            for array in (mask, segment_ids, positions, sample_ids, where)
        )
    )
    tokens.check(shape)
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {_check.shown(noise)}")
    alpha = noise.alpha_at(step) if _check.flag("training", training) else 0.0
    if alpha == 0 or x.size == 0:
        return x

    def mean_squares() -> NDArray[np.float64]:
        squares = np.square(x, dtype=np.float64)
        return np.asarray(squares.mean(axis=-1).reshape(shape[:2]))

    how = plan(noise, alpha, shape, tokens, mean_squares=mean_squares, xp=np)
    noisy = np.copy(x, order="C")
    flat = noisy.reshape(-1, shape[2])
    perturb(flat, *flat_arrays(how, shape), word, noise.key, noise.law)
    return noisy


def flat_arrays(
    how: Plan, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]:
    """A NumPy plan in full: magnitude, float32, sample and position, uint32, all [B * L]."""
    magnitude, sample, position = (
        np.empty(shape[:2], dtype) for dtype in (np.float32, np.uint32, np.uint32)
    )
    # Assignment broadcasts, and takes integers modulo 2**32.
    magnitude[...], sample[...], position[...] = how
    return magnitude.reshape(-1), sample.reshape(-1), position.reshape(-1)
