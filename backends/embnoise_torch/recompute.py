"""Draws, and the cache that gives a recomputed forward pass the draw of the first one."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from embnoise.backend import TokenArrays
from embnoise_torch import _compat
from embnoise_torch.ranks.sequences import SequencePart

__all__ = ["Draw", "RecomputeCache"]

# How many forward passes may wait for their backward pass and still be recognized.
_CAPACITY = 64


class Draw(NamedTuple):
    """What distinguishes the noise of one forward pass from that of any other."""

    step: int
    first_sample: int
    """How many samples of the step this rank has noised before."""
    tokens: TokenArrays = TokenArrays()
    """What is known about the tokens."""
    transposed: bool = False
    """Whether the embeddings are [L, B, d]; the arrays are [B, L] all the same."""
    part: SequencePart | None = None
    """The tokens of the embeddings, if the arrays are of whole sequences."""


class RecomputeCache:
    """The draws of recent forward passes, so that a recomputed one repeats the first one's noise.

    Gradient checkpointing runs a forward pass again in the middle of the backward pass. That
    tells it from a new one; its input tells it from other recomputed ones. A pass without noise,
    such as one in ``paused()``, is known as well: nothing else tells it from one with the same
    input that has noise.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=_CAPACITY)
        self.latest: tuple[Tensor, Draw] | None = None
        """The input and the draw of the latest forward pass with noise, of this step or another."""
        self._warned = False

    def draw(self, inputs: Tensor, new_draw: Callable[[], Draw | None]) -> Draw | None:
        """The draw of ``new_draw()``, or in a recomputed forward pass that of the first one.

        Returns ``None`` in a recomputed pass whose first one was not seen here, with a warning. As
        a rule, that got no noise, so this one gets none either.
        """
        if not _compat.in_backward():
            draw = new_draw()
            self._entries.append(_Entry(inputs, draw))
            if draw is not None:
                self.latest = inputs, draw
            return draw
        matching = [entry for entry in reversed(self._entries) if entry.matches(inputs)]
        # This very tensor comes before equal ones, which are perhaps those of other passes. One
        # backward pass recomputes each of them once, another one may do so again (a penalty on
        # gradients). Of the rest the latest comes first: backward runs in the opposite order.
        backward = _compat.backward_pass()
        first = min(
            matching,
            key=lambda entry: (
                entry.inputs is not inputs,
                entry.backward == backward,
                entry.recomputed,
            ),
            default=None,
        )
        if first is None:
            self._warn_of_unknown_pass()
            return None
        first.recomputed += 1
        first.backward = backward
        return first.draw

    def clear(self) -> None:
        """Forget all draws: a new step begins."""
        self._entries.clear()

    def _warn_of_unknown_pass(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "embnoise: a forward pass that is recomputed in the backward pass gets no noise, "
                "since its first one is not known. Reentrant gradient checkpointing runs that "
                "without gradients, where there is no noise; pass use_reentrant=False. So does "
                "GradCache, whose second pass is best left without noise as well. Or there "
                f"was a new step, or more than {_CAPACITY} forward passes, in between.",
                RuntimeWarning,
                stacklevel=2,
            )


class _Entry:
    recomputed = 0
    """How often it was recomputed."""
    backward = -1
    """The number of the backward pass that has done so last."""

    def __init__(self, inputs: Tensor, draw: Draw | None) -> None:
        self.inputs = inputs
        self.draw = draw

    def matches(self, inputs: Tensor) -> bool:
        return self.inputs is inputs or torch.equal(self.inputs, inputs)
