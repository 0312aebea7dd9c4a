"""How the noise is distributed."""

from __future__ import annotations

import math

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE, other_distribution
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.registry import SIZE, check, needs_distribution
from embnoise.testing.statistics import (
    RATE,
    band,
    cdf_distance,
    distinct_least,
    once_in,
    rms_window,
)
from embnoise.testing.tables import (
    CLOSED_FORM,
    LATTICE,
    has_few_values,
    value_count,
    zero_share,
)

_BITS = 16
"""The bits of the coarsest correct draw, unless the dtype has fewer."""


def _many_values(claims: Claims) -> str | None:
    distribution = claims.distribution_rule
    if distribution is not None and has_few_values(distribution):
        return f"distribution={distribution.name!r} has {value_count(distribution)} values"
    return needs_distribution(claims)


def names_it(context: CheckContext, units: Array) -> tuple[str, ...]:
    """The check that names what is wrong with a distribution: several of them see it.

    Args:
        context: The check's.
        units: Some units, without padding.
    """
    noisy, sizes = units[units != 0], abs(units)
    signs = sizes.max() <= (1 + 2 * context.grid) * sizes.min()
    if signs or other_distribution(units, context.distribution):
        return ("EN31",) if rms_window(context.distribution, 1) is None else ("EN30",)
    if _has_few_values(context, noisy):
        return ("EN28",)
    silent = 1 - noisy.size / units.size
    return ("EN53",) if silent > _CLEAN + zero_share(context.distribution) else ("EN30",)


def _named_elsewhere(context: CheckContext, units: Array) -> tuple[str, ...]:
    """The checks that name why there are few values, if it is not that a draw is rounded."""
    names = names_it(context, units)
    return () if names == ("EN28",) else (*names, "EN31")


_CLEAN = 0.005
"""The share of units that are 0 and not by chance."""


def _has_few_values(context: CheckContext, units: Array) -> bool:
    """Whether units have fewer distinct values than a correct draw has."""
    return np.unique(units).size < _least(context, units.size)


def _least(context: CheckContext, count: int) -> int:
    """The least number of distinct values that so many units have."""
    bits = min(round(math.log2(2 / context.grid)), _BITS)
    return distinct_least(context.distribution, count, bits)


@check("EN28", dtypes="all", claimed=_many_values, random=True, premises=SIZE)
def enough_values(context: CheckContext) -> None:
    """The noise has about as many distinct values as a draw with 16 bits.

    In bfloat16 7 bits are enough, and in float16 10: those of the mantissa. A layer that embeds ids
    may have embeddings of another dtype than its table. Fails for layers that draw from few
    integers, round their draw, or repeat it.
    """
    units = context.sampled()
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    least = _least(context, units.size)
    found = np.unique(units).size
    context.expect(
        found >= least,
        f"the noise has {found} distinct values in {units.size} elements ({context.dtype}), "
        f"expected at least {least}",
        "the draw is rounded to a coarse grid (a few random integers, a low-precision draw), "
        "or one draw is repeated over rows, tokens or channels",
        lambda: _named_elsewhere(context, units),
    )


@check("EN29", random=True, premises=SIZE)
def mean_is_zero(context: CheckContext) -> None:
    """The mean of the noise is 0, or of its signs if the distribution is unbounded.

    The band is Hoeffding's. Fails for layers whose draw is not centered.
    """
    units = context.sampled()
    distribution = context.claims.distribution_rule
    values, bound, which, unit = np.sign(units), 1.0, "signs of the noise", "1"
    if distribution is not None and distribution.bounded:
        values, bound, which, unit = units, distribution.bound, "noise", context.claims.formula
    allowed = 2 * bound * band(units.size) + 2 * context.grid * max(1.0, bound)
    mean = float(values.mean())
    context.expect(
        abs(mean) <= allowed,
        f"the mean of the {which} is {mean:+.4g} of {unit}, expected within {allowed:.4g} (a "
        f"correct layer fails this less than {once_in()})",
        "the draw is not centered: on [0, 1] instead of [-1, 1], or shifted",
    )


@check(
    "EN31",
    dtypes="all",
    claimed=needs_distribution,
    random=True,
    premises=(*SIZE, "EN30"),
)
def cdf(context: CheckContext) -> None:
    """The distribution function of the noise is the claimed one, within the DKW band.

    sup |F_n - F| <= sqrt(ln(2 / rate) / (2 n)) (Dvoretzky, Kiefer and Wolfowitz; Massart 1990).
    Fails for layers with another distribution, even if its range and RMS are right.
    """
    distribution = context.distribution
    inputs = context.sample()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    distance, where, allowed = distance_from_claimed(context, inputs, units, RATE)
    context.expect(
        distance <= allowed,
        f"the distribution function of the noise is {distance:.4f} away from the "
        f"{distribution.name} one at {where:.3g} of {context.claims.formula}, expected within "
        f"{allowed:.4f} (a correct layer fails this less than {once_in()})",
        lambda: context.cause(units, inputs),
        lambda: names_it(context, units),
    )


def distance_from_claimed(
    context: CheckContext, inputs: Inputs, units: Array, rate: float
) -> tuple[float, float, float]:
    """How far the units' distribution function is from the claimed one, where, and what is allowed.

    Chance exceeds what is allowed with the probability ``rate``.
    """
    distribution = context.distribution
    distance, where = cdf_distance(distribution, units, context.usual_slack(inputs))
    coarse = 0.0 if distribution in CLOSED_FORM else LATTICE
    return distance, where, band(units.size, rate) + context.grid + coarse
