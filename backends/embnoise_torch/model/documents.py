"""The documents of packed rows: from lengths, numbers and positions to segment ids."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from embnoise.backend import format_value
from embnoise_torch.kernels import registry
from embnoise_torch.model.model_call import CallTokens

__all__ = ["ADDITIVE", "are_placed", "segments_of"]

ADDITIVE = (
    "if it is additive (0 and -inf), pass attach(..., "
    "tokens=lambda attention_mask: {'mask': attention_mask == 0})"
)
"""What to pass for a mask that a model adds to its scores."""


def segments_of(
    call: CallTokens,
    mask: Tensor | None,
    shape: tuple[int, int],
    *,
    padding: Tensor | None,
    warns: bool,
) -> Tensor | None:
    """The segment ids of a call's rows, 0 for padding; ``None`` if it tells no documents.

    Args:
        call: What the call tells.
        mask: Its mask [B, L], if that can be read. Numbers above 1 are those of documents.
        shape: B and L.
        padding: Without a mask, where the id of padding is, boolean [B, L].
        warns: Whether to warn of positions that do not tell documents: a GPU is waited for.

    Raises:
        ValueError: What it tells does not fit the rows.
    """
    batch, length = shape
    if call.cumulative is not None:
        if batch != 1:
            raise ValueError(f"cu_seq_lens_q must come with one flattened row, got {batch} rows")
        return _from_cumulative(call.cumulative, length)
    if call.documents is not None:
        return _fitted("seq_idx", call.documents, shape) + 1  # counted from 0; -1 is padding
    if mask is not None and mask.dtype is not torch.bool and mask.numel():
        if call.positions is None and registry.offers(mask.device.type, "lookup"):
            return mask  # that kernel reads it, and nothing has to wait for the device
        lowest, highest = (int(each) for each in torch.aminmax(mask))
        if lowest < 0:
            raise ValueError(
                "attention_mask must be nonzero for real tokens and 0 for padding, got values from "
                f"{lowest} to {highest}; {ADDITIVE}"
            )
        if highest == 2:
            _check_twos(mask)
        if highest > 1:
            return mask
    if call.positions is not None:
        return _from_positions(call.positions, shape, mask, padding, warns=warns)
    return None


def _check_twos(mask: Tensor) -> None:
    """Raise if 2 comes before 1 in a mask.

    In those of Longformer and LED, 2 stands for a token that attends to all others.
    """
    if bool(((mask.cummax(dim=1).values == 2) & (mask == 1)).any()):
        raise ValueError(
            "attention_mask must be 1 for real tokens and 0 for padding, or count the documents of "
            "each row (1, 1, 2, 2, 2, 0), got 2 before 1. If 2 stands for global attention, pass a "
            "mask of 0 and 1 and a global_attention_mask; otherwise, pass attach(..., tokens=...)"
        )


def _from_cumulative(given: Tensor, length: int) -> Tensor:
    """Documents [1, L] from where they begin and end, [n + 1] or [1, n + 1].

    The array may be filled up with its last value, or with negative ones.
    """
    ends = given[0] if given.ndim == 2 and len(given) == 1 else given
    if ends.ndim != 1 or ends.numel() == 0 or ends.is_floating_point() or ends.dtype is torch.bool:
        raise _not_cumulative(given, length)
    ends = ends.long()
    before, after = ends[:-1], ends[1:]
    rises = (after < 0) | ((before >= 0) & (after >= before))
    fits = (ends[0] == 0) & rises.all() & (ends.amax() <= length)
    unchecked = registry.offers(ends.device.type, "lookup")  # nothing has to wait for the device
    if not (unchecked or bool(fits)):
        raise _not_cumulative(ends.tolist(), length)
    ends = ends.cummax(0).values
    column = torch.arange(length, device=ends.device)
    documents = torch.where(column < ends[-1], torch.searchsorted(ends, column, right=True), 0)
    # That kernel makes a row with negative numbers NaN.
    return (torch.where(fits, documents, -1) if unchecked else documents)[None]


def _not_cumulative(given: Any, length: int) -> ValueError:
    return ValueError(
        "cu_seq_lens_q (or cu_seqlens) must be where the documents of the row begin and end: "
        f"integers that start at 0, do not decrease, and end at {length}, the number of tokens, or "
        f"below it, got {format_value(given)}. From lengths, it is "
        "torch.nn.functional.pad(lengths.cumsum(0), (1, 0))"
    )


def _from_positions(
    positions: Tensor,
    shape: tuple[int, int],
    mask: Tensor | None,
    padding: Tensor | None,
    *,
    warns: bool,
) -> Tensor | None:
    """Documents from positions that start again."""
    placed = None
    if positions.ndim == 3 and len(positions) == 4:
        positions = positions[0]  # text positions, in front of time, height and width
    if positions.ndim == 3 and len(positions) == 3:
        # Within an image time stands still and height goes up and down, but only the first token
        # of a document is at 0 in every way.
        starts = (_fitted("position_ids", positions, (3, *shape))[..., 1:] == 0).all(dim=0)
    elif positions.ndim <= 2:
        positions = _fitted("position_ids", positions, shape)
        placed = are_placed(positions) if mask is None else None
        starts, unordered = _starts(positions, mask if placed is None else placed, padding)
        if warns and bool(unordered.any()):
            _warn_of_order()
    elif mask is not None:
        return None  # coordinates of some other kind
    else:
        raise ValueError(
            "position_ids must be of shape [B, L], [3, B, L] or [4, B, L] to tell documents, got "
            f"{_shape_of(positions)}; pass an attention_mask, or attach(..., tokens=...)"
        )
    documents = pad(starts.cumsum(1) + 1, (1, 0), value=1)
    return documents if placed is None else torch.where(placed, documents, 0)


def are_placed(positions: Tensor) -> Tensor:
    """Where tokens are at positions, boolean [B, L]: padding may be at -1, below the first one."""
    return (positions != -1) | (positions.amin(dim=1, keepdim=True) < -1)


def _starts(
    positions: Tensor, mask: Tensor | None, padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where documents begin after the first token of a row, boolean [B, L - 1].

    Positions go down there, to the lowest one or into padding. A document of one token leaves the
    position where it was, at the lowest one. If positions also stand still elsewhere, several
    tokens have one position (the patches of an image, or groups), and only those that go down tell
    where a document begins. The same holds if all tokens of a row have one position, as in a model
    that uses none.

    A row is unordered, boolean [B, 1], if positions go down elsewhere, or are those of one document
    in another order. It counts as one document.
    """
    before, after = positions[:, :-1], positions[:, 1:]
    if not before.numel():
        return after < before, torch.zeros_like(positions[:, :1], dtype=torch.bool)
    real = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask != 0
    both = real[:, 1:] & real[:, :-1]
    rises = (after > before) & both
    # Padding may be lower still, but does not count up.
    counting = torch.where(rises.any(dim=1, keepdim=True), pad(rises, (0, 1)), real)
    lowest = torch.where(counting, positions, positions.max()).amin(dim=1, keepdim=True)
    still = (after == before) & both
    alike = still & (after != lowest)
    if padding is not None:
        padding = padding.to(positions.device)
        alike = alike & ~padding.cummin(1).values[:, 1:]  # positions of padding on the left
    shared = alike.any(dim=1, keepdim=True)
    shared |= ((positions == lowest) | ~real).all(dim=1, keepdim=True)
    falls, restarts = after < before, after <= lowest
    if padding is not None:
        restarts = restarts | padding[:, 1:]
        real = real & ~padding
    inside = falls & real[:, 1:] & real[:, :-1]
    unordered = (inside & (_are_consecutive(positions, real) | ~restarts)).any(dim=1, keepdim=True)
    return ((falls & restarts) | (still & ~shared)) & ~unordered, unordered


def _are_consecutive(positions: Tensor, real: Tensor) -> Tensor:
    """Whether the n tokens of a row have n consecutive positions in some order, boolean [B, 1]."""
    lowest = torch.where(real, positions, positions.max()).amin(dim=1, keepdim=True)
    place = (positions - lowest).long()
    fits = (place < real.sum(dim=1, keepdim=True)) | ~real
    taken = torch.zeros_like(place).scatter_add(1, place.clamp(0, place.shape[1] - 1), real.long())
    return (fits & (taken <= 1)).all(dim=1, keepdim=True)


def _warn_of_order() -> None:
    warnings.warn(
        "embnoise: position_ids go up and down within a row, other than to start again at the "
        "lowest one, so they do not tell documents, and the row counts as one. If it has several, "
        "pass cu_seq_lens_q or seq_idx, document numbers (1, 2, ...) in attention_mask, or "
        "attach(..., tokens=...), a function that returns segment_ids",
        RuntimeWarning,
        stacklevel=2,
    )


def _fitted(name: str, array: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return array.expand(shape)
    except RuntimeError as error:
        raise ValueError(f"{name} must be of shape {shape}, got {_shape_of(array)}") from error


def _shape_of(array: Tensor) -> str:
    return f"shape {tuple(array.shape)}" if array.numel() else "what is no array of numbers"
