"""The same size for every row, token, channel and element, and for every alpha."""

from __future__ import annotations

import math

import numpy as np

from embnoise.testing.checks.distribution import distance_from_claimed, names_it
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.failures import NotTestedError
from embnoise.testing.inputs import Array
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.registry import (
    DISTRIBUTION,
    DRAWS,
    NOISE,
    SEVERAL,
    SIZE,
    check,
    needs_distribution,
    needs_repeats,
)
from embnoise.testing.right_rows import change_and_units, other_scale, takes_long_rows
from embnoise.testing.slices import in_noise, many_units, odd_slices, slack_of
from embnoise.testing.statistics import (
    RATE,
    amplitude,
    amplitude_window,
    once_in,
    run_length,
    sums_least,
)
from embnoise.testing.tables import LATTICE, has_few_values

CELLS = 2.0**17
"""Values are counted in so many cells per unit, or in 16 bits in the cells of the coarsest draw."""


@check(
    "EN52",
    dtypes="usual",
    claimed=needs_distribution,
    random=True,
    premises=(*DRAWS, "EN12", *SEVERAL),
)
def one_size_for_all(context: CheckContext) -> None:
    """Every row, every token and every channel has noise of the claimed size.

    The noise of none of them is on one side of 0, or made to add up to 0. Fails for layers that
    give one channel, the first token or the last row more or less. Where some rows, tokens or
    channels differ from the rest, other statistics of the noise are not tested.
    """
    units = many_units(context)
    rule = context.distribution
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    odd = odd_slices(context, units)
    if odd is not None and odd.alike:
        raise NotTestedError("all noise has another size, which EN08, EN10 or EN30 reports")
    said, likely, others = (odd.said, odd.likely, odd.builds_on) if odd else ("", "", ())
    context.expect(odd is None, said, likely, others)
    for which, axes in (("token", (3,)), ("channel", (1, 2))):
        sums = units.sum(axis=axes)
        count = units.size // sums.size
        least = sums_least(rule, sums.size, count, RATE / 4)
        share = float(np.square(sums).mean()) / (count * rule.rms**2)
        context.expect(
            share >= least - slack_of(context),
            f"the sums of the noise over each {which} have {share:.4g} of the mean square that "
            f"independent noise gives, expected at least {least:.4g} (a correct layer fails this "
            f"less than {once_in()})",
            f"the noise of each {which} is centered: its mean is subtracted",
        )


ODD = 3, 33, 65


def _sizes(context: CheckContext) -> dict[str, tuple[int, int, int]]:
    """Sizes as models have them; those of the other checks have nothing in common."""
    rows = 32 if context.profile.draws else 16
    return {"of powers of two": (rows, 128, 256), "of odd numbers": ODD}


@check("EN65", random=True, premises=(*SIZE, "EN02", "EN40", "EN41"))
def sizes_of_models(context: CheckContext) -> None:
    """Batches of powers of two and of odd numbers, and of many values, get the claimed noise.

    There are a million values, or half as many in the quick profile, which leaves out a batch with
    L and d of a language model. Fails for layers that divide a batch into blocks, and lose the rest
    of the last one or meet a special case where nothing is left; for those that run out of
    counters; and for those whose noise has a least size.
    """
    rule = context.claims.distribution_rule
    for what, shape in _sizes(context).items():
        context.transcript.clear()
        inputs = context.batch(shape)
        layer = context.layer(dim=shape[2])
        moved, units = change_and_units(context, layer, inputs, long=True)
        units = context.independent(units)
        about = f"in a batch {what}, B, L, d = {shape},"
        likely = f"sizes {what} are a special case of the layer, or of its blocks"
        context.expect(
            moved == 0, f"{about} evaluation mode changes the embeddings, by {moved:.3g}", likely
        )
        for axis, which in enumerate(("row", "place", "channel")):
            others = tuple(other for other in range(3) if other != axis)
            silent = np.flatnonzero(~units.any(axis=others)).tolist()
            context.expect(
                not silent,
                f"{about} {which}s {silent[:5]} get no noise ({len(silent)} of them)",
                likely,
                ("EN50",),
            )
        words = np.round(units.reshape(-1, shape[2]) * 2.0**15).astype(np.int64)
        if run_length(rule, words) <= shape[2]:
            differing = np.unique(words.view(f"V{8 * shape[2]}")).size
            context.expect(
                differing == len(words),
                f"{about} {len(words) - differing} of {len(words)} tokens repeat the noise of "
                "another",
                "the draw is for fewer values than there are, and is repeated for the rest",
            )
        if rule and context.profile.draws:
            distance, where, allowed = distance_from_claimed(
                context, inputs, units.ravel(), RATE / 8
            )
            context.expect(
                distance <= allowed,
                f"{about} the distribution function of the noise is {distance:.4f} away from the "
                f"{rule.name} one at {where:.3g} of {context.claims.formula}, expected within "
                f"{allowed:.4f}",
                "the noise is almost as claimed, but only almost, as the sum of a few uniform "
                "draws is for a Gaussian one",
                (*DISTRIBUTION, "EN19", "EN30", "EN53"),
            )
        parts = np.split(units, [units.shape[0] // 2])
        for half, part in zip(("first", "second"), parts, strict=True):
            found = amplitude(rule, part)
            low, high = amplitude_window(rule, part.size, RATE / 8)
            slack = 2 * context.usual_slack(inputs) + 2.0**-16
            ratio = found / (1.0 if rule else amplitude(rule, units))
            holds = low - slack <= ratio <= high + slack
            context.expect(
                holds,
                f"{about} the noise of the {half} half of the rows is {found:.4g} of "
                f"{context.claims.formula}, expected {low:.4g} to {high:.4g}",
                likely
                if holds
                else other_scale(context, low - slack, high + slack, part.size) or likely,
                (*DISTRIBUTION, "EN19", "EN30"),
            )
    if context.profile.draws:
        _of_a_model(context)


OF_A_MODEL = 1, 512, 4096
"""L and d of a language model."""


def _of_a_model(context: CheckContext) -> None:
    """Expect the noise to be as small as sqrt(L * d) of a model makes it."""
    context.transcript.clear()
    inputs, rule = context.batch(OF_A_MODEL), context.claims.distribution_rule
    if not takes_long_rows(context, inputs):
        return
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    units = context.independent(units)
    found = amplitude(rule, units)
    low, high = amplitude_window(rule, units.size, RATE / 4)
    slack = 2 * context.usual_slack(inputs) + 2.0**-16
    context.expect(
        low - slack <= found <= high + slack,
        f"for B, L, d = {inputs.shape}, as of a model, the noise is {found:.4g} of "
        f"{context.claims.formula}, expected {low:.4g} to {high:.4g}",
        "the magnitude has a floor (a clamp, an eps), or L*d has a limit, which the sizes of "
        "models reach",
        (*DISTRIBUTION, "EN19", "EN30"),
    )


def _many_values(claims: Claims) -> str | None:
    rule = claims.distribution_rule
    if rule is not None and has_few_values(rule):
        return f"distribution={rule.name!r} has few values"
    return needs_distribution(claims)


@check("EN53", dtypes="all", claimed=_many_values, random=True, premises=(*NOISE, "EN11", "EN34"))
def no_value_too_often(context: CheckContext) -> None:
    """No single value of the noise is more frequent than its distribution allows.

    The bound is Chernoff's for a binomial count. Fails for layers that leave 1% of the elements
    clean, or clip the few that are large. In bfloat16, a draw may have as few as 128 values.
    """
    units = context.independent(context.sampled())
    if not units.any():
        raise NotTestedError("there is no noise, which EN08 reports")
    table = context.distribution.table.astype(np.float64)
    cells = min(CELLS, 1 / context.grid)  # a draw in 16 bits has few values
    shares = np.unique(np.round(table * cells), return_counts=True)[1] / table.size
    share = 2 * (float(shares.max()) + LATTICE)  # two cells: rounding may merge neighbors
    values, counts = np.unique(np.round(units * cells), return_counts=True)
    most = int(counts.argmax())
    allowed = _chernoff(units.size, share, RATE / (8 * cells))
    value, count = float(values[most]) / cells, int(counts[most])
    if value == 0:
        likely = (
            f"{100 * count / units.size:.2g}% of the elements get no noise: dropout after it, a "
            "threshold, or a mask over single elements"
        )
    else:
        likely = "large noise is clipped, or rounded to one value"
    context.expect(
        count <= allowed,
        f"{count} of {units.size} units are {value:.4g}, expected at most {allowed} (a correct "
        f"layer fails this less than {once_in()})",
        likely,
        lambda: (*_other_reasons(units, value), *names_it(context, units)),
    )


def _other_reasons(units: Array, value: float) -> tuple[str, ...]:
    """The checks that report why a value may be frequent, besides those of the distribution."""
    if value:
        return DISTRIBUTION
    # Where noise is too small, it rounds to 0; and beyond a limit there may be none.
    return ("EN08", "EN10") if in_noise(units).all() else ("EN08", "EN10", "EN50")


def _chernoff(count: int, share: float, rate: float) -> int:
    """What a binomial count exceeds with at most this probability."""
    mean = count * share
    allowed = math.ceil(mean)
    while allowed * math.log(max(allowed, 1) / mean) - allowed + mean < -math.log(rate):
        allowed += max(1, allowed // 16)
    return min(allowed, count)


@check("EN54", dtypes="all", claimed=needs_repeats, premises=(*NOISE, "EN11", "EN12"))
def alpha_of_any_size(context: CheckContext) -> None:
    """Alphas that are small, large or not integers scale the noise as claimed.

    Fails for layers that round or clip alpha, or take its logarithm.
    """
    inputs = context.batch()
    step = context.first_step()
    share = context.claims.share(step)
    factors = [1.0, 0.0137, 0.37, 1.53, 3.9]
    if not context.claims.alpha_is_magnitude:  # some of these layers accept 1 at most
        large = [11.3, 93.0]
        factors += [each for each in large if context.refused(each * context.alpha) is None]
    noises, claimed = [], []
    for factor in factors:
        layer = context.layer(alpha=factor * context.alpha)
        noises.append(layer.noise(inputs, step))
        clean = layer.clean(inputs)
        claimed.append(
            claimed_magnitudes(context.claims, inputs, clean, factor * context.alpha * share)
        )
    if not noises[0].any():
        raise NotTestedError("there is no noise, which EN06 reports")
    fine = max(2.0**-16, context.grid)
    # In 16 bits, PyTorch's uniform_ takes what it rounds up to the end of its range to the start.
    spared = 2.0**-4 if context.grid > 2.0**-12 else 0.0
    rounding = context.grid * float(abs(clean).max(initial=0.0))
    for factor, noise, magnitudes in zip(factors[1:], noises[1:], claimed[1:], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.where(claimed[0] > 0, magnitudes / claimed[0], 0.0)[..., None]
        expected = growth * noises[0]
        size = float(abs(expected).max())
        ratio = float(abs(noise).max()) / size if size else 1.0
        alphas = f"{factor * context.alpha:g} instead of {context.alpha:g}"
        off = abs(noise - expected) > fine * size + 4 * rounding * max(1, factor)
        context.expect(
            float(off.mean()) <= spared,
            f"alpha = {alphas} gives {ratio:.4g} times the noise that the claimed scale gives",
            "alpha is rounded to an integer, clipped to a range, or goes through a function such "
            "as log1p or tanh",
        )
