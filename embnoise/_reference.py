"""``add_noise`` for NumPy: the executable specification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import NUMPY
from embnoise._noise import Noise
from embnoise._perturb import perturb_inplace
from embnoise._plan import flat_plan, plan, prepare
from embnoise._tokens import TokenArrays
from embnoise._validation import format_value

__all__ = ["add_noise"]


def add_noise(
    x: NDArray[Any],
    noise: Noise,
    *,
    step: int,
    training: bool = True,
    mask: NDArray[Any] | None = None,
    segment_ids: NDArray[Any] | None = None,
    positions: NDArray[Any] | None = None,
    sample_ids: NDArray[Any] | None = None,
    where: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Add noise to embeddings: a pure function of its arguments.

    Args:
        x: Embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16 (from ml_dtypes),
            float32 or float64.
        noise: What noise to add.
        step: The training step, an int of at least 0, counted modulo 2**32. Each step draws new
            noise.
        training: If false, ``x`` is returned as it is.
        mask: Boolean or integer [B, L], nonzero for a real token. Default: all tokens are real.
        segment_ids: Integers [B, L], 0 for padding, equal positive values for one document of a
            packed row.
        positions: Integers [B, L]. Default: the number of real tokens that precede a token in its
            row, or in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
            Counted modulo 2**32.
        sample_ids: Integers [B] or [B, L]. Default: the row number. Counted modulo 2**32.
        where: Boolean or integer [B, L], nonzero for the tokens to noise. Default: all real
            tokens. It does not change L.

    Returns:
        A new array of x's shape and dtype; ``x`` itself if there is nothing to add: not training,
        alpha 0, or no token.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or out of range, or an unbound schedule.

    Example:
        >>> import numpy as np
        >>> from embnoise import add_noise, neftune
        >>> x = np.zeros((1, 4, 8), np.float32)
        >>> noisy = add_noise(x, neftune(alpha=5.0), step=0, mask=np.array([[1, 1, 1, 0]]))
        >>> float(abs(noisy).max()) <= 5 / (3 * 8) ** 0.5, noisy[0, 3].any()
        (True, np.False_)
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a NumPy array, got {format_value(x)}")
    given = TokenArrays(mask, segment_ids, positions, sample_ids, where).given()
    tokens = TokenArrays(**{name: _array(name, value) for name, value in given.items()})
    prepared = prepare(x, noise, step=step, training=training, tokens=tokens)
    if prepared is None:
        return x
    batch, length, dim = prepared.shape

    def mean_squares() -> NDArray[np.float64]:
        squares = np.square(x, dtype=np.float64)
        return np.asarray(squares.mean(axis=-1).reshape(batch, length))

    planned = plan(noise, prepared, mean_squares=mean_squares, xp=NUMPY)
    noisy = np.copy(x, order="C")
    perturb_inplace(
        noisy.reshape(-1, dim),
        *flat_plan(planned, prepared.shape),
        prepared.step % 2**32,
        noise._key,
        noise._distribution,
    )
    return noisy


def _array(name: str, value: Any) -> NDArray[Any]:
    """A token argument as an array: nested lists of numbers will do."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            return array
    except ValueError:  # rows of different lengths
        pass
    raise TypeError(
        f"{name} must be an array, or lists of numbers of one length, got {format_value(value)}"
    )
