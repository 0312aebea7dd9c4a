"""The noise of ``add_noise`` as a source: without state, and describable as text."""

from __future__ import annotations

import json
from functools import cache

from torch import Tensor

from embnoise.backend import Noise, TokenArrays, prepare
from embnoise_torch import custom_op
from embnoise_torch.kernels import add_

__all__ = ["PureSource", "described", "pure_source"]


class PureSource:
    """A source without state: the step comes with every call."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.number = custom_op.register(self)

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        """Add noise to ``x`` in place.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            *arrays: The step, then the fields of ``TokenArrays``.
        """
        step, *tokens = arrays
        self.add_(x, step, TokenArrays(*tokens))

    def add_(self, x: Tensor, step: Tensor | None, tokens: TokenArrays) -> None:
        """Add the noise of a step to ``x`` in place."""
        prepared = prepare(x, self.noise, step=step, training=True, tokens=tokens)
        if prepared is not None:
            add_(x, self.noise, prepared)

    def add_traced_(
        self,
        x: Tensor,
        inputs: Tensor | None,
        step: Tensor | None,
        tokens: TokenArrays,
        rows: Tensor | None,
    ) -> None:
        """Add noise to ``x`` in place: see ``Source``."""
        if tokens.sample_ids is None:
            tokens = tokens._replace(sample_ids=rows)
        self.add_(x, step, tokens)


@cache
def pure_source(noise: Noise) -> PureSource:
    """The one source of a noise, kept for as long as compiled programs may refer to it."""
    return PureSource(noise)


@cache
def described(noise: Noise) -> str:
    """The noise as text, with which a program finds it in any process.

    Raises:
        TypeError: A rule of the noise is a callable that is not registered.
    """
    return json.dumps(noise.to_dict())
