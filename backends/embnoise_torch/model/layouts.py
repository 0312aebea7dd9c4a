"""How what is looked up lies beside the ids that a call was given.

A model may look tokens up as it got them, transposed, behind a prompt of its own, padded to a
multiple of its window, or a part of them. The two are compared by value, so that what a mask says
about the ids can be said about the lookup.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embnoise_torch.model.special_ids import SpecialIds

__all__ = ["SAME", "Layout", "find_layout", "is_same"]


class Layout(NamedTuple):
    """From arrays of a call [B', L'] to arrays of the lookup [B, L]."""

    transposed: bool = False
    before: int = 0
    """How many tokens of the lookup precede those of the call; below 0 the other way around."""
    after: int = 0
    """How many follow."""

    @property
    def lengthens(self) -> bool:
        """Whether the lookup has tokens that the call has not."""
        return self.before > 0 or self.after > 0

    def apply(self, array: Tensor) -> Tensor:
        """The array for the lookup; the tokens beside it take what its first or last column has."""
        if self.transposed:
            return array.T
        if self.before < 0 or self.after < 0:
            return array[:, max(-self.before, 0) : array.shape[1] + min(self.after, 0)]
        if self.before or self.after:
            first = array[:, :1].expand(-1, self.before)
            last = array[:, -1:].expand(-1, self.after)
            return torch.cat([first, array, last], dim=1)
        return array


SAME = Layout()


def find_layout(
    looked: Tensor, given: Tensor, mask: Tensor | None, special: SpecialIds
) -> Layout | None:
    """How the looked-up ids [B, L] lie beside those of a call [B', L'].

    Args:
        looked: What is looked up.
        given: The ids of the call.
        mask: [B', L'], nonzero where an id has a meaning; ``None`` for everywhere.
        special: Ids that a model may replace before it looks them up.

    Returns:
        The layout; ``None`` if the lookup is of something else.
    """
    if is_same(looked, given):
        return SAME
    (rows, length), (given_rows, given_length) = looked.shape, given.shape
    square = rows == length
    straight = turned = 0.0
    if looked.shape == given.shape:
        straight = _agreement(looked, given, mask, special)
    if looked.T.shape == given.shape and (square or straight == 0):
        turned = _agreement(looked.T, given, mask, special)
    if max(straight, turned) > _CORRUPTED:
        if straight == turned and mask is not None and not torch.equal(mask, mask.T):
            return None  # either layout is possible, and the mask tells them apart
        return SAME if straight >= turned else Layout(transposed=True)
    if rows != given_rows:
        return None
    more = length - given_length
    width = min(length, given_length)
    # Cached tokens precede those of a call, so the end is compared first.
    for layout in (Layout(before=more), Layout(after=more)):
        ends = layout.before != 0
        part = looked[:, length - width :] if ends else looked[:, :width]
        rest = given[:, given_length - width :] if ends else given[:, :width]
        if bool((part == rest).all()):
            return layout
    return None


_CORRUPTED = 0.5
"""A model may replace some tokens before it looks them up; others, it looks up something else."""


def is_same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same in memory: without a comparison that a GPU waits for."""
    return left is right or (
        left.shape == right.shape
        and left.dtype == right.dtype
        and left.device == right.device
        and left.data_ptr() == right.data_ptr()
        and left.stride() == right.stride()
    )


def _agreement(looked: Tensor, given: Tensor, mask: Tensor | None, special: SpecialIds) -> float:
    """The share of the tokens that are equal, placeholders and padding aside."""
    equal = looked == given
    if bool(equal.all()):
        return 1.0
    counts = torch.ones_like(equal) if mask is None else mask != 0
    if special.placeholders:
        counts = counts & ~special.are_placeholders(given)
    return float((equal & counts).sum()) / max(1, int(counts.sum()))
