"""From a number that is off to the likely cause.

B rows, L real tokens of the sequence, width the row with its padding, d channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.claims import Claims
from embnoise.testing.statistics import amplitude

__all__ = ["NO_NOISE", "cause_of_noise", "cause_of_ratio", "is_close"]


NO_NOISE = (
    "no noise at all: the layer is not in training mode, its noise sits on a module that forward "
    "never calls, the magnitude became 0 (L*d overflows in float16), or it is multiplied with the "
    "embeddings, which are zeros here (if its scale is to be theirs, claim scale='relative')"
)


def is_close(seen: float, expected: float, tolerance: float = 0.02) -> bool:
    """Whether two amplitudes agree within a few per cent."""
    return abs(seen - expected) <= tolerance * abs(expected)


def cause_of_ratio(
    ratio: float,
    *,
    batch: int,
    length: int,
    dim: int,
    width: int | None = None,
    others: dict[str, float] | None = None,
) -> str:
    """What makes the noise ``ratio`` times as large as it should be.

    Args:
        ratio: the seen amplitude over the promised one.
        batch: B.
        length: L.
        dim: d.
        width: the row's width, if it is not L.
        others: further causes and the ratios that they have, tried first.
    """
    if ratio < 1e-6:
        return NO_NOISE
    causes = {
        **(others or {}),
        "L is the row's width, padding included, instead of its real tokens": math.sqrt(
            length / (width or length)
        ),
        "half the amplitude: a draw on [-1/2, 1/2], as rand() - 0.5 gives": 0.5,
        "scaled by the standard deviation instead of the range: divided by sqrt(3)": 3**-0.5,
        "the magnitude was taken for the standard deviation of the uniform draw: times sqrt(3)": (
            3**0.5
        ),
        "twice the amplitude: a range of 4 magnitudes instead of 2, or noise added twice": 2.0,
        "sqrt(d) instead of sqrt(L*d): the length is left out": math.sqrt(length),
        "sqrt(L) instead of sqrt(L*d): the embedding size is left out; or the embeddings are "
        "multiplied by sqrt(d) after the noise": math.sqrt(dim),
        "sqrt(B*L*d) instead of sqrt(L*d): the batch is counted": batch**-0.5,
        "sqrt(B*L) instead of sqrt(L*d): the shape's first two sizes were taken": math.sqrt(
            dim / batch
        ),
        "sqrt(B*d) instead of sqrt(L*d): the batch was taken for the length": math.sqrt(
            length / batch
        ),
        "alpha itself, not divided by sqrt(L*d)": math.sqrt(length * dim),
        "alpha/(L*d): the square root is missing": 1 / math.sqrt(length * dim),
    }
    fitting = {
        text: abs(math.log(ratio / known))
        for text, known in causes.items()
        if known != 1 and is_close(ratio, known, 0.03)
    }
    if fitting:
        return min(fitting, key=lambda text: fitting[text])
    side = "large" if ratio > 1 else "small"
    return f"the scale is another than claimed: the noise is {ratio:.4g} times too {side}"


_KURTOSIS = {"rademacher": 1.0, "uniform": 1.8, "triangular": 2.4, "gaussian": 3.0}
"""E u^4 / (E u^2)^2: it tells distributions apart whatever their scale is."""


def cause_of_noise(
    units: NDArray[np.float64], claims: Claims, *, batch: int, length: int, dim: int
) -> str:
    """What makes noise what it is, from its units: its distribution first, then its scale."""
    claimed = str(claims.distribution)
    square = float(np.square(units).mean()) if units.size else 0.0
    if not square:
        return cause_of_ratio(0.0, batch=batch, length=length, dim=dim)
    kurtosis = float((units**4).mean()) / square**2
    law = min(_KURTOSIS, key=lambda name: abs(_KURTOSIS[name] - kurtosis))
    size, root = amplitude(claimed, units), square**0.5
    if claimed != "gaussian" and is_close(size, 1):
        return (
            "another distribution on the same range: clipped or squared, or some of the draws are "
            "smaller than the others"
        )
    # A wrong guess costs a clear word, not the verdict.
    centred = units.size > 4000 and abs(float(units.mean())) < 0.1 * root
    if centred and law == "triangular":
        return "the noise is the sum of two uniform draws: it is added twice (two hooks, say)"
    if centred and law != claimed:
        return f"the noise is {law} rather than {claimed} (its RMS is {root:.4g} of the magnitude)"
    return cause_of_ratio(size, batch=batch, length=length, dim=dim)
