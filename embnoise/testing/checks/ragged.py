"""Padded and packed batches, which training mostly has, get noise as good as that of full ones."""

from __future__ import annotations

import numpy as np

from embnoise.testing.checks.distribution import distance_from_claimed
from embnoise.testing.checks.magnitude import short_documents
from embnoise.testing.checks.reuse import expect_not_repeated, expect_uncorrelated
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import SMALL, Inputs, right_mask
from embnoise.testing.profiles import PROFILES
from embnoise.testing.registry import SIZE, check
from embnoise.testing.right_rows import DRAWS, expect_right_rows, fresh, units_of
from embnoise.testing.statistics import RATE, band

FULL = (
    *SIZE, "EN02", "EN06", "EN28", "EN29", "EN31", "EN32", "EN33", "EN34", "EN35", "EN40", "EN41",
    "EN42", "EN43",
)  # fmt: skip
"""The checks of the same in batches without padding."""

SHAPE = PROFILES["quick"].batch


@check("EN63", random=True, premises=(*FULL, "EN09", "EN19"))
def padded_as_good_as_full(context: CheckContext) -> None:
    """In a padded batch the noise is drawn as in a full one: anew for every row, token and step.

    A row that is all padding leaves the others their noise. Fails for layers that take another path
    if there is a mask, as most training does: one draw for all rows, a generator that is seeded
    again, a distribution of another shape.
    """
    layer = context.layer()
    if context.case.inputs == "embeddings" and not layer.gets("mask"):
        raise NotClaimedError("the layer takes no mask")
    batch, width, dim = SHAPE
    lengths = ([3 * width // 4, width // 2, width, 5] * batch)[:batch]
    _as_good(context, context.batch((batch, width, dim), mask=right_mask(lengths, width)), "padded")
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


def _packs(claims: Claims) -> str | None:
    return None if claims.length == "tokens" else f"length={claims.length!r}"


@check("EN64", random=True, claimed=_packs, premises=(*FULL, "EN20"))
def packed_as_good_as_full(context: CheckContext) -> None:
    """In packed rows the noise is drawn as in a full batch: anew for every document and step.

    There is none on the padding behind the documents, and none in evaluation mode. Fails for layers
    whose documents in a row share their noise, since positions count from 0 in each.
    """
    batch, width, dim = SHAPE
    if not context.layer(dim=dim).takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    context.transcript.clear()
    layer = context.layer(dim=dim)
    cuts = short_documents(width)
    segments = np.zeros((batch, width), np.int64)
    segments[:, : sum(cuts)] = np.repeat(range(1, len(cuts) + 1), cuts)
    segments[1::2, : sum(cuts)] = [1] * (sum(cuts) // 2) + [2] * (sum(cuts) - sum(cuts) // 2)
    inputs = context.batch((batch, width, dim), segments=segments)
    moved = float(abs(layer.eval(inputs) - layer.clean(inputs)).max())
    context.expect(
        moved == 0,
        f"in evaluation mode packed rows change, by up to {moved:.3g}",
        "with segment_ids, noise is added in every mode",
    )
    context.transcript.clear()
    _as_good(context, inputs, "packed")


def _as_good(context: CheckContext, inputs: Inputs, what: str) -> None:
    """Expect the noise of two steps of a batch to be drawn anew everywhere, as claimed."""
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0][:2]
    layer = context.layer(dim=inputs.dim)
    found = [context.independent(units_of(layer, inputs, step)) for step in steps]
    mask = np.concatenate([context.independent(inputs.mask)] * len(steps))
    units = np.concatenate(found)
    if context.claims.length == "tokens":
        padding = float(abs(units[~mask]).max(initial=0))
        context.expect(
            padding == 0,
            f"in a {what} batch, padding gets noise of up to {padding:.3g}",
            "the noise is not multiplied with what tells the padding "
            f"({'the mask' if what == 'padded' else 'segment_ids == 0'})",
        )
        units = units * mask[..., None]
    real = units[mask]
    context.expect(
        all(bool(each.any()) for each in found),
        f"a {what} batch gets no noise in training mode",
        f"the layer takes another path for {what} batches, which adds no noise",
    )
    _as_claimed(context, inputs, real.ravel(), what)
    likely_steps = f", with {len(found[0])} rows to a step, in a {what} batch"
    expect_not_repeated(context, units, likely_steps)
    expect_uncorrelated(context, units, f"a {what} batch", RATE / 4)


def _as_claimed(context: CheckContext, inputs: Inputs, real: np.ndarray, what: str) -> None:
    """Expect the units of real tokens to be centered, and distributed as claimed."""
    mean = float(np.sign(real).mean())
    allowed = 2 * band(real.size, RATE / 4) + 2 * context.grid
    likely = f"the layer takes another path for {what} batches, which draws in another way"
    context.expect(
        abs(mean) <= allowed,
        f"in a {what} batch the mean of the signs of the noise is {mean:+.3f}, expected within "
        f"{allowed:.3f}",
        f"{likely}: on [0, 1] instead of [-1, 1]" if abs(mean) > 0.9 else likely,
    )
    distribution = context.claims.distribution_rule
    if distribution is None:
        return
    distance, where, allowed = distance_from_claimed(context, inputs, real, RATE / 4)
    context.expect(
        distance <= allowed,
        f"in a {what} batch the distribution function of the noise is {distance:.4f} away from the "
        f"{distribution.name} one at {where:.3g} of {context.claims.formula}, expected within "
        f"{allowed:.4f}",
        likely,
    )
