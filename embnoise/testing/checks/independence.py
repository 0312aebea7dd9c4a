"""Rows, tokens, channels and steps have different noise, and it is independent.

The correlation of neighbors is measured by signs: for symmetric noise the products of neighboring
signs are martingale differences of size 1, so Azuma's inequality bounds their mean, whatever the
distribution is. Products of (|u| above its median or not) catch sizes that go together.
The bound is on the covariance: the product of two means is subtracted, and each of these is within
Azuma's bound too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.checks.masks import LARGE
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import RAGGED, SMALL, Array
from embnoise.testing.lags import most_correlated
from embnoise.testing.registry import DRAWS, check
from embnoise.testing.slices import in_noise
from embnoise.testing.statistics import RATE, once_in, run_length
from embnoise.testing.tables import splits_at_median

AXES = {"rows": 0, "tokens": 1, "channels": 2}


def _differ(context: CheckContext, which: str) -> None:
    # In 16 bits a large batch may have no noise, which EN08 reports.
    inputs = context.sample() if context.dtype == "float32" else context.batch()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    units = np.moveaxis(context.independent(units), AXES[which], 0)
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    # Parts without noise are for the checks of its size.
    keys = {k: np.round(part, 5).tobytes() for k, part in enumerate(units) if part.any()}
    first: dict[bytes, int] = {}
    twins = [(first[key], k) for k, key in keys.items() if first.setdefault(key, k) != k]
    distinct = len(set(keys.values()))
    pair = f"{which} {twins[0][0]} and {twins[0][1]}" if twins else ""
    scope = "all of them share" if distinct == 1 else f"{len(twins)} of {len(keys)} repeat"
    context.expect(
        not twins,
        f"{pair} have the same noise ({scope} one draw)",
        f"one draw is shared by {which}: its shape has a 1 instead of the number of {which} and is "
        f"broadcast; or, in JAX, one key is used for all {which} under vmap"
        if distinct == 1
        else f"one draw is shared by {which}: it is for a part of them, and is repeated or "
        "reversed for the rest",
    )


@check("EN25", dtypes="all")
def rows_differ(context: CheckContext) -> None:
    """No two rows of a batch have the same noise.

    Fails for layers that draw once per batch, for one row, and add that to all rows.
    """
    _differ(context, "rows")


@check("EN26", dtypes="all")
def tokens_differ(context: CheckContext) -> None:
    """No two positions have the same noise.

    Fails for layers that draw one vector per row, and add it to every token.
    """
    _differ(context, "tokens")


@check("EN27", dtypes="all")
def channels_differ(context: CheckContext) -> None:
    """No two channels have the same noise.

    Fails for layers that draw one number per token, and add it to every channel.
    """
    _differ(context, "channels")


def _uncorrelated(context: CheckContext, left: Array, right: Array, which: str) -> None:
    # Three means for each of two products. The means of both sides are subtracted from the
    # product's, so that noise off center or of another scale is left to the checks for these.
    azuma = math.sqrt(2 * math.log(12 / RATE) / left.size)
    allowed = azuma + azuma**2 + context.grid
    pairs = {"signs": (np.sign(left), np.sign(right))}
    distribution = context.claims.distribution_rule
    if distribution is not None and splits_at_median(distribution):
        median = distribution.median
        one, other = (np.sign(abs(each) - median) * in_noise(each) for each in (left, right))
        pairs["sizes"] = one, other
    for name, (one, other) in pairs.items():
        together = float((one * other).mean() - one.mean() * other.mean())
        context.expect(
            abs(together) <= allowed,
            f"the {name} of the noise in neighboring {which} are correlated, by {together:+.3f}, "
            f"expected within {allowed:.3f} (a correct layer fails this less than {once_in()})",
            f"the noise of {which} is not independent: smoothed, averaged or reused between "
            f"neighbors, or drawn for some of the {which} only",
        )


def _neighbors(context: CheckContext, which: str) -> None:
    units = np.moveaxis(context.independent(context.sampled()), AXES[which], 0)
    _uncorrelated(context, units[:-1], units[1:], which)


@check("EN32", random=True, premises=(*DRAWS, "EN12", "EN34"))
def rows_uncorrelated(context: CheckContext) -> None:
    """The noise of neighboring rows is uncorrelated.

    Fails for layers that give rows opposite noise without claiming ``antithetic=True``.
    """
    _neighbors(context, "rows")


@check("EN33", random=True, premises=(*DRAWS, "EN12"))
def tokens_uncorrelated(context: CheckContext) -> None:
    """The noise of neighboring tokens is uncorrelated.

    Fails for layers that smooth the noise along the sequence.
    """
    _neighbors(context, "tokens")


@check("EN34", random=True, premises=(*DRAWS, "EN12"))
def channels_uncorrelated(context: CheckContext) -> None:
    """The noise of neighboring channels is uncorrelated.

    Fails for layers that draw for half of the channels, and repeat each draw.
    """
    _neighbors(context, "channels")


@check("EN35", random=True, premises=(*DRAWS, "EN06", "EN12", "EN34"))
def steps_uncorrelated(context: CheckContext) -> None:
    """The noise of neighboring steps is uncorrelated.

    Fails for layers that mix the last step's noise into the next, or keep a part of it.
    """
    inputs = context.sample()
    layer = context.layer(dim=inputs.dim)
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0][:3]
    if len(steps) < 2:
        raise NotClaimedError("the schedule is above 0 at one step only")
    units = np.stack([layer.units(inputs, step) for step in steps])
    _uncorrelated(context, units[:-1], units[1:], "steps")


@check("EN40", premises=(*DRAWS, "EN12"))
def draws_not_reused(context: CheckContext) -> None:
    """No run of values occurs twice, at any places.

    Fails for layers that shift or roll one row's draw for the next, or whose counters overlap.
    """
    units = context.independent(context.sampled())
    context.expect(bool(units.any()), "there is no noise in training mode", NO_NOISE)
    values = np.round(units.ravel() * 2.0**15).astype(np.int64)
    length = run_length(context.claims.distribution_rule, values)
    places = _repeated(values, length)
    rows = [tuple(int(i) for i in np.unravel_index(place, units.shape)) for place in places]
    context.expect(
        not rows,
        f"{length} values in a row occur twice: at (row, token, channel) "
        f"{' and '.join(map(str, rows))}",
        lambda: _cause_of_reuse(units),
    )


def _cause_of_reuse(units: Array) -> str:
    """How a draw is used again, if most of its copies are at one lag."""
    signs = np.sign(units)
    match = most_correlated(signs, signs, RATE)
    if abs(match.correlation) <= match.allowed:
        how = "rolled, shifted, or made from counters that overlap"
        return f"one draw is used at several places: {how}"
    return f"one draw is used at several places, rolled, shifted or turned: {match.words()}"


def _repeated(values: NDArray[np.int64], length: int) -> tuple[int, ...]:
    """Two places where the same run of values begins, if there are any."""
    words = values.astype(np.uint64)
    runs = max(words.size - length + 1, 0)
    hashes = np.zeros(runs, np.uint64)
    for offset in range(length):
        hashes = hashes * np.uint64(6364136223846793005) + words[offset : offset + runs]
    order = np.argsort(hashes, kind="stable")
    for k in np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]):
        first, second = int(order[k]), int(order[k + 1])
        # The hashes of different runs may be equal.
        if np.array_equal(values[first : first + length], values[second : second + length]):
            return first, second
    return ()


def _claims_pairs(claims: Claims) -> str | None:
    return None if claims.antithetic else "antithetic=False"


def _of_one_size(units: Array) -> Array:
    """Rows whose largest value is 1; those without noise as they are."""
    largest = abs(units).max(axis=(1, 2), keepdims=True)
    of_one_size: Array = np.divide(units, largest, out=units.copy(), where=largest > 0)
    return of_one_size


@check("EN36", claimed=_claims_pairs)
def pairs_cancel(context: CheckContext) -> None:
    """The rows 2i and 2i + 1 of a batch have opposite noise (SymNoise, arXiv 2312.01523).

    This also applies to padded and large batches. The last of an odd number of rows has noise.
    Fails for layers that draw for each row, or pair other rows.
    """
    pairs = "each row of a pair has its own draw, or the pairs are other rows"
    batches = {
        "": (context.batch(), pairs),
        "with padding, ": (context.batch(mask=RAGGED), f"where there is padding, {pairs}"),
        "in a large batch, ": (context.batch(LARGE["rows"][1]), f"in large batches, {pairs}"),
    }
    for where, (inputs, likely) in batches.items():
        context.transcript.clear()
        units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
        both = (inputs.mask[0::2] & inputs.mask[1::2])[..., None]
        one, other = units[0::2] * both, units[1::2] * both
        if not both.all():  # EN19 tests whether the rows have the magnitudes of their lengths
            one, other = (_of_one_size(each) for each in (one, other))
        sums = abs(one + other)
        pair = int(sums.max(axis=(1, 2)).argmax())
        left, size = float(sums.max()), float(abs(one).max())
        context.expect(
            left <= 2.0**-20 * (size + 8) and size > 0,
            f"{where}the noise of rows {2 * pair} and {2 * pair + 1} adds up to {left:.3g}, "
            "expected 0",
            likely,
        )
    context.transcript.clear()
    alone = context.batch((1, *SMALL[1:]))
    context.expect(
        bool(context.layer().units(alone, context.first_step()).any()),
        "a batch of one row has no noise",
        "the last one of an odd number of rows, which has no other to make a pair with, is left "
        "out: give it noise of its own",
    )
