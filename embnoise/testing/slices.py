"""Whether all rows, all tokens and all channels of the noise are alike, in size and in sign."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import Distribution
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import UntestableError
from embnoise.testing.inputs import Array
from embnoise.testing.registry import DISTRIBUTION
from embnoise.testing.right_rows import fresh
from embnoise.testing.statistics import (
    RATE,
    amplitude,
    amplitude_window,
    band,
    once_in,
    rms_window,
)

__all__ = ["Odd", "are_apart", "in_noise", "many_units", "odd_slices", "slack_of"]

VALUES = 2**18
"""How many values the slices are taken from; a quarter in 16 bits."""


@dataclass(frozen=True)
class Odd:
    """Slices that are not as claimed: rows, tokens or channels."""

    said: str
    """What was observed and what was expected."""
    likely: str
    """The likely cause."""
    spread: float
    """How much larger the largest is than the smallest."""
    alike: bool = False
    """Whether all of them have the same size, so that it is no matter of slices."""
    other: bool = False
    """Whether most are off, and by the same, as another distribution makes them."""
    silent: bool = False
    """Whether those that are off have no noise at all, and are not among the first few."""
    most: bool = False
    """Whether most are off, each by another factor: there is no rest from which some differ."""

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The checks that report why they are off, if it is no matter of slices."""
        if self.silent:
            return ("EN50",)  # they are beyond a limit
        if self.other:
            return (*DISTRIBUTION, "EN08", "EN10", "EN30", "EN34")
        return ("EN32", "EN33", "EN34") if self.most else ()  # each slice has one size

    @property
    def apart(self) -> bool:
        """Whether some slices differ from the rest."""
        return not (self.alike or self.other or self.silent or self.most)


def many_units(context: CheckContext) -> Array:
    """Units of several draws, one below the other: [draws, B, L, d]."""
    inputs = context.sample()
    step = context.first_step()
    values = VALUES if context.dtype == "float32" else VALUES // 4
    draws = max(1, values // math.prod(inputs.shape))
    found = []
    for draw in range(draws):
        context.transcript.clear()
        units = fresh(context, draw, inputs.dim).units(inputs, step)
        found.append(context.independent(units))
    return np.stack(found)


def slack_of(context: CheckContext) -> float:
    """What rounding may change of the size of a slice."""
    return 2 * context.usual_slack(context.sample()) + 2.0**-16


def are_apart(context: CheckContext) -> bool:
    """Whether some rows, tokens or channels differ from the rest, which EN52 then reports.

    Args:
        context: A context of EN52, so that it sees what EN52 does.
    """
    try:
        odd = odd_slices(context, many_units(context))
    except UntestableError:  # which others report
        return False
    return odd is not None and odd.apart


def odd_slices(context: CheckContext, units: Array) -> Odd | None:
    """The slices that stand out most from the rest; ``None`` if all are as claimed.

    Chance has a share of RATE / 2 in it.
    """
    rule, slack = context.distribution, slack_of(context)
    rate = RATE / 4 / sum(units.shape[1:])
    found: list[Odd] = []
    for axis, which in ((3, "channel"), (2, "token"), (1, "row")):
        slices = np.moveaxis(units, axis, 0).reshape(units.shape[axis], -1)
        found += _of_other_size(rule, slices, which, rate, slack)
        found += _of_other_sign(context, slices, which, rate)
    return min(found, key=lambda odd: (odd.alike, -odd.spread), default=None)


def _of_other_size(
    rule: Distribution, slices: Array, which: str, rate: float, slack: float
) -> Iterator[Odd]:
    for measure, sizes, (low, high) in _measured(rule, slices, rate):
        off = (sizes < low - slack) | (sizes > high + slack * max(1.0, high))
        if not off.any():
            continue
        middle = float(np.median(sizes)) or 1.0
        reach = high / max(low, 1e-9) + slack
        worst = int(np.where(off, abs(sizes - 1), -1.0).argmax())
        roots = np.sqrt(np.square(slices).mean(axis=1))
        rest = roots[~off] if off.mean() < 0.9 else roots[off]
        apart = abs(float(roots[off].mean() / rest.mean()) - 1) if rest.any() else 1.0
        other = bool(off.mean() > 0.6 and roots.max() <= 1.2 * roots.min() and apart < 0.06)
        yield Odd(
            f"{which} {worst} has {sizes[worst]:.4g} of the claimed {measure}, expected "
            f"{low:.4g} to {high:.4g} ({int(off.sum())} of {sizes.size} {which}s are off; a "
            f"correct layer fails this less than {once_in()})",
            "the noise is normalized, or has another distribution"
            if other
            else f"one {which} or some of them are scaled by another factor than the rest",
            spread=float(sizes.max()) / max(float(sizes.min()), 1e-9),
            alike=bool(((sizes * reach >= middle) & (sizes <= middle * reach)).all()),
            other=other,
            silent=not slices[off].any(),
            most=bool(off.mean() > 0.6 and roots[off].max() > 1.2 * roots[off].min()),
        )


def _measured(
    rule: Distribution, slices: Array, rate: float
) -> Iterator[tuple[str, Array, tuple[float, float]]]:
    """How large each slice is, by two measures, and the range of that; 1 is right."""
    count = slices.shape[1]
    sizes = np.array([amplitude(rule, each) for each in slices])
    yield "largest noise", sizes, amplitude_window(rule, count, rate / 4)
    if window := rms_window(rule, count, rate / 4):
        roots = np.sqrt(np.square(slices).mean(axis=1)) / rule.rms
        yield "RMS", roots, (window[0] / rule.rms, window[1] / rule.rms)


def _of_other_sign(context: CheckContext, slices: Array, which: str, rate: float) -> Iterator[Odd]:
    """Slices whose signs have another mean than all noise has, which is for other checks."""
    means = np.sign(slices).mean(axis=1)
    # Hoeffding's bounds, for the slice and for all.
    allowed = 2 * band(slices.shape[1], rate / 2) + 2 * band(slices.size, rate / 2) + context.grid
    off = abs(means - means.mean()) > allowed
    if off.any():
        worst = int(abs(means - means.mean()).argmax())
        yield Odd(
            f"in {which} {worst} the signs of the noise have the mean {means[worst]:+.3f}, "
            f"expected within {allowed:.3f} of that of all ({int(off.sum())} of {off.size} "
            f"{which}s are off; a correct layer fails this less than {once_in()})",
            f"the noise of one {which} or some of them is not centered, or on one side of 0",
            spread=0.0,
        )


def in_noise(units: Array) -> NDArray[np.bool_]:
    """Whether there is noise at all in the row, at the token and in the channel of each value.

    Where there is none, sizes are alike anyway, and other checks report it.
    """
    noisy = np.ones(units.shape, bool)
    for axis in range(units.ndim):
        others = tuple(other for other in range(units.ndim) if other != axis)
        noisy &= units.any(axis=others, keepdims=True)
    return noisy
