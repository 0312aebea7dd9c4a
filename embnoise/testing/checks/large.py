"""Large padded and packed batches get noise as small ones do, and the gradient passes."""

from __future__ import annotations

import numpy as np

from embnoise.testing.checks.gradients import gradient_passes, tracked_batch
from embnoise.testing.checks.magnitude import short_documents
from embnoise.testing.checks.masks import PADDED, ragged
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import ClaimViolatedError, NotClaimedError
from embnoise.testing.inputs import Inputs, right_mask
from embnoise.testing.registry import SIZE, check, needs_length
from embnoise.testing.right_rows import change_and_units, expect_right_rows, units_of
from embnoise.testing.runs import repeated_run

ALIKE = (*SIZE, "EN02", "EN06", "EN09", "EN13", "EN19", "EN43", "EN49", "EN50", "EN59")
"""The checks of the same in small batches, and in large ones without padding."""

WIDE = 3, 40, 1030
"""A batch of many channels, with rows of usual lengths."""


@check("EN67", claimed=needs_length, random=True, premises=(*ALIKE, "EN47", "EN63"))
def padding_in_large_batches(context: CheckContext) -> None:
    """In a large padded batch the mask counts as in a small one, and the gradient passes.

    Batches have many rows, long ones, or many channels, and two steps have noise of their own.
    Fails for layers that take another path for such sizes, which leaves out the mask, the noise or
    the gradient, or has one draw for all rows or steps.
    """
    masks = {"wide": right_mask([40, 23, 9], WIDE[1]), "right": ragged()}
    if context.claims.padding == "anywhere" and context.profile.draws:
        masks["left"] = masks["right"][:, ::-1]
    for which, mask in masks.items():
        inputs = context.batch((*mask.shape, WIDE[2] if which == "wide" else PADDED[2]), mask=mask)
        side = "" if which == "wide" else f" on the {which}"
        _as_in_small(context, inputs, len(masks), f"large batches padded{side}")
    for shape, which in ((WIDE, "wide"), (PADDED, "right")):
        _gradient_passes(context, tracked_batch(context, shape, mask=masks[which]))


@check("EN68", random=True, premises=(*ALIKE, "EN20", "EN64", "EN67"))
def packing_in_large_batches(context: CheckContext) -> None:
    """In a large packed batch the documents count as in a small one, and the gradient passes.

    Batches have many rows, long ones, or many channels. Fails for layers that take another path
    for such sizes, which takes the row for the document, or noises the padding behind it.
    """
    if context.claims.length != "tokens":
        raise NotClaimedError(f"length={context.claims.length!r}")
    if not context.layer().takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    shapes = [(20, 700, 8)]
    if context.profile.draws:  # compiling takes long
        shapes.append(WIDE)
    for shape in shapes:
        cuts = [shape[1] // 3, *short_documents(shape[1] // 2)]
        segments = np.zeros(shape[:2], np.int64)
        segments[:, : sum(cuts)] = np.repeat(range(1, len(cuts) + 1), cuts)
        segments[1::2, : sum(cuts)] = segments[1::2, : sum(cuts)][:, ::-1]
        inputs = context.batch(shape, segments=segments)
        _as_in_small(context, inputs, len(shapes), "large packed batches")
        _gradient_passes(context, tracked_batch(context, shape, segments=segments))


def _as_in_small(context: CheckContext, inputs: Inputs, parts: int, which: str) -> None:
    """Expect evaluation to change nothing, and the noise of two steps to be right and their own.

    Args:
        context: The check's.
        inputs: The batch.
        parts: How many times the check calls this, to divide its rate.
        which: Such batches, for messages.
    """
    context.transcript.clear()
    layer = context.layer(dim=inputs.dim)
    moved, units = change_and_units(context, layer, inputs, long=inputs.shape[1] > 100)
    likely = f"{which} take another path"
    context.expect(
        moved == 0,
        f"evaluation mode changes the embeddings of {which}, by {moved:.3g}",
        f"{likely}, which adds noise in every mode",
    )
    expect_right_rows(context, inputs, [units], parts, likely)
    start = context.first_step()
    later = next((step for step in range(start + 1, start + 20) if context.claims.share(step)), 0)
    draws = [units, units_of(layer, inputs, later)] if later else [units]
    places = np.flatnonzero(inputs.mask.all(axis=0))[:9]  # to search all of them takes long
    rows = np.concatenate([context.independent(each)[:, places] for each in draws])
    found = repeated_run(rows, context.claims.distribution_rule)
    at = [divmod(place[0], len(rows) // len(draws)) for place in found[0]] if found else []
    context.expect(
        found is None,
        f"of {which}, two rows have the same values: (step, row) {' and '.join(map(str, at))}",
        f"{likely}, which has one draw for several rows, tokens or steps",
    )


def _gradient_passes(context: CheckContext, inputs: Inputs) -> None:
    """Expect the gradient of a large batch to pass, and an input that needs one to get noise."""
    context.transcript.clear()
    layer = context.layer(dim=inputs.dim)
    try:
        output = gradient_passes(context, layer, inputs)
    except NotClaimedError:  # there are no gradients
        return
    except ClaimViolatedError as error:
        raise ClaimViolatedError(
            f"in a batch of B, L, d = {inputs.shape}, {error.seen}",
            f"{error.likely}, at such sizes",
        ) from None
    if output is None or context.case.inputs == "ids" or not context.claims.repeatable:
        return
    step = layer.calls - 1
    expected = context.layer(dim=inputs.dim, name="other").train(inputs, step)
    moved = float(abs(output - expected).max())
    context.expect(
        moved <= 2.0**-18 * float(abs(expected).max()),
        f"in a batch of B, L, d = {inputs.shape}, the noise of an input that needs a gradient "
        f"differs by up to {moved:.3g}, and is "
        f"{'' if (output - layer.clean(inputs)).any() else 'not '}there",
        "the layer looks at requires_grad or at a tape, at such sizes",
        ("EN05", "EN58"),
    )
