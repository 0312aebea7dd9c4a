"""Padded and packed batches, which training mostly has, get noise as good as that of full ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embnoise.testing.checks.distribution import distance_from_claimed
from embnoise.testing.checks.magnitude import short_documents
from embnoise.testing.checks.reuse import expect_not_repeated, expect_uncorrelated
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import SMALL, Array, Inputs, right_mask
from embnoise.testing.profiles import PROFILES
from embnoise.testing.registry import SIZE, check
from embnoise.testing.right_rows import DRAWS, expect_right_rows, fresh, units_of
from embnoise.testing.statistics import RATE, band

__all__ = ["FULL", "OF_ONE_CALL", "expect_as_good", "expect_claimed_draws"]

OF_ONE_CALL = (
    *SIZE, "EN28", "EN29", "EN31", "EN32", "EN33", "EN34", "EN40", "EN41", "EN42",
)  # fmt: skip
"""The checks of the same in one call, without padding."""

FULL = (*OF_ONE_CALL, "EN02", "EN06", "EN35", "EN43")
"""The checks of the same in batches without padding."""

SHAPE = PROFILES["quick"].batch


@check("EN63", dtypes="usual", random=True, premises=(*FULL, "EN09", "EN19"))
def padded_as_good_as_full(context: CheckContext) -> None:
    """In a padded batch the noise is drawn as in a full one: anew for every row, token and step.

    A row that is all padding does not change the noise of the others, and a mask of ones changes
    nothing. Fails for layers that take another path if there is a mask, as most training does: one
    draw for all rows, a generator that is seeded again, a distribution of another shape.
    """
    layer = context.layer()
    if context.case.inputs == "embeddings" and not layer.gets("mask"):
        raise NotClaimedError("the layer takes no mask")
    batch, width, dim = SHAPE
    lengths = ([3 * width // 4, width // 2, width, 5] * batch)[:batch]
    inputs = context.batch((batch, width, dim), mask=right_mask(lengths, width))
    _as_good(context, inputs, "a padded batch")
    context.transcript.clear()
    inputs = context.batch(mask=right_mask([7, 0, 4, 5], SMALL[1]))
    draws = [
        units_of(fresh(context, k, SMALL[2]), inputs, context.first_step()) for k in range(DRAWS)
    ]
    expect_right_rows(
        context,
        inputs,
        draws,
        4,
        "a row that is all padding changes the noise of the others: all of it is left out, or it "
        "is scaled by how many rows have tokens",
    )
    _as_good_if_told(context, "mask", "a mask of ones")


def _packs(claims: Claims) -> str | None:
    return None if claims.length == "tokens" else f"length={claims.length!r}"


@check("EN64", random=True, claimed=_packs, premises=(*FULL, "EN20"))
def packed_as_good_as_full(context: CheckContext) -> None:
    """In packed rows the noise is drawn as in a full batch: anew for every document and step.

    There is none on the padding behind the documents. Rows of one document have the noise of rows
    without segment ids. Fails for layers whose documents in a row
    share their noise, since positions count from 0 in each.
    """
    batch, width, dim = SHAPE
    if not context.layer(dim=dim).takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    cuts = short_documents(width)
    segments = np.zeros((batch, width), np.int64)
    segments[:, : sum(cuts)] = np.repeat(range(1, len(cuts) + 1), cuts)
    segments[1::2, : sum(cuts)] = [1] * (sum(cuts) // 2) + [2] * (sum(cuts) - sum(cuts) // 2)
    inputs = context.batch((batch, width, dim), segments=segments)
    context.transcript.clear()
    _as_good(context, inputs, "a packed batch")
    _as_good_if_told(context, "segment_ids", "one document in each row")


def _as_good_if_told(context: CheckContext, name: str, what: str) -> None:
    """Expect a mask or segment ids that say nothing to leave the noise as it is without them."""
    context.transcript.clear()
    if not context.layer().may_lack(name):
        return
    if context.claims.seeded is not True:  # another draw is as good
        context.transcript.clear()
        _as_good(context, context.batch(SHAPE).telling(name), f"a batch with {what}")
        return
    inputs, start = context.batch(), context.first_step()
    without, told = context.layer(), context.layer(name="other")
    for step in (start, start + 1):
        expected, found = without.train(inputs, step), told.train(inputs.telling(name), step)
        moved, size = float(abs(found - expected).max()), float(abs(expected).max())
        context.expect(
            moved <= max(2.0**-18, context.grid) * size,
            f"with {what} the noise differs by up to {moved:.3g} from that without {name} (the "
            f"largest |output| is {size:.3g})",
            f"the layer takes another path if {name} is given, even where it says nothing",
            ("EN05", "EN07", "EN45"),
        )


def _as_good(context: CheckContext, inputs: Inputs, where: str) -> None:
    """Expect the noise of two steps of a batch to be drawn anew everywhere, as claimed."""
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0][:2]
    layer = context.layer(dim=inputs.dim)
    draws = [units_of(layer, inputs, step) for step in steps]
    expect_as_good(context, inputs, draws, where, RATE / 2)


def expect_as_good(
    context: CheckContext, inputs: Inputs, draws: Sequence[Array], where: str, rate: float = RATE
) -> None:
    """Expect the noise of a batch at some steps to be drawn anew everywhere, as claimed.

    Args:
        context: The check's.
        inputs: The batch.
        draws: The units of each step, [B, L, d]; noise where the magnitude is 0 counts too.
        where: What has the noise, for messages.
        rate: How often a correct layer may fail.
    """
    found = [context.independent(each) for each in draws]
    mask = np.concatenate([context.independent(inputs.mask)] * len(found))
    units = np.concatenate(found)
    if context.claims.length == "tokens":
        padding = float(abs(units[~mask]).max(initial=0))
        context.expect(
            padding == 0,
            f"in {where}, padding gets noise of up to {padding:.3g}",
            "the noise is not multiplied with what tells the padding "
            f"({'segment_ids == 0' if inputs.packed else 'the mask'})",
        )
        units = units * mask[..., None]
    real = units[mask]
    context.expect(
        all(bool(each.any()) for each in found),
        f"{where} gets no noise in training mode",
        f"the layer takes another path for {where}, which adds no noise",
    )
    likely = f"the layer takes another path for {where}, which draws in another way"
    expect_claimed_draws(context, inputs, real.ravel(), where, likely, rate / 4)
    expect_not_repeated(context, units, f", with {len(found[0])} rows to a step, in {where}")
    expect_uncorrelated(context, units, where, rate / 4)


def expect_claimed_draws(
    context: CheckContext, inputs: Inputs, real: Array, where: str, likely: str, rate: float
) -> None:
    """Expect the units of real tokens to be centered, and distributed as claimed.

    Args:
        context: The check's.
        inputs: The batch.
        real: The units.
        where: What has the noise, for messages.
        likely: The likely cause.
        rate: How often each of two assertions may fail for a correct layer.
    """
    mean = float(np.sign(real).mean())
    allowed = 2 * band(real.size, rate) + 2 * context.grid
    context.expect(
        abs(mean) <= allowed,
        f"in {where} the mean of the signs of the noise is {mean:+.3f}, expected within "
        f"{allowed:.3f}",
        f"{likely}: on [0, 1] instead of [-1, 1]" if abs(mean) > 0.9 else likely,
    )
    distribution = context.claims.distribution_rule
    if distribution is None:
        return
    distance, where_off, allowed = distance_from_claimed(context, inputs, real, rate)
    context.expect(
        distance <= allowed,
        f"in {where} the distribution function of the noise is {distance:.4f} away from the "
        f"{distribution.name} one at {where_off:.3g} of {context.claims.formula}, expected within "
        f"{allowed:.4f}",
        likely,
    )
