"""Whether the noise of a batch is right in every row: none on padding, the claimed size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import other_distribution
from embnoise.testing.failures import NotClaimedError, UntestableError
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.registry import DISTRIBUTION, SEVERAL
from embnoise.testing.statistics import RATE, amplitude, amplitude_window
from embnoise.testing.tables import zero_share

__all__ = [
    "DRAWS", "change_and_units", "expect_right_rows", "fresh", "in_units", "other_scale",
    "takes_long_rows", "units_of",
]  # fmt: skip

DRAWS = 8
"""So many draws of a small batch show the size of its rows."""


def fresh(context: CheckContext, draw: int, dim: int) -> LayerUnderTest:
    """A layer with a seed of its own, and another global state."""
    return context.layer(dim=dim, seed=context.seed + draw, world=context.world + draw)


def expect_right_rows(
    context: CheckContext, inputs: Inputs, draws: Sequence[Array], parts: int, likely: str
) -> None:
    """Expect the noise to follow the mask, and the documents of packed rows.

    Args:
        context: The check's.
        inputs: The batch.
        draws: The units of several draws, [B, L, d]; noise where the magnitude is 0 counts too.
        parts: How many times the check calls this, to divide its rate.
        likely: The likely cause.
    """
    claims = context.claims
    about = f"B, L, d = {inputs.shape}, real tokens {inputs.mask.sum(axis=1).tolist()[:8]}"
    units = np.stack(draws)
    if claims.length == "tokens":
        padded = units[:, ~inputs.mask]
        context.expect(not padded.any(), f"padding gets noise ({about})", likely)
    rule = claims.distribution_rule
    if rule is None or not zero_share(rule):
        silent = np.argwhere(inputs.mask & ~units.any(axis=(0, 3)))
        where = [tuple(int(i) for i in place) for place in silent[:5]]
        seen_silent = f"tokens (row, place) {where} get no noise ({about})"
        context.expect(not where, seen_silent, likely, SEVERAL)
    sequences = [
        (row, document, inputs.segments[row] == document)
        for row in range(len(inputs.mask))
        for document in np.unique(inputs.segments[row][inputs.mask[row]]).tolist()
    ]
    seen = [amplitude(rule, units[:, row][:, tokens]) for row, _, tokens in sequences]
    known = 1.0 if rule else seen[0]
    slack = 2 * context.usual_slack(inputs) + 2.0**-16
    for (row, document, tokens), found in zip(sequences, seen, strict=True):
        count = len(draws) * int(tokens.sum()) * inputs.dim
        low, high = amplitude_window(rule, count, RATE / (parts * len(sequences)))
        ratio = found / known if known else 0.0
        which = f"row {row}, document {document}," if inputs.packed else f"row {row}"
        context.expect(
            low - slack <= ratio <= high + slack,
            f"{which} gets {ratio:.4g} of {claims.formula}, expected {low:.4g} to {high:.4g} "
            f"({about})",
            lambda: _other_distribution(context, inputs, units) or likely,
            (*DISTRIBUTION, *SEVERAL),
        )


def _other_distribution(context: CheckContext, inputs: Inputs, units: Array) -> str | None:
    """The cause, if a batch has another distribution, whatever the sizes of its rows are."""
    rule = context.claims.distribution_rule
    rows = [units[:, row][:, mask] for row, mask in enumerate(inputs.mask) if mask.any()]
    sizes = [float(np.sqrt(np.square(row).mean())) for row in rows]
    if rule is None or not all(sizes):
        return None
    pooled = np.concatenate([(row / size).ravel() for row, size in zip(rows, sizes, strict=True)])
    other = other_distribution(pooled, rule)
    return f"in batches such as this one, {other}" if other else None


def other_scale(context: CheckContext, low: float, high: float, count: int) -> str | None:
    """The cause, if usual batches have noise of another size than claimed too.

    Args:
        context: The check's.
        low: The least size that ``count`` units have by chance.
        high: The largest.
        count: How many units of usual batches are taken, so that the window is theirs too.
    """
    rule = context.claims.distribution_rule
    if rule is None:
        return None
    with context.transcript.paused():
        inputs, step = context.sample(), context.first_step()
        draws = range(-(-count // math.prod(inputs.shape)))
        units = [fresh(context, draw, inputs.dim).units(inputs, step) for draw in draws]
    found = amplitude(rule, np.stack(units).ravel()[:count])
    if low <= found <= high:
        return None
    return (
        f"another scale than claimed: usual batches have {found:.4g} of it too, which only this "
        "many values show"
    )


def change_and_units(
    context: CheckContext, layer: LayerUnderTest, inputs: Inputs, *, long: bool
) -> tuple[float, Array]:
    """How much evaluation changes the embeddings of a batch, and the units of the first noise.

    Raises:
        NotClaimedError: The layer embeds ids, and fails for rows that are ``long``: they have more
            tokens than it has positions.
    """
    if long and not takes_long_rows(context, inputs):
        raise NotClaimedError(f"the layer takes no rows of {inputs.shape[1]} ids")
    moved = float(abs(layer.eval(inputs) - layer.clean(inputs)).max())
    return moved, units_of(layer, inputs, context.first_step())


def takes_long_rows(context: CheckContext, inputs: Inputs) -> bool:
    """Whether a layer takes rows this long: one that embeds ids may have fewer positions."""
    if context.case.inputs == "embeddings":
        return True
    try:
        with context.transcript.paused():
            context.layer(dim=inputs.dim).eval(inputs)
    except UntestableError:
        return False
    return True


def units_of(layer: LayerUnderTest, inputs: Inputs, step: int) -> Array:
    """The units of a call, and the noise itself where there should be none."""
    return in_units(layer, inputs, layer.noise(inputs, step), step)


def in_units(layer: LayerUnderTest, inputs: Inputs, noise: Array, step: int) -> Array:
    """The noise divided by its claimed magnitude, where there is one."""
    claims = layer.case.claims
    magnitudes = claimed_magnitudes(
        claims, inputs, layer.clean(inputs), layer.alpha * claims.share(step)
    )[..., None]
    return np.divide(noise, magnitudes, out=noise.copy(), where=magnitudes > 0)
