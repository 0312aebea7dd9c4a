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

__all__ = ["SAME", "Layout", "are_equal", "are_in", "are_renumbered", "find_layout", "is_same"]


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
    looked: Tensor,
    given: Tensor,
    mask: Tensor | None,
    special: SpecialIds,
    *,
    similar: bool = True,
) -> Layout | None:
    """How the looked-up ids [B, L] lie beside those of a call [B', L'].

    Args:
        looked: What is looked up.
        given: The ids of the call.
        mask: [B', L'], nonzero where an id has a meaning; ``None`` for everywhere.
        special: Ids that a model may replace before it looks them up.
        similar: Whether it may have replaced some others as well, by more than the id of a mask.

    Returns:
        The layout; ``None`` if the lookup is of something else.
    """
    if is_same(looked, given):
        return SAME
    (rows, length), given_rows = looked.shape, len(given)
    square = rows == length
    straight = turned = 0.0
    counts = mask if similar else None
    if looked.shape == given.shape:
        straight = _agreement(looked, given, counts, special)
    if looked.T.shape == given.shape and (square or straight == 0):
        turned = _agreement(looked.T, given, counts, special)
    agreement = max(straight, turned)
    if agreement == 1 or (similar and agreement > _CORRUPTED):
        if straight == turned and mask is not None and not torch.equal(mask, mask.T):
            return None  # either layout is possible, and the mask tells them apart
        if straight < turned:
            return Layout(transposed=True)
        return None if _is_moved(looked, given, mask) else SAME
    return _longer(looked, given) if rows == given_rows else None


def _longer(looked: Tensor, given: Tensor) -> Layout | None:
    """The layout of rows that are longer or shorter at one end, and else the same."""
    length, given_length = looked.shape[1], given.shape[1]
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


def are_equal(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same values."""
    return is_same(left, right) or (left.shape == right.shape and bool((left == right).all()))


def are_renumbered(looked: Tensor, given: Tensor) -> bool:
    """Whether a model has replaced every id by one of its own, as by adding an offset.

    That some ids occur several times shows that they stayed where they were.
    """
    if looked.shape != given.shape:
        return False
    pairs = torch.stack([looked.flatten(), given.flatten()])
    number = torch.unique(pairs, dim=1).shape[1]
    return number < given.numel() and all(len(each.unique()) == number for each in pairs)


def are_in(ids: Tensor, rows: Tensor) -> bool:
    """Whether all ids are somewhere in some rows."""
    # PyTorch cannot compare few elements that are not contiguous.
    return bool(torch.isin(ids.contiguous(), rows.contiguous()).all())


def _is_moved(looked: Tensor, given: Tensor, mask: Tensor | None) -> bool:
    """Whether some rows have changed places, or tokens of a row have.

    Most tokens may still be what they were: of many rows, or in rows of little variety.
    """
    changed = (looked != given).any(dim=1)
    if looked.shape[1] < 3 or not bool(changed.any()):  # chance makes short rows equal
        return False
    if mask is not None and bool((_are_kin(looked, given) & ~_are_kin(looked, given, mask)).any()):
        return True  # padding, too, as in rows from right to left
    shifted = looked[:, 1:] == given[:, :-1], looked[:, :-1] == given[:, 1:]
    return any(bool(each.all()) for each in shifted) or any(
        bool((given == row).all(dim=1).any()) for row in looked[changed]
    )


def _are_kin(looked: Tensor, given: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether two rows have the same ids in some order, boolean [B]; a mask leaves some out."""
    if mask is not None:
        looked, given = (each.masked_fill(mask == 0, -1) for each in (looked, given))
    return (looked.sort(dim=1).values == given.sort(dim=1).values).all(dim=1)


def _agreement(looked: Tensor, given: Tensor, mask: Tensor | None, special: SpecialIds) -> float:
    """The smallest share of a row's tokens that are equal, placeholders and padding aside.

    It is 1 if a single id, that of a mask, has taken the places of all others.
    """
    equal = looked == given
    if special.placeholders:
        equal |= special.are_placeholders(given)
    replaced = looked[~equal]
    if replaced.numel() == 0:
        return 1.0
    one, kept = int(replaced[0]), looked != replaced[0]
    if one != special.padding and bool((replaced == one).all()) and bool(kept.any()):
        return 1.0
    counts = torch.ones_like(equal) if mask is None else mask != 0
    if special.placeholders:
        counts = counts & ~special.are_placeholders(given)
    shares = (equal & counts).sum(dim=1) / counts.sum(dim=1)
    return float(shares[counts.any(dim=1)].amin()) if bool(counts.any()) else 1.0
