"""How large the noise of every token should be."""

from __future__ import annotations

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.inputs import Array, Inputs

__all__ = ["claimed_magnitudes"]


def claimed_magnitudes(claims: Claims, inputs: Inputs, clean: Array, alpha: float) -> Array:
    """The magnitude that the claims give every token, [B, L]; 0 for padding.

    Args:
        claims: The claims.
        inputs: The batch.
        clean: Its embeddings without noise, [B, L, d], for a scale that depends on them.
        alpha: Alpha at the step.
    """
    batch, width, dim = inputs.shape
    lengths = inputs.lengths()
    magnitudes = np.zeros((batch, width))
    for b in range(batch):
        for length, segment in set(
            zip(lengths[b].tolist(), inputs.segments[b].tolist(), strict=True)
        ):
            if not length:
                continue
            tokens = inputs.segments[b] == segment
            counted = tokens if claims.length == "tokens" else slice(None)
            rms = 1.0
            if claims.scale_rule.uses_rms:
                rms = float(np.sqrt(np.square(clean[b, counted]).mean()))
            used = length if claims.length == "tokens" else width
            magnitudes[b, tokens] = claims.magnitude(alpha, used, dim, rms)
    return magnitudes
