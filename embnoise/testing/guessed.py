"""Layers that take embeddings that are 0 for padding, since they look at no mask."""

from __future__ import annotations

import numpy as np

from embnoise.testing.batches import Batch
from embnoise.testing.context import CheckContext

__all__ = ["GUESSED", "guesses_padding"]

GUESSED = (
    "embeddings that are 0 are taken for padding, which padding need not be and other tokens may "
    "be: take a mask"
)


def guesses_padding(context: CheckContext, batch: Batch) -> bool:
    """Whether tokens get the same noise whatever their embeddings are, but none if those are 0."""
    if context.case.inputs == "ids" or context.claims.scale_rule.uses_rms:
        return False
    if not context.claims.repeatable:
        return False
    noises = []
    with context.transcript.paused():
        inputs = batch.inputs(context, "normal")
        for factor in (1.0, 2.0):
            layer = context.layer(dim=batch.dim)
            silenced = inputs.with_sizes([factor] * len(inputs.mask), padding=0.0)
            noises.append(layer.noise(silenced, context.first_step()))
    once, twice = noises
    silent = not once[~inputs.mask].any()
    return silent and bool(once.any()) and np.allclose(once, twice, atol=2.0**-5 * abs(once).max())
