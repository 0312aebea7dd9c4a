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
    _, width, dim = inputs.shape
    magnitudes = np.zeros(inputs.mask.shape)
    for length in np.unique(inputs.lengths).tolist():
        if length:
            used = length if claims.length == "tokens" else width
            of_length = inputs.lengths == length
            if not claims.scale_rule.uses_rms:
                magnitudes[of_length] = claims.magnitude(alpha, used, dim)
                continue
            for row in np.flatnonzero(of_length.any(axis=1)):
                for document in np.unique(inputs.segments[row, of_length[row]]):
                    tokens = inputs.segments[row] == document
                    counted = tokens if claims.length == "tokens" else slice(None)
                    rms = float(np.sqrt(np.square(clean[row, counted]).mean()))
                    magnitudes[row, tokens] = claims.magnitude(alpha, used, dim, rms)
    return magnitudes
