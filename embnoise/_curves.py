"""A noise in numbers to look at: alpha over a run, size over length, and the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import LATTICE_SIZE
from embnoise._noise import Noise
from embnoise._schedules.base import Chain
from embnoise._validation import check_integer

__all__ = ["LENGTHS", "Curves", "curves"]

LENGTHS = tuple(2**power for power in range(3, 18))
"""8 to 131,072 tokens."""

_STEPS = 256
"""The most steps at which alpha is evaluated, beside the ends of schedules."""
_QUANTILES = 1024

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What ``curves`` returns. All sizes are those of the step with the largest alpha."""

    steps: NDArray[np.int64]
    """[S], from 0 to the last step."""
    alphas: Floats
    """[S]"""
    lengths: NDArray[np.int64]
    """[T]"""
    rms: Floats
    """[T], the RMS of the noise, in units of ``unit``."""
    values: Floats
    """[V], quantiles of the noise in units of the magnitude, in ascending order."""
    probabilities: Floats
    """[V], the probability of a smaller value."""
    bound: float
    """The largest value of the noise, in units of the magnitude; infinite if there is none."""
    unit: str
    """The RMS of the embeddings, for a rule that uses it; "" for none."""


def curves(noise: Noise, *, total_steps: int, dim: int) -> Curves:
    """Alpha over a run, the size of the noise over lengths, and its distribution.

    Args:
        noise: The noise. A schedule with ``steps=None`` ends with the run.
        total_steps: How many steps the run has, at least 1.
        dim: d, the embedding size, at least 1.

    Raises:
        TypeError: ``total_steps`` or ``dim`` is not an integer.
        ValueError: One of them is below 1, or alpha is negative, NaN or infinite at some step.

    Example:
        >>> from embnoise import linear, neftune
        >>> found = curves(neftune(alpha=linear(5.0, 1.0)), total_steps=4, dim=64)
        >>> found.alphas.tolist()
        [5.0, 4.0, 3.0, 2.0]
        >>> round(float(found.rms[0]), 4), int(found.lengths[0])  # 5 / sqrt(8 * 64) / sqrt(3)
        (0.1276, 8)
    """
    total_steps = check_integer("total_steps", total_steps, minimum=1)
    dim = check_integer("dim", dim, minimum=1)
    bound = noise.bind(total_steps)
    steps = _steps(bound.alpha, total_steps)
    alphas = np.array([bound.alpha_at(int(step)) for step in steps], dtype=np.float64)
    factor = noise._rms_factor
    unit: Any = noise._distribution
    lattice = np.linspace(0, LATTICE_SIZE - 1, _QUANTILES).round().astype(np.int64)
    lengths = np.array(LENGTHS)
    # A fixed length takes the place of all of them.
    used = [noise.length if isinstance(noise.length, int) else length for length in LENGTHS]
    sizes = [noise._scale(alphas.max(), float(length), float(dim), rms=1.0) for length in used]
    return Curves(
        steps,
        alphas,
        lengths,
        factor * unit.rms * np.array(sizes, dtype=np.float64),
        factor * unit.table[lattice].astype(np.float64),
        (lattice + 0.5) / LATTICE_SIZE,
        factor * unit.bound,
        "RMS of the embeddings" if noise._scale.uses_rms else "",
    )


def _steps(alpha: Any, total_steps: int) -> NDArray[np.int64]:
    """Steps of a run at equal distances, and where one schedule of a chain follows another."""
    spread = np.linspace(0, total_steps - 1, min(total_steps, _STEPS)).round()
    lengths = [part.length or 0 for part in alpha.parts[:-1]] if isinstance(alpha, Chain) else []
    starts = np.cumsum([0, *lengths])
    ends = [each for each in (*(starts - 1), *starts) if 0 <= each < total_steps]
    return np.unique(np.concatenate([spread, ends]).astype(np.int64))
