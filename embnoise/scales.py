"""The magnitude of every token: alpha and the scale rule in float32, in one fixed order.

L is the length of the token's sequence, d the embedding size. The order of the operations is part
of the specification: it gives the same bits on every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from embnoise.noise import Noise
from embnoise.tokens import Tokens

__all__ = ["magnitudes"]


def magnitudes(
    noise: Noise,
    alpha: Any,
    tokens: Tokens,
    width: Any,
    dim: int,
    *,
    mean_squares: Callable[[], Any],
    xp: Any,
) -> Any:
    """The magnitude of every token; 0 for one that gets no noise.

    Returns float32 that broadcasts to [B, L].

    Args:
        noise: its scale, length and match say which rule.
        alpha: the amplitude now: a float, or a 0-d array of namespace ``xp``.
        tokens: the batch's coordinates.
        width: L of the batch, padding included: an int, or a 0-d array of namespace ``xp``.
        dim: d.
        mean_squares: gives the mean square over the channels of every token's embedding,
            floating-point [B, L]; called for the scale "relative" alone.
        xp: the array namespace.
    """
    scalar = partial(xp.asarray, dtype=xp.float32)
    alpha, length = scalar(alpha), tokens.sequences.length
    if isinstance(noise.length, int):
        length = scalar(float(noise.length))
    elif noise.length == "padded":
        length = scalar(width)
    if noise.scale == "neftune":
        magnitude = xp.divide(alpha, xp.sqrt(length * scalar(float(dim))))
    elif noise.scale == "per_token":
        magnitude = xp.divide(alpha, xp.sqrt(scalar(float(dim))))
    elif noise.scale == "absolute":
        magnitude = alpha
    else:
        total = tokens.sequences.total(mean_squares())
        means = xp.divide(total, xp.astype(tokens.sequences.length, total.dtype))
        magnitude = alpha * xp.astype(xp.sqrt(means), xp.float32)
    if noise.rms_factor != 1:
        magnitude = magnitude * scalar(noise.rms_factor)
    return magnitude if tokens.noised is None else xp.where(tokens.noised, magnitude, scalar(0.0))
