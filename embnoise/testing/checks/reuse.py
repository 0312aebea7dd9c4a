"""No draw is used twice: shifted, negated, reversed, transposed or shuffled, at any distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embnoise.testing.checks.masks import LARGE
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.failures import NotClaimedError, NotTestedError
from embnoise.testing.inputs import SMALL, Array
from embnoise.testing.lags import most_correlated
from embnoise.testing.registry import NOISE, check
from embnoise.testing.right_rows import takes_long_rows
from embnoise.testing.runs import repeated_run, shuffled_slices
from embnoise.testing.statistics import RATE, band, once_in
from embnoise.testing.tables import splits_at_median

__all__ = ["expect_not_repeated", "expect_uncorrelated"]

STEPS = 36
"""How many steps are compared: with a batch of ``SMALL`` they have 2^14 values."""


def _signs(context: CheckContext, units: Array) -> dict[str, Array]:
    """The signs of the noise, and whether its sizes are above the median.

    Raises:
        NotClaimedError: The noise is off center, so its signs go together anyway.
    """
    signs = np.sign(units)
    allowed = 2 * band(units.size, RATE) + context.grid
    if abs(float(signs.mean())) > allowed:
        raise NotTestedError("the noise is off center, which EN08 and EN29 report")
    found = {"signs": signs}
    distribution = context.claims.distribution_rule
    if distribution is not None and splits_at_median(distribution):
        sizes = np.sign(abs(units) - distribution.median)
        # Tokens, and channels, without noise are alike anyway.
        sizes *= units.any(axis=2, keepdims=True) & units.any(axis=(0, 1), keepdims=True)
        if abs(float(sizes.mean())) <= allowed:  # else the scale is wrong, which others report
            found["sizes"] = sizes
    return found


def expect_uncorrelated(
    context: CheckContext, units: Array, which: str, rate: float = RATE, *, crossed: bool = False
) -> None:
    """Expect units to be uncorrelated with their own copies.

    Args:
        context: The check's.
        units: [B, L, d], 0 for padding.
        which: Whose noise it is, for messages.
        rate: How often a correct layer may fail.
        crossed: Whether signs are compared with sizes as well.
    """
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    found = _signs(context, units)
    pairs = {name: (each, each) for name, each in found.items()}
    if crossed and "sizes" in found:
        pairs["signs and the sizes"] = found["signs"], found["sizes"]
    for name, pair in pairs.items():
        match = most_correlated(*pair, rate / 3)
        # On a coarse grid, which may lack the end of the range, signs have a mean of a step.
        allowed = match.allowed + context.grid**2
        context.expect(
            abs(match.correlation) <= allowed,
            f"the {name} of the noise of {which} are correlated with a copy ({match.words()}), by "
            f"{match.correlation:+.3f}, expected within {allowed:.3f} (a correct layer fails "
            f"this less than {once_in(rate)})",
            f"one draw is used at several places: {match.words()}",
        )


@check("EN41", dtypes="usual", random=True, premises=(*NOISE, "EN12", "EN25", "EN40"))
def uncorrelated_at_any_lag(context: CheckContext) -> None:
    """The noise is uncorrelated with its own copies: shifted by any lag, reversed or transposed.

    All lags in rows, tokens and channels are compared at once, so a part of a draw that is used
    again shows too, and the signs are compared with the sizes as well. Fails for layers that make
    some rows, tokens or channels from others that are not their neighbors.
    """
    units = context.independent(context.sampled())
    expect_uncorrelated(context, units, "one call", crossed=True)


@check("EN42", premises=(*NOISE, "EN12", "EN25", "EN34", "EN40", "EN41"))
def draws_not_transformed(context: CheckContext) -> None:
    """No run of values occurs twice, whether negated, reversed or along another axis.

    Nor do two rows, tokens or channels have the same sizes in another order. Fails for layers that
    make even one token or channel from another.
    """
    units = context.independent(context.sampled())
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    expect_not_repeated(context, units, "")


def expect_not_repeated(context: CheckContext, units: Array, steps: str) -> None:
    """Expect no run of the units to occur twice, and no slice to be another one, shuffled."""
    distribution = context.claims.distribution_rule
    found = repeated_run(units, distribution)
    places, how = found or ((), "")
    context.expect(
        found is None,
        f"the same values occur twice: at (row, token, channel) {' and '.join(map(str, places))}"
        f"{steps}, {how or 'as they are'}",
        f"one draw is used at several places: {how or 'shifted or repeated'}",
    )
    shuffled = shuffled_slices(units, distribution)
    which, *both = shuffled or ("",)
    context.expect(
        shuffled is None,
        f"two {which} have the same sizes in another order: at (row, token, channel) "
        f"{' and '.join(map(str, both))}{steps}",
        f"the {which} are made from one draw, which is shuffled",
    )


UNEVEN = (4, 7, 16), (6, 11, 16), (4, 7, 16), (2, 5, 16)
"""Batches of successive steps: rows of other numbers and lengths, as those of an epoch have."""


def _stack(
    context: CheckContext, shape: tuple[int, int, int] = SMALL, count: int = STEPS
) -> tuple[Array, int]:
    """The units of many steps, one after the other as rows, and how many rows a step has."""
    units = _of_steps(context, [shape] * count)
    return np.concatenate(units), len(units[0])


def _of_steps(context: CheckContext, shapes: Sequence[tuple[int, int, int]]) -> list[Array]:
    """The units of the steps at which there is noise, each with a batch of its shape."""
    layer = context.layer(dim=shapes[0][2])
    start = context.first_step()
    units = [
        context.independent(layer.units(context.batch(shape), step))
        for step, shape in enumerate(shapes, start)
        if context.claims.share(step) > 0
    ]
    if len(units) < 2:
        raise NotClaimedError("the schedule is above 0 at one step only")
    return units


@check("EN43", random=True, premises=(*NOISE, "EN06", "EN12", "EN21", "EN25", "EN40", "EN41"))
def steps_uncorrelated_at_any_lag(context: CheckContext) -> None:
    """The noise of a step is uncorrelated with that of all earlier ones, whether turned or not.

    Fails for layers that keep a part of the noise of some steps ago, make a step's noise from an
    earlier one, negated, reversed or shifted, count rows or tokens as if all batches were of one
    size, or start again when the size changes.
    """
    units, rows = _stack(context)
    if abs(units).max(initial=0) == 0:
        raise NotTestedError("there is no noise, which EN06 reports")
    expect_not_repeated(context, units, f", with {rows} rows to a step")
    expect_uncorrelated(context, units, f"{len(units) // rows} steps of {rows} rows")
    for which, (axis, shape) in LARGE.items():
        context.transcript.clear()
        if which == "tokens" and not takes_long_rows(context, context.batch(shape)):
            continue
        steps = _of_steps(context, [shape] * 2)
        _expect_own_draws(
            context,
            steps,
            f"of {shape[axis]} {which}",
            "the steps' counters or seeds overlap, as if a step had fewer rows, tokens or values "
            "than it has",
            ("EN50",),  # which sees that within one step
        )
    context.transcript.clear()
    steps = _of_steps(context, UNEVEN)
    _expect_own_draws(
        context,
        steps,
        f"of other sizes (B, L, d = {', '.join(map(str, UNEVEN))})",
        "the generator is seeded again when the size of the batches changes, or rows or tokens are "
        "counted from step * size, with the size of the step",
    )


def _expect_own_draws(
    context: CheckContext,
    steps: list[Array],
    batches: str,
    likely: str,
    premises: tuple[str, ...] = (),
) -> None:
    """Expect the steps to have noise, and no run of it to occur twice."""
    silent = [number for number, units in enumerate(steps) if not units.any()]
    context.expect(
        not silent,
        f"step {silent[0] if silent else 0} of batches {batches} has no noise",
        "batches of this size take another path, which adds no noise",
        premises,
    )
    tokens = [units.reshape(-1, units.shape[2]) for units in steps]
    found = repeated_run(np.concatenate(tokens)[None], context.claims.distribution_rule)
    ends = np.cumsum([len(each) for each in tokens])
    said = []
    for _, token, channel in found[0] if found else ():
        step = int(np.searchsorted(ends, token, "right"))
        row, place = divmod(token - int(ends[step]) + len(tokens[step]), steps[step].shape[1])
        said.append(f"{(step, row, place, channel)}")
    context.expect(
        found is None,
        f"the same values occur twice in steps of batches {batches}: at (step, row, token, "
        f"channel) {' and '.join(said)}",
        likely,
        premises,
    )
