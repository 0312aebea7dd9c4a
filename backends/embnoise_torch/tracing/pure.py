"""The noise of ``add_noise`` as a source: without state, and describable as text."""

from __future__ import annotations

import json
from functools import cache

from torch import Tensor

from embnoise.backend import Noise, TokenArrays, prepare
from embnoise_torch.ranks.surroundings import check_part
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Ready, add_ready_

__all__ = ["PureSource", "described", "pure_source"]


class PureSource:
    """A source without state: the step comes with every call."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.number = custom_op.register(self)

    def ready(self, x: Tensor, inputs: Tensor | None, /, *arrays: Tensor | None) -> Ready | None:
        """What is known about ``x``: see ``Source``.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            inputs: Without a meaning here.
            *arrays: The step, then the fields of ``TokenArrays``.
        """
        step, *rest = arrays
        tokens = TokenArrays(*rest)
        check_part(self.noise, tokens)
        prepared = prepare(x, self.noise, step=step, training=True, tokens=tokens)
        return None if prepared is None else Ready(prepared)

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
        add_ready_(x, self.noise, self.ready(x, None, step, *tokens))


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
