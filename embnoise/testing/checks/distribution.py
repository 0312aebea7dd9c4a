"""How the noise is distributed."""

from __future__ import annotations

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE, cause_of_noise
from embnoise.testing.registry import check, needs_distribution
from embnoise.testing.statistics import RATE, band, cdf_distance, distinct_least, once_in

BITS = {"bfloat16": 7, "float16": 10}
"""The bits of the coarsest correct draw, of the dtype's mantissa; 16 in anything wider."""


def _continuous(claims: Claims) -> str | None:
    if claims.distribution == "rademacher":
        return "distribution='rademacher' has two values"
    return needs_distribution(claims)


@check("EN28", dtypes="all", claimed=_continuous, random=True)
def enough_values(context: CheckContext) -> None:
    """The noise takes about as many distinct values as a draw of 16 bits does.

    In bfloat16 7 bits will do, and in float16 10: those of the mantissa. A layer fails it that
    draws from few integers, rounds its draw, or repeats one draw.
    """
    units = context.sampled()
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    least = distinct_least(units.size, BITS.get(context.dtype, 16))
    found = np.unique(units).size
    context.expect(
        found >= least,
        f"the noise takes {found} distinct values in {units.size} elements ({context.dtype}), "
        f"expected at least {least}",
        "the draw is rounded to a coarse grid (a few random integers, a low-precision draw), "
        "or one draw is repeated over rows, tokens or channels",
    )


@check("EN29", random=True)
def mean_is_zero(context: CheckContext) -> None:
    """The noise has the mean 0: by Hoeffding's inequality, or of the signs if it is unbounded.

    A layer fails it whose draw is not centred.
    """
    units = context.sampled()
    bounded = context.claims.distribution in ("uniform", "rademacher")
    values = units if bounded else np.sign(units)
    allowed = 2 * band(values.size) + 2 * context.grid
    mean = float(values.mean())
    context.expect(
        abs(mean) <= allowed,
        f"the mean of the {'noise' if bounded else 'signs of the noise'} is {mean:+.4g} of "
        f"{context.claims.rule() if bounded else '1'}, expected within {allowed:.4g} (a correct "
        f"layer fails this less than {once_in()})",
        "the draw is not centred: on [0, 1] instead of [-1, 1], or shifted",
    )


@check("EN31", dtypes="all", claimed=needs_distribution, random=True)
def cdf(context: CheckContext) -> None:
    """The noise's distribution function is the promised one, within the DKW band.

    sup |F_n - F| <= sqrt(ln(2 / rate) / (2 n)) (Dvoretzky, Kiefer and Wolfowitz; Massart 1990). A
    layer fails it of another distribution, be it of the right range and RMS.
    """
    units = context.sampled()
    law = str(context.claims.distribution)
    if law == "rademacher":
        near = np.round(units)
        units = np.where(abs(units - near) <= 4 * context.grid, near, units)
    distance, where = cdf_distance(law, units)
    allowed = band(units.size, RATE) + context.grid

    def likely() -> str:
        batch, length, dim = context.profile.shape(context.dtype)
        return cause_of_noise(units, context.claims, batch=batch, length=length, dim=dim)

    context.expect(
        distance <= allowed,
        f"the noise's distribution function is {distance:.4f} away from the {law} one at "
        f"{where:.3g} of {context.claims.rule()}, expected within {allowed:.4f} (a correct layer "
        f"fails this less than {once_in()})",
        likely,
    )
